//! Fields of requests: honoured, passed over or refused.

use super::common::random::Random;
use super::{answer, chat, completion, refusal, service, with};
use foreword::chat::Message;
use foreword::engine::openai::{Body, Prompt, Service, Stamp, makers_settings};
use foreword::sample::{Compiler, Constraint, Effect, LogitsMut, Params, Rule};
use foreword::{Error, Kind};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// Every field of OpenAI's two interfaces, with the value that asks for the usual.
fn usual() -> Value {
    json!({
        "model": "any", "n": 1, "stream": false, "stop": [], "temperature": 0, "top_p": 1, "presence_penalty": 0,
        "frequency_penalty": 0, "logit_bias": {}, "seed": 7, "user": "u", "max_tokens": 4, "best_of": 1, "echo": false,
        "suffix": "", "stream_options": {"include_usage": false, "include_obfuscation": false}, "logprobs": false,
        "top_logprobs": 0, "tools": [], "functions": [], "function_call": "none", "tool_choice": "none",
        "parallel_tool_calls": true, "response_format": {"type": "text"}, "modalities": ["text"], "metadata": {"a": "b"},
        "store": true, "service_tier": "auto", "safety_identifier": "s", "prompt_cache_key": "k",
        "prompt_cache_options": {"mode": "explicit"}, "moderation": null,
        "prompt_cache_retention": "24h", "prediction": {"type": "content", "content": "Hi"}, "verbosity": "medium",
        "max_completion_tokens": 4, "audio": null, "web_search_options": null, "reasoning_effort": null,
    })
}

