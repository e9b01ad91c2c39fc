//! The server over HTTP, as a stranger meets it: the real program, tiny models, and requests byte by byte.

#[path = "serve/http.rs"]
mod http;

use http::{Server, chat, field, model};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Longer than any test waits.
const LONG: usize = 200_000;

#[test]
fn chats_and_completions_have_openais_shape() {
    let server = Server::start(&[]);
    let reply = server.post("/v1/chat/completions", &chat(json!({"max_tokens": 5, "ignore_eos": true})));
    assert_eq!((reply.status, &reply.json()["object"]), (200, &"chat.completion".into()), "{reply:?}");
    assert_eq!(reply.json()["model"], "model");
    assert_eq!(reply.json()["usage"]["completion_tokens"], 5);
    assert_eq!(reply.json()["choices"][0]["finish_reason"], "length");
    let reply = server.post("/v1/completions", &json!({"model": "model", "prompt": ["a", "b"], "max_tokens": 3}));
    assert_eq!(reply.json()["choices"].as_array().map(Vec::len), Some(2), "{reply:?}");
}

#[test]
fn a_stream_says_what_the_whole_answer_says() {
    let server = Server::start(&[]);
    let fields = json!({"max_tokens": 8, "temperature": 0, "ignore_eos": true});
    let whole = server.post("/v1/chat/completions", &chat(fields.clone())).json();
    let mut asked = chat(fields);
    asked["stream"] = true.into();
    let reply = server.post("/v1/chat/completions", &asked);
    assert_eq!(field(&reply.head, "content-type"), Some("text/event-stream"));
    let events = reply.events();
    let (last, chunks) = events.split_last().expect("events");
    assert_eq!(last.1, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|(_, data)| serde_json::from_str(data).expect("JSON")).collect();
    let text: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, whole["choices"][0]["message"]["content"]);
    assert_eq!(chunks.last().expect("a chunk")["choices"][0]["finish_reason"], "length");
}

#[test]
fn a_client_that_goes_away_ends_its_answer() {
    let server = Server::start(&["--context", "250000"]);
    let long = chat(json!({"max_tokens": LONG, "ignore_eos": true, "stream": true, "stop_at_repetition": false}));
    let mut streaming = server.open("/v1/chat/completions", &long);
    streaming.read_until("data: ");
    let mut whole = long;
    whole["stream"] = false.into();
    let waiting = server.open("/v1/chat/completions", &whole);
    server.wait_for("foreword_model_requests{model=\"model\"}", 2.0);
    drop((streaming, waiting));
    server.wait_for("foreword_cancelled_total", 2.0);
    server.wait_for("foreword_model_requests{model=\"model\"}", 0.0);
    server.wait_for("foreword_queue_requests", 0.0);
}

#[test]
fn two_chats_are_answered_side_by_side() {
    let server = Server::start(&["--context", "250000"]);
    let long = chat(json!({"max_tokens": LONG, "ignore_eos": true, "stream": true, "stop_at_repetition": false}));
    let mut first = server.open("/v1/chat/completions", &long);
    first.read_until("data: ");
    let second = server.post("/v1/chat/completions", &chat(json!({"max_tokens": 5})));
    assert_eq!(second.status, 200, "{second:?}");
    // The first one still runs.
    server.wait_for("foreword_model_requests{model=\"model\"}", 1.0);
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let server = Server::start(&["--context", "250000", "--queue", "1"]);
    let long = chat(json!({"max_tokens": LONG, "ignore_eos": true, "stream": true, "stop_at_repetition": false}));
    let mut first = server.open("/v1/chat/completions", &long);
    first.read_until("data: ");
    for (path, kind) in [("/v1/chat/completions", "/error/type"), ("/v1/messages", "/error/type")] {
        let reply = server.post(path, &chat(json!({"max_tokens": 2})));
        assert_eq!(reply.status, 429, "{reply:?}");
        assert_eq!(field(&reply.head, "retry-after"), Some("1"));
        assert_eq!(reply.json().pointer(kind), Some(&"rate_limit_error".into()));
    }
    drop(first);
    server.wait_for("foreword_queue_requests", 0.0);
    assert_eq!(server.post("/v1/chat/completions", &chat(json!({"max_tokens": 2}))).status, 200);
}

