//! Calls in tags: `<function=NAME> <parameter=KEY> VALUE </parameter> </function>`.

use super::calls::{Call, function};
use serde_json::{Map, Value};

/// The calls; `None` where the text is something else. Values are texts or JSON, as the tool's parameters say.
pub(super) fn calls(text: &str, tools: &Value) -> Option<Vec<Call>> {
    let mut calls = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, body) = rest.strip_prefix("<function=")?.split_once('>')?;
        let (body, behind) = body.split_once("</function>")?;
        let name = name.trim();
        let properties = function(tools, name).and_then(|function| function.pointer("/parameters/properties"));
        let mut arguments = Map::new();
        let mut body = body.trim();
        while !body.is_empty() {
            let (key, value) = body.strip_prefix("<parameter=")?.split_once('>')?;
            let (value, behind) = parameter(value)?;
            let key = key.trim();
            arguments.insert(key.to_owned(), typed(value, properties.and_then(|all| all.get(key))));
            body = behind.trim();
        }
        calls.push((name.to_owned(), Value::Object(arguments).to_string()));
        rest = behind.trim();
    }
    Some(calls)
}

/// The value of a parameter, and what is behind it. The line ends around a value are not part of it.
fn parameter(text: &str) -> Option<(&str, &str)> {
    let (value, behind) = match text.split_once("</parameter>") {
        Some(parts) => parts,
        // The closing tag was forgotten.
        None => (text, ""),
    };
    let value = value.strip_prefix('\n').unwrap_or(value);
    Some((value.strip_suffix('\n').unwrap_or(value), behind))
}

/// A value in the type that the schema of a parameter names; a text where it is none of them.
fn typed(text: &str, schema: Option<&Value>) -> Value {
    let is_string = |kind: &Value| kind == "string";
    let wants_text = schema.is_some_and(|schema| match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(is_string) && text != "null",
        kind => {
            is_string(kind)
                || (kind.is_null() && schema["enum"].as_array().is_some_and(|all| all.contains(&text.into())))
        }
    });
    let python = match text.trim() {
        "True" => Some(Value::Bool(true)),
        "False" => Some(Value::Bool(false)),
        "None" => Some(Value::Null),
        _ => None,
    };
    match schema {
        _ if wants_text => text.into(),
        _ => python.or_else(|| serde_json::from_str(text.trim()).ok()).unwrap_or_else(|| text.into()),
    }
}
