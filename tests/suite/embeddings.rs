//! Embeddings and scores in the shapes of OpenAI's and Jina's APIs, from the tiny models of `tests/data/encoders`.

use crate::common::data;
use foreword::backend::cpu::Cpu;
use foreword::chat::ChatTemplate;
use foreword::engine::Engine;
use foreword::engine::openai::{Service, Stamp};
use foreword::model::{ModelOptions, Pooling, Text};
use foreword::{Error, Kind};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn service(file: &str) -> Service {
    let sources = vec![crate::common::open_source(&data(file))];
    let options = ModelOptions { max_batch: 48, ..crate::common::exact_options(128) };
    let engine = pollster::block_on(Engine::load(sources, Box::new(Cpu::new(1)), &options, || 0.0, &mut |_| {}));
    Service::new(engine.expect("a sound model"), ChatTemplate::new("{{ messages[0].content }}", "", ""), "tiny")
}

/// The last reply to a request, or why it was refused.
fn answer(service: &mut Service, body: &Value) -> Result<Value, Error> {
    service.submit(&body.to_string(), &Stamp::default())?;
    let mut last = None;
    while !service.is_idle() {
        last = pollster::block_on(service.step())?.pop().map(|reply| reply.value).or(last);
    }
    last.expect("a reply")
}

fn vectors(answer: &Value) -> Vec<Vec<f32>> {
    let data = answer["data"].as_array().expect("a list").iter();
    data.map(|one| serde_json::from_value(one["embedding"].clone()).expect("a vector")).collect()
}

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|v| v * v).sum::<f32>().sqrt()
}

#[test]
fn texts_and_tokens_are_embedded_in_order() {
    let mut service = service("encoders/bert.gguf");
    let texts = ["the dogs run", "a", "unaffable cats, running!", ""];
    let all = answer(&mut service, &json!({"input": texts, "model": "mine"})).expect("embeddings");
    assert_eq!((&all["object"], &all["model"]), (&json!("list"), &json!("mine")));
    assert!(all["data"].as_array().expect("a list").iter().zip(0..).all(|(one, i)| one["index"] == i));
    let tokens: Vec<Vec<u32>> = texts.iter().map(|text| service.engine().tokenizer().encode_whole(text)).collect();
    let n: usize = tokens.iter().map(Vec::len).sum();
    assert_eq!(all["usage"], json!({"prompt_tokens": n, "total_tokens": n}));
    let by_tokens = answer(&mut service, &json!({"input": tokens})).expect("embeddings");
    assert_eq!(vectors(&all), vectors(&by_tokens));
    for (text, vector) in texts.iter().zip(vectors(&all)) {
        let alone = answer(&mut service, &json!({"input": text})).expect("an embedding");
        assert_eq!(vectors(&alone)[0], vector, "{text:?}");
        assert!((length(&vector) - 1.0).abs() < 1e-5);
    }
}

/// More texts than a model has states, and one that is read in pieces.
#[test]
fn many_short_texts_take_turns_with_the_states() {
    let options = crate::common::exact_options(8192);
    let mut model = crate::common::load(&data("models/lfm2.gguf"), &options, Cpu::new(1));
    let mut all: Vec<Vec<u32>> = (0..150).map(|i| vec![3 + i, 100, 3 + i / 2]).collect();
    all.push((3..200).cycle().take(2 * model.max_batch()).collect());
    assert!(all.len() > 2 * model.kv().spec().n_slots);
    let texts: Vec<Text<'_>> = all.iter().map(|tokens| Text::one(tokens)).collect();
    let together = pollster::block_on(model.embed(&texts, Pooling::Last)).expect("vectors");
    for (text, vector) in texts.iter().zip(together) {
        let alone = pollster::block_on(model.embed(std::slice::from_ref(text), Pooling::Last)).expect("a vector");
        assert_eq!(alone[0], vector, "a text of {} tokens", text.tokens.len());
    }
    assert_eq!(model.kv().free_slots(), model.kv().spec().n_slots);
}

/// Cut first, then made one of length 1; bytes are those of the numbers.
#[test]
fn vectors_come_cut_and_in_base64() {
    let mut service = service("encoders/bert.gguf");
    let whole = vectors(&answer(&mut service, &json!({"input": "the dog"})).expect("an embedding")).remove(0);
    let cut = answer(&mut service, &json!({"input": "the dog", "dimensions": 5})).expect("an embedding");
    let cut = vectors(&cut).remove(0);
    let scale = length(&whole[..5]);
    assert!(cut.len() == 5 && cut.iter().zip(&whole).all(|(a, b)| (a - b / scale).abs() < 1e-6), "{cut:?}");
    let body = json!({"input": "the dog", "dimensions": 5, "encoding_format": "base64"});
    let text = answer(&mut service, &body).expect("an embedding");
    let text = text["data"][0]["embedding"].as_str().expect("text").to_string();
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let bits = text.trim_end_matches('=').bytes().flat_map(|c| (0..6).rev().map(move |i| digit(c) >> i & 1));
    let bits: Vec<u8> = bits.collect();
    let bytes: Vec<u8> =
        bits.as_chunks::<8>().0.iter().map(|b| b.iter().fold(0, |byte, bit| byte << 1 | bit)).collect();
    let floats: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!((floats, text.len() % 4), (cut, 0));
}

