//! Chat templates: llama.cpp's prompts, tools, refusals.

use crate::common::{SMOLLM2, json_lines, model_path, open};
use foreword::Kind;
use foreword::chat::{ChatTemplate, Message, RenderOptions};
use foreword::tokenizer::Tokenizer;
use serde_json::json;

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

fn template_of(source: &str) -> ChatTemplate {
    let mut template = ChatTemplate::new(source, "<s>", "</s>").expect("a template");
    template.set_clock(clock);
    template
}

/// The prompt of a conversation of `chat.jsonl`, or of a file like it.
fn render_line(template: &ChatTemplate, line: &serde_json::Value) -> foreword::Result<String> {
    let options = RenderOptions {
        tools: line.get("tools").filter(|tools| !tools.is_null()),
        add_generation_prompt: line["add_generation_prompt"].as_bool().expect("a flag"),
        variables: line["variables"].as_object(),
    };
    let messages: Vec<Message> = serde_json::from_value(line["messages"].clone()).expect("messages");
    template.render_with(&messages, &options)
}

#[test]
fn families_equal_jinja2() {
    let mut template = None;
    let mut n = 0;
    for line in json_lines("chat.jsonl") {
        if let Some(source) = line["template"].as_str() {
            template = Some(template_of(source));
            continue;
        }
        let ours = render_line(template.as_ref().expect("a template first"), &line);
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

#[test]
fn expressions_equal_jinja2() {
    let mut variables = serde_json::Value::Null;
    let mut wrong = Vec::new();
    for line in json_lines("jinja.jsonl") {
        let Some(source) = line["template"].as_str() else {
            variables = line["variables"].clone();
            continue;
        };
        let options = RenderOptions { variables: variables.as_object(), ..RenderOptions::default() };
        let ours = ChatTemplate::new(source, "", "").and_then(|mut template| {
            template.set_clock(clock);
            template.render_with(&[], &options)
        });
        let right = match (&ours, line["prompt"].as_str()) {
            (Ok(ours), Some(prompt)) => ours == prompt,
            (ours, prompt) => ours.is_err() == prompt.is_none(),
        };
        if !right {
            wrong.push(format!("{source}\n    jinja2: {:?}\n    ours:   {ours:?}", line["prompt"].as_str()));
        }
    }
    assert!(wrong.is_empty(), "{}\n{} differ", wrong.join("\n"), wrong.len());
}

#[test]
fn reported_templates_give_the_right_prompts() {
    for case in json_lines("chat-cases.jsonl") {
        let text = |field: &str| case[field].as_str().expect("a string").to_owned();
        let template = ChatTemplate::new(&text("template"), "<s>", "</s>").expect("a template");
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).expect("messages");
        let tools = case.get("tools").filter(|tools| !tools.is_null());
        let prompt = template.render(&messages, tools, true);
        assert_eq!(prompt.expect("a prompt"), text("prompt"), "{}: {}", text("case"), text("why"));
    }
}

/// What a template makes of messages.
fn prompt(source: &str, messages: serde_json::Value) -> foreword::Result<String> {
    let messages: Vec<Message> = serde_json::from_value(messages).expect("messages");
    ChatTemplate::new(source, "", "")?.render(&messages, None, true)
}

const EACH: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";
const EACH_PART: &str = "{% for m in messages %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}";

#[test]
fn content_comes_in_the_form_that_the_template_reads() {
    let parts = json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]);
    let text = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]);
    assert_eq!(prompt(EACH, text.clone()).expect("a prompt"), "[system]s[user]a");
    assert_eq!(prompt(EACH, parts.clone()).expect("a prompt"), "[user]a\nb");
    assert_eq!(prompt(EACH_PART, text.clone()).expect("a prompt"), "<s><a>");
    assert_eq!(prompt(EACH_PART, parts.clone()).expect("a prompt"), "<a><b>");
    // Knows both, and whoever gives parts gets them.
    let both = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}\
                {{ p.text }}|{% endfor %}{% endif %}{% endfor %}";
    assert_eq!(prompt(both, text).expect("a prompt"), "sa");
    assert_eq!(prompt(both, parts).expect("a prompt"), "a|b|");
    // Only in one role.
    let mixed = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content[0].text }}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    assert_eq!(prompt(mixed, json!([{"role": "user", "content": "a"}])).expect("a prompt"), "a");
}

