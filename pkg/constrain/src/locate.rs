//! Where in a schema the fault is.

use serde_json::Value;

/// Most trials: each compiles the schema once.
const MOST: usize = 100;

/// JSON Pointer of the smallest part without which the schema compiles; empty where that is all of it.
pub(crate) fn locate(schema: &Value, compiles: &dyn Fn(&Value) -> bool) -> String {
    let (mut place, mut trials) = (String::new(), 0);
    while let Some(inner) = parts(schema, &place).into_iter().find(|inner| {
        trials += 2;
        trials <= MOST && [replaced(schema, inner), removed(schema, inner)].iter().flatten().any(compiles)
    }) {
        place = inner;
    }
    place
}

/// Pointers of the parts of a part. Definitions come by themselves: without all of them, nothing that names one compiles.
fn parts(schema: &Value, place: &str) -> Vec<String> {
    let below = |key: &str| format!("{place}/{}", key.replace('~', "~0").replace('/', "~1"));
    match schema.pointer(place) {
        Some(Value::Object(fields)) => {
            let (definitions, others): (Vec<_>, Vec<_>) =
                fields.keys().map(|key| below(key)).partition(|p| p.ends_with("/$defs") || p.ends_with("/definitions"));
            definitions.iter().flat_map(|p| parts(schema, p)).chain(others).collect()
        }
        Some(Value::Array(items)) => (0..items.len()).map(|i| below(&i.to_string())).collect(),
        _ => Vec::new(),
    }
}

/// The schema with one that everything fits for the part.
fn replaced(schema: &Value, part: &str) -> Option<Value> {
    let mut other = schema.clone();
    *other.pointer_mut(part)? = Value::Bool(true);
    Some(other)
}

/// The schema without a field.
fn removed(schema: &Value, part: &str) -> Option<Value> {
    let (parent, key) = part.rsplit_once('/')?;
    let mut other = schema.clone();
    other.pointer_mut(parent)?.as_object_mut()?.remove(&key.replace("~1", "/").replace("~0", "~"))?;
    Some(other)
}
