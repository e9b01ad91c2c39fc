//! A sidecar's draft block: its proposals are the logits of a model that consists of the trunk and the block; its keys and values are
//! there for every token of a text however it was read; answers stay those of plain decoding.

use crate::common::random::Random;
use crate::common::sidecars::*;
use crate::common::{data, open_source};
use foreword::Kind;
use foreword::backend::cpu::Cpu;
use foreword::batch::{Batch, BatchToken, SeqId};
use foreword::engine::{Engine, Event, Request, RequestId, Usage};
use foreword::gguf::Value;
use foreword::model::{DraftPath, Model};
use foreword::predict::Prefill;
use foreword::quant::TensorType;
use foreword::sample::{Params, Sampler};
use foreword::speculate::draft::{CLASSES, Context, Drafter, Layers};
use foreword::speculate::{Mode, Prediction, Shape, Tree};
use std::collections::HashMap;

/// A sidecar with maps of zeros and a draft block that is the base's layer `trunk` with noise.
fn sidecar(name: &str, trunk: usize, noise: f32, draft_tokens: Option<&[u32]>) -> Vec<u8> {
    sidecar_with(name, trunk, noise, draft_tokens, None)
}

/// The same with an acceptance head, whose weights are those of a token in the base's head, and with this bias.
fn sidecar_with(
    name: &str,
    trunk: usize,
    noise: f32,
    draft_tokens: Option<&[u32]>,
    accept: Option<(usize, &[f32])>,
) -> Vec<u8> {
    let (gguf, all, mut metadata) = header(name, trunk);
    let n_layers = layers_of(&gguf);
    metadata.insert("foreword-sidecar.draft_layers", Value::Unsigned(1));
    if let Some(tokens) = draft_tokens {
        let tokens = tokens.iter().map(|&t| i64::from(t)).collect();
        metadata.insert("foreword-sidecar.draft_tokens", Value::Integers(tokens));
    }
    let mut out = noisy(layer(&all, trunk, n_layers), noise);
    out.extend(streams(&all, trunk, (32.0, 1.0 / 32.0)));
    for l in trunk..n_layers {
        out.extend(maps(&all, l, l).into_iter().map(|t| (t.0, t.1, t.2, vec![0; t.3.len()])));
    }
    if let Some((token, bias)) = accept {
        let head = ["output.weight", "token_embd.weight"].map(|name| all.iter().find(|t| t.0 == name));
        let (_, ty, dims, bytes) = head.into_iter().flatten().next().expect("a head");
        let row = bytes.len() / dims[1] as usize;
        out.push(("accept.weight".into(), *ty, vec![dims[0], 1], bytes[token * row..][..row].to_vec()));
        let bias_bytes = bias.iter().flat_map(|v| v.to_le_bytes()).collect();
        out.push(("accept.bias".into(), TensorType::F32, vec![bias.len() as u64], bias_bytes));
    }
    file(&metadata, &out)
}

/// The base's first layers and the draft block as a model.
fn composed(name: &str, trunk: usize, noise: f32) -> Vec<u8> {
    let (gguf, all) = tensors(name);
    let metadata = with_layers(&gguf, trunk + 1);
    let deeper = |t: &&Owned| {
        let layer = t.0.strip_prefix("blk.").and_then(|rest| rest.split('.').next()).and_then(|n| n.parse().ok());
        layer.is_none_or(|n: usize| n < trunk)
    };
    let mut out: Vec<Owned> = all.iter().filter(deeper).cloned().collect();
    out.extend(noisy(layer(&all, trunk, trunk), noise));
    file(&metadata, &out)
}

/// Logits of the composed model behind a text.
fn wanted(composed: &mut Model, text: &[u32]) -> Vec<f32> {
    let seq = composed.kv_mut().new_seq();
    read(composed, seq, &text[..text.len() - 1], 48, false);
    let (mut batch, mut logits) = (Batch::new(), Vec::new());
    batch.push_run(seq, &text[text.len() - 1..], true);
    pollster::block_on(composed.forward(&batch, &mut logits)).expect("a forward");
    composed.kv_mut().free(seq);
    logits
}

