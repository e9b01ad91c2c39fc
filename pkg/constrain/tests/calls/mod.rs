//! Calls that are forced are calls, in every format, and their arguments fit; thoughts in front of an answer are free.

#[allow(unreachable_pub, reason = "the core's tests have it in a module of their own")]
#[path = "../../../../tests/common/calls.rs"]
mod formats;

use super::{Says, answers, misfit, sources};
use foreword::backend::cpu::Cpu;
use foreword::chat::{AnswerPart, AnswerReader, CallRules, ChatTemplate, RenderOptions};
use foreword::engine::openai::{Service, Stamp};
use foreword::engine::{Engine, FinishReason, Request};
use foreword::model::ModelOptions;
use foreword::sample::{Constraint, Params, Rule};
use foreword::speculate::{Mode, Shape, draft::Layers};
use foreword_constrain::compiler;
use serde_json::{Value, json};
use std::sync::Arc;

fn tools(city: Value) -> Value {
    let weather = json!({
        "type": "object",
        "properties": {
            "city": city,
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "place": {"$ref": "#/$defs/place"},
        },
        "required": ["unit", "days"],
        "$defs": {"place": {"type": "object", "properties": {"lat": {"type": "number", "minimum": -90, "maximum": 90}, "open": {"type": "boolean"}},
            "required": ["lat", "open"], "additionalProperties": false}},
    });
    json!([
        {"type": "function", "function": {"name": "get_weather", "parameters": weather, "strict": true}},
        {"type": "function", "function": {"name": "now"}},
        {"type": "function", "function": {"name": "ARGUMENTS", "parameters":
            {"properties": {"NAME": {"type": "boolean"}, "other": {"type": "null"}}}}},
    ])
}

/// A model that answers anything.
fn engine() -> Engine {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/models/llama.gguf");
    let options = ModelOptions { cache_tokens: Some(1 << 15), ..ModelOptions::default() };
    let files = sources(path.as_ref());
    pollster::block_on(Engine::load(files, Box::new(Cpu::new(1)), &options, || 0.0, &mut |_| {}))
        .expect("a sound model")
}

/// Name and arguments of the calls, and the text around them.
fn read(mut reader: AnswerReader, answer: &str) -> (Vec<(String, String)>, String) {
    let (mut calls, mut text) = (Vec::<(String, String)>::new(), String::new());
    let parts = reader.push(answer, false).into_iter().chain(reader.finish());
    for (part, _) in parts {
        match part {
            AnswerPart::Call(name) => calls.push((name, String::new())),
            AnswerPart::Arguments(piece) => calls.last_mut().expect("a call first").1.push_str(&piece),
            AnswerPart::Text(piece) | AnswerPart::Thought(piece) => text.push_str(&piece),
        }
    }
    (calls, text)
}

fn check(calls: &[(String, String)]) {
    for (name, arguments) in calls {
        let tools = tools(json!({"type": "string"}));
        let tool = tools.as_array().expect("tools").iter().find(|tool| tool["function"]["name"] == **name);
        let schema = match &tool.unwrap_or_else(|| panic!("a call of {name}"))["function"]["parameters"] {
            Value::Null => json!({"type": "object", "maxProperties": 0}),
            schema => schema.clone(),
        };
        assert_eq!(misfit(&schema, arguments), None, "{name} {arguments}");
    }
}

#[test]
fn forced_calls_are_calls_in_every_format() {
    let mut engine = engine();
    let compiler = compiler(Arc::clone(engine.tokenizer()));
    let tools = tools(json!({"type": "string"}));
    let options = RenderOptions { tools: Some(&tools), ..RenderOptions::default() };
    let named = |name: &str| CallRules { names: vec![name.into()], one: true, required: true };
    let any = CallRules { required: true, ..CallRules::default() };
    let forced = [
        (any.clone(), 1..usize::MAX),
        (CallRules { one: true, ..any }, 1..2),
        (named("get_weather"), 1..2),
        (named("now"), 1..2),
        (named("ARGUMENTS"), 1..2),
    ];
    let (mut asked, mut requests) = (Vec::new(), Vec::new());
    for (format, calls_of) in formats::FORMATS {
        let template = formats::template(calls_of);
        for (forced, count) in &forced {
            let grammar = template.call_grammar(engine.tokenizer(), &options, forced, None).expect("a grammar");
            let rule = compiler.compile(&Constraint::Lark(grammar.clone()));
            let rule = rule.unwrap_or_else(|e| panic!("{format}: {e}\n{grammar}"));
            let reader = template.answer_reader(engine.tokenizer(), &options, "");
            asked.push((format, reader, forced, count));
            let params = Params { seed: asked.len() as u64, ..Params::default() };
            let prompt = engine.prompt("Weather?", false);
            requests.push(Request { prompt, params, rules: vec![rule], max_tokens: Some(220), ..Request::default() });
        }
    }
    let mut whole = 0;
    for ((format, reader, forced, count), (answer, done)) in asked.into_iter().zip(answers(&mut engine, requests)) {
        let (calls, text) = read(reader, &answer);
        if done.reason != FinishReason::Stop {
            continue;
        }
        whole += 1;
        assert!(count.contains(&calls.len()) && text.is_empty(), "{format}: {answer:?} is {calls:?} and {text:?}");
        assert!(forced.names.iter().all(|name| calls[0].0 == *name), "{format}: {answer:?}");
        check(&calls);
    }
    println!("{whole} answers came to an end");
    assert!(whole > 30, "only {whole} answers came to an end");
}

