//! Formats of strings as their RFCs have them: llguidance's expressions also take the 29th of February in every year, a leap
//! second in every minute, and names of any length.

use serde_json::{Map, Value, json};

/// RFC 3339: the 29th of February is in leap years only.
const DATE: &str = concat!(
    "(?:[0-9]{4}-(?:0[13-9]|1[0-2])-[0-9]{2}|[0-9]{4}-02-(?:[01][0-9]|2[0-8])|",
    "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
);
/// RFC 3339: without leap seconds, of which few are known years before.
const TIME: &str = "[0-9:]{6}[0-5]";
/// RFC 5321, section 4.5.3.1: octets of the local part, and of a label (RFC 1035).
const EMAIL: &str = r"^[^@]{1,64}@(?:[^.@]{1,63}\.)*[^.@]{1,63}$";

/// What a format asks for besides.
fn besides(format: &str) -> Option<Value> {
    Some(match format {
        "date" => json!({"pattern": format!("^{DATE}$")}),
        "date-time" => json!({"pattern": format!("^{DATE}[tT]{TIME}")}),
        "time" => json!({"pattern": format!("^{TIME}")}),
        // A path of 256 octets has it between angle brackets.
        "email" => json!({"pattern": EMAIL, "maxLength": 254}),
        "hostname" => json!({"maxLength": 253}),
        _ => return None,
    })
}

/// Puts what the formats ask for besides into the schemas that name them.
pub(crate) fn narrow(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else {
        return schema.as_array_mut().into_iter().flatten().for_each(narrow);
    };
    for (key, value) in fields.iter_mut() {
        match key.as_str() {
            // Values, not schemas.
            "const" | "enum" | "default" | "examples" => {}
            // Their fields are names.
            "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas" => {
                value.as_object_mut().into_iter().flat_map(Map::values_mut).for_each(narrow);
            }
            _ => narrow(value),
        }
    }
    let Some(more) = fields.get("format").and_then(Value::as_str).and_then(besides) else { return };
    // An `allOf` that is no list is an error that the compiler of the schema tells.
    if let Value::Array(all) = fields.entry("allOf").or_insert_with(|| json!([])) {
        all.push(more);
    }
}
