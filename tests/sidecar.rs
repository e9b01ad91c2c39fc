//! A sidecar's layers. The draft block: its proposals are the logits of a model that consists of the trunk and the block; its keys
//! and values are there for every token of a text however it was read; answers stay those of plain decoding. The layer in front of
//! the maps: predictions are those of a model that consists of the trunk, that layer and one with the maps.

mod common;

use common::random::Random;
use common::{data, open, open_source};
use foreword::Kind;
use foreword::backend::CacheType;
use foreword::backend::cpu::Cpu;
use foreword::batch::{Batch, BatchToken, SeqId};
use foreword::engine::{Engine, Event, Request, RequestId, Usage};
use foreword::gguf::source::{BytesSource, Source};
use foreword::gguf::write::{Tensor, to_bytes};
use foreword::gguf::{Gguf, Metadata, Value};
use foreword::model::{Guesser, Model, ModelOptions};
use foreword::predict::Prefill;
use foreword::quant::TensorType;
use foreword::sample::{Params, Sampler};
use foreword::sidecar::{ARCHITECTURE, Fingerprint};
use foreword::speculate::draft::{CLASSES, Context, Drafter, Layers};
use foreword::speculate::{Mode, Shape, Tree};
use std::collections::HashMap;

/// A tensor of a file: name, type, dimensions, bytes.
type Owned = (String, TensorType, Vec<u64>, Vec<u8>);

fn tensors(name: &str) -> (Gguf, Vec<Owned>) {
    let (gguf, mut sources) = open(&data(&format!("models/{name}.gguf")));
    let mut all = Vec::new();
    for t in &gguf.tensors {
        let mut bytes = vec![0; t.n_bytes as usize];
        pollster::block_on(sources[t.part].read_at(t.offset, &mut bytes)).expect("bytes");
        all.push((t.name.clone(), t.ty, t.dims.clone(), bytes));
    }
    (gguf, all)
}

fn file(metadata: &Metadata, tensors: &[Owned]) -> Vec<u8> {
    let tensors: Vec<Tensor> =
        tensors.iter().map(|(name, ty, dims, data)| Tensor { name, ty: *ty, dims, data }).collect();
    to_bytes(metadata, &tensors).expect("a file")
}

/// The tensors of layer `from`, as those of layer `to`.
fn layer(all: &[Owned], from: usize, to: usize) -> Vec<Owned> {
    let renamed = |t: &Owned| {
        let part = t.0.strip_prefix(&format!("blk.{from}."))?;
        Some((format!("blk.{to}.{part}"), t.1, t.2.clone(), t.3.clone()))
    };
    all.iter().filter_map(renamed).collect()
}

/// Adds noise to matrices, so that the layer is another one.
fn noisy(mut layer: Vec<Owned>, amount: f32) -> Vec<Owned> {
    let mut r = Random::new(7);
    for (_, ty, dims, data) in layer.iter_mut().filter(|t| t.2.len() > 1) {
        assert_eq!((*ty, dims.len()), (TensorType::F32, 2), "the tiny models are floats");
        for value in data.chunks_exact_mut(4) {
            let v = f32::from_le_bytes(value.try_into().expect("four bytes")) + amount * r.float();
            value.copy_from_slice(&v.to_le_bytes());
        }
    }
    layer
}

/// The header of a sidecar without a draft block.
fn header(name: &str, trunk: usize) -> (Gguf, Vec<Owned>, Metadata) {
    let (gguf, all) = tensors(name);
    let mut base = Fingerprint::default();
    base.set_types(&gguf);
    all.iter().for_each(|(name, _, _, bytes)| base.add(name, bytes));
    let mut metadata = Metadata::default();
    metadata.insert("general.architecture", Value::String(ARCHITECTURE.into()));
    metadata.insert("foreword-sidecar.trunk_layers", Value::Unsigned(trunk as u64));
    metadata.insert("foreword-sidecar.base.norms", Value::String(format!("{:016x}", base.norms)));
    metadata.insert("foreword-sidecar.base.tensors", Value::String(format!("{:016x}", base.tensors)));
    (gguf, all, metadata)
}

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

fn layers_of(gguf: &Gguf) -> usize {
    let architecture = gguf.metadata.str("general.architecture").expect("an architecture");
    gguf.metadata.u32(&format!("{architecture}.block_count")).expect("layers") as usize
}

