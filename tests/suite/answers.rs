//! Answers back to thoughts, texts and calls of tools: the same ones however the answer is cut into pieces, and nothing is lost.

use crate::common::calls::{FORMATS, template};
use crate::common::data;
use crate::common::random::Random;
use foreword::chat::{AnswerPart, AnswerReader, ChatTemplate, Message, RenderOptions};
use foreword::gguf::Gguf;
use foreword::gguf::source::{FileSource, Source};
use foreword::tokenizer::Tokenizer;
use serde_json::{Value, json};

fn tokenizer() -> Tokenizer {
    let source = FileSource::open(&data("models/llama.gguf")).expect("a model file");
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(source)];
    let gguf = pollster::block_on(Gguf::read(&mut sources)).expect("a header");
    Tokenizer::from_gguf(&gguf.metadata).expect("a tokenizer")
}

fn tools() -> Value {
    let text = json!({"type": "string"});
    let weather = json!({"type": "object", "properties": {"city": text, "days": {"type": "integer"}, "code": text}});
    json!([
        {"type": "function", "function": {"name": "get_weather", "parameters": weather}},
        {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
    ])
}

fn calls() -> Vec<(String, Value)> {
    let arguments = json!({
        "city": "Köln \"am\" Rhein", "days": 2, "code": "if a < b && c['x']:\n    print(\"{}\")  # it's 東京",
        "limits": [1e-5, -2.5, null, true], "more": {"a": "b", "c": {"d": []}}
    });
    vec![("get_weather".into(), arguments), ("now".into(), json!({}))]
}

/// The template's own text of calls.
fn written(template: &ChatTemplate, calls: &[(String, Value)]) -> String {
    let call = |(name, arguments): &(String, Value)| json!({"id": "abcdefghi", "type": "function", "function": {"name": name, "arguments": arguments}});
    let calls: Vec<Value> = calls.iter().map(call).collect();
    let messages =
        json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": null, "tool_calls": calls}]);
    let messages: Vec<Message> = serde_json::from_value(messages).expect("messages");
    let prompt = template.render(&messages, Some(&tools()), false).expect("a prompt");
    let (_, answer) = prompt.split_once("<assistant>").expect("an answer");
    answer.split_once("</assistant>").expect("its end").0.to_string()
}

/// What an answer says, its pieces joined.
#[derive(Clone, Debug, Default, PartialEq)]
struct Said {
    text: String,
    thoughts: String,
    calls: Vec<(String, String)>,
}

fn read(mut reader: AnswerReader, pieces: &[&str]) -> Said {
    let mut said = Said::default();
    let mut parts: Vec<_> = pieces.iter().flat_map(|piece| reader.push(piece, false)).collect();
    parts.extend(reader.finish());
    for (part, _) in parts {
        match part {
            AnswerPart::Text(text) => said.text.push_str(&text),
            AnswerPart::Thought(text) => said.thoughts.push_str(&text),
            AnswerPart::Call(name) => said.calls.push((name, String::new())),
            AnswerPart::Arguments(text) => said.calls.last_mut().expect("a call first").1.push_str(&text),
        }
    }
    said
}

/// The same, after it was found to be so however the answer is cut.
fn read_cut(reader: &AnswerReader, answer: &str) -> Said {
    let whole = read(reader.clone(), &[answer]);
    for at in (0..answer.len()).filter(|&at| answer.is_char_boundary(at)) {
        let (front, back) = answer.split_at(at);
        assert_eq!(read(reader.clone(), &[front, back]), whole, "cut {front:?} | {back:?}");
    }
    let each: Vec<&str> = answer.split("").collect();
    assert_eq!(read(reader.clone(), &each), whole, "{answer:?} character by character");
    whole
}

fn reader(template: &ChatTemplate, tokenizer: &Tokenizer) -> AnswerReader {
    let tools = tools();
    template.answer_reader(tokenizer, &RenderOptions { tools: Some(&tools), ..RenderOptions::default() }, "")
}

fn values(said: &Said) -> Vec<(String, Value)> {
    let value = |(name, text): &(String, String)| {
        (name.clone(), serde_json::from_str(text).unwrap_or_else(|e| panic!("{name}: {text}: {e}")))
    };
    said.calls.iter().map(value).collect()
}

#[test]
fn calls_are_read_as_the_template_writes_them_however_they_are_cut() {
    let tokenizer = tokenizer();
    for (name, calls_of) in FORMATS {
        let template = template(calls_of);
        let reader = reader(&template, &tokenizer);
        let answer = written(&template, &calls());
        let said = read_cut(&reader, &answer);
        assert_eq!(values(&said), calls(), "{name}: {answer}");
        assert_eq!((said.text.as_str(), said.thoughts.as_str()), ("", ""), "{name}: {answer}");
        // Llama and gpt-oss write nothing in front of a call.
        if !["llama", "gpt-oss"].contains(&name) {
            let said = read_cut(&reader, &format!("Let me see: <b>\n\n{answer}\n"));
            assert_eq!(values(&said), calls(), "{name}");
            assert_eq!(said.text, "Let me see: <b>", "{name}");
        }
        // Without tools nothing is a call, but for a format whose messages are told apart anyway.
        if name != "gpt-oss" {
            let plain = template.answer_reader(&tokenizer, &RenderOptions::default(), "");
            assert_eq!(read_cut(&plain, &answer).text, answer, "{name}");
        }
    }
}

#[test]
fn what_is_no_call_stays_text() {
    let tokenizer = tokenizer();
    for (name, calls_of) in FORMATS.iter().filter(|(name, _)| *name != "gpt-oss") {
        let template = template(calls_of);
        let reader = reader(&template, &tokenizer);
        let answer = written(&template, &calls());
        for text in [
            "",
            "\n",
            " Hello.\n\n",
            "<tool_call",
            "<tool_call>",
            "<tool_call>\nhm\n</tool_call> so",
            "{",
            "{}",
            "[1, 2]",
            "{\"a\": {\"b\": 1}}",
            "{\"name\": \"Anna\", \"age\": 5}",
            "[TOOL_CALLS] none",
            "<|tool_call_start|>f(",
            "[TOOL_CALLS]",
            "<|tool_call_start|>[now(]<|tool_call_end|>",
            "<|tool_call>call:<tool_call|>",
            "<|tool_call|>[]",
            "<<tool_call>>",
            "<start_function_call>now<end_function_call>",
            "<tool_call><function=now</tool_call>",
            "{\"name\": \"nobody\", \"parameters\": {\"a\": 1}}",
            "a <tool_call> <tool_call>",
            "<|python_tag|>print(1)",
        ] {
            let said = read_cut(&reader, text);
            assert_eq!((said.text.as_str(), said.calls.len()), (text, 0), "{name}");
        }
        // Cut off in the middle: what was not passed on as a call is text.
        for end in (0..answer.len()).filter(|&end| answer.is_char_boundary(end)) {
            let said = read(reader.clone(), &[&answer[..end]]);
            if said.calls.is_empty() {
                assert_eq!(said.text.trim(), answer[..end].trim(), "{name}");
            }
        }
    }
}

#[test]
fn slips_of_small_models_are_understood() {
    let tokenizer = tokenizer();
    let said = |format: usize, answer: &str| read_cut(&reader(&template(FORMATS[format].1), &tokenizer), answer);
    let now = vec![("now".to_string(), json!({}))];
    let day = vec![("now".to_string(), json!({"day": 1}))];
    for (format, answer, calls) in [
        // Brackets that are missing or too many, an end that is.
        (0, "<tool_call>{\"name\": \"now\", \"arguments\": {\"day\": 1}\n</tool_call>", &day),
        (0, "<tool_call>{\"name\": \"now\", \"arguments\": {\"day\": 1}}}</tool_call>", &day),
        (0, "<tool_call>{\"name\": \"now\", \"arguments\": {\"day\": 1}}", &day),
        (0, "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"day\": 1}", &day),
        // Another order, no arguments, none, a text.
        (0, "<tool_call>{\"arguments\": {\"day\": 1}, \"name\": \"now\"}</tool_call>", &day),
        (0, "<tool_call>{\"name\": \"now\"}</tool_call>", &now),
        (0, "<tool_call>{\"name\": \"now\", \"arguments\": null}</tool_call>", &now),
        (0, "<tool_call>{\"name\": \"now\", \"arguments\": \"{\\\"day\\\": 1}\"}</tool_call>", &day),
        (0, "<tool_call>[{\"name\": \"now\", \"parameters\": {\"day\": 1}}]</tool_call>", &day),
        (1, "<tool_call>\n<function=now>\n<parameter=day>\n1\n</function>\n</tool_call>", &day),
        (2, "<|python_tag|>{\"name\": \"now\", \"parameters\": {\"day\": 1}}", &day),
        (4, "[TOOL_CALLS]now{\"day\": 1}", &day),
        (6, "<|tool_call_start|>[now(day=1)]", &day),
        (11, "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{\"day\": 1}<|call|>", &day),
    ] {
        let said = said(format, answer);
        assert_eq!((&values(&said), said.text.as_str()), (calls, ""), "{answer}");
    }
    // The end of a call in a text of its arguments.
    let answer = "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": \"</tool_call> }\\\"\"}}</tool_call>\n\nDone.";
    let said = said(0, answer);
    assert_eq!(said.text, "Done.");
    assert_eq!(values(&said), [("now".to_string(), json!({"a": "</tool_call> }\""}))]);
}

#[test]
fn arguments_come_in_pieces() {
    let tokenizer = tokenizer();
    for format in [0, 2, 3, 4, 9, 11] {
        let (name, calls_of) = FORMATS[format];
        let template = template(calls_of);
        let mut reader = reader(&template, &tokenizer);
        let answer = written(&template, &calls());
        let mut pieces = 0;
        for c in answer.split("") {
            pieces += reader.push(c, false).iter().filter(|(p, _)| matches!(p, AnswerPart::Arguments(_))).count();
        }
        assert!(pieces > 100, "{name}: {pieces}");
    }
}

#[test]
fn thoughts_are_told_from_the_answer() {
    let tokenizer = tokenizer();
    for (open, close) in [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|channel>thought\n", "<channel|>")] {
        let template = template(&format!("{FORMAT}{{# {open}{close} #}}", FORMAT = FORMATS[0].1));
        let asked = |prompt: &str| {
            let tools = tools();
            template.answer_reader(
                &tokenizer,
                &RenderOptions { tools: Some(&tools), ..RenderOptions::default() },
                prompt,
            )
        };
        let call = "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>";
        for (answer, thoughts, text, calls) in [
            (format!("{open}\nHm < x.\n{close}\n\nYes."), "Hm < x.", "Yes.", 0),
            (format!("\n{open}Hm.{close}\n{call}"), "Hm.", "", 1),
            (format!("{open}\n\n{close}\n\nYes."), "", "Yes.", 0),
            // A call that is only thought of is none.
            (format!("{open}{call}{close}Yes."), call, "Yes.", 0),
            // Cut off.
            (format!("{open}Hm.{}", &close[..4]), &*format!("Hm.{}", &close[..4]), "", 0),
            (open[..4].to_string(), "", &open[..4], 0),
            // Elsewhere than at the beginning these are words.
            (format!("Say {open}."), "", &*format!("Say {open}."), 0),
        ] {
            let said = read_cut(&asked("<user>"), &answer);
            assert_eq!(
                (said.thoughts.as_str(), said.text.as_str(), said.calls.len()),
                (thoughts, text, calls),
                "{answer:?}"
            );
            // The template wrote the opening tag.
            if let Some(rest) = answer.trim_start().strip_prefix(open) {
                assert_eq!(read_cut(&asked(&format!("<assistant>\n{open}\n")), rest), said, "{answer:?}");
            }
        }
        let closed = read_cut(&asked(&format!("{open}\n\n{close}\n\n")), "Yes.");
        assert_eq!((closed.thoughts.as_str(), closed.text.as_str()), ("", "Yes."));
    }
    let harmony = template(FORMATS[11].1);
    let reader = harmony.answer_reader(&tokenizer, &RenderOptions::default(), "");
    let said = read_cut(
        &reader,
        "<|channel|>analysis<|message|>Hm < x.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>\
         <|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
    );
    assert_eq!((said.thoughts.as_str(), said.text.as_str()), ("Hm < x.", "I look.Yes."));
    assert_eq!(read_cut(&reader, "Just text.").text, "Just text.");
}

#[test]
fn noise_is_neither_lost_nor_a_reason_to_panic() {
    let tokenizer = tokenizer();
    let bits = [
        "<tool_call>",
        "</tool_call>",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "name",
        "\"name\": \"now\"",
        "\"arguments\": ",
        ",",
        ":",
        "\\",
        "<function=now>",
        "</function>",
        "<parameter=a>",
        "</parameter>",
        "<|tool_call>",
        "call:now",
        "<|\"|>",
        "<tool_call|>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "<|tool_call_start|>",
        "<|tool_call_end|>",
        "now(",
        "a=",
        "'",
        ")",
        "<think>",
        "</think>",
        "<|channel|>",
        "<|message|>",
        "<|end|>",
        "<|start|>",
        " to=now",
        "x",
        "ü",
        "\n",
        " ",
        "1",
        "<|tool_call|>",
        "<|/tool_call|>",
    ];
    let mut random = Random::new(5);
    for (name, calls_of) in FORMATS {
        let reader = reader(&template(&format!("{calls_of}{{# <think></think> #}}")), &tokenizer);
        for _ in 0..300 {
            let answer: String = (0..random.below(12)).map(|_| bits[random.below(bits.len())]).collect();
            let said = read_cut(&reader, &answer);
            if said.calls.is_empty() && said.thoughts.is_empty() && name != "gpt-oss" && !answer.contains("<think>") {
                assert_eq!(said.text, answer, "{name}");
            }
        }
    }
}

#[test]
#[ignore = "tests/large/templates fetches the templates and runs this"]
fn published_templates_read_their_own_calls() {
    let path = std::env::var("FOREWORD_PROMPTS").expect("FOREWORD_PROMPTS, as tests/large/templates sets it");
    let text = std::fs::read_to_string(path).expect("a file of prompts");
    let tokenizer = tokenizer();
    let (mut template, mut name) = (None, String::new());
    let mut outcomes = std::collections::BTreeMap::<String, Vec<String>>::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        if let Some(source) = line["template"].as_str() {
            name = line["name"].as_str().expect("a name").to_owned();
            let mut next = ChatTemplate::new(source, "<s>", "</s>").expect("a template");
            next.set_clock(|| 0.0);
            template = Some(next);
            continue;
        }
        let wanted = line["conversation"] == "arguments as object" && !line["tools"].is_null();
        if !wanted || line["add_generation_prompt"] != true {
            continue;
        }
        let template = template.as_ref().expect("a template first");
        let options = RenderOptions { tools: Some(&line["tools"]), add_generation_prompt: true, variables: None };
        let messages: Vec<Message> = serde_json::from_value(line["messages"].clone()).expect("messages");
        let rendered = |messages: &[Message]| template.render_with(messages, &options);
        let (before, after) = match (rendered(&messages[..1]), rendered(&messages)) {
            (Ok(before), Ok(after)) => (before, after),
            (Err(e), _) | (_, Err(e)) => {
                outcomes.entry(format!("not rendered: {e:.120}")).or_default().push(name.clone());
                continue;
            }
        };
        let common: String = before.chars().zip(after.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
        // Where both go on with a tag, though with different ones.
        let common = common.rfind(['<', '[']).filter(|&at| !common[at..].contains(['>', ']'])).unwrap_or(common.len());
        let answer = after[common..].to_string();
        let said = read(template.answer_reader(&tokenizer, &options, &before), &[&answer]);
        let call = messages[1].more["tool_calls"][0]["function"].clone();
        let outcome = match &said.calls[..] {
            [] if !after.contains("get_weather") => "no call shown".into(),
            [] => format!("no call read: {answer:.60}"),
            [(tool, arguments), ..]
                if call["name"] == *tool
                    && serde_json::from_str::<Value>(arguments).ok().as_ref() == Some(&call["arguments"]) =>
            {
                "read".into()
            }
            [(tool, arguments), ..] => format!("DIFFERENT: {tool} {arguments}"),
        };
        outcomes.entry(outcome).or_default().push(name.clone());
    }
    for (outcome, names) in &outcomes {
        println!("{:4} {outcome}: {}", names.len(), names.join(", "));
    }
    assert!(outcomes.get("read").is_some_and(|names| names.len() >= 20), "{outcomes:?}");
    assert!(!outcomes.keys().any(|outcome| outcome.starts_with("DIFFERENT")), "{outcomes:?}");
}