#[test]
fn fields_that_ask_for_the_usual_change_nothing() {
    let mut service = service();
    for body in [chat(json!({})), completion(json!({}))] {
        let plain = answer(&mut service, &body).expect("an answer")["choices"].clone();
        for (name, value) in usual().as_object().expect("fields") {
            // Null is the same as no field, but for what the comparison needs.
            for value in [value.clone(), Value::Null] {
                let asked = with(&body, &json!({ name: value }));
                let got = answer(&mut service, &asked).unwrap_or_else(|e| panic!("{name}: {e}"));
                if !(value.is_null() && ["max_tokens", "temperature"].contains(&name.as_str())) {
                    assert_eq!(got["choices"], plain, "{asked}");
                }
            }
        }
        answer(&mut service, &with(&body, &usual())).expect("all of them at once");
        answer(&mut service, &with(&body, &json!({"no_such_field": null}))).expect("a null says nothing");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_its_name() {
    let mut service = service();
    let tool = |fields: Value| with(&json!({"type": "function", "function": {"name": "f", "parameters": {}}}), &fields);
    let cases = [
        json!({"response_format": {"type": "json_object"}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strict": true}}}),
        json!({"response_format": "text"}),
        json!({"grammar": "start: \"a\""}),
        json!({"regex": "a"}),
        json!({"tool_choice": "required"}),
        json!({"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        json!({"functions": [{"name": "f"}]}),
        json!({"function_call": {"name": "f"}}),
        json!({"n": 0}),
        json!({"n": 129}),
        json!({"best_of": 2}),
        json!({"echo": true}),
        json!({"suffix": "."}),
        json!({"reasoning_effort": "low"}),
        json!({"verbosity": "low"}),
        json!({"modalities": ["text", "audio"]}),
        json!({"audio": {"voice": "alloy", "format": "wav"}}),
        json!({"web_search_options": {}}),
        json!({"moderation": {"model": "omni-moderation-latest"}}),
        json!({"max_tokens": 0}),
        json!({"max_tokens": 5, "max_completion_tokens": 6}),
        json!({"top_logprobs": 3}),
        json!({"top_logprobs": 21, "logprobs": true}),
        json!({"logprobs": 21}),
        // Of other servers, and misspelt.
        json!({"guided_json": {}}),
        json!({"mirostat": 1}),
        json!({"repeat_last_n": 64}),
        json!({"max_token": 5}),
    ];
    for fields in &cases {
        let name = fields.as_object().and_then(|f| f.keys().next()).expect("a field");
        for body in [chat(fields.clone()), completion(fields.clone())] {
            assert_eq!(&refusal(&mut service, &body), name, "{body}");
        }
    }
    assert_eq!(
        refusal(&mut service, &chat(json!({"max_completion_tokens": 0, "max_tokens": null}))),
        "max_completion_tokens"
    );
    assert_eq!(refusal(&mut service, &chat(json!({"stream_options": {"usage": true}}))), "stream_options.usage");
    assert_eq!(refusal(&mut service, &chat(json!({"tools": [tool(json!({"type": "custom"}))]}))), "tools[0].type");
    let strict = json!({"function": {"name": "f", "strict": true}});
    assert_eq!(refusal(&mut service, &chat(json!({"tools": [tool(strict)]}))), "tools[0].function.strict");
    let twice = json!([tool(json!({})), tool(json!({}))]);
    assert_eq!(refusal(&mut service, &chat(json!({"tools": twice}))), "tools[1].function.name");
    // Only chats have a template.
    assert_eq!(refusal(&mut service, &completion(json!({"tools": [tool(json!({}))]}))), "tools");
    assert_eq!(refusal(&mut service, &completion(json!({"chat_template_kwargs": {"a": 1}}))), "chat_template_kwargs");
    // Harmless where there is nothing to keep the model from.
    answer(&mut service, &chat(json!({"parallel_tool_calls": false}))).expect("an answer");
}

/// Answers the letter `a` only, whatever is asked for, and keeps what that was.
#[derive(Clone, Debug, Default)]
struct OnlyA(Arc<Mutex<Vec<Constraint>>>);

impl Compiler for OnlyA {
    fn compile(&self, constraint: &Constraint) -> Result<Box<dyn Rule>, Error> {
        self.0.lock().expect("no panic").push(constraint.clone());
        match constraint {
            Constraint::Lark(text) if text.is_empty() => Err(Error::invalid_request("at line 1: nothing is there")),
            _ => Ok(Box::new(self.clone())),
        }
    }
}

impl Rule for OnlyA {
    fn effect(&self, _ahead: usize) -> Effect {
        Effect::Lowers(usize::MAX)
    }
    fn adjust(&self, _ahead: &[u32], logits: &mut LogitsMut<'_>) {
        let a = 1 << ((3 + u32::from(b'a')) % 32);
        logits.keep(&[0, 0, 0, a]);
    }
    fn accept(&mut self, _token: u32) {}
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

#[test]
fn what_an_answer_has_to_look_like_is_compiled_and_kept_to() {
    let (mut service, only_a) = (service(), OnlyA::default());
    service.set_compiler(Box::new(only_a.clone()));
    let format = |schema: Value| json!({"response_format": {"type": "json_schema", "json_schema": schema}});
    let schema = |schema: Value, strict| Constraint::Schema { schema, strict };
    let cases = [
        (json!({"response_format": {"type": "json_object"}}), schema(json!({"type": "object"}), true)),
        (json!({"response_format": {"type": "json_object", "schema": {"a": 1}}}), schema(json!({"a": 1}), false)),
        (
            format(json!({"name": "n", "schema": {"b": 1, "a": 2}, "strict": true})),
            schema(json!({"b": 1, "a": 2}), true),
        ),
        (format(json!({"name": "n", "description": "d", "schema": true, "strict": null})), schema(json!(true), false)),
        (json!({"grammar": "start: \"a\""}), Constraint::Lark("start: \"a\"".into())),
        (json!({"regex": "a*"}), Constraint::Regex("a*".into())),
    ];
    for (fields, constraint) in cases {
        let got = answer(&mut service, &completion(fields.clone())).expect("an answer");
        assert_eq!(
            (&got["choices"][0]["text"], &got["choices"][0]["finish_reason"]),
            (&"aaaa".into(), &"length".into())
        );
        let got = answer(&mut service, &chat(fields)).expect("an answer");
        assert_eq!(got["choices"][0]["message"]["content"], "aaaa");
        assert_eq!(*only_a.0.lock().expect("no panic"), [constraint.clone(), constraint]);
        only_a.0.lock().expect("no panic").clear();
    }
    for (fields, param) in [
        (json!({"grammar": ""}), "grammar"),
        (json!({"grammar": 5}), "grammar"),
        (json!({"regex": ["a"]}), "regex"),
        (json!({"grammar": "a", "regex": "a"}), "regex"),
        (json!({"response_format": {"type": "json_object"}, "regex": "a"}), "regex"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"response_format": {}}), "response_format.type"),
        (json!({"response_format": {"type": "text", "schema": {}}}), "response_format.schema"),
        (json!({"response_format": {"type": "json_object", "schema": 5}}), "response_format.schema"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
        (format(json!({"name": "n"})), "response_format.json_schema.schema"),
        (format(json!({"name": 5, "schema": {}})), "response_format.json_schema.name"),
        (format(json!({"schema": {}, "strict": "yes"})), "response_format.json_schema.strict"),
        (format(json!({"schema": {}, "strictly": true})), "response_format.json_schema.strictly"),
    ] {
        assert_eq!(refusal(&mut service, &completion(fields.clone())), param, "{fields}");
    }
    assert!(
        answer(&mut service, &completion(json!({"grammar": ""})))
            .expect_err("a refusal")
            .to_string()
            .contains("line 1")
    );
}

#[test]
fn tool_choice_none_keeps_tools_out_of_the_prompt() {
    let mut service = service();
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let prompt = |service: &mut Service, fields: Value| {
        answer(service, &chat(fields)).expect("an answer")["usage"]["prompt_tokens"].as_u64().expect("a number")
    };
    let plain = prompt(&mut service, json!({}));
    assert_eq!(prompt(&mut service, json!({"tools": tools, "tool_choice": "none"})), plain);
    assert!(prompt(&mut service, json!({"tools": tools, "tool_choice": "auto"})) > plain);
}

#[test]
fn numbers_come_as_clients_write_them() {
    let body = |fields: &str| Body::parse(&format!(r#"{{"prompt": "Hi", {fields}}}"#)).expect(fields);
    // `Number.MAX_SAFE_INTEGER` and beyond mean "no limit", on 32 bits, too.
    for (written, n) in [
        ("5", 5),
        ("5.0", 5),
        ("1e2", 100),
        ("4294967296", usize::try_from(1u64 << 32).unwrap_or(usize::MAX)),
        ("18446744073709551615", usize::MAX),
        ("1e300", usize::MAX),
    ] {
        for name in ["max_tokens", "max_completion_tokens"] {
            assert_eq!(body(&format!(r#""{name}": {written}"#)).request.max_tokens, Some(n), "{written}");
        }
        assert_eq!(body(&format!(r#""top_k": {written}"#)).request.params.top_k, n);
    }
    for (written, seed) in
        [("-1", u64::MAX), ("42", 42), ("42.0", 42), ("-3.0", -3i64 as u64), ("18446744073709551615", u64::MAX)]
    {
        assert_eq!(body(&format!(r#""seed": {written}"#)).seed, Some(seed), "{written}");
    }
    assert_eq!(body(r#""temperature": 0, "top_p": 1"#).request.params.top_p, 1.0);
    let tokens = body(r#""prompt": [3, 4.0, 5]"#).prompts.expect("prompts");
    assert!(matches!(&tokens[..], [Prompt::Tokens(t)] if *t == [3, 4, 5]), "{tokens:?}");
    // The largest number that is no limit makes an answer up to the end of the context.
    let mut service = service();
    let answer = answer(&mut service, &completion(json!({"max_tokens": 9_007_199_254_740_991u64, "ignore_eos": true})));
    assert_eq!(answer.expect("an answer")["choices"][0]["finish_reason"], "length");
}

#[test]
fn errors_name_the_field() {
    let mut service = service();
    let user = json!({"role": "user", "content": "Hi"});
    for (messages, param) in [
        (json!([]), "messages"),
        (json!("Hi"), "messages"),
        (json!([user, "Hi"]), "messages[1]"),
        (json!([{"role": "assistant"}]), "messages[0].content"),
        (json!([user, {"role": "assistant", "content": null}]), "messages[1].content"),
        (json!([user, {"role": "assistant", "content": null, "tool_calls": []}]), "messages[1].content"),
        (json!([{"role": "user"}]), "messages[0].content"),
        (json!([user, user, {"role": "user", "content": 5}]), "messages[2].content"),
        (json!([{"role": "user", "content": {"text": "Hi"}}]), "messages[0].content"),
        (json!([{"role": "user", "content": []}]), "messages[0].content"),
        (json!([{"role": "user", "content": ["Hi"]}]), "messages[0].content[0]"),
        (json!([{"role": "user", "content": [{"text": "Hi"}]}]), "messages[0].content[0].type"),
        (json!([{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text"),
        (
            json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]}]),
            "messages[0].content[1].type",
        ),
        (json!([{"content": "Hi"}]), "messages[0].role"),
        (json!([{"role": 1, "content": "Hi"}]), "messages[0].role"),
        (json!([{"role": "", "content": "Hi"}]), "messages[0].role"),
        (json!([user, {"role": "asistant", "content": "Hi"}]), "messages[1].role"),
        (json!([{"role": "function", "name": "f", "content": "Hi"}]), "messages[0].role"),
        (json!([{"role": "assistant", "content": "", "function_call": {"name": "f"}}]), "messages[0].function_call"),
        (json!([{"role": "assistant", "content": "", "audio": {"id": "a"}}]), "messages[0].audio"),
    ] {
        assert_eq!(refusal(&mut service, &json!({"messages": messages})), param, "{messages}");
    }
    for (fields, param) in [
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"max_tokens": 1.5}), "max_tokens"),
        (json!({"max_tokens": "5"}), "max_tokens"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"temperature": -0.1}), "temperature"),
        (json!({"temperature": 1e300}), "temperature"),
        (json!({"top_p": 1.5}), "top_p"),
        (json!({"min_p": 2}), "min_p"),
        (json!({"dry_multiplier": -1}), "dry_multiplier"),
        (json!({"dry_base": 0.5}), "dry_base"),
        (json!({"dry_sequence_breakers": [5]}), "dry_sequence_breakers[0]"),
        (json!({"xtc_probability": 2}), "xtc_probability"),
        (json!({"mirostat_eta": 2}), "mirostat_eta"),
        (json!({"stop_at_repetition": 3}), "stop_at_repetition"),
        (json!({"prediction": "Hi"}), "prediction"),
        (json!({"prediction": {"type": "tokens"}}), "prediction.type"),
        (json!({"prediction": {"type": "content"}}), "prediction.content"),
        (json!({"prediction": {"type": "content", "content": [{"type": "image_url"}]}}), "prediction.content[0].type"),
        (json!({"presence_penalty": 1e9}), "presence_penalty"),
        (json!({"seed": 1.5}), "seed"),
        (json!({"seed": "x"}), "seed"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"stop": ["a", 5]}), "stop[1]"),
        (json!({"stop": {}}), "stop"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias.x"),
        (json!({"logit_bias": {"5": null}}), "logit_bias.5"),
        (json!({"logit_bias": {"100000": 1}}), "logit_bias"),
        (json!({"logit_bias": [1]}), "logit_bias"),
        (json!({"logprobs": "all"}), "logprobs"),
        (json!({"model": 5}), "model"),
        (json!({"prefill": "soon"}), "prefill"),
        (json!({"prefill": "fast"}), "prefill"),
        (json!({"chat_template_kwargs": 5}), "chat_template_kwargs"),
        (json!({"tools": {}}), "tools"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
        (json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function.name"),
    ] {
        assert_eq!(refusal(&mut service, &chat(fields.clone())), param, "{fields}");
    }
    for (prompt, param) in [
        (json!(5), "prompt"),
        (json!({}), "prompt"),
        (json!([]), "prompt"),
        (json!([[]]), "prompt[0]"),
        (json!([3, "a"]), "prompt[1]"),
        (json!(["a", 3]), "prompt[1]"),
        (json!([3, -1]), "prompt[1]"),
        (json!([[3], [4, 1.5]]), "prompt[1][1]"),
        (json!([3, 4_294_967_296u64]), "prompt[1]"),
        (json!([3, 100_000]), "prompt"),
    ] {
        assert_eq!(refusal(&mut service, &json!({"prompt": prompt})), param, "{prompt}");
    }
    assert_eq!(refusal(&mut service, &json!({})), "messages");
    assert_eq!(refusal(&mut service, &chat(json!({"prompt": "Hi"}))), "prompt");
    for text in ["", "{", "[]", "5", r#"{"prompt": "\ud8"}"#] {
        let error = service.submit(text, &Stamp::default()).expect_err(text);
        assert_eq!((error.kind(), error.param()), (Kind::InvalidRequest, None), "{text}");
    }
}

/// Values of every kind, at random.
fn value(r: &mut Random, depth: usize) -> Value {
    let odd = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("text"),
        json!("auto"),
        json!([]),
        json!({}),
    ];
    let names = ["type", "role", "content", "text", "function", "name", "strict", "tool_calls", "include_usage", "5"];
    match r.below(if depth == 0 { 1 } else { 3 }) {
        0 => odd[r.below(odd.len())].clone(),
        1 => (0..1 + r.below(3)).map(|_| value(r, depth - 1)).collect(),
        _ => (0..1 + r.below(3)).map(|_| (names[r.below(names.len())].to_string(), value(r, depth - 1))).collect(),
    }
}

#[test]
fn whatever_a_field_holds_it_is_taken_or_named_in_the_error() {
    let mut r = Random::new(12);
    let own = ["messages", "prompt", "top_k", "min_p", "typical_p", "repetition_penalty", "priority", "prefill"];
    let usual = usual();
    let names: Vec<&str> = usual.as_object().expect("fields").keys().map(String::as_str).chain(own).collect();
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..40_000 {
        let fields: Vec<&str> = (0..1 + r.below(2)).map(|_| names[r.below(names.len())]).collect();
        let body: Value = fields.iter().map(|name| (name.to_string(), value(&mut r, 3))).collect();
        match Body::from_value(&body) {
            Ok(_) => taken += 1,
            Err(error) => {
                refused += 1;
                let param = error.param().unwrap_or_else(|| panic!("{body}: {error} names no field"));
                assert!(fields.iter().any(|name| param.starts_with(name)), "{body}: {error}");
                assert_eq!(error.kind(), Kind::InvalidRequest);
            }
        }
    }
    assert!(taken > 4000 && refused > 4000, "{taken} taken, {refused} refused");
}

#[test]
fn roles_are_openais_or_the_templates_own() {
    let mut service = service();
    let mut asked =
        |role: &str| answer(&mut service, &json!({"messages": [{"role": role, "content": "Hi"}], "max_tokens": 1}));
    for role in ["system", "user", "assistant", "tool", "developer", "model"] {
        asked(role).unwrap_or_else(|e| panic!("{role}: {e}"));
    }
    // A template that knows no developers has them as the system.
    let (as_system, as_developer) = (asked("system").expect("an answer"), asked("developer").expect("an answer"));
    assert_eq!(as_system["usage"]["prompt_tokens"], as_developer["usage"]["prompt_tokens"]);
    assert_eq!(asked("models").expect_err("a refusal").param(), Some("messages[0].role"));
}

#[test]
fn halves_of_surrogate_pairs_are_replacement_characters() {
    let content = |json: &str| Body::parse(json).expect(json).messages.expect("messages").remove(0);
    let cut = content(r#"{"messages": [{"role": "user", "content": "I like it \ud83d"}]}"#);
    assert_eq!(cut, Message::new("user", "I like it \u{fffd}"));
    // Any sequence of UTF-16 units, some of them written as they are, reads as JavaScript's `TextEncoder` writes it.
    let mut r = Random::new(6);
    for _ in 0..2000 {
        let units: Vec<u16> = (0..r.below(12))
            .map(|_| match r.below(5) {
                0 => 0xd83d,
                1 => 0xde00,
                2 => 0xd800 + r.below(0x800) as u16,
                3 => u16::from(b"\\\"u{d"[r.below(5)]),
                _ => 0x20 + r.below(0x400) as u16,
            })
            .collect();
        let escaped = |unit: &u16| match char::from_u32(u32::from(*unit)) {
            Some(c) if r.below(2) == 0 => {
                let quoted = json!(c.to_string()).to_string();
                quoted[1..quoted.len() - 1].to_string()
            }
            _ if r.below(2) == 0 => format!("\\u{unit:04x}"),
            _ => format!("\\u{unit:04X}"),
        };
        let text: String = units.iter().map(escaped).collect();
        let prompts = Body::parse(&format!(r#"{{"prompt": "{text}"}}"#)).expect(&text).prompts.expect("prompts");
        let want = String::from_utf16_lossy(&units);
        assert!(matches!(&prompts[..], [Prompt::Text(got)] if *got == want), "{text}: {prompts:?}");
    }
}

#[test]
fn what_a_request_does_not_name_is_as_the_maker_says() {
    let mut service = service();
    let named = json!({"temperature": 0.2, "top_p": 0.9});
    let usual = Params { temperature: 0.3, ..Params::default() };
    let settings = makers_settings(service.engine(), Some(&named), &usual).expect("settings");
    assert_eq!((settings.temperature, settings.top_p, settings.top_k), (0.2, 0.9, 0));
    // This model is small.
    assert!(settings.dry_multiplier > 0.0 && settings.dry_allowed_length > 8);
    assert_eq!(makers_settings(service.engine(), None, &usual).expect("settings").temperature, 0.3);
    let error = makers_settings(service.engine(), Some(&json!({"temprature": 1})), &usual).expect_err("a refusal");
    assert_eq!(error.param(), Some("temprature"));
    let over = |body: Value| Body::over(&body, &settings).expect("a body").request.params;
    assert_eq!(over(json!({"prompt": "Hi"})), settings);
    assert_eq!(over(json!({"prompt": "Hi", "dry_multiplier": null, "dry_base": null})), settings);
    assert_eq!(
        over(json!({"prompt": "Hi", "temperature": 0.7, "top_p": null})),
        Params { temperature: 0.7, ..settings.clone() }
    );
    // Whoever asks for the most probable tokens gets them; DRY of a request's own is all of DRY.
    assert_eq!(over(json!({"prompt": "Hi", "temperature": 0})).dry_multiplier, 0.0);
    let own = over(json!({"prompt": "Hi", "temperature": 0, "dry_multiplier": 0.5}));
    assert_eq!((own.dry_multiplier, own.dry_allowed_length), (0.5, Params::default().dry_allowed_length));
    service.set_defaults(Params { temperature: 0.0, ..Params::default() });
    let greedy = answer(&mut service, &chat(json!({"temperature": 0}))).expect("an answer")["choices"].clone();
    for seed in 0..5 {
        assert_eq!(
            answer(&mut service, &chat(json!({"temperature": null, "seed": seed}))).expect("an answer")["choices"],
            greedy
        );
    }
}

#[test]
fn every_field_of_requests_is_in_the_reference() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect("a file of the repository");
    let (source, reference) = (read("src/engine/openai/body.rs"), read("docs/api.md"));
    let set = source.split("fn set(").nth(1).and_then(|rest| rest.split("_ => return Err").next()).expect("the list");
    let arms = set.lines().map(str::trim_start).filter_map(|line| line.trim_start_matches("| ").strip_prefix('"'));
    let known: BTreeSet<&str> = arms.filter_map(|line| line.split('"').next()).collect();
    let tables = reference.split("## Values").next().expect("the tables").lines();
    let rows = tables.filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let told: BTreeSet<&str> =
        rows.flat_map(|cell| cell.split(['`', ',', ' ', '+'])).filter(|name| !name.is_empty()).collect();
    assert!(known.len() > 60 && known == told, "{:?}", known.symmetric_difference(&told).collect::<Vec<_>>());
}
