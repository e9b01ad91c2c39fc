//! A sidecar's maps: predictions are those of a model that consists of the trunk, the sidecar's own layer and one with the maps, and
//! what the formula of the format says.

use crate::common::random::Random;
use crate::common::sidecars::*;
use crate::common::{data, open_source};
use foreword::batch::{Batch, SeqId};
use foreword::gguf::Value;
use foreword::model::Model;
use foreword::quant::TensorType;
use std::collections::HashMap;

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