#[test]
fn an_answer_that_takes_too_long_ends_with_an_error() {
    let server = Server::start(&["--context", "250000", "--timeout", "0.3"]);
    let mut long = chat(json!({"max_tokens": LONG, "ignore_eos": true, "stop_at_repetition": false}));
    let reply = server.post("/v1/chat/completions", &long);
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (504, &"timeout".into()));
    long["stream"] = true.into();
    let events = server.post("/v1/chat/completions", &long).events();
    assert!(events.last().expect("an event").1.contains("\"timeout\""), "{:?}", events.last());
    server.wait_for("foreword_model_requests{model=\"model\"}", 0.0);
}

#[test]
fn bodies_that_are_none_are_refused() {
    let server = Server::start(&[]);
    let status = |body: &[u8]| server.send("POST", "/v1/chat/completions", "", body).status;
    assert_eq!(status(b""), 400);
    assert_eq!(status(b"{"), 400);
    assert_eq!(status(b"[]"), 400);
    assert_eq!(status(b"\xff\xfe"), 400);
    assert_eq!(status(&[b"[".repeat(100_000), b"]".repeat(100_000)].concat()), 400);
    assert_eq!(status(br#"{"messages": 1}"#), 400);
    assert_eq!(status(br#"{"prompt": "a"}"#), 400);
    assert_eq!(status(br#"{"model": 1, "messages": [{"role": "user", "content": "a"}]}"#), 400);
    let misspelt = server.post("/v1/chat/completions", &chat(json!({"max_token": 1})));
    assert_eq!((misspelt.status, &misspelt.json()["error"]["param"]), (400, &"max_token".into()));
    let half = server.post("/v1/completions", &json!({"prompt": "x", "max_tokens": 1, "stop": ["\u{fffd}"]}));
    assert_eq!(half.status, 200);
    // Said to be larger than may be: it is not waited for.
    let large = server.send_head("POST", "/v1/embeddings", "content-length: 17000000\r\n");
    assert_eq!((large.status, &large.json()["error"]["code"]), (413, &"request_too_large".into()));
}

#[test]
fn a_request_cannot_ask_for_more_than_memory_holds() {
    let server = Server::start(&[]);
    let many = json!({"prompt": vec!["a"; 100_000], "n": 128, "max_tokens": 1});
    let reply = server.post("/v1/completions", &many);
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &"prompt".into()), "{reply:?}");
    let reply = server.post("/v1/embeddings", &json!({"input": vec!["a"; 100_000]}));
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &"input".into()), "{reply:?}");
    let reply = server.post("/v1/rerank", &json!({"query": "a", "documents": vec!["a"; 100_000]}));
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &"documents".into()), "{reply:?}");
}

#[test]
fn there_is_a_page_for_whoever_has_no_key_yet() {
    let server = Server::start(&["--api-key", "secret"]);
    let page = server.get("/");
    assert_eq!(page.status, 200, "{page:?}");
    let mime = field(&page.head, "content-type").expect("a type");
    assert!(mime.starts_with(if cfg!(feature = "ui") { "text/html" } else { "text/plain" }), "{mime}");
    assert_eq!(field(&page.head, "content-security-policy"), Some("frame-ancestors 'none'"));
    assert_eq!(server.get("/v1/models").status, 401);
    assert_eq!(server.get("/../Cargo.toml").status, 401);
    let without = Server::start(&["--ui=false"]);
    assert_eq!((without.get("/").status, without.get("/sw.js").status), (404, 404));
}

#[test]
fn the_servers_own_page_may_ask_and_others_may_not() {
    let server = Server::start(&[]);
    let body = chat(json!({"max_tokens": 1})).to_string();
    let ask = |host: &str, origin: &str| {
        let headers = format!("host: {host}\r\norigin: {origin}\r\n");
        server.send("POST", "/v1/chat/completions", &headers, body.as_bytes()).status
    };
    assert_eq!(ask("127.0.0.1:8080", "http://127.0.0.1:8080"), 200);
    assert_eq!(ask("localhost:8080", "http://localhost:8080"), 200);
    assert_eq!(ask("[::1]:8080", "http://[::1]:8080"), 200);
    assert_eq!(ask("127.0.0.1:8080", "http://127.0.0.1:8081"), 403);
    assert_eq!(ask("127.0.0.1:8080", "https://127.0.0.1:8080"), 403);
    assert_eq!(ask("127.0.0.1:8080", "null"), 403);
    // A name of somebody else's that leads to this machine.
    assert_eq!(ask("evil.example:8080", "http://evil.example:8080"), 403);
    assert_eq!(ask("localhost.evil.example", "http://localhost.evil.example"), 403);
}

