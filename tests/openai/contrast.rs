//! The field `contrast`.

use super::{answer, chat, completion, refusal, service, with};
use foreword::engine::openai::Stamp;
use serde_json::{Value, json};

fn text(answer: &Value) -> String {
    let choice = &answer["choices"][0];
    choice["message"]["content"].as_str().or(choice["text"].as_str()).expect("a text").to_owned()
}

#[test]
fn answers_differ_from_what_another_prompt_makes_probable() {
    let mut service = service();
    let settings = json!({"max_tokens": 12, "ignore_eos": true});
    for (body, other) in [
        (chat(settings.clone()), json!({"messages": [{"role": "developer", "content": "Ho"}]})),
        (completion(settings.clone()), json!({"prompt": "Ho"})),
        (completion(settings.clone()), json!({"prompt": [5, 6, 7], "mode": "prob", "when": 1, "weight": 1})),
    ] {
        let mut plain =
            |contrast: Value| text(&answer(&mut service, &with(&body, &json!({"contrast": contrast}))).expect("it"));
        let without = plain(Value::Null);
        let contrast = with(&json!({"mode": "logit", "weight": 3}), &other);
        let contrasted = plain(contrast.clone());
        assert_ne!(contrasted, without, "{contrast}");
        assert_eq!(plain(with(&contrast, &json!({"weight": 0}))), without);
        assert_eq!(plain(with(&contrast, &json!({"when": 0}))), without);
        // In pieces, and twice.
        let asked = with(&body, &json!({"contrast": contrast, "stream": true, "n": 2}));
        service.submit(&asked.to_string(), &Stamp::default()).expect("a sound request");
        let mut pieces = [String::new(), String::new()];
        while !service.is_idle() {
            for reply in pollster::block_on(service.step()).expect("a step") {
                let chunk = reply.value.expect("a chunk");
                for choice in chunk["choices"].as_array().into_iter().flatten() {
                    let piece = choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default();
                    pieces[choice["index"].as_u64().expect("a number") as usize].push_str(piece);
                }
            }
        }
        assert_eq!(pieces, [contrasted.clone(), contrasted]);
    }
}

#[test]
fn what_is_wrong_with_a_contrast_is_named() {
    let mut service = service();
    let messages = json!([{"role": "user", "content": "Ho"}]);
    for (contrast, field) in [
        (json!(5), "contrast"),
        (json!({"weight": 1}), "contrast"),
        (json!({"messages": messages, "prompt": "Ho"}), "contrast"),
        (json!({"prompt": "Ho"}), "contrast"),
        (json!({"messages": []}), "contrast.messages"),
        (json!({"messages": [{"role": "user"}]}), "contrast.messages[0].content"),
        (json!({"messages": [{"role": "usr", "content": "Ho"}]}), "contrast.messages[0].role"),
        (json!({"messages": messages, "weight": 10.5}), "contrast.weight"),
        (json!({"messages": messages, "when": -1}), "contrast.when"),
        (json!({"messages": messages, "when": "now"}), "contrast.when"),
        (json!({"messages": messages, "mode": "cfg"}), "contrast.mode"),
        (json!({"messages": messages, "wieght": 1}), "contrast.wieght"),
    ] {
        assert_eq!(refusal(&mut service, &chat(json!({"contrast": contrast}))), field, "{contrast}");
    }
    for (contrast, field) in [
        (json!({"messages": messages}), "contrast"),
        (json!({"prompt": []}), "contrast.prompt"),
        (json!({"prompt": ["Ho"]}), "contrast.prompt[0]"),
        (json!({"prompt": [99_999]}), "contrast"),
    ] {
        assert_eq!(refusal(&mut service, &completion(json!({"contrast": contrast}))), field, "{contrast}");
    }
}
