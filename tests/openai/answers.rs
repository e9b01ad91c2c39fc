//! What the service answers: thoughts, calls, several choices, answers that go on.

use super::{answer, chat, completion, refusal, service, service_of, template, with};
use foreword::Kind;
use foreword::chat::ChatTemplate;
use foreword::engine::openai::{Body, Service, Stamp};
use foreword::sample::{Effect, LogitsMut, Rule};
use foreword::speculate::draft::Ngram;
use foreword::speculate::{Mode, Shape};
use serde_json::{Value, json};

#[test]
fn a_full_queue_refuses_more() {
    let mut service = service();
    service.set_limit(3);
    let submit = |service: &mut Service, prompt: Value| {
        service.submit(&completion(json!({ "prompt": prompt })).to_string(), &Stamp::default())
    };
    let first = submit(&mut service, json!(["One", "Two"])).expect("room");
    submit(&mut service, json!("Three")).expect("room");
    assert_eq!(submit(&mut service, json!("Four")).expect_err("no room").kind(), Kind::Busy);
    // More than ever fits at once is no matter of waiting.
    let never = submit(&mut service, json!(["a", "b", "c", "d"])).expect_err("a refusal");
    assert_eq!((never.kind(), never.param()), (Kind::InvalidRequest, Some("prompt")));
    service.cancel(first);
    while !service.is_idle() {
        pollster::block_on(service.step()).expect("a step");
    }
    submit(&mut service, json!("Four")).expect("room");
}

/// Lets an answer be these tokens.
#[derive(Clone, Debug)]
struct Script {
    /// Tokens of the prompt that are still to come.
    prompt: usize,
    tokens: Vec<u32>,
}

impl Rule for Script {
    fn effect(&self, _ahead: usize) -> Effect {
        Effect::Any
    }

    fn adjust(&self, _ahead: &[u32], logits: &mut LogitsMut<'_>) {
        logits.for_each(|token, logit| {
            *logit = if Some(&token) == self.tokens.first() { 0.0 } else { f32::NEG_INFINITY }
        });
    }

    fn accept(&mut self, _token: u32) {
        if self.prompt > 0 {
            self.prompt -= 1;
        } else if !self.tokens.is_empty() {
            self.tokens.remove(0);
        }
    }

    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

/// A service whose template writes thoughts and calls as Qwen's does.
fn reasoning_service() -> Service {
    let source = "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}\
                  {{ m.content or '' }}{% for c in m.tool_calls or [] %}<tool_call>\n{\"name\": \"{{ c.function.name }}\", \"arguments\": \
                  {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}{% endfor %}{{ tools | length if tools }}\
                  {% if add_generation_prompt %}<assistant>{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}";
    service_of(ChatTemplate::new(source, "", ""), 512)
}

/// All replies to a request whose answer is `script`, and whether it is to end there.
fn scripted(service: &mut Service, body: &Value, script: &str) -> Vec<Value> {
    let first = answer(service, &with(body, &json!({"stream": false, "n": 1, "max_tokens": 1}))).expect("an answer");
    let mut parsed = Body::from_value(body).expect("a body");
    let tokenizer = service.engine().tokenizer();
    let mut tokens = tokenizer.encode(script, true);
    tokens.extend(tokenizer.end_of_generation().first());
    let prompt = first["usage"]["prompt_tokens"].as_u64().expect("a number") as usize;
    parsed.request.rules.push(Box::new(Script { prompt, tokens }));
    service.submit_body(parsed, &Stamp { id: "x", created: 5, seed: 1 }).expect("a request");
    let mut replies = Vec::new();
    while !service.is_idle() {
        replies.extend(pollster::block_on(service.step()).expect("a step"));
    }
    assert!(replies.iter().rev().skip(1).all(|reply| !reply.done) && replies.last().is_some_and(|reply| reply.done));
    replies.into_iter().map(|reply| reply.value.expect("an answer")).collect()
}

/// The message that chunks add up to, as the clients of OpenAI's API add them.
fn joined(chunks: &[Value], index: u64) -> Value {
    let mut message = json!({"content": null});
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().expect("choices"));
    for choice in choices.filter(|choice| choice["index"] == index) {
        let delta = choice["delta"].as_object().expect("a delta");
        for (name, value) in delta {
            match (name.as_str(), value) {
                ("tool_calls", Value::Array(calls)) => {
                    let [call] = &calls[..] else { panic!("{calls:?}") };
                    let at = call["index"].as_u64().expect("an index") as usize;
                    if call["id"].is_string() {
                        assert_eq!(message["tool_calls"].as_array().map_or(0, Vec::len), at, "{call}");
                        let mut call = call.clone();
                        call.as_object_mut().expect("a call").remove("index");
                        match message["tool_calls"].as_array_mut() {
                            Some(calls) => calls.push(call),
                            None => message["tool_calls"] = json!([call]),
                        }
                    } else {
                        let arguments = &mut message["tool_calls"][at]["function"]["arguments"];
                        let piece = call["function"]["arguments"].as_str().expect("a piece");
                        *arguments = format!("{}{piece}", arguments.as_str().expect("a call first")).into();
                    }
                }
                ("role", _) => message["role"] = value.clone(),
                (_, Value::String(text)) => {
                    message[name] = format!("{}{text}", message[name].as_str().unwrap_or_default()).into();
                }
                _ => panic!("{name}: {value}"),
            }
        }
        if !choice["finish_reason"].is_null() {
            message["finish_reason"] = choice["finish_reason"].clone();
        }
    }
    message
}