/// What a model writes that begins a call, some of it with a text before.
fn beginning(format: &str) -> &'static str {
    match format {
        "hermes" | "qwen coder" => "Hi\n<tool_call>",
        "llama" => "{",
        "mistral" | "mistral 2506" | "mistral 2512" => "Hi[TOOL_CALLS]",
        "lfm2" => "Hi<|tool_call_start|>",
        "gemma 4" => "Hi<|tool_call>",
        "functiongemma" => "Hi<start_function_call>",
        "gpt-oss" => "<|channel|>commentary to=",
        _ => "Hi<|tool_call|>",
    }
}

#[test]
fn a_call_that_the_model_begins_by_itself_is_one_in_every_format() {
    let mut engine = engine();
    let compiler = compiler(Arc::clone(engine.tokenizer()));
    let (tools, end) = (tools(json!({"enum": ["Graz", "Köln"]})), engine.tokenizer().end_of_generation()[0]);
    let options = RenderOptions { tools: Some(&tools), ..RenderOptions::default() };
    let form = r#"%json {"enum": ["yes", "no"]}"#;
    let (mut asked, mut requests) = (Vec::new(), Vec::new());
    for (format, calls_of) in formats::FORMATS {
        let template = formats::template(calls_of);
        let final_text = if format == "gpt-oss" { "<|channel|>final<|message|>Hello{you}" } else { "Hello{you}" };
        for (rules, says, form) in [
            (CallRules::default(), beginning(format), None),
            (CallRules { one: true, names: vec!["now".into()], required: false }, beginning(format), None),
            (CallRules::default(), final_text, None),
            (CallRules::default(), final_text, Some(form)),
        ] {
            let grammar = template.call_grammar(engine.tokenizer(), &options, &rules, form).expect("a grammar");
            let rule = compiler.compile(&Constraint::Lark(grammar.clone()));
            let rule = rule.unwrap_or_else(|e| panic!("{format}: {e}\n{grammar}"));
            let reader = template.answer_reader(engine.tokenizer(), &options, "");
            asked.push((format, reader, rules, says, form, grammar));
            let mut script = engine.tokenizer().encode(says, false);
            script.push(end);
            let params = Params { seed: asked.len() as u64, ..Params::default() };
            let rules: Vec<Box<dyn Rule>> = vec![Box::new(Says::once(script)), rule];
            let prompt = engine.prompt("Weather?", false);
            requests.push(Request { prompt, params, rules, max_tokens: Some(220), ..Request::default() });
        }
    }
    let mut called = 0;
    for ((format, reader, rules, says, form, grammar), (answer, done)) in
        asked.into_iter().zip(answers(&mut engine, requests))
    {
        if done.reason != FinishReason::Stop {
            continue;
        }
        let (calls, text) = read(reader, &answer);
        let shown = format!("{format}: {answer:?} is {calls:?} and {text:?} by\n{grammar}");
        check(&calls);
        match (form, says.contains("you")) {
            (None, true) => assert!(calls.is_empty() && text == "Hello{you}", "{shown}"),
            (Some(_), _) => assert!(!calls.is_empty() || text == "\"yes\"" || text == "\"no\"", "{shown}"),
            (None, false) => {
                called += 1;
                assert!(!calls.is_empty() && (text.is_empty() || text == "Hi"), "{shown}");
                assert!(rules.names.is_empty() || calls.len() == 1 && calls[0].0 == "now", "{shown}");
            }
        }
    }
    println!("{called} calls");
    assert!(called > 18, "only {called} calls came to an end");
}

fn service() -> Service {
    let (_, hermes) = formats::FORMATS[0];
    let template = formats::template(hermes).source().to_owned() + "<assistant>{{ '<think>' if enable_thinking }}";
    let template = ChatTemplate::new(&(template + "{# </think> #}"), "", "").expect("a template");
    let engine = engine();
    let compiler = compiler(Arc::clone(engine.tokenizer()));
    let mut service = Service::new(engine, Ok(template), "smollm2");
    service.set_compiler(compiler);
    service
}