#[test]
fn addresses_that_are_none_are_named() {
    let server = Server::start(&[]);
    let nowhere = server.get("/v1/engines");
    assert_eq!((nowhere.status, &nowhere.json()["error"]["code"]), (404, &"unknown_url".into()));
    let method = server.get("/v1/chat/completions");
    assert_eq!((method.status, field(&method.head, "allow")), (405, Some("POST")));
    let model = server.post("/v1/chat/completions", &chat(json!({"model": "gpt-4o"})));
    assert_eq!((model.status, &model.json()["error"]["code"]), (404, &"model_not_found".into()));
    let model = server.post("/v1/messages", &chat(json!({"model": "claude", "max_tokens": 1})));
    assert_eq!((model.status, &model.json()["error"]["type"]), (404, &"not_found_error".into()));
    assert_eq!(server.get("/v1/models").json()["data"][0]["id"], "model");
    assert_eq!(server.get("/v1/models/model").json()["object"], "model");
    assert_eq!(server.get("/v1/models/other").status, 404);
}

#[test]
fn only_who_has_a_key_is_answered() {
    let server = Server::start(&["--api-key", "first", "--api-key", "second"]);
    let with = |header: &str| server.send("GET", "/v1/models", header, b"").status;
    assert_eq!((with(""), with("authorization: Bearer third\r\n"), with("authorization: first\r\n")), (401, 401, 401));
    assert_eq!((with("authorization: Bearer first\r\n"), with("x-api-key: second\r\n")), (200, 200));
    let refused = server.post("/v1/messages", &chat(json!({"max_tokens": 1})));
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (401, &"authentication_error".into()));
    assert_eq!((server.get("/health").status, server.get("/ready").status), (200, 200));
    assert_eq!(server.get("/metrics").status, 401);
}

#[test]
fn pages_of_others_are_kept_out_unless_let_in() {
    let closed = Server::start(&[]);
    let from = |server: &Server, origin: &str| server.send("GET", "/v1/models", &format!("origin: {origin}\r\n"), b"");
    assert_eq!(from(&closed, "https://example.org").status, 403);
    let open = Server::start(&["--cors", "https://example.org"]);
    let reply = from(&open, "https://example.org");
    assert_eq!((reply.status, field(&reply.head, "access-control-allow-origin")), (200, Some("https://example.org")));
    assert_eq!(from(&open, "https://example.com").status, 403);
    let asks = "origin: https://example.org\r\naccess-control-request-method: POST\r\n";
    assert_eq!(open.send("OPTIONS", "/v1/chat/completions", asks, b"").status, 200);
}

#[test]
fn embeddings_and_scores_are_answered_by_the_models_for_them() {
    let (embeds, ranks) = ("../tests/data/encoders/bert.gguf", "../tests/data/encoders/bert-rank.gguf");
    let server = Server::start_with(&[embeds, ranks, "--idle", "60"], &[]);
    let reply = server.post("/v1/embeddings", &json!({"input": ["a b", "c"]})).json();
    assert_eq!(reply["data"].as_array().map(Vec::len), Some(2), "{reply}");
    let ask = json!({"model": "bert-rank", "query": "a", "documents": ["b", "c c"], "top_n": 1});
    let reply = server.post("/v1/rerank", &ask).json();
    assert_eq!(reply["results"].as_array().map(Vec::len), Some(1), "{reply}");
    let wrong = server.post("/v1/completions", &json!({"prompt": "a"}));
    assert_eq!((wrong.status, &wrong.json()["error"]["param"]), (400, &"model".into()), "{wrong:?}");
    assert_eq!(server.post("/v1/embeddings", &json!({"prompt": "a"})).json()["error"]["param"], "input");
}