#[test]
fn thoughts_and_calls_reach_the_client_apart_from_the_text() {
    let mut service = reasoning_service();
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let body =
        json!({"messages": [{"role": "user", "content": "Hi"}], "tools": tools, "temperature": 0, "max_tokens": 200});
    let call = "<tool_call>\n{\"name\":\"f\",\"arguments\":{\"a\":\"é\"}}\n</tool_call>";
    let calls = json!([{"type": "function", "function": {"name": "f", "arguments": "{\"a\":\"é\"}"}}]);
    for (script, fields, expected) in [
        (
            format!("<think>\nHm.\n</think>\n\nSo:\n\n{call}"),
            json!({}),
            json!({"content": "So:", "reasoning_content": "Hm.", "tool_calls": calls, "finish_reason": "tool_calls"}),
        ),
        (
            format!("{call}\n{call}"),
            json!({}),
            json!({"content": null, "tool_calls": [calls[0], calls[0]], "finish_reason": "tool_calls"}),
        ),
        (
            format!("{call}\n{call}"),
            json!({"parallel_tool_calls": false}),
            json!({"content": null, "tool_calls": calls, "finish_reason": "tool_calls"}),
        ),
        ("Yes<b>.".into(), json!({}), json!({"content": "Yes<b>.", "finish_reason": "stop"})),
        ("Yes.".into(), json!({"tools": null}), json!({"content": "Yes.", "finish_reason": "stop"})),
        (call.to_string(), json!({"tool_choice": "none"}), json!({"content": call, "finish_reason": "stop"})),
        ("<think>Hm".into(), json!({}), json!({"content": "", "reasoning_content": "Hm", "finish_reason": "stop"})),
        (call.to_string(), json!({"max_tokens": 25}), json!({"finish_reason": "length"})),
    ] {
        let body = with(&body, &fields);
        let whole = scripted(&mut service, &body, &script).pop().expect("an answer");
        let chunks = scripted(&mut service, &with(&body, &json!({"stream": true})), &script);
        let mut message = whole["choices"][0]["message"].clone();
        assert!(message.as_object().is_some_and(|fields| fields.get("refusal") == Some(&Value::Null)), "{message}");
        message.as_object_mut().expect("a message").remove("refusal");
        message["finish_reason"] = whole["choices"][0]["finish_reason"].clone();
        let mut streamed = joined(&chunks, 0);
        // The first chunk says that it begins with no text, before it is known that there is none.
        if streamed["content"] == "" {
            streamed["content"] = message["content"].clone();
        }
        assert_eq!(streamed, message, "{script}");
        let ids: Vec<Value> =
            message["tool_calls"].as_array_mut().into_iter().flatten().map(|call| call["id"].take()).collect();
        let is_id =
            |id: &Value| id.as_str().is_some_and(|id| id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric()));
        assert!(ids.iter().all(is_id) && (1..ids.len()).all(|i| ids[i] != ids[0]), "{ids:?}");
        for call in message["tool_calls"].as_array_mut().into_iter().flatten() {
            call.as_object_mut().expect("a call").remove("id");
        }
        for (name, value) in expected.as_object().expect("fields") {
            assert_eq!(&message[name], value, "{script}: {name}");
        }
        let details = &whole["usage"]["completion_tokens_details"];
        assert_eq!(
            details["reasoning_tokens"].as_u64().is_some_and(|n| n > 0),
            script.contains("<think>"),
            "{details}"
        );
        assert_eq!(chunks.last().expect("chunks")["usage"], whole["usage"], "{script}");
    }
}