/// Drafts a random tree below `text`, whose last token is not in the cache; checks all its logits and returns it.
fn check_tree(
    model: &mut Model,
    composed: &mut Model,
    (seq, text): (SeqId, &[u32]),
    tokens: Option<&[u32]>,
    r: &mut Random,
) -> (Batch, Vec<f32>) {
    let (mut tree, mut streams, mut logits) = (Batch::new(), Vec::new(), Vec::new());
    let mut paths: Vec<Vec<u32>> = Vec::new();
    for level in [1, 2, 3, 3] {
        let first = tree.len();
        for _ in 0..level {
            let parent = (first > 0).then(|| r.below(first) as u32);
            let token = if first == 0 { text[text.len() - 1] } else { 3 + r.below(250) as u32 };
            tree.push(BatchToken { token, seq, parent, output: true });
            let mut path = parent.map_or_else(|| text[..text.len() - 1].to_vec(), |p| paths[p as usize].clone());
            path.push(token);
            paths.push(path);
        }
        let draft = model.draft((&tree, first), DraftPath::Sidecar, &mut streams, &mut logits);
        pollster::block_on(draft).expect("a draft");
        let width = tokens.map_or(model.config().n_vocab, <[u32]>::len);
        assert_eq!(logits.len(), level * width);
        for (got, path) in logits.chunks_exact(width).zip(&paths[first..]) {
            let all = wanted(composed, path);
            let wanted: Vec<f32> = tokens.map_or(all.clone(), |t| t.iter().map(|&t| all[t as usize]).collect());
            assert!(got == wanted, "a proposal behind {} tokens", path.len());
        }
    }
    (tree, streams)
}

#[test]
fn proposals_are_those_of_trunk_and_block_as_a_model() {
    let some: Vec<u32> = (0..264).filter(|t| t % 3 != 1).collect();
    for (name, trunk) in [("llama", 1), ("gemma3", 3), ("gemma2", 2), ("qwen3", 1)] {
        for tokens in [None, Some(&some[..])] {
            let mut r = Random::new(trunk as u64);
            let mut base = model(vec![open_source(&data(&format!("models/{name}.gguf")))]);
            add(&mut base, sidecar(name, trunk, 0.05, tokens)).expect("a sidecar");
            let mut composed = model(source(composed(name, trunk, 0.05)));
            // Read by the whole model in pieces, and through the trunk.
            for trunk_only in [false, true] {
                let mut text = random_tokens(&mut r, 40);
                let seq = base.kv_mut().new_seq();
                read(&mut base, seq, &text[..39], 1 + r.below(20), trunk_only);
                let (mut tree, streams) = check_tree(&mut base, &mut composed, (seq, &text), tokens, &mut r);
                // A forward that begins behind the trunk, with a leaf that the drafter never ran; its path is kept.
                let parent = Some(tree.len() as u32 - 1);
                let leaf = tree.push(BatchToken { token: 9, seq, parent, output: true });
                let dim = base.config().dim;
                tree.resume(0, &foreword::batch::Streams { layers: trunk, values: streams }, dim);
                pollster::block_on(base.forward(&tree, &mut Vec::new())).expect("a forward");
                let (mut path, mut at) = (vec![leaf], leaf);
                while let Some(parent) = tree.tokens()[at as usize].parent {
                    at = parent;
                    path.insert(0, at);
                }
                base.commit(seq, &path).expect("a commit");
                text.extend(path[1..].iter().map(|&row| tree.tokens()[row as usize].token));
                text.push(11);
                check_tree(&mut base, &mut composed, (seq, &text), tokens, &mut r);
                // Another sequence behind the same beginning, whose last block is shared.
                let fork = base.kv_mut().fork(seq, text.len() - 1).expect("a fork");
                *text.last_mut().expect("a token") = 12;
                check_tree(&mut base, &mut composed, (fork, &text), tokens, &mut r);
            }
        }
    }
}