#[test]
fn messages_stream_anthropics_events_in_order() {
    let server = Server::start(&[]);
    let mut ask = json!({
        "model": "model", "max_tokens": 6, "temperature": 0, "ignore_eos": true, "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    });
    let whole = server.post("/v1/messages", &ask).json();
    assert_eq!((&whole["type"], &whole["role"]), (&"message".into(), &"assistant".into()), "{whole}");
    let counted = server.post("/v1/messages/count_tokens", &ask).json();
    let usage = |name: &str| whole["usage"][name].as_u64().expect("a count");
    assert_eq!(counted["input_tokens"], usage("input_tokens") + usage("cache_read_input_tokens"));
    ask["stream"] = true.into();
    let events = server.post("/v1/messages", &ask).events();
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..2], ["message_start", "content_block_start"]);
    let (delta, rest) = (names.len() - 5, &names[names.len() - 3..]);
    assert!(names[2..2 + delta].iter().all(|name| *name == "content_block_delta"), "{names:?}");
    assert_eq!(rest, ["content_block_stop", "message_delta", "message_stop"]);
    let data: Vec<Value> = events.iter().map(|(_, data)| serde_json::from_str(data).expect("JSON")).collect();
    assert!(data.iter().zip(&names).all(|(data, name)| data["type"] == *name));
    let text: String = data.iter().filter_map(|data| data["delta"]["text"].as_str()).collect();
    assert_eq!(text, whole["content"][0]["text"]);
    let end = &data[data.len() - 2];
    assert_eq!((&end["delta"]["stop_reason"], &end["usage"]["output_tokens"]), (&"max_tokens".into(), &6.into()));
    // No model keeps to a budget better than one without thoughts.
    let budget = json!({"max_tokens": 2, "thinking": {"type": "enabled", "budget_tokens": 1024}});
    assert_eq!(server.post("/v1/messages", &chat(budget)).status, 200);
    let image = json!({"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "image"}]}]});
    assert_eq!(server.post("/v1/messages", &image).json()["error"]["type"], "invalid_request_error");
}

#[test]
fn calls_of_tools_have_the_form_of_each_interface() {
    let server = Server::start(&["--context", "2000"]);
    let parameters = json!({"type": "object", "properties": {"x": {"type": "integer"}}});
    // Random weights call nothing by themselves.
    let regex = r#"<tool_call>\{"name": "add", "arguments": \{"x": [0-9]\}\}</tool_call>"#;
    let function = json!({"name": "add", "parameters": parameters});
    let ask = chat(json!({"regex": regex, "tools": [{"type": "function", "function": function}]}));
    let choice = &server.post("/v1/chat/completions", &ask).json()["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], "add");
    let tools = json!([{"name": "add", "input_schema": parameters}]);
    let message = server.post("/v1/messages", &chat(json!({"max_tokens": 99, "regex": regex, "tools": tools}))).json();
    assert_eq!((&message["stop_reason"], &message["content"][0]["name"]), (&"tool_use".into(), &"add".into()));
    assert!(message["content"][0]["input"]["x"].is_u64(), "{message}");
    let result = json!({"type": "tool_result", "tool_use_id": message["content"][0]["id"], "content": "3"});
    let turns = json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": message["content"]},
        {"role": "user", "content": [result]},
    ]);
    let next = json!({"messages": turns, "max_tokens": 2, "tools": tools});
    let reply = server.post("/v1/messages", &next);
    assert_eq!(reply.status, 200, "{reply:?}");
    let tools = json!([{"type": "function", "name": "add", "parameters": parameters}]);
    let response = server.post("/v1/responses", &json!({"input": "Hi", "regex": regex, "tools": tools})).json();
    let call = &response["output"][0];
    assert_eq!((&call["type"], &call["name"]), (&"function_call".into(), &"add".into()), "{response}");
    let output = json!([{"type": "function_call_output", "call_id": call["call_id"], "output": "3"}]);
    let next = json!({"previous_response_id": response["id"], "input": output, "max_output_tokens": 2});
    let reply = server.post("/v1/responses", &next);
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[test]
fn responses_are_kept_and_gone_on_from() {
    let server = Server::start(&[]);
    let first = server
        .post("/v1/responses", &json!({"input": "Hi", "max_output_tokens": 4, "temperature": 0, "ignore_eos": true}))
        .json();
    assert_eq!((&first["object"], &first["status"]), (&"response".into(), &"incomplete".into()), "{first}");
    let id = first["id"].as_str().expect("an id");
    assert_eq!(server.get(&format!("/v1/responses/{id}")).json(), first);
    let ask = json!({"input": "More", "max_output_tokens": 4, "temperature": 0, "ignore_eos": true, "previous_response_id": id, "stream": true});
    let events = server.post("/v1/responses", &ask).events();
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names[..4],
        ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    );
    let end =
        ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete"];
    assert_eq!(names[names.len() - 4..], end);
    let data: Vec<Value> = events.iter().map(|(_, data)| serde_json::from_str(data).expect("JSON")).collect();
    assert!(data.iter().enumerate().all(|(i, data)| data["sequence_number"] == i));
    let last = &data.last().expect("an event")["response"];
    let tokens = |response: &Value| response["usage"]["input_tokens"].as_u64().expect("a count");
    assert!(tokens(last) > tokens(&first), "the earlier turn was read, too");
    assert_eq!(server.send("DELETE", &format!("/v1/responses/{id}"), "", b"").json()["deleted"], true);
    assert_eq!(server.post("/v1/responses", &ask).status, 404);
}

#[test]
fn tokens_and_metrics_are_shown() {
    let server = Server::start(&[]);
    let tokens = server.post("/tokenize", &json!({"content": "a b"})).json();
    assert!(tokens["count"].as_u64().is_some_and(|n| n > 0), "{tokens}");
    server.post("/v1/chat/completions", &chat(json!({"max_tokens": 3, "ignore_eos": true})));
    assert_eq!(server.metric("foreword_requests_total{address=\"/v1/chat/completions\",status=\"200\"}"), 1.0);
    assert_eq!(server.metric("foreword_completion_tokens_total"), 3.0);
    assert_eq!(server.metric("foreword_first_token_seconds_count"), 1.0);
    assert!(server.metric("foreword_step_seconds_bucket{le=\"+Inf\"}") >= 3.0);
    assert!(server.metric("foreword_model_kv_blocks{model=\"model\"}") > 0.0);
}

#[test]
fn idle_models_leave_and_come_back() {
    let server = Server::start(&["--idle", "0.05"]);
    server.wait_for("foreword_model_loaded{model=\"model\"}", 0.0);
    assert_eq!(server.post("/v1/chat/completions", &chat(json!({"max_tokens": 2}))).status, 200);
}

#[test]
fn models_make_room_for_each_other() {
    let rank = "../tests/data/encoders/bert-rank.gguf";
    // Each needs some 134.4 MB by the reckoning before it is loaded, and more than 0.3 MB afterwards.
    let server = Server::start(&[rank, "--memory", "0.1347", "--context", "20000"]);
    let ask = json!({"model": "bert-rank", "query": "a", "documents": ["b"]});
    assert_eq!(server.post("/v1/rerank", &ask).status, 200);
    assert_eq!(server.metric("foreword_model_loaded{model=\"model\"}"), 0.0);
    assert_eq!(server.post("/v1/chat/completions", &chat(json!({"max_tokens": 2}))).status, 200);
    let small = Server::start_failing(&["--memory", "0.1"]);
    assert!(small.contains("--memory has"), "{small}");
}

#[test]
#[cfg(unix)]
fn a_model_that_is_being_loaded_is_waited_for_up_to_the_timeout() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe.gguf");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let server = Server::start(&[pipe.to_str().expect("a path"), "--timeout", "0.2"]);
    let reply = server.post("/v1/chat/completions", &chat(json!({"model": "pipe"})));
    assert_eq!((reply.status, field(&reply.head, "retry-after")), (503, Some("5")), "{reply:?}");
    assert_eq!(reply.json()["error"]["code"], "loading");
    assert_eq!(server.post("/v1/chat/completions", &chat(json!({"max_tokens": 2}))).status, 200);
}

#[test]
#[cfg(unix)]
fn told_to_end_the_server_finishes_its_answers() {
    let mut server = Server::start(&["--context", "20000"]);
    let ask = chat(json!({"max_tokens": 3000, "ignore_eos": true, "stream": true, "stop_at_repetition": false}));
    let mut streaming = server.open("/v1/chat/completions", &ask);
    streaming.read_until("data: ");
    server.terminate();
    assert!(streaming.rest().ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"), "the answer is whole");
    let ended = Instant::now();
    assert!(server.ends().success());
    assert!(ended.elapsed() < Duration::from_secs(20), "nothing else is waited for");
}

#[test]
fn a_missing_model_ends_the_start() {
    let said = Server::start_failing_with(&["missing.gguf"]);
    assert!(said.contains("missing.gguf"), "{said}");
    let twice = Server::start_failing_with(&[model(), model()]);
    assert!(twice.contains("two models are called model"), "{twice}");
}