#[test]
fn several_choices_share_one_reading_of_the_prompt() {
    let mut service = service();
    let long = "A question that is long enough to be worth waiting for.";
    let sampled = json!({"n": 3, "temperature": 1, "seed": 5});
    let asked = chat(json!({"messages": [{"role": "user", "content": long}]}));
    for body in [with(&asked, &sampled), with(&completion(json!({"prompt": long})), &sampled)] {
        let alone = answer(&mut service, &with(&body, &json!({"n": 1}))).expect("an answer");
        service.engine_mut().clear_cache();
        service.engine_mut().take_totals();
        let all = answer(&mut service, &body).expect("an answer");
        let choices = all["choices"].as_array().expect("choices");
        assert_eq!(choices.iter().map(|c| c["index"].as_u64()).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
        assert_eq!(choices[0]["message"], alone["choices"][0]["message"]);
        assert_eq!(choices[0]["text"], alone["choices"][0]["text"]);
        let prompt = alone["usage"]["prompt_tokens"].as_u64().expect("a number");
        assert_eq!(all["usage"]["prompt_tokens"], prompt);
        // Each reads its prompt's last token, and one of them all others.
        let shared = service.engine_mut().take_totals().shared as u64;
        assert_eq!(shared, 2 * (prompt - 1));
        // A choice is what its seed alone gives.
        let second = answer(&mut service, &with(&body, &json!({"n": 1, "seed": 6}))).expect("an answer");
        assert_eq!(choices[1]["message"], second["choices"][0]["message"]);
        assert_eq!(choices[1]["text"], second["choices"][0]["text"]);
    }
    let two =
        answer(&mut service, &completion(json!({"prompt": ["Hi", "Ho"], "n": 2, "best_of": 2}))).expect("an answer");
    let texts: Vec<&Value> = two["choices"].as_array().expect("choices").iter().map(|c| &c["text"]).collect();
    assert_eq!((texts.len(), texts[0], texts[2]), (4, texts[1], texts[3]));
}

#[test]
fn how_much_a_model_reasons_is_told_to_its_template() {
    let mut service = reasoning_service();
    let user = json!([{"role": "user", "content": "Hi"}]);
    let mut tokens = |fields: Value| {
        let body = with(&json!({"messages": user, "max_tokens": 1, "temperature": 0}), &fields);
        answer(&mut service, &body).map(|value| value["usage"]["prompt_tokens"].as_u64().expect("a number"))
    };
    let plain = tokens(json!({})).expect("an answer");
    let off = tokens(json!({"chat_template_kwargs": {"enable_thinking": false}})).expect("an answer");
    assert!(off > plain);
    assert_eq!(tokens(json!({"reasoning_effort": "none"})).expect("an answer"), off);
    assert_eq!(tokens(json!({"reasoning_effort": "high"})).expect("an answer"), plain);
    // What is said of the template itself counts.
    let both = json!({"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": false}});
    assert_eq!(tokens(both).expect("an answer"), off);
    assert_eq!(tokens(json!({"reasoning_effort": "much"})).expect_err("a refusal").param(), Some("reasoning_effort"));
    // A model without a switch: nothing can be said, unless that it is not to do what it never does.
    let mut plain = super::service();
    assert_eq!(refusal(&mut plain, &chat(json!({"reasoning_effort": "low"}))), "reasoning_effort");
    answer(&mut plain, &chat(json!({"reasoning_effort": "none"}))).expect("an answer");
    assert_eq!(refusal(&mut plain, &chat(json!({"thinking_token_budget": 5}))), "thinking_token_budget");
    assert_eq!(refusal(&mut plain, &completion(json!({"thinking_token_budget": 5}))), "thinking_token_budget");
}