#[test]
fn the_acceptance_head_says_how_sure_a_proposal_is() {
    let (trunk, token) = (1, 77);
    let some: Vec<u32> = (0..264).filter(|t| t % 3 != 1).collect();
    let mut composed = model(source(composed("llama", trunk, 0.05)));
    let text = random_tokens(&mut Random::new(4), 30);
    let logits = wanted(&mut composed, &text);
    // The request's settings do not matter.
    let sampler = Sampler::new(Params { temperature: 0.3, top_k: 5, ..Params::default() });
    let mut classes = Vec::new();
    for (odds, confidence) in [(0.0, 0.0), (0.0, 1.0), (-2.0, 0.5), (3.0, -1.0), (-40.0, 1.0), (40.0, 0.0)] {
        let constant = odds - logits[token];
        let mut base = model(vec![open_source(&data("models/llama.gguf"))]);
        let accept = Some((token, &[constant, confidence][..]));
        add(&mut base, sidecar_with("llama", trunk, 0.05, Some(&some), accept)).expect("a sidecar");
        let seq = base.kv_mut().new_seq();
        read(&mut base, seq, &text[..29], 7, false);
        let mut drafter = Layers::of_sidecar(&base).expect("a draft block");
        let tree = Tree::default();
        let context = Context {
            target: &mut base,
            seq,
            request: 1,
            text: &text,
            prediction: Prediction::default(),
            sampler: &sampler,
            tree: &tree,
        };
        let proposals = pollster::block_on(drafter.propose(context, &[0])).expect("a proposal");
        // By hand: the softmax over the vocabulary of drafts, and the head's product, which is the logit of `token`.
        let law: Vec<f64> = some.iter().map(|&t| f64::from(logits[t as usize]).exp()).collect();
        let p = law.iter().copied().fold(0.0, f64::max) / law.iter().sum::<f64>();
        let odds = f64::from(logits[token]) + f64::from(constant) + f64::from(confidence) * (p / (1.0 - p)).ln();
        let accepted = 1.0 / (1.0 + (-odds).exp());
        assert_eq!(proposals[0].class, ((accepted * CLASSES as f64) as usize).min(CLASSES - 1));
        classes.push(proposals[0].class);
    }
    classes.sort_unstable();
    classes.dedup();
    assert!(classes.len() > 2 && classes.contains(&0) && classes.contains(&(CLASSES - 1)), "{classes:?}");
}

fn engine(name: &str, bytes: Vec<u8>) -> Engine {
    let sources = vec![open_source(&data(&format!("models/{name}.gguf")))];
    let cpu = Box::new(Cpu::new(1));
    let mut engine =
        pollster::block_on(Engine::load(sources, cpu, &options(), || 0.0, &mut |_| {})).expect("a sound model");
    pollster::block_on(engine.add_sidecar(source(bytes))).expect("a sidecar");
    engine
}

fn answers(engine: &mut Engine, requests: &[Request]) -> Vec<(Vec<u32>, Usage)> {
    let ids: Vec<RequestId> = requests.iter().map(|r| engine.submit(r.clone()).expect("a request")).collect();
    let mut all: HashMap<RequestId, (Vec<u32>, Usage)> = HashMap::new();
    let mut events = Vec::new();
    while !engine.is_idle() {
        pollster::block_on(engine.step(&mut events)).expect("a step");
        for event in events.drain(..) {
            match event {
                Event::Token(id, token) => all.entry(id).or_default().0.push(token.token),
                Event::Done(id, done) => all.entry(id).or_default().1 = done.usage,
                Event::Failed(_, error) => panic!("{error}"),
            }
        }
    }
    ids.iter().map(|id| all.remove(id).expect("an answer")).collect()
}

#[test]
fn answers_are_those_of_plain_decoding_and_a_block_that_is_the_base_guesses_all_of_them() {
    let mut r = Random::new(3);
    let shared = random_tokens(&mut r, 70);
    let requests = |prefill: Prefill, r: &mut Random| -> Vec<Request> {
        let prompts =
            (0..6).map(|i| [&shared[..if i % 2 == 0 { 70 } else { 0 }], &random_tokens(r, 70 + 5 * i)].concat());
        let request = |prompt| Request {
            prompt,
            params: Params { temperature: 0.0, ..Params::default() },
            max_tokens: Some(30),
            ignore_eos: true,
            prefill: Some(prefill),
            ..Request::default()
        };
        prompts.map(request).collect()
    };
    // Llama's two layers: a trunk of one, and the other one as the block.
    for (noise, right) in [(0.0, true), (0.3, false)] {
        for prefill in [Prefill::Exact, Prefill::Progressive] {
            let requests = requests(prefill, &mut Random::new(9));
            let mut plain = engine("llama", sidecar("llama", 1, noise, None));
            let plain = answers(&mut plain, &requests);
            for shape in
                [Shape::Constant(vec![1; 4]), Shape::Constant(vec![2, 2, 1]), Shape::Beam { width: 3, depth: 3 }]
            {
                let mut engine = engine("llama", sidecar("llama", 1, noise, None));
                let drafter = Layers::of_sidecar(engine.model()).expect("a draft block");
                engine.speculate(Box::new(drafter), Mode::Fixed(shape.clone())).expect("a mode");
                let guessed = answers(&mut engine, &requests);
                let (mut accepted, mut n) = (0, 0);
                for (a, b) in plain.iter().zip(&guessed) {
                    // Predicted words depend on when the exact reading was done.
                    assert!(prefill == Prefill::Progressive || a.0 == b.0, "{shape:?}: another answer");
                    accepted += b.1.accepted_tokens;
                    n += b.1.completion_tokens;
                }
                if prefill == Prefill::Exact {
                    let rounds = shape.depth() as f64 + 1.0;
                    let most = n as f64 * (1.0 - 1.0 / rounds);
                    let share = accepted as f64 / most;
                    assert_eq!(share > 0.9, right, "{shape:?}, noise {noise}: {accepted} of {most} guesses accepted");
                }
            }
        }
    }
}