#[test]
fn what_the_user_says_last_is_in_the_prompt() {
    let alternating = "{% for m in messages %}{% if loop.index is odd %}{{ m.content }}{% endif %}{% endfor %}";
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let error = prompt(alternating, json!([turn("assistant", "x"), turn("user", "y")])).expect_err("y is lost");
    assert!(error.kind() == Kind::InvalidRequest && error.to_string().contains("last message of the user"), "{error}");
    assert_eq!(prompt(alternating, json!([turn("user", "y"), turn("assistant", "x")])).expect("a prompt"), "y");
    // A template may edit it.
    let edits = "{% for m in messages %}{{ m.content | replace('/think', '') | trim | upper | tojson }}{% endfor %}";
    assert_eq!(prompt(edits, json!([turn("user", " \"a\"\n/think ")])).expect("a prompt"), r#""\"A\"""#);
    // One that shows nobody's words is not asked for them.
    assert_eq!(prompt("fixed", json!([turn("user", "y")])).expect("a prompt"), "fixed");
}

#[test]
fn a_system_message_that_is_passed_over_goes_to_the_user() {
    let users = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}";
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let (system, user, answer) = (turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Yes?"));
    assert_eq!(prompt(users, json!([system, user])).expect("a prompt"), "[user]Be brief.\n\nHi");
    assert_eq!(prompt(users, json!([system, answer, user])).expect("a prompt"), "[assistant]Yes?[user]Be brief.\n\nHi");
    let error = prompt(users, json!([system, answer])).expect_err("nobody to tell it to");
    assert!(error.to_string().contains("system message"), "{error}");
}

#[test]
fn arguments_stay_objects_unless_the_template_wants_a_string() {
    let call = |arguments: serde_json::Value, content: serde_json::Value| {
        json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": content,
                "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}}]}])
    };
    let of = |what: &str| {
        format!(
            "{{{{ messages[0].content }}}}{{% for m in messages %}}{{% for c in m.tool_calls or [] %}}{what}{{% endfor %}}{{% endfor %}}"
        )
    };
    let (object, string) = (json!({"a": 1e-5}), json!(r#"{"a": 1e-5}"#));
    let null = serde_json::Value::Null;
    // Printed: the string as it is, the object as Python prints it.
    let printed = of("{{ c.function.arguments }}");
    assert_eq!(prompt(&printed, call(string.clone(), null.clone())).expect("a prompt"), r#"q{"a": 1e-5}"#);
    assert_eq!(prompt(&printed, call(object.clone(), null.clone())).expect("a prompt"), "q{'a': 1e-05}");
    for (what, expected) in [
        ("{{ c.function.arguments | tojson }}", r#"q{"a": 1e-05}"#),
        ("{% if c.function.arguments is mapping %}M{% else %}S{% endif %}", "qM"),
        ("{% set f = c.function %}{% for k in f['arguments'] %}{{ k }}={{ f.arguments[k] }}{% endfor %}", "qa=1e-05"),
        ("{{ c | tojson }}", r#"q{"type": "function", "function": {"name": "f", "arguments": {"a": 1e-05}}}"#),
    ] {
        for given in [&object, &string] {
            let ours = prompt(&of(what), call(given.clone(), null.clone()));
            assert_eq!(ours.expect("a prompt"), expected, "{what} of {given}");
        }
    }
    // What is no object stays as it is.
    assert_eq!(prompt(&printed, call(json!("not JSON"), null.clone())).expect("a prompt"), "qnot JSON");
    // Content: none where the template tells it from a text, else empty.
    let none = of("{{ 'none' if m.content is none else 'text' }}");
    assert_eq!(prompt(&none, call(object.clone(), null.clone())).expect("a prompt"), "qnone");
    let breaks = of("{{ m.content + c.function.name }}");
    assert_eq!(prompt(&breaks, call(object.clone(), null.clone())).expect("a prompt"), "qf");
    let prints = of("{{ m.content }}{{ c.function.name }}");
    assert_eq!(prompt(&prints, call(object, null)).expect("a prompt"), "qf");
    // No calls are none.
    let asks = "{% for m in messages %}{{ m.content }}{{ 'tool_calls' in m }}{% endfor %}";
    let none = json!([{"role": "user", "content": "q", "tool_calls": []}]);
    assert_eq!(prompt(asks, none).expect("a prompt"), "qFalse");
}

#[test]
fn the_switch_for_thinking_goes_by_the_name_that_the_template_knows() {
    let with = |source: &str, variables: serde_json::Value| {
        let template = ChatTemplate::new(source, "", "").expect("a template");
        let options = RenderOptions { variables: variables.as_object(), ..RenderOptions::default() };
        template.render_with(&[Message::new("user", "x")], &options).expect("a prompt")
    };
    let named = |name: &str| {
        format!("{{{{ messages[0].content }}}}{{% if {name} is defined and {name} is false %}}off{{% endif %}}")
    };
    for name in ["thinking", "enable_thinking"] {
        for given in ["thinking", "enable_thinking"] {
            assert_eq!(with(&named(name), json!({given: false})), "xoff", "{given} for {name}");
            assert_eq!(with(&named(name), json!({given: true})), "x", "{given} for {name}");
        }
    }
    assert_eq!(with(&named("thinking"), json!({"thinking": true, "enable_thinking": false})), "x");
}

#[test]
fn tools_are_refused_where_they_change_nothing() {
    let render = |source: &str| {
        let template = ChatTemplate::new(source, "", "").expect("a template");
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        template.render(&[Message::new("user", "x")], Some(&tools), true)
    };
    let error = render("{# tools #}{% set tools = none %}{{ messages[0].content }}").expect_err("no tools");
    assert!(error.to_string().contains("knows no tools"), "{error}");
    assert_eq!(render("{% set t = tools %}{{ messages[0].content }}{{ t[0].function.name }}").expect("a prompt"), "xf");
}

#[test]
fn tools_go_into_the_system_message_where_they_are_read_there() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'system' and 'tools' in m and m.tools is not none %}[{{ m.tools }}]{% endif %}{% endfor %}";
    let template = ChatTemplate::new(source, "", "").expect("a template");
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let user = Message::new("user", "x");
    let with = |messages: &[Message]| template.render(messages, Some(&tools), true).expect("a prompt");
    let written = r#"[[{"name":"f","parameters":{}}]]"#;
    assert_eq!(with(std::slice::from_ref(&user)), format!("<system>{written}<user>x"));
    assert_eq!(with(&[Message::new("system", "s"), user.clone()]), format!("<system>s{written}<user>x"));
    assert_eq!(template.render(&[user], None, true).expect("a prompt"), "<user>x");
}

#[test]
fn thoughts_come_by_the_name_that_the_template_reads() {
    let source = |name: &str| {
        format!(
            "{{% for m in messages %}}{{% if m.{name} %}}({{{{ m.{name} }}}}){{% endif %}}{{{{ m.content }}}}{{% endfor %}}"
        )
    };
    for name in ["reasoning_content", "reasoning", "thinking"] {
        for given in ["reasoning_content", "reasoning", "thinking"] {
            let messages = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", given: "hm"}, {"role": "user", "content": "r"}]);
            assert_eq!(prompt(&source(name), messages).expect("a prompt"), "q(hm)ar", "{given} for {name}");
        }
    }
    // A template that fails on them goes without.
    let refuses = "{% for m in messages %}{% if m.reasoning_content %}{{ raise_exception('no') }}{% endif %}{{ m.content }}{% endfor %}";
    let messages = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "hm"}, {"role": "user", "content": "r"}]);
    assert_eq!(prompt(refuses, messages).expect("a prompt"), "qar");
}

#[test]
fn templates_run_deep_on_small_stacks_and_end() {
    let render = |source: &'static str| {
        let run = move || ChatTemplate::new(source, "", "").expect("a template").render(&[], None, true);
        std::thread::Builder::new().stack_size(1 << 20).spawn(run).expect("a thread").join().expect("no overflow")
    };
    let deep =
        "{% macro f(n) %}{% for i in [n] %}{% if n %}({{ f(n - 1) }}){% endif %}{% endfor %}{% endmacro %}{{ f(190) }}";
    assert_eq!(render(deep).expect("a prompt").len(), 380);
    for endless in [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ [n] | map('string') | join }}{{ f([n]) }}{% endmacro %}{{ f(1) }}",
        "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}",
    ] {
        assert_eq!(render(endless).expect_err("an end").kind(), Kind::BadFile, "{endless}");
    }
}

