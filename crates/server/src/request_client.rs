//! The client of a request, as the bounds see it.

use std::net::IpAddr;

use fanfare::{ClientLimits, Request};

/// The client of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestClient {
    /// The address that bounds of one address hold for; none for the operator.
    pub(crate) counted: Option<IpAddr>,
    /// It may use the reserve.
    pub(crate) is_operator: bool,
}

impl RequestClient {
    pub(crate) fn of(request: &Request<'_>, clients: &ClientLimits) -> RequestClient {
        RequestClient {
            counted: request.counted_client(clients),
            is_operator: request.is_from_operator(clients),
        }
    }
}
