//! What is made of the definitions: the reference page, the schema, and the example. `cargo xtask config
//! --bless` renews the files.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::path::Path;
use std::{env, fs};

use fanfare_config::{FileText, Settings, Shape, Sources};
use serde_json::{Value, json};

/// Compares a file of `docs` with what it has to be, or renews it.
fn check(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    if env::var_os("FANFARE_BLESS").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "docs/{name} is stale; cargo xtask config --bless renews it");
}

#[test]
fn the_reference_page_is_not_stale() {
    let page = Settings::table().reference();
    for definition in Settings::table().definitions() {
        for part in [format!("### `{}`", definition.name), format!("Variable: `{}`", definition.variable)] {
            assert!(page.contains(&part), "{part}");
        }
    }
    check("CONFIGURATION.md", &page);
}

#[test]
fn the_schema_is_not_stale() {
    check("fanfare.schema.json", &format!("{:#}\n", Settings::table().schema()));
}

#[test]
fn the_example_has_every_key_with_its_default() {
    let example = Settings::table().example();
    for definition in Settings::table().definitions() {
        let key = format!("\n{} = ", definition.name);
        assert_eq!(example.matches(&key).count(), 1, "{key}");
    }
    let sources = Sources { file: Some(FileText::new("example", example)), ..Sources::default() };
    let values = Settings::table().layer(&sources).unwrap();
    let defaults = Settings::table().layer(&Sources::default()).unwrap();
    assert!(values.changes(&defaults).is_empty());
    assert_eq!(format!("{:?}", Settings::of(&values).unwrap()), format!("{:?}", Settings::default()));
}

/// Whether a value follows the schema, as far as the keywords go that the schema uses. Patterns are not
/// matched: a value with a pattern has to be a text.
fn follows(schema: &Value, value: &Value) -> bool {
    schema.as_object().unwrap().iter().all(|(keyword, rule)| match keyword.as_str() {
        "$schema" | "title" | "description" | "default" => true,
        "pattern" => value.is_string(),
        "type" => match rule.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "boolean" => value.is_boolean(),
            other => panic!("the type {other} is not known here"),
        },
        "const" => value == rule,
        "enum" => rule.as_array().unwrap().contains(value),
        "anyOf" => rule.as_array().unwrap().iter().any(|schema| follows(schema, value)),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| follows(rule, item))),
        "minimum" => value.as_i64().is_none_or(|number| number >= rule.as_i64().unwrap()),
        "maximum" => value.as_i64().is_none_or(|number| number <= rule.as_i64().unwrap()),
        "additionalProperties" => {
            let known = schema["properties"].as_object().unwrap();
            value.as_object().is_none_or(|keys| keys.keys().all(|key| known.contains_key(key)))
        }
        "properties" => value.as_object().is_none_or(|keys| {
            keys.iter().all(|(key, value)| rule.get(key).is_none_or(|schema| follows(schema, value)))
        }),
        other => panic!("the keyword {other} is not known here"),
    })
}

#[test]
fn the_schema_takes_what_the_server_takes() {
    let schema = Settings::table().schema();
    let of = |text: &str| serde_json::to_value(toml::from_str::<toml::Value>(text).unwrap()).unwrap();
    assert!(follows(&schema, &of(&Settings::table().example())));
    // Each is taken or refused by both.
    for (text, is_right) in [
        ("", true),
        ("[server]\nshards = 3\npin = true\nlisten = '127.0.0.1:1'", true),
        ("[server]\nshards = 'auto'\nlisten = ['127.0.0.1:1', 'systemd']", true),
        ("[limits]\nmax-event = '1KiB'\nwhen-full = 'drop'", true),
        ("[limits]\nmax-event = 1024", true),
        ("[server]\nshards = 0", false),
        ("[server]\nshards = 1025", false),
        ("[server]\nshards = '3'", false),
        ("[server]\npin = 'true'", false),
        ("[server]\nbackend = 'kqueue'", false),
        ("[server]\nunix-mode = 660", false),
        ("[limits]\nmax-event = -1", false),
        ("[limits]\nmax-event = 1.5", false),
        ("[streams]\nheartbeat = 20", false),
        ("[streams]\nheartbeats = '20s'", false),
        ("[stream]\n", false),
        ("[web]\nhost = [1]", false),
    ] {
        assert_eq!(follows(&schema, &of(text)), is_right, "{text}");
        let sources = Sources { file: Some(FileText::new("f", text)), ..Sources::default() };
        assert_eq!(Settings::table().layer(&sources).is_ok(), is_right, "{text}");
    }
}

#[test]
fn the_schema_has_the_defaults() {
    let schema = Settings::table().schema();
    for section in &Settings::table().sections {
        for definition in &section.definitions {
            let key = &schema["properties"][section.name]["properties"][definition.name.as_str()];
            let default = &key["default"];
            assert!(follows(key, default), "{}: {default}", definition.name);
            let is_list = matches!(definition.shape, Shape::Many(_));
            assert_eq!(default.is_array(), is_list, "{}", definition.name);
        }
    }
    assert_eq!(schema["properties"]["limits"]["properties"]["max-connections"]["default"], json!(1_000_000));
}