/// The metadata of a base, with another number of layers.
fn with_layers(gguf: &Gguf, n: usize) -> Metadata {
    let mut metadata = Metadata::default();
    for (key, value) in gguf.metadata.iter() {
        let value = if key.ends_with(".block_count") { Value::Unsigned(n as u64) } else { value.clone() };
        metadata.insert(key, value);
    }
    metadata
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

fn source(bytes: Vec<u8>) -> Vec<Box<dyn Source>> {
    vec![Box::new(BytesSource(bytes))]
}

fn options() -> ModelOptions {
    ModelOptions { context_length: Some(256), cache_type: CacheType::F32, cache_tokens: Some(2048), max_batch: 48 }
}

fn model(mut sources: Vec<Box<dyn Source>>) -> Model {
    let load = async {
        let gguf = Gguf::read(&mut sources).await?;
        Model::load(&gguf, &mut sources, Box::new(Cpu::new(1)), &options(), &mut |_| {}).await
    };
    pollster::block_on(load).expect("a sound model")
}

fn add(model: &mut Model, bytes: Vec<u8>) -> foreword::Result<bool> {
    let mut sources = source(bytes);
    pollster::block_on(async {
        let gguf = Gguf::read(&mut sources).await?;
        model.add_sidecar(&gguf, &mut sources).await
    })
}

fn random_tokens(r: &mut Random, n: usize) -> Vec<u32> {
    (0..n).map(|_| 3 + r.below(250) as u32).collect()
}

/// Reads a text in pieces, by `forward` or through the trunk only.
fn read(model: &mut Model, seq: SeqId, text: &[u32], piece: usize, trunk_only: bool) {
    for piece in text.chunks(piece) {
        let mut batch = Batch::new();
        batch.push_run(seq, piece, false);
        match trunk_only {
            true => pollster::block_on(model.forward_trunk(&batch, &mut Vec::new())).expect("a forward"),
            false => pollster::block_on(model.forward(&batch, &mut Vec::new())).expect("a forward"),
        }
        model.kv_mut().commit_run(seq).expect("a commit");
    }
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
        let draft = model.draft((&tree, first), Guesser::Sidecar, &mut streams, &mut logits);
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

/// What the maps read: gates that are `open` everywhere, and `factor` times the stream behind the trunk.
fn streams(all: &[Owned], trunk: usize, (open, factor): (f32, f32)) -> Vec<Owned> {
    let norm = all.iter().find(|t| t.0 == "output_norm.weight").expect("a norm");
    let dim = norm.2[0] as usize;
    let matrix = |name: String, diagonal: f32| {
        let values =
            (0..dim * dim).flat_map(|i| if i % (dim + 1) == 0 { diagonal } else { 0.0 }.to_le_bytes()).collect();
        (name, TensorType::F32, vec![dim as u64; 2], values)
    };
    let up = (0..=trunk).map(|i| matrix(format!("maps.up.{i}.weight"), if i == trunk { factor } else { 0.0 }));
    let bias = (0..dim).flat_map(|_| open.to_le_bytes()).collect();
    let gate = [("maps.gate.bias".into(), TensorType::F32, vec![dim as u64], bias)];
    up.chain(gate).chain([matrix("maps.gate.weight".into(), 0.0)]).collect()
}

/// Keys and values of deeper layer `l`, with noise: its maps, as tensors of layer `to`.
fn maps(all: &[Owned], l: usize, to: usize) -> Vec<Owned> {
    let parts = |t: &Owned| t.0.ends_with(".attn_k.weight") || t.0.ends_with(".attn_v.weight");
    noisy(layer(all, l, to).into_iter().filter(parts).collect(), 0.1)
}

/// A sidecar with a layer of its own, the base's layer `trunk` with noise.
fn with_own_layer(name: &str, trunk: usize) -> Vec<u8> {
    let (gguf, all, mut metadata) = header(name, trunk);
    metadata.insert("foreword-sidecar.own_layers", Value::Unsigned(1));
    let renamed = |mut t: Owned| {
        t.0 = t.0.replace(&format!("blk.{trunk}."), "own.0.");
        t
    };
    let mut out: Vec<Owned> = noisy(layer(&all, trunk, trunk), 0.05).into_iter().map(renamed).collect();
    // So far open a gate is 32, and there is no rounding.
    out.extend(streams(&all, trunk, (32.0, 1.0 / 32.0)));
    out.extend((trunk..layers_of(&gguf)).flat_map(|l| maps(&all, l, l)));
    file(&metadata, &out)
}

/// The base's first layers, the sidecar's own one, and a layer whose keys and values are what is predicted for layer `l`.
fn predictor(name: &str, trunk: usize, l: usize) -> Vec<u8> {
    let (gguf, all) = tensors(name);
    let metadata = with_layers(&gguf, trunk + 2);
    let mut out: Vec<Owned> = all.iter().filter(|t| !t.0.starts_with("blk.")).cloned().collect();
    out.extend((0..trunk).flat_map(|i| layer(&all, i, i)));
    out.extend(noisy(layer(&all, trunk, trunk), 0.05));
    let last = maps(&all, l, trunk + 1);
    // The norm in front of the maps is that of the first layer behind the trunk.
    let rest = layer(&all, trunk, trunk + 1).into_iter().filter(|t| last.iter().all(|m| m.0 != t.0));
    out.extend(rest.collect::<Vec<_>>());
    out.extend(last);
    file(&metadata, &out)
}

#[test]
fn predictions_are_those_of_trunk_own_layer_and_maps_as_a_model() {
    for (name, trunk) in [("llama", 1), ("gemma3", 3), ("qwen3", 1)] {
        let mut base = model(vec![open_source(&data(&format!("models/{name}.gguf")))]);
        let bytes = with_own_layer(name, trunk);
        add(&mut base, bytes).expect("a sidecar");
        let n_layers = base.config().layers.len();
        let text = random_tokens(&mut Random::new(8), 41);
        // Some tokens are read exactly, as a beginning that is known, the others by prediction, in pieces.
        let seq = base.kv_mut().new_seq();
        read(&mut base, seq, &text[..9], 4, false);
        read(&mut base, seq, &text[9..40], 13, true);
        let after = |base: &mut Model, seq: SeqId| {
            let (mut batch, mut logits) = (Batch::new(), Vec::new());
            batch.push_run(seq, &text[40..], true);
            pollster::block_on(base.forward(&batch, &mut logits)).expect("a forward");
            logits
        };
        let got = after(&mut base, seq);
        let mut plain = model(vec![open_source(&data(&format!("models/{name}.gguf")))]);
        let mut whole = Batch::new();
        whole.push_run(plain.kv_mut().new_seq(), &text[..40], false);
        let mut entries = pollster::block_on(plain.observe(&whole, n_layers, false)).expect("entries");
        let width = entries[0].k.len() / 40;
        for l in trunk..n_layers {
            let mut predictor = model(source(predictor(name, trunk, l)));
            let mut batch = Batch::new();
            batch.push_run(predictor.kv_mut().new_seq(), &text[..40], false);
            let seen = pollster::block_on(predictor.observe(&batch, trunk + 2, false)).expect("entries");
            entries[l].k[9 * width..].copy_from_slice(&seen[trunk + 1].k[9 * width..]);
            entries[l].v[9 * width..].copy_from_slice(&seen[trunk + 1].v[9 * width..]);
        }
        let seq = plain.kv_mut().new_seq();
        let mut batch = Batch::new();
        batch.push_run(seq, &text[..40], false);
        plain.put_entries(&batch, &entries).expect("entries");
        plain.kv_mut().commit_run(seq).expect("a commit");
        let wanted = after(&mut plain, seq);
        assert!(got == wanted, "{name}: other predictions");
    }
}

/// Maps of noise from all streams of a trunk: a sidecar, and its matrices.
fn of_all_streams(name: &str, trunk: usize, width: usize) -> (Vec<u8>, HashMap<String, Vec<f32>>) {
    let (gguf, all, metadata) = header(name, trunk);
    let dim = all.iter().find(|t| t.0 == "output_norm.weight").expect("a norm").2[0] as usize;
    let mut r = Random::new(6);
    let read = (0..=trunk).map(|i| format!("maps.up.{i}.weight")).chain(["maps.gate.weight".into()]);
    let mut shapes: Vec<(String, Vec<u64>)> = read.map(|name| (name, vec![dim as u64, width as u64])).collect();
    shapes.push(("maps.gate.bias".into(), vec![width as u64]));
    for t in (trunk..layers_of(&gguf)).flat_map(|l| maps(&all, l, l)) {
        shapes.push((t.0, vec![width as u64, t.2[1]]));
    }
    let mut values = HashMap::new();
    let tensor = |(name, dims): (String, Vec<u64>)| {
        let floats = r.floats(dims.iter().product::<u64>() as usize);
        let bytes = floats.iter().flat_map(|v| v.to_le_bytes()).collect();
        values.insert(name.clone(), floats);
        (name, TensorType::F32, dims, bytes)
    };
    let tensors: Vec<Owned> = shapes.into_iter().map(tensor).collect();
    (file(&metadata, &tensors), values)
}

/// `weight · x` by sums in f64.
fn product(weight: &[f32], x: &[f64]) -> Vec<f64> {
    weight.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
}

#[test]
fn maps_are_a_gated_layer_over_all_streams_of_the_trunk() {
    for (name, trunk) in [("llama", 1), ("gemma3", 3), ("gemma2", 2)] {
        let (_, all) = tensors(name);
        let floats = |name: String| -> Vec<f32> {
            let bytes = &all.iter().find(|t| t.0 == name).expect("a tensor").3;
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
        };
        let text = random_tokens(&mut Random::new(8), 41);
        let load = || model(vec![open_source(&data(&format!("models/{name}.gguf")))]);
        // Streams: the embeddings, and what sidecars with shorter trunks leave behind.
        let (dim, eps, scale) = {
            let base = load();
            let c = base.config();
            (c.dim, f64::from(c.norm_eps), c.embed_scale)
        };
        let table = floats("token_embd.weight".into());
        let mut found =
            vec![text[..40].iter().flat_map(|&t| table[t as usize * dim..][..dim].iter().map(|v| v * scale)).collect()];
        for depth in 1..=trunk {
            let mut base = load();
            add(&mut base, of_all_streams(name, depth, 32).0).expect("a sidecar");
            let (mut batch, mut seen) = (Batch::new(), Vec::new());
            batch.push_run(base.kv_mut().new_seq(), &text[..40], false);
            pollster::block_on(base.forward_trunk(&batch, &mut seen)).expect("a forward");
            found.push(seen);
        }
        let (bytes, weights) = of_all_streams(name, trunk, 32);
        let mut plain = load();
        let mut batch = Batch::new();
        let seq = plain.kv_mut().new_seq();
        batch.push_run(seq, &text[..40], false);
        let n_layers = plain.config().layers.len();
        let mut entries = pollster::block_on(plain.observe(&batch, n_layers, false)).expect("entries");
        entries[trunk..].iter_mut().for_each(|e| (e.k, e.v) = (Vec::new(), Vec::new()));
        for row in 0..40 {
            let normed = |i: usize| -> Vec<f64> {
                let x: Vec<f64> = found[i][row * dim..][..dim].iter().map(|&v| f64::from(v)).collect();
                let size = (x.iter().map(|v| v * v).sum::<f64>() / dim as f64 + eps).sqrt();
                x.iter()
                    .zip(floats(format!("blk.{i}.attn_norm.weight")))
                    .map(|(v, w)| v / size * f64::from(w))
                    .collect()
            };
            let gate = product(&weights["maps.gate.weight"], &normed(trunk));
            let gate = gate.iter().zip(&weights["maps.gate.bias"]).map(|(g, b)| g + f64::from(*b));
            let mut hidden: Vec<f64> = gate.map(|g| g / (1.0 + (-g).exp())).collect();
            let up: Vec<Vec<f64>> =
                (0..=trunk).map(|i| product(&weights[&format!("maps.up.{i}.weight")], &normed(i))).collect();
            hidden.iter_mut().enumerate().for_each(|(j, h)| *h *= up.iter().map(|u| u[j]).sum::<f64>());
            for (l, e) in entries.iter_mut().enumerate().skip(trunk) {
                let made = |part: &str| product(&weights[&format!("blk.{l}.{part}.weight")], &hidden);
                e.k.extend(made("attn_k").iter().map(|&v| v as f32));
                e.v.extend(made("attn_v").iter().map(|&v| v as f32));
            }
        }
        plain.put_entries(&batch, &entries).expect("entries");
        plain.kv_mut().commit_run(seq).expect("a commit");
        let mut base = load();
        add(&mut base, bytes).expect("a sidecar");
        let predicted = base.kv_mut().new_seq();
        read(&mut base, predicted, &text[..40], 13, true);
        let after = |model: &mut Model, seq: SeqId| {
            let (mut batch, mut logits) = (Batch::new(), Vec::new());
            batch.push_run(seq, &text[40..], true);
            pollster::block_on(model.forward(&batch, &mut logits)).expect("a forward");
            logits
        };
        let (got, wanted) = (after(&mut base, predicted), after(&mut plain, seq));
        let worst = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "{name}: {worst} from the formula");
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
        let context = Context { target: &mut base, seq, request: 1, text: &text, sampler: &sampler, tree: &tree };
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