#[test]
fn a_thought_has_its_budget() {
    let mut service = reasoning_service();
    for (budget, extra) in [(0, "<think>"), (4, "<think>"), (4, "")] {
        let begin = if extra.is_empty() {
            json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>\n"}])
        } else {
            json!([{"role": "user", "content": "Hi"}])
        };
        let body = json!({"messages": begin, "max_tokens": 60, "temperature": 0, "ignore_eos": true, "thinking_token_budget": budget,
                          "continue_final_message": extra.is_empty()});
        let script = |service: &Service| service.engine().tokenizer().encode(extra, true);
        let first = answer(&mut service, &with(&body, &json!({"max_tokens": 1}))).expect("an answer");
        let prompt = first["usage"]["prompt_tokens"].as_u64().expect("a number") as usize;
        let mut parsed = Body::from_value(&body).expect("a body");
        // It begins a thought; behind that it may say what it likes.
        let tokens = script(&service);
        let n = tokens.len();
        parsed.request.rules.push(Box::new(Opening(Script { prompt, tokens })));
        service.submit_body(parsed, &Stamp::default()).expect("a request");
        let mut last = None;
        while !service.is_idle() {
            last = pollster::block_on(service.step()).expect("a step").pop().or(last);
        }
        let value = last.expect("a reply").value.expect("an answer");
        let usage = &value["usage"]["completion_tokens_details"];
        let cut = service.engine().tokenizer().encode("\n</think>\n\n", true).len() as u64;
        let thought = usage["reasoning_tokens"].as_u64().expect("a number");
        assert!(thought <= budget + cut + n as u64, "{budget}: {value}");
        assert!(value["choices"][0]["message"]["content"].as_str().is_some_and(|text| !text.is_empty()), "{value}");
    }
}

/// Lets an answer begin with a script, and go on as it likes.
#[derive(Clone, Debug)]
struct Opening(Script);

impl Rule for Opening {
    fn effect(&self, _ahead: usize) -> Effect {
        Effect::Any
    }

    fn adjust(&self, ahead: &[u32], logits: &mut LogitsMut<'_>) {
        if !self.0.tokens.is_empty() {
            self.0.adjust(ahead, logits);
        }
    }