#[test]
#[ignore = "tests/large/templates fetches the templates and runs this"]
fn published_templates_equal_jinja2() {
    let path = std::env::var("FOREWORD_PROMPTS").expect("FOREWORD_PROMPTS, as tests/large/templates sets it");
    let text = std::fs::read_to_string(path).expect("a file of prompts");
    let (mut template, mut name) = (None, String::new());
    let mut outcomes = std::collections::BTreeMap::<String, Vec<String>>::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        if let Some(source) = line["template"].as_str() {
            name = line["name"].as_str().expect("a name").to_owned();
            template = Some(template_of(source));
            continue;
        }
        let ours = render_line(template.as_ref().expect("a template first"), &line);
        let prompts = line["prompts"].as_object().expect("prompts");
        let given = prompts.get("given").and_then(|prompt| prompt.as_str());
        let form =
            |prompt: &String| prompts.iter().find(|(_, theirs)| theirs.as_str() == Some(prompt)).map(|(name, _)| name);
        let outcome = match (&ours, given) {
            (Ok(prompt), Some(given)) if prompt == given => "same".to_owned(),
            (Ok(prompt), _) => match (form(prompt), given) {
                (Some(form), Some(_)) => format!("same in another form: {form}"),
                (Some(form), None) => format!("same in another form, as given Jinja2 fails: {form}"),
                // Text that is added to one that was called safe is escaped by Jinja2, not by minijinja.
                (None, Some(_)) if name.starts_with("meetkai-functionary") => "known, docs/templates.md".to_owned(),
                (None, Some(_)) => "DIFFERENT".to_owned(),
                (None, None) => "rendered where Jinja2 fails".to_owned(),
            },
            (Err(_), None) => "both fail".to_owned(),
            (Err(error), Some(_)) if error.kind() == Kind::InvalidRequest => format!("refused: {error}"),
            (Err(error), Some(_)) => format!("DIFFERENT: {error}"),
        };
        outcomes.entry(outcome).or_default().push(format!("{name}: {}, {}", line["conversation"], line["variables"]));
    }
    for (outcome, cases) in &outcomes {
        println!("{:6} {outcome}", cases.len());
        if outcome != "same" && std::env::var_os("FOREWORD_CASES").is_some() {
            println!("       {}", cases.join("\n       "));
        }
    }
    let different: Vec<&String> = outcomes.keys().filter(|outcome| outcome.starts_with("DIFFERENT")).collect();
    assert!(different.is_empty(), "{different:?}");
}