fn answer(service: &mut Service, fields: Value) -> Result<Value, (String, String)> {
    // A text would have no end.
    let tools = tools(json!({"enum": ["Graz", "Köln"]}));
    let mut body = json!({
        "messages": [{"role": "user", "content": "Weather?"}], "tools": tools, "max_tokens": 200, "temperature": 1,
    });
    body.as_object_mut().expect("fields").extend(fields.as_object().expect("fields").clone());
    let fault = |e: foreword::Error| (e.param().unwrap_or_default().to_string(), e.to_string());
    service.submit(&body.to_string(), &Stamp { id: "1", created: 0, seed: 7 }).map_err(fault)?;
    loop {
        if let Some(reply) = pollster::block_on(service.step()).expect("a step").pop() {
            return reply.value.map_err(fault);
        }
    }
}

#[test]
fn a_model_thinks_freely_before_it_answers_as_it_has_to() {
    let mut service = service();
    for guesses in [false, true] {
        if guesses {
            let layers = Layers::new(service.engine().model(), 1).expect("layers");
            let mode = Mode::Fixed(Shape::Beam { width: 2, depth: 2 });
            service.engine_mut().speculate(Box::new(layers), mode).expect("a mode");
        }
        let schema = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["yes", "no"]}}});
        for (fields, calls) in [
            (json!({"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}), true),
            (json!({"tool_choice": "required", "parallel_tool_calls": false}), true),
            (
                json!({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required",
                "tools": [{"type": "function", "function": {"name": "now"}}]}}}),
                true,
            ),
            (json!({"response_format": schema, "tools": null}), false),
        ] {
            for thinks in [false, true] {
                let mut fields = fields.clone();
                // It may begin to think by itself.
                fields["thinking_token_budget"] = 9.into();
                if thinks {
                    fields["chat_template_kwargs"] = json!({"enable_thinking": true});
                }
                let answer = answer(&mut service, fields.clone()).expect("an answer");
                let (message, reason) = (&answer["choices"][0]["message"], &answer["choices"][0]["finish_reason"]);
                assert!(message["reasoning_content"].is_string() || !thinks, "{answer}");
                assert_eq!(*reason, if calls { "tool_calls" } else { "stop" }, "{answer}");
                if calls {
                    let call = &message["tool_calls"][0]["function"];
                    let text = |value: &Value| value.as_str().expect("a text").to_owned();
                    check(&[(text(&call["name"]), text(&call["arguments"]))]);
                } else {
                    assert!(message["content"] == "\"yes\"" || message["content"] == "\"no\"", "{answer}");
                }
            }
        }
    }
}

#[test]
fn calls_that_cannot_be_forced_are_refused_by_their_place() {
    let mut service = service();
    let tool = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    let required = |tools: Value| json!({"tool_choice": "required", "tools": tools});
    let allowed = |mode: &str, tools: Value| json!({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}});
    for (fields, place) in [
        (json!({"tool_choice": {"type": "function", "function": {"name": "f"}}}), "tool_choice"),
        (json!({"tool_choice": "any"}), "tool_choice"),
        (json!({"tool_choice": {"type": "allowed_tools"}}), "tool_choice.allowed_tools"),
        (allowed("any", json!([tool("now", json!({}))])), "tool_choice.allowed_tools.mode"),
        (allowed("auto", json!([{"type": "function"}])), "tool_choice.allowed_tools.tools[0].function.name"),
        (allowed("auto", json!([tool("f", json!({}))])), "tool_choice"),
        (allowed("auto", json!([])), "tool_choice.allowed_tools.tools"),
        (json!({"tool_choice": "required", "tools": null}), "tool_choice"),
        (json!({"tool_choice": "required", "regex": "a"}), "tool_choice"),
        (required(json!([tool("f", json!({})), tool("f", json!({}))])), "tools[1].function.name"),
        (required(json!([tool("a \"b", json!({}))])), "tool_choice"),
        (required(json!([tool("f", json!({})), tool("g", json!({"type": "objct"}))])), "tools[1].function.parameters"),
        (required(json!([tool("f", json!({"$ref": "#"}))])), "tools[0].function.parameters"),
        // Strict, and whether there is a call is left to the model.
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "strict": true, "parameters": {"not": {}}}}]}),
            "tools[0].function.parameters",
        ),
    ] {
        let error = answer(&mut service, fields.clone()).expect_err("an error");
        assert_eq!(error.0, place, "{fields}: {}", error.1);
    }
}
