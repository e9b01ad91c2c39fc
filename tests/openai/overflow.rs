//! Conversations that outgrow the context: whole turns give way, the system's message stays, and the rest is answered as if it were all.

use super::{answer, service_of, template};
use foreword::Kind;
use foreword::engine::openai::Service;
use serde_json::{Value, json};

/// Tokens of the context, and of a prompt that leaves room for an answer.
const CONTEXT: usize = 256;
const LIMIT: usize = 192;

fn service() -> Service {
    service_of(template("'model'"), CONTEXT)
}

fn said(role: &str, content: String) -> Value {
    json!({"role": role, "content": content})
}

/// A question; in every third turn a tool is asked before it is answered.
fn turn(i: usize) -> Vec<Value> {
    let words = |n: usize| (0..n).map(|k| char::from(b'a' + ((7 * i + k) % 26) as u8)).collect::<String>();
    let call = json!({"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}});
    let mut turn = vec![said("user", words(5 + i % 7))];
    if i.is_multiple_of(3) {
        turn.push(json!({"role": "assistant", "content": "", "tool_calls": [call]}));
        turn.push(json!({"role": "tool", "tool_call_id": "c", "content": words(4)}));
    }
    turn.push(said("assistant", words(9)));
    turn
}

fn request(messages: &[Value], overflow: &str) -> Value {
    json!({"messages": messages, "overflow": overflow, "temperature": 0, "max_tokens": 3, "ignore_eos": true})
}

fn tokens(service: &Service, messages: &[Value]) -> usize {
    service.count_tokens(&json!({"messages": messages}).to_string()).expect("a sound request")
}

#[test]
fn the_oldest_turns_give_way_whole_and_the_rest_is_answered_as_if_it_were_all() {
    let (mut service, mut alone) = (service(), service());
    let system = said("system", "Be brief.".into());
    let (mut past, mut cuts) = (vec![system.clone()], vec![0]);
    for i in 0..40 {
        past.extend(turn(i));
        let mut messages = past.clone();
        messages.push(said("user", "And?".into()));
        let reply = answer(&mut service, &request(&messages, "shift")).expect("room");
        let details = &reply["usage"]["prompt_tokens_details"];
        let dropped = details["dropped_messages"].as_u64().unwrap_or(0) as usize;
        assert_eq!(dropped > 0, tokens(&service, &messages) > LIMIT, "turn {i}");
        assert_eq!(messages[1 + dropped]["role"], "user", "turn {i} is cut within a turn");
        let kept = [std::slice::from_ref(&system), &messages[1 + dropped..]].concat();
        let n = tokens(&service, &kept);
        assert_eq!(reply["usage"]["prompt_tokens"], n);
        assert!(n <= LIMIT && (dropped == 0 || n > LIMIT / 4), "turn {i}: {n} tokens are left");
        let other = answer(&mut alone, &request(&kept, "error")).expect("room");
        assert_eq!(reply["choices"], other["choices"], "turn {i}");
        if cuts.last() == Some(&dropped) {
            let cached = details["cached_tokens"].as_u64().expect("a number") as usize;
            assert!(i == 0 || cached > n / 2, "turn {i}: {cached} of {n} tokens were known");
        } else {
            cuts.push(dropped);
        }
    }
    let all = tokens(&service, &past);
    assert!(all > 5 * CONTEXT && cuts.is_sorted(), "{all} {cuts:?}");
    assert!(cuts.len() <= 2 + all / (LIMIT / 2), "{} times the rest is read again: {cuts:?}", cuts.len());
}

#[test]
fn what_cannot_give_way_is_refused() {
    let mut service = service();
    let long = |n: usize| "z".repeat(n);
    let kind = |service: &mut Service, messages: &[Value], overflow: &str| {
        answer(service, &request(messages, overflow)).map(|_| ()).map_err(|e| e.kind())
    };
    let mut messages = vec![said("user", long(200)), said("assistant", "Yes.".into()), said("user", long(80))];
    assert_eq!(kind(&mut service, &messages, "error"), Err(Kind::PromptTooLong));
    assert_eq!(kind(&mut service, &messages, "shift"), Ok(()));
    // A call under way goes with the question that it is for.
    let call = json!({"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}});
    messages.push(json!({"role": "assistant", "content": "", "tool_calls": [call]}));
    messages.push(json!({"role": "tool", "tool_call_id": "c", "content": long(60)}));
    let reply = answer(&mut service, &request(&messages, "shift")).expect("room");
    assert_eq!(reply["usage"]["prompt_tokens_details"]["dropped_messages"], 2);
    messages.push(json!({"role": "tool", "tool_call_id": "d", "content": long(150)}));
    assert_eq!(kind(&mut service, &messages, "shift"), Err(Kind::PromptTooLong));
    let system = [said("system", long(300)), said("user", "Hi".into())];
    assert_eq!(kind(&mut service, &system, "shift"), Err(Kind::PromptTooLong));
}

#[test]
fn both_texts_of_a_contrasted_chat_give_way() {
    let mut service = service();
    let conversation = |system: &str| {
        let turns = (0..20).flat_map(turn).chain([said("user", "And?".into())]);
        [said("system", system.into())].into_iter().chain(turns).collect::<Vec<_>>()
    };
    let ask = |overflow: &str| {
        let mut ask = request(&conversation("Be brief."), overflow);
        ask["contrast"] = json!({"messages": conversation("Be long."), "when": 1});
        ask
    };
    assert_eq!(answer(&mut service, &ask("error")).map_err(|e| e.kind()), Err(Kind::PromptTooLong));
    let reply = answer(&mut service, &ask("shift")).expect("room");
    assert!(reply["usage"]["prompt_tokens"].as_u64().expect("a number") as usize <= LIMIT / 2, "{reply}");
}

#[test]
fn the_field_is_one_of_two_words_in_a_chat() {
    let mut service = service();
    let user = [said("user", "Hi".into())];
    assert_eq!(super::refusal(&mut service, &request(&user, "truncate")), "overflow");
    assert_eq!(super::refusal(&mut service, &json!({"prompt": "Hi", "overflow": "shift"})), "overflow");
    assert!(answer(&mut service, &json!({"prompt": "Hi", "overflow": "error", "max_tokens": 1})).is_ok());
}
