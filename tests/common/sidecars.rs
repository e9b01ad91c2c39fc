//! Sidecars of the tiny models, made by the tests themselves, and models that they are added to.

use super::random::Random;
use super::{data, open};
use foreword::backend::CacheType;
use foreword::backend::cpu::Cpu;
use foreword::batch::{Batch, SeqId};
use foreword::gguf::source::{BytesSource, Source};
use foreword::gguf::write::{Tensor, to_bytes};
use foreword::gguf::{Gguf, Metadata, Value};
use foreword::model::{Model, ModelOptions};
use foreword::quant::TensorType;
use foreword::sidecar::{ARCHITECTURE, Fingerprint};

/// A tensor of a file: name, type, dimensions, bytes.
pub type Owned = (String, TensorType, Vec<u64>, Vec<u8>);

pub fn tensors(name: &str) -> (Gguf, Vec<Owned>) {
    let (gguf, mut sources) = open(&data(&format!("models/{name}.gguf")));
    let mut all = Vec::new();
    for t in &gguf.tensors {
        let mut bytes = vec![0; t.n_bytes as usize];
        pollster::block_on(sources[t.part].read_at(t.offset, &mut bytes)).expect("bytes");
        all.push((t.name.clone(), t.ty, t.dims.clone(), bytes));
    }
    (gguf, all)
}

pub fn file(metadata: &Metadata, tensors: &[Owned]) -> Vec<u8> {
    let tensors: Vec<Tensor> =
        tensors.iter().map(|(name, ty, dims, data)| Tensor { name, ty: *ty, dims, data }).collect();
    to_bytes(metadata, &tensors).expect("a file")
}

/// The tensors of layer `from`, as those of layer `to`.
pub fn layer(all: &[Owned], from: usize, to: usize) -> Vec<Owned> {
    let renamed = |t: &Owned| {
        let part = t.0.strip_prefix(&format!("blk.{from}."))?;
        Some((format!("blk.{to}.{part}"), t.1, t.2.clone(), t.3.clone()))
    };
    all.iter().filter_map(renamed).collect()
}

/// Adds noise to matrices, so that the layer is another one.
pub fn noisy(mut layer: Vec<Owned>, amount: f32) -> Vec<Owned> {
    let mut r = Random::new(7);
    for (_, ty, _, data) in layer.iter_mut().filter(|t| t.2.len() > 1) {
        assert_eq!(*ty, TensorType::F32, "the tiny models are floats");
        for value in data.chunks_exact_mut(4) {
            let v = f32::from_le_bytes(value.try_into().expect("four bytes")) + amount * r.float();
            value.copy_from_slice(&v.to_le_bytes());
        }
    }
    layer
}

/// The header of a sidecar without a draft block.
pub fn header(name: &str, trunk: usize) -> (Gguf, Vec<Owned>, Metadata) {
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

pub fn layers_of(gguf: &Gguf) -> usize {
    let architecture = gguf.metadata.str("general.architecture").expect("an architecture");
    gguf.metadata.u32(&format!("{architecture}.block_count")).expect("layers") as usize
}

/// The metadata of a base, with another number of layers.
pub fn with_layers(gguf: &Gguf, n: usize) -> Metadata {
    let mut metadata = Metadata::default();
    for (key, value) in gguf.metadata.iter() {
        let value = if key.ends_with(".block_count") { Value::Unsigned(n as u64) } else { value.clone() };
        metadata.insert(key, value);
    }
    metadata
}

/// What the maps read: gates that are `open` everywhere, and `factor` times the stream behind the trunk.
pub fn streams(all: &[Owned], trunk: usize, (open, factor): (f32, f32)) -> Vec<Owned> {
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
pub fn maps(all: &[Owned], l: usize, to: usize) -> Vec<Owned> {
    let parts = |t: &Owned| t.0.ends_with(".attn_k.weight") || t.0.ends_with(".attn_v.weight");
    noisy(layer(all, l, to).into_iter().filter(parts).collect(), 0.1)
}

pub fn source(bytes: Vec<u8>) -> Vec<Box<dyn Source>> {
    vec![Box::new(BytesSource(bytes))]
}

pub fn options() -> ModelOptions {
    ModelOptions {
        context_length: Some(256),
        cache_type: CacheType::F32,
        cache_tokens: Some(2048),
        max_batch: 48,
        kv_memory: None,
    }
}

pub fn model(mut sources: Vec<Box<dyn Source>>) -> Model {
    let load = async {
        let gguf = Gguf::read(&mut sources).await?;
        Model::load(&gguf, sources, Box::new(Cpu::new(1)), &options(), &mut |_| {}).await
    };
    pollster::block_on(load).expect("a sound model")
}

pub fn add(model: &mut Model, bytes: Vec<u8>) -> foreword::Result<bool> {
    let mut sources = source(bytes);
    pollster::block_on(async {
        let gguf = Gguf::read(&mut sources).await?;
        model.add_sidecar(&gguf, &mut sources).await
    })
}

pub fn random_tokens(r: &mut Random, n: usize) -> Vec<u32> {
    (0..n).map(|_| 3 + r.below(250) as u32).collect()
}

/// Reads a text in pieces, by `forward` or through the trunk only.
pub fn read(model: &mut Model, seq: SeqId, text: &[u32], piece: usize, trunk_only: bool) {
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
