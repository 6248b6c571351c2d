//! The JSON schema of the file, for editors (JSON Schema, draft 2020-12).

use serde_json::{Map, Value, json};

use crate::definition::{Definition, Shape, Table};
use crate::kind::Form;

/// Sizes as the library for them reads them.
const SIZE: &str = r"^\s*[0-9]+(\.[0-9]+)?\s*([kKmMgGtTpPeE]?[iI]?[bB]?)\s*$";

impl Table {
    /// The schema.
    pub fn schema(&self) -> Value {
        let sections = self.sections.iter().map(|section| {
            let keys: Map<String, Value> = section
                .definitions
                .iter()
                .map(|definition| (definition.name.clone(), key(definition)))
                .collect();
            let section_schema = json!({
                "type": "object",
                "description": section.about,
                "additionalProperties": false,
                "properties": keys,
            });
            (section.name.to_owned(), section_schema)
        });
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "The configuration of fanfare",
            "type": "object",
            "additionalProperties": false,
            "properties": sections.collect::<Map<String, Value>>(),
        })
    }
}

fn key(definition: &Definition) -> Value {
    let one = value(&definition.form);
    let mut schema = match definition.shape {
        Shape::One => one,
        Shape::Optional(word) => json!({ "anyOf": [{ "const": word }, one] }),
        Shape::Many(_) => json!({ "anyOf": [{ "type": "array", "items": one.clone() }, one] }),
    };
    if let Value::Object(schema) = &mut schema {
        schema.insert("description".to_owned(), json!(definition.help));
        if !definition.is_secret {
            schema.insert("default".to_owned(), default(definition));
        }
    }
    schema
}

fn value(form: &Form) -> Value {
    match form {
        // Integers of TOML have 64 bits and a sign.
        Form::Count(bounds) => match i64::try_from(*bounds.end()) {
            Ok(most) => json!({ "type": "integer", "minimum": bounds.start(), "maximum": most }),
            Err(_) => json!({ "type": "integer", "minimum": bounds.start() }),
        },
        Form::Size => json!({ "anyOf": [
            { "type": "integer", "minimum": 0 },
            { "type": "string", "pattern": SIZE },
        ] }),
        Form::Time(_) => json!({ "type": "string", "pattern": r"^\s*([0-9]+\s*[a-zA-Zµ]+\s*)+$" }),
        Form::Switch => json!({ "type": "boolean" }),
        Form::Choice(choices) => {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            json!({ "enum": names })
        }
        Form::Text(_) => json!({ "type": "string" }),
    }
}

fn default(definition: &Definition) -> Value {
    let literal = |text: &String| match (&definition.form, definition.shape) {
        (_, Shape::Optional(word)) if word == text => json!(text),
        (Form::Count(_), _) => text.parse::<u64>().map_or_else(|_| json!(text), |number| json!(number)),
        (Form::Switch, _) => json!(text == "true"),
        _ => json!(text),
    };
    match definition.shape {
        Shape::Many(_) => definition.default.iter().map(literal).collect(),
        Shape::One | Shape::Optional(_) => definition.default.first().map_or(Value::Null, literal),
    }
}
