//! The JSON-Schema-Test-Suite, from the folder `$FOREWORD_SCHEMA_SUITE` (`./test large` fetches it): no grammar takes a text that
//! does not fit its schema. What grammars do not take although it fits, and schemas that are refused, is counted by file.

use super::{SMOLLM2, allowed, model_path, tokenizer, vocabulary};
use foreword::tokenizer::Tokenizer;
use foreword_constrain::{Grammar, Source};
use serde_json::Value;

/// As Python's `json.dumps` writes it, and the grammars want it.
fn dumps(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(dumps).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| format!("{}: {}", Value::from(name.as_str()), dumps(value));
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// The same with the properties of its top level in the order of the schema.
fn ordered(value: &Value, schema: &Value) -> Value {
    let (Some(fields), Some(properties)) = (value.as_object(), schema["properties"].as_object()) else {
        return value.clone();
    };
    let named = properties.keys().filter_map(|name| Some((name.clone(), fields.get(name)?.clone())));
    let others = fields.iter().filter(|(name, _)| !properties.contains_key(*name)).map(|(n, v)| (n.clone(), v.clone()));
    Value::Object(named.chain(others).collect())
}

/// Whether a text is a whole answer.
pub(super) fn takes(grammar: &Grammar, tokenizer: &Tokenizer, end: u32, text: &str) -> bool {
    let mut grammar = grammar.clone();
    let tokens = tokenizer.encode(text, false);
    let fits = tokens.iter().all(|token| {
        let fits = allowed(&grammar.mask(&[])).contains(token);
        grammar.accept(*token);
        fits
    });
    fits && allowed(&grammar.mask(&[])).contains(&end)
}

#[test]
fn no_grammar_takes_what_does_not_fit_in_the_test_suite_of_json_schema() {
    let Some(folder) = std::env::var_os("FOREWORD_SCHEMA_SUITE") else { return };
    let (vocabulary, tokenizer) = (vocabulary(SMOLLM2), tokenizer(&model_path(SMOLLM2)));
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "json"));
    files.sort();
    assert!(!files.is_empty(), "an empty folder");
    println!("| file | schemas | refused | texts that fit | of them not taken |\n|---|---|---|---|---|");
    let mut wrong = Vec::new();
    for path in files {
        let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON");
        let (mut refused, mut fit, mut narrow) = (0, 0, 0);
        for case in &cases {
            let schema = &case["schema"];
            let Ok(grammar) = vocabulary.compile(&Source::Schema { schema: schema.clone(), strict: true }) else {
                refused += 1;
                continue;
            };
            for test in case["tests"].as_array().expect("tests") {
                let texts = [dumps(&test["data"]), dumps(&ordered(&test["data"], schema))];
                let taken = texts.iter().any(|text| takes(&grammar, &tokenizer, vocabulary.end(), text));
                match (test["valid"] == true, taken) {
                    (true, taken) => (fit, narrow) = (fit + 1, narrow + usize::from(!taken)),
                    (false, true) => {
                        wrong.push(format!("{}: {} / {}", path.display(), case["description"], test["description"]))
                    }
                    (false, false) => {}
                }
            }
        }
        let name = path.file_stem().expect("a name").to_string_lossy();
        println!("| {name} | {} | {refused} | {fit} | {narrow} |", cases.len());
    }
    assert!(wrong.is_empty(), "taken although they do not fit:\n{}", wrong.join("\n"));
}
