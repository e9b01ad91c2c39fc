//! Schemas that would take for ever: what `allOf` joins has as many alternatives as the product of those of its parts.

use serde_json::Value;

/// Most alternatives of a part that joins others.
const MOST: u64 = 10_000;

/// Most properties of an object.
const WIDEST: usize = 1000;

/// Most steps of looking; who takes more names definitions in definitions, and they would be joined as often.
const FUEL: usize = 200_000;

/// Says that the alternatives of a schema are too many.
pub(crate) fn check(schema: &Value) -> Result<(), String> {
    let widest = widest(schema);
    if widest > WIDEST {
        return Err(format!("an object has {widest} properties; at most {WIDEST} are compiled"));
    }
    let mut count = Count { root: schema, fuel: FUEL };
    let most = count.most(schema);
    if count.fuel == 0 || most > MOST {
        return Err(
            "what is joined by allOf, $ref, or keywords beside anyOf, oneOf and enum has too many alternatives".into(),
        );
    }
    Ok(())
}

/// The most properties of any object: what is compiled grows with their square.
fn widest(part: &Value) -> usize {
    let own = part.get("properties").and_then(Value::as_object).map_or(0, |properties| properties.len());
    let children: Vec<&Value> = match part {
        Value::Object(fields) => fields.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    };
    children.into_iter().map(widest).fold(own, usize::max)
}

struct Count<'a> {
    root: &'a Value,
    fuel: usize,
}

impl Count<'_> {
    /// The largest number of alternatives of any part that joins others.
    fn most(&mut self, part: &Value) -> u64 {
        let own = if joins(part) { self.of(part, 0) } else { 1 };
        let children: Vec<&Value> = match part {
            Value::Object(fields) => {
                fields.iter().filter(|(key, _)| *key != "enum" && *key != "const").map(|f| f.1).collect()
            }
            Value::Array(items) => items.iter().collect(),
            _ => Vec::new(),
        };
        children.into_iter().fold(own, |most, child| if self.fuel == 0 { most } else { most.max(self.most(child)) })
    }

    /// Alternatives of a schema, with those of its deepest part.
    fn of(&mut self, schema: &Value, depth: usize) -> u64 {
        self.fuel = self.fuel.saturating_sub(1);
        let Some(fields) = schema.as_object().filter(|_| self.fuel > 0 && depth < 64) else { return 1 };
        let (mut product, mut deepest) = (1_u64, 1);
        for (key, value) in fields {
            let items = value.as_array().map_or(&[][..], Vec::as_slice);
            match key.as_str() {
                "allOf" => items.iter().for_each(|s| product = product.saturating_mul(self.of(s, depth + 1))),
                "anyOf" | "oneOf" => {
                    let sum = items.iter().fold(0_u64, |sum, s| sum.saturating_add(self.of(s, depth + 1)));
                    product = product.saturating_mul(sum.max(1));
                }
                "enum" => product = product.saturating_mul(items.len().max(1) as u64),
                "$ref" => {
                    let target = value.as_str().and_then(|r| self.root.pointer(r.strip_prefix('#')?));
                    product = product.saturating_mul(target.map_or(1, |target| self.of(target, depth + 1)));
                }
                "properties" | "patternProperties" => {
                    let inner = value.as_object().into_iter().flat_map(|o| o.values());
                    inner.for_each(|s| deepest = deepest.max(self.of(s, depth + 1)));
                }
                "items" | "additionalProperties" => deepest = deepest.max(self.of(value, depth + 1)),
                _ => {}
            }
        }
        product.saturating_mul(deepest)
    }
}

/// Whether a schema joins several that may have alternatives.
fn joins(schema: &Value) -> bool {
    let keys = ["allOf", "anyOf", "oneOf", "$ref", "enum"];
    let parts = keys.iter().filter(|key| schema.get(**key).is_some()).count();
    let several = schema.get("allOf").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
    parts > 1 || several || parts == 1 && ["properties", "items"].iter().any(|key| schema.get(*key).is_some())
}