#[test]
fn drafts_come_back_with_the_sidecar_of_a_restored_engine() {
    let block = |trunk: usize| source(sidecar("gemma3", trunk, 0.05, None));
    let base = || vec![open_source(&data("models/gemma3.gguf"))];
    let mut engine = engine("gemma3", sidecar("gemma3", 3, 0.05, None));
    let request = Request {
        prompt: random_tokens(&mut Random::new(1), 50),
        params: Params { temperature: 0.0, ..Params::default() },
        max_tokens: Some(60),
        ignore_eos: true,
        ..Request::default()
    };
    let wanted = answers(&mut engine, std::slice::from_ref(&request)).remove(0).0;
    engine.clear_cache();
    let drafter = Layers::of_sidecar(engine.model()).expect("a draft block");
    engine.speculate(Box::new(drafter), Mode::Fixed(Shape::Constant(vec![1; 3]))).expect("a mode");
    engine.submit(request).expect("a request");
    let (mut events, mut steps) = (Vec::new(), 0);
    while !engine.is_idle() {
        pollster::block_on(engine.step(&mut events)).expect("a step");
        steps += 1;
        if steps == 5 {
            // As after a lost device. Some steps pass before the sidecar is there, this time one with another trunk.
            pollster::block_on(engine.restore(base(), Box::new(Cpu::new(1)), &mut |_| {})).expect("a sound model");
        } else if steps == 10 {
            assert_eq!(
                engine.speculation().and_then(|s| s.failure()).map(foreword::Error::kind),
                Some(Kind::InvalidRequest)
            );
            pollster::block_on(engine.add_sidecar(block(2))).expect("a sidecar");
        }
    }
    let tokens = events.iter().filter_map(|e| match e {
        Event::Token(_, token) => Some(token.token),
        _ => None,
    });
    assert_eq!(tokens.collect::<Vec<_>>(), wanted);
    let Some(Event::Done(_, done)) = events.last() else { panic!("no end") };
    assert!(!done.usage.drafter_failed && done.usage.guessed_tokens > 30, "{:?}", done.usage);
}

#[test]
fn bad_draft_blocks_are_refused() {
    let mut base = model(vec![open_source(&data("models/llama.gguf"))]);
    let refused = Layers::of_sidecar(&base).expect_err("no sidecar");
    assert_eq!(refused.kind(), Kind::InvalidRequest);
    for tokens in [&[][..], &[5, 4], &[5, 5], &[1, 264]] {
        let error = add(&mut base, sidecar("llama", 1, 0.0, Some(tokens))).expect_err("bad tokens");
        assert_eq!(error.kind(), Kind::BadFile, "{error}");
    }
    let head = |tokens: Option<&[u32]>, bias: &[f32]| sidecar_with("llama", 1, 0.0, tokens, Some((9, bias)));
    let without_tokens = head(None, &[0.0, 1.0]);
    let wrong_shape = head(Some(&[5, 6]), &[0.0]);
    for bytes in [without_tokens, wrong_shape] {
        assert_eq!(add(&mut base, bytes).expect_err("a bad acceptance head").kind(), Kind::BadFile);
    }
    let good = sidecar("llama", 1, 0.0, None);
    for n in [good.len() / 2, good.len() - 1] {
        assert_eq!(add(&mut base, good[..n].to_vec()).expect_err("truncated").kind(), Kind::BadFile);
    }
    // A block of another width: that of another family.
    let other = sidecar("gemma3", 1, 0.0, None);
    assert_eq!(add(&mut base, other).expect_err("another base").kind(), Kind::InvalidRequest);
    assert!(Layers::of_sidecar(&base).is_err(), "the model is as before");
    add(&mut base, good).expect("a sidecar");
    assert!(Layers::of_sidecar(&base).is_ok());
}