    fn accept(&mut self, token: u32) {
        self.0.accept(token);
    }

    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

#[test]
fn a_final_message_is_gone_on_with() {
    let mut service = reasoning_service();
    let user = json!({"role": "user", "content": "Hi"});
    let begun = |content: Value| {
        json!({"messages": [user, {"role": "assistant", "content": content}], "continue_final_message": true,
                                        "max_tokens": 4, "temperature": 0, "ignore_eos": true})
    };
    let text = |value: &Value| value["choices"][0]["message"]["content"].as_str().expect("a text").to_string();
    let whole = answer(&mut service, &with(&begun("".into()), &json!({"max_tokens": 8}))).expect("an answer");
    let (front, back) = (answer(&mut service, &begun("".into())).expect("an answer"), text(&whole));
    let back = back.strip_prefix(&text(&front)).expect("a greedy answer begins alike").to_string();
    // Tokens may differ where texts are cut, so only what was written is compared.
    let plain =
        answer(&mut service, &json!({"messages": [user], "max_tokens": 4, "temperature": 0, "ignore_eos": true}));
    assert_eq!(text(&plain.expect("an answer")), text(&front));
    assert!(!back.is_empty());
    for (messages, fields) in [
        (json!([user]), json!({})),
        (
            json!([user, {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, {"role": "tool", "content": "x"}]),
            json!({}),
        ),
    ] {
        let error =
            answer(&mut service, &with(&json!({"messages": messages, "continue_final_message": true}), &fields));
        assert_eq!(error.expect_err("a refusal").kind(), Kind::InvalidRequest);
    }
    let tokens = |service: &mut Service, fields: Value| {
        let body = with(&json!({"messages": [user], "max_tokens": 1}), &fields);
        answer(service, &body).expect("an answer")["usage"]["prompt_tokens"].as_u64().expect("a number")
    };
    assert!(tokens(&mut service, json!({"add_generation_prompt": false})) < tokens(&mut service, json!({})));
}

#[test]
fn a_second_turn_reads_only_what_is_new_though_thoughts_are_dropped() {
    let mut service = reasoning_service();
    let user = json!({"role": "user", "content": "A question that is long enough to fill more than one block of the cache, I should think."});
    let body = json!({"messages": [user], "temperature": 0, "max_tokens": 100});
    let first = scripted(&mut service, &body, "<think>\nHm.\n</think>\n\nYes.").pop().expect("an answer");
    let message = first["choices"][0]["message"].clone();
    assert_eq!((&message["reasoning_content"], &message["content"]), (&"Hm.".into(), &"Yes.".into()));
    let prompt = first["usage"]["prompt_tokens"].as_u64().expect("a number");
    let mut dropped = message.clone();
    dropped.as_object_mut().expect("a message").remove("reasoning_content");
    for (message, least) in [(message, prompt + 4), (dropped, prompt - 1)] {
        let second = answer(
            &mut service,
            &json!({"messages": [user, message, {"role": "user", "content": "So?"}], "max_tokens": 1}),
        );
        let cached =
            second.expect("an answer")["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number");
        assert!(cached >= least, "{cached} of {least}");
    }
}

#[test]
fn an_answer_that_goes_in_circles_ends_and_says_so() {
    let mut service = service_of(template("'model'"), 1024);
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 900});
    let run = "one,two,three,four,five,six,seven,eight,nine,ten,eleven,twelve;";
    let said = |service: &mut Service, fields: Value, script: &str| {
        let whole = scripted(service, &with(&body, &fields), script).pop().expect("an answer")["choices"][0].take();
        let stream = with(&fields, &json!({"stream": true}));
        let chunks = scripted(service, &with(&body, &stream), script);
        assert_eq!(chunks.last().expect("a chunk")["choices"][0]["stop_reason"], whole["stop_reason"]);
        assert_eq!(joined(&chunks, 0)["content"], whole["message"]["content"]);
        (
            whole["message"]["content"].as_str().expect("a text").to_string(),
            whole["finish_reason"].clone(),
            whole["stop_reason"].clone(),
        )
    };
    let stop = Value::from("stop");
    let (text, finish, why) = said(&mut service, json!({}), &run.repeat(6));
    assert_eq!((text, finish, why), (run.repeat(3), stop.clone(), "repetition".into()));
    // Something else between does not make it better.
    let (text, _, why) = said(&mut service, json!({}), &format!("{run}a.{run}b.{run}c."));
    assert_eq!((text, why), (format!("{run}a.{run}b.{run}"), "repetition".into()));
    for (fields, script) in [
        (json!({"stop_at_repetition": false}), run.repeat(6)),
        (json!({}), run.repeat(2)),
        // Numbers, tables and short runs may come again.
        (json!({}), "0,1,2,3,".repeat(30)),
        (json!({}), "|---|---|\n|a|b|\n".repeat(10) + &"one,two,".repeat(16)),
        (json!({}), "x:".to_string() + &"0,".repeat(60)),
        // Records of the same fields are not the same.
        (json!({}), (0..20).map(|i| format!("{{\"lat\":{i},\"lon\":1.{i},\"up\":3}},")).collect()),
    ] {
        let (text, finish, why) = said(&mut service, fields, &script);
        assert_eq!((text, finish, why), (script, stop.clone(), Value::Null));
    }
}

#[test]
fn a_predicted_output_is_guessed_from() {
    let ask = |service: &mut Service, fields: Value| {
        let body = json!({"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 40, "ignore_eos": true});
        let value = answer(service, &with(&body, &fields)).expect("an answer");
        let accepted =
            value["usage"]["completion_tokens_details"]["accepted_prediction_tokens"].as_u64().expect("a number");
        (value["choices"][0]["message"]["content"].as_str().expect("a text").to_string(), accepted)
    };
    let mut service = service();
    let (text, none) = ask(&mut service, json!({}));
    assert_eq!(none, 0);
    let parts = json!({"type": "content", "content": [{"type": "text", "text": text}]});
    let shape = Shape::of("chain", 4, None).expect("a shape");
    service.engine_mut().speculate(Box::new(Ngram), Mode::Fixed(shape)).expect("a drafter");
    let (same, without) = ask(&mut service, json!({}));
    let (again, with_it) = ask(&mut service, json!({"prediction": parts}));
    assert_eq!([&same, &again], [&text, &text]);
    assert!(with_it > without + 5, "{with_it} and {without}");
    let (wrong, _) = ask(&mut service, json!({"prediction": {"type": "content", "content": "Something else."}}));
    assert_eq!(wrong, text);
    // Where nothing guesses, a request with a prediction is guessed for, and others are not.
    let mut service = super::service();
    assert_eq!(ask(&mut service, json!({"prediction": parts})).0, text);
    assert!(service.engine().speculation().is_some());
    assert_eq!(ask(&mut service, json!({})), (text, 0));
}
