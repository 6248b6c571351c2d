//! One entry of the list of trusted proxies.

use fanfare::TrustedProxies;

/// Reads an entry, and gives its text.
///
/// # Errors
/// It is neither an address, nor a network, nor `unix`.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains([',', ' ', '\t']) {
        return Err("write one address, one network such as 10.0.0.0/8, or unix".to_owned());
    }
    text.parse::<TrustedProxies>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}