#[test]
fn documents_are_ranked() {
    for model in ["bert-rank", "qwen3-reranker"] {
        let mut service = service(&format!("encoders/{model}.gguf"));
        // Qwen3's own prompt is longer than the tiny model's context.
        if model == "qwen3-reranker" {
            let refused = answer(&mut service, &json!({"query": "a", "documents": ["b"]})).expect_err("too long");
            assert_eq!((refused.kind(), refused.param()), (Kind::PromptTooLong, Some("documents[0]")));
            continue;
        }
        let documents = json!(["the dog runs", {"text": "a cat"}, "unaffable", "cats"]);
        let body = json!({"query": "the dog", "documents": documents, "return_documents": true, "top_n": 3});
        let ranked = answer(&mut service, &body).expect("scores");
        let results = ranked["results"].as_array().expect("a list");
        let scores: Vec<f64> = results.iter().map(|r| r["relevance_score"].as_f64().expect("a score")).collect();
        assert!(scores.len() == 3 && scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
        assert!(scores.iter().all(|s| (0.0..=1.0).contains(s)), "{scores:?}");
        for result in results {
            let document = &documents[result["index"].as_u64().expect("an index") as usize];
            let text = if document.is_object() { &document["text"] } else { document };
            assert_eq!(&result["document"]["text"], text);
        }
    }
}

#[test]
fn models_are_asked_for_what_they_can() {
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}]});
    let (texts, pairs) = (json!({"input": "a"}), json!({"query": "a", "documents": ["b"]}));
    for (file, wrong) in [
        ("encoders/bert.gguf", &[&chat, &json!({"prompt": "a"}), &pairs][..]),
        ("encoders/bert-rank.gguf", &[&chat, &texts]),
        ("encoders/qwen3-reranker.gguf", &[&chat, &texts]),
        ("models/llama.gguf", &[&pairs]),
    ] {
        let mut service = service(file);
        for body in wrong {
            let error = answer(&mut service, body).expect_err("refused");
            assert_eq!((error.kind(), error.param()), (Kind::InvalidRequest, Some("model")), "{file}: {body}: {error}");
        }
    }
}

/// A model that writes makes embeddings, too, between its answers' steps: the means of its texts.
#[test]
fn embeddings_are_made_beside_answers() {
    let mut service = service("models/llama.gguf");
    let alone = answer(&mut service, &json!({"input": ["Hello", "there"]})).expect("embeddings");
    let body = json!({"prompt": "Hi", "max_tokens": 20, "temperature": 0, "ignore_eos": true});
    let written = answer(&mut service, &body).expect("an answer");
    let writing = service.submit(&body.to_string(), &Stamp::default()).expect("a request");
    pollster::block_on(service.step()).expect("a step");
    let reading =
        service.submit(&json!({"input": ["Hello", "there"]}).to_string(), &Stamp::default()).expect("a request");
    let mut replies = Vec::new();
    while !service.is_idle() {
        replies.extend(pollster::block_on(service.step()).expect("a step"));
    }
    let ids: Vec<_> = replies.iter().map(|reply| reply.id).collect();
    assert_eq!(ids, [reading, writing], "texts need not wait for the answer");
    let [beside, text] = [0, 1].map(|i| replies[i].value.as_ref().expect("a reply"));
    assert_eq!(beside["data"], alone["data"]);
    assert_eq!(text["choices"], written["choices"]);
}

#[test]
fn a_cancelled_request_is_over() {
    let mut service = service("encoders/bert.gguf");
    let id = service.submit(&json!({"input": "a"}).to_string(), &Stamp::default()).expect("a request");
    service.cancel(id);
    let replies = pollster::block_on(service.step()).expect("a step");
    assert!(replies.len() == 1 && replies[0].done && service.is_idle());
    assert_eq!(replies[0].value.as_ref().expect_err("no answer").kind(), Kind::Cancelled);
}

#[test]
fn wrong_fields_are_named() {
    let mut service = service("encoders/bert.gguf");
    for (field, value, named) in [
        ("input", json!([]), "input"),
        ("input", json!(7), "input"),
        ("input", json!(["a", 7]), "input[1]"),
        ("input", json!(["a", [1 << 20]]), "input[1]"),
        ("input", json!("a ".repeat(127)), "input[0]"),
        ("dimensions", json!(0), "dimensions"),
        ("dimensions", json!(33), "dimensions"),
        ("encoding_format", json!("hex"), "encoding_format"),
        ("model", json!(1), "model"),
        ("temperature", json!(0), "temperature"),
    ] {
        let mut body = json!({"input": "a"});
        body[field] = value;
        let error = answer(&mut service, &body).expect_err("refused");
        assert_eq!(error.param(), Some(named), "{body}: {error}");
    }
    // Null is the same as no field.
    answer(&mut service, &json!({"input": "a", "documents": null, "user": null})).expect("an embedding");
    assert_eq!(service.submit_texts(&json!({})).expect_err("refused").param(), Some("input"));
    let mut service = self::service("encoders/bert-rank.gguf");
    for (body, named) in [
        (json!({"documents": ["a"]}), "query"),
        (json!({"query": "a", "documents": []}), "documents"),
        (json!({"query": "a", "documents": [{"title": "a"}]}), "documents[0]"),
        (json!({"query": "a", "documents": ["a"], "n": 1}), "n"),
    ] {
        assert_eq!(answer(&mut service, &body).expect_err("refused").param(), Some(named), "{body}");
    }
}
