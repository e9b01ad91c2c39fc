//! Chat templates: llama.cpp's prompts, tools, refusals.

mod common;

use common::{SMOLLM2, json_lines, model_path, open};
use foreword::Kind;
use foreword::chat::{ChatTemplate, Message, RenderOptions};
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

/// 2024-07-06 13:20:05, as `make_chat.py` has it.
fn clock() -> f64 {
    1_720_272_005_000.0
}

#[test]
fn families_equal_jinja2() {
    let mut template = None;
    let mut n = 0;
    for line in json_lines("chat.jsonl") {
        if let Some(source) = line["template"].as_str() {
            let mut next = ChatTemplate::new(source, "<s>", "</s>").expect("a template");
            next.set_clock(clock);
            template = Some(next);
            continue;
        }
        let options = RenderOptions {
            tools: line.get("tools").filter(|tools| !tools.is_null()),
            add_generation_prompt: line["add_generation_prompt"].as_bool().expect("a flag"),
            variables: line["variables"].as_object(),
        };
        let messages: Vec<Message> = serde_json::from_value(line["messages"].clone()).expect("messages");
        let ours = template.as_ref().expect("a template first").render_with(&messages, &options);
        let what = format!("{} {}", line["family"], line["conversation"]);
        match (line["prompt"].as_str(), ours) {
            (Some(prompt), ours) => assert_eq!(ours.expect(&what), prompt, "{what}"),
            // A system message that the template refuses goes to the user's; a test below looks at it.
            (None, Ok(prompt)) => {
                assert!(what.contains("gemma2") && prompt.contains("Be brief.\n\n"), "{what}: {prompt}")
            }
            (None, Err(error)) => {
                let reason = line["error"].as_str().expect("a reason");
                assert_eq!(error.kind(), Kind::InvalidRequest, "{what}");
                assert!(error.to_string().contains(reason), "{what}: {error}");
            }
        }
        n += 1;
    }
    assert!(n > 50, "only {n} prompts");
}

#[test]
fn calls_come_with_arguments_as_string_or_object() {
    let call = |arguments: serde_json::Value| -> Message {
        let function = serde_json::json!({"name": "f", "arguments": arguments});
        serde_json::from_value(serde_json::json!({"role": "assistant", "tool_calls": [{"function": function}]}))
            .expect("a message")
    };
    let object = call(serde_json::json!({"a": [1, "é"]}));
    let string = call(serde_json::json!(r#"{"a": [1, "é"]}"#));
    let as_json = "{{ messages[0].tool_calls[0].function.arguments | tojson }}";
    let as_text = "{{ 'args: ' + messages[0].tool_calls[0].function.arguments }}";
    for message in [object, string] {
        let render = |source| {
            ChatTemplate::new(source, "", "").expect("a template").render(std::slice::from_ref(&message), None, true)
        };
        assert_eq!(render(as_json).expect("a prompt"), r#"{"a": [1, "é"]}"#);
        assert_eq!(render(as_text).expect("a prompt").replace(' ', ""), r#"args:{"a":[1,"é"]}"#);
    }
}

#[test]
fn a_system_message_that_is_refused_goes_to_the_user() {
    let source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}\
                  {% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}";
    let template = ChatTemplate::new(source, "", "").expect("a template");
    let messages = [Message::new("system", "Be brief."), Message::new("user", "Hi")];
    assert_eq!(template.render(&messages, None, true).expect("a prompt"), "[user] Be brief.\n\nHi");
    let error = template.render(&messages[..1], None, true).expect_err("nobody to tell it to");
    assert!(error.to_string().contains("no system"), "{error}");
}

#[test]
fn broken_templates_and_requests_are_told_apart() {
    let failing = |source: &str| {
        let template = ChatTemplate::new(source, "", "").expect("a template");
        template.render(&[Message::new("user", "x")], None, true).expect_err("a failure")
    };
    let text = failing("line one\n{{ messages.nothing.at.all }}").to_string();
    assert!(text.contains("line 2") && text.contains("--raw"), "{text}");
    assert!(failing("{{ strftime_now('%d') }}").to_string().contains("strftime_now"));
    for source in [
        "{% set ns = namespace(x='abcdefgh') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 1000000000000 }}",
        "{{ [1] * 1000000000000 }}",
        "{{ range(1000000000000) | list | length }}",
    ] {
        assert_eq!(failing(source).kind(), Kind::BadFile, "{source}");
    }
    let deep = format!("{}1{}", "{{ ".to_string() + &"(".repeat(100_000), ")".repeat(100_000) + " }}");
    assert!(ChatTemplate::new(&deep, "", "").is_err());
    let template = ChatTemplate::new("{{ messages[0].content }}", "", "").expect("a template");
    let with = |tools| template.render(&[Message::new("user", "x")], Some(&tools), true);
    assert_eq!(with(serde_json::json!([])).expect("no tools are no tools"), "x");
    let error = with(serde_json::json!([{"type": "function"}])).expect_err("no tools");
    assert!(error.kind() == Kind::InvalidRequest && error.to_string().contains("knows no tools"), "{error}");
}
