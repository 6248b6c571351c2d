//! The layer of the environment.

use std::ffi::OsString;

use crate::definition::Table;
use crate::layers::Given;
use crate::nearest::{hint, nearest};
use crate::problem::{Place, Problem};
use crate::{CONFIG_VARIABLE, VARIABLE_PREFIX};

/// Variables of `fanfare` that are no options of the server.
const OTHERS: [&str; 2] = [CONFIG_VARIABLE, "FANFARE_URL"];

/// Reads the variables into the places of their options. Mistakes are added to the problems.
pub(crate) fn read(
    table: &Table,
    variables: &[(OsString, OsString)],
    given: &mut [Option<Given>],
    problems: &mut Vec<Problem>,
) {
    for (name, value) in variables {
        let name = name.to_string_lossy();
        if !name.starts_with(VARIABLE_PREFIX) || OTHERS.contains(&name.as_ref()) {
            continue;
        }
        let place = Place::Variable(name.clone().into_owned());
        let Some((index, definition)) =
            table.definitions().enumerate().find(|(_, definition)| definition.variable == name)
        else {
            if !is_of_kubernetes(&name, &value.to_string_lossy()) {
                let names = table.definitions().map(|definition| definition.variable.as_str());
                let near = hint(nearest(&name, names.chain(OTHERS)));
                let text = format!("there is no such variable{near}");
                problems.push(Problem { place, text });
            }
            continue;
        };
        let Some(value) = value.to_str() else {
            problems.push(Problem { place, text: "is not UTF-8".to_owned() });
            continue;
        };
        let mut texts = Vec::new();
        for text in definition.split(value, true) {
            match definition.check(&text) {
                Ok(()) => texts.push((text, place.clone())),
                Err(text) => problems.push(Problem { place: place.clone(), text }),
            }
        }
        given[index] = Some(Given { texts, place });
    }
}

/// Whether Kubernetes sets such a variable for a service whose name begins with `fanfare` ("Discovering
/// services" in its documentation). They are in the environment of each pod of the namespace.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let of_service = name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT");
    let of_named_port = name.contains("_SERVICE_PORT_");
    let of_port =
        name.contains("_PORT_") && ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| name.contains(protocol));
    let of_link = name.ends_with("_PORT") && value.contains("://");
    of_service || of_named_port || of_port || of_link
}

#[cfg(test)]
mod tests {
    use super::is_of_kubernetes;

    /// A pod beside a service of the name `fanfare` gets these; each of them would have kept the server from
    /// starting.
    #[test]
    fn variables_of_kubernetes_are_known() {
        for (name, value) in [
            ("FANFARE_SERVICE_HOST", "10.0.0.1"),
            ("FANFARE_SERVICE_PORT", "8844"),
            ("FANFARE_SERVICE_PORT_HTTP", "8844"),
            ("FANFARE_PORT", "tcp://10.0.0.1:8844"),
            ("FANFARE_PORT_8844_TCP", "tcp://10.0.0.1:8844"),
            ("FANFARE_PORT_8844_TCP_PROTO", "tcp"),
            ("FANFARE_ADMIN_SERVICE_HOST", "10.0.0.2"),
            ("FANFARE_ADMIN_PORT_80_TCP_ADDR", "10.0.0.2"),
        ] {
            assert!(is_of_kubernetes(name, value), "{name}");
        }
        for (name, value) in [("FANFARE_PORT", "8844"), ("FANFARE_HOSTS", "a"), ("FANFARE_SERVICE", "a")] {
            assert!(!is_of_kubernetes(name, value), "{name}");
        }
    }
}
