//! Chat templates: llama.cpp's prompts, tools, refusals.

mod common;

use common::{SMOLLM2, json_lines, model_path, open};
use foreword::Kind;
use foreword::chat::{ChatTemplate, Message};
use foreword::tokenizer::Tokenizer;

#[test]
fn prompts_equal_llama_cpp() {
    let gguf = open(&model_path(SMOLLM2)).0;
    let tokenizer = Tokenizer::from_gguf(&gguf.metadata).expect("a tokenizer");
    let template = ChatTemplate::from_gguf(&gguf.metadata, &tokenizer).expect("a template");
    for line in json_lines("smollm2-135m-instruct-q4_1-chat.jsonl") {
        let messages: Vec<Message> = serde_json::from_value(line["messages"].clone()).expect("messages");
        let prompt = template.render(&messages, None, true).expect("a prompt");
        assert_eq!(prompt, line["prompt"].as_str().expect("a prompt"));
    }
}

#[test]
fn tools_python_methods_and_parts_work() {
    let source = "{%- if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role.upper() }}>{{ m['content'].strip() }}\
                  {% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% endif %}{% endfor %}{% if add_generation_prompt %}>{% endif %}";
    let template = ChatTemplate::new(source, "", "").expect("a template");
    let messages: Vec<Message> = serde_json::from_str(
        r#"[{"role":"user","content":[{"type":"text","text":" hi "}]},
            {"role":"assistant","content":null,"tool_calls":[{"type":"function","function":{"name":"f"}}]}]"#,
    )
    .expect("messages");
    let tools = serde_json::json!([{"b": 1, "a": 2}]);
    let prompt = template.render(&messages, Some(&tools), true).expect("a prompt");
    assert_eq!(prompt, r#"[{"b": 1, "a": 2}]<USER>hi<ASSISTANT>f>"#);
}

#[test]
fn refusals_say_why() {
    let template = ChatTemplate::new("{{ raise_exception('roles must alternate') }}", "", "").expect("a template");
    let error = template.render(&[Message::new("user", "x")], None, true).expect_err("a refusal");
    assert_eq!(error.kind(), Kind::InvalidRequest);
    assert!(error.to_string().contains("roles must alternate"), "{error}");

    let error = ChatTemplate::new("{% if %}", "", "").err().expect("a syntax error");
    assert_eq!(error.kind(), Kind::BadFile);

    let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{{ b }}{% endfor %}{% endfor %}";
    let template = ChatTemplate::new(endless, "", "").expect("a template");
    let error = template.render(&[], None, true).expect_err("out of fuel");
    assert_eq!(error.kind(), Kind::BadFile);

    let image: Message =
        serde_json::from_str(r#"{"role":"user","content":[{"type":"image_url"}]}"#).expect("a message");
    let template = ChatTemplate::new("x", "", "").expect("a template");
    assert!(template.render(&[image], None, true).expect_err("no images").to_string().contains("image_url"));
}
