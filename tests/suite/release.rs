//! Owners give back what they hold: sidecars that are replaced, taken away, broken or given up half way.

use crate::common::random::Random;
use crate::common::sidecars::*;
use crate::common::{data, open_source};
use foreword::backend::MemoryUse;
use foreword::batch::{Batch, BatchToken};
use foreword::gguf::source::{BytesSource, Read, Source};
use foreword::gguf::{Gguf, Metadata, Value};
use foreword::model::{DraftPath, Model};
use foreword::quant::TensorType;
use std::pin::pin;
use std::task::{Context, Waker};

/// Everything that a sidecar may have: a layer of its own, maps, a draft block with a head and an acceptance head.
fn parts(name: &str, trunk: usize) -> (Metadata, Vec<Owned>) {
    let (gguf, all, mut metadata) = header(name, trunk);
    let n_layers = layers_of(&gguf);
    metadata.insert("foreword-sidecar.own_layers", Value::Unsigned(1));
    metadata.insert("foreword-sidecar.draft_layers", Value::Unsigned(1));
    metadata.insert("foreword-sidecar.draft_tokens", Value::Integers((3..67).collect()));
    let own = |mut t: Owned| {
        t.0 = t.0.replace(&format!("blk.{trunk}."), "own.0.");
        t
    };
    let mut out: Vec<Owned> = noisy(layer(&all, trunk, trunk), 0.05).into_iter().map(own).collect();
    out.extend(streams(&all, trunk, (1.0, 1.0)));
    out.extend((trunk..n_layers).flat_map(|l| maps(&all, l, l)));
    out.extend(noisy(layer(&all, trunk, n_layers), 0.05));
    let floats = |n: u64| (0..n).flat_map(|i| (i as f32 * 0.01).to_le_bytes()).collect::<Vec<u8>>();
    let dim = all.iter().find(|t| t.0 == "output_norm.weight").expect("a norm").2[0];
    out.push(("accept.weight".into(), TensorType::F32, vec![dim, 1], floats(dim)));
    out.push(("accept.bias".into(), TensorType::F32, vec![2], floats(2)));
    (metadata, out)
}

fn base() -> Model {
    model(vec![open_source(&data("models/llama.gguf"))])
}

fn memory(model: &Model) -> MemoryUse {
    model.backend().memory()
}

/// What a sidecar does for a text: streams of the trunk, a draft behind it.
fn use_of(model: &mut Model) -> (Vec<f32>, Vec<f32>) {
    let text = random_tokens(&mut Random::new(3), 20);
    let seq = model.kv_mut().new_seq();
    let (mut batch, mut trunk, mut streams, mut logits) = (Batch::new(), Vec::new(), Vec::new(), Vec::new());
    batch.push_run(seq, &text, false);
    pollster::block_on(model.forward_trunk(&batch, &mut trunk)).expect("a forward");
    model.kv_mut().commit_run(seq).expect("a commit");
    batch.clear();
    batch.push(BatchToken { token: 9, seq, parent: None, output: true });
    let draft = model.draft((&batch, 0), DraftPath::Sidecar, &mut streams, &mut logits);
    pollster::block_on(draft).expect("a draft");
    model.kv_mut().free(seq);
    (trunk, logits)
}

#[test]
fn sidecars_come_and_go_a_hundred_times() {
    let mut model = base();
    let (metadata, tensors) = parts("llama", 1);
    let bytes = file(&metadata, &tensors);
    add(&mut model, bytes.clone()).expect("a sidecar");
    // Work memory of ops grows with the first one.
    let wanted = use_of(&mut model);
    let with = memory(&model);
    model.remove_sidecar();
    let without = memory(&model);
    assert!(with.weights > without.weights && with.cache > without.cache && with.buffers > without.buffers);
    for round in 0..100 {
        add(&mut model, bytes.clone()).expect("a sidecar");
        assert_eq!(memory(&model), with, "in place of the one before, {round}");
        if round % 10 == 0 {
            assert_eq!(use_of(&mut model), wanted);
            model.remove_sidecar();
            assert_eq!(memory(&model), without, "taken away, {round}");
            assert_eq!(model.trunk(), None);
        }
    }
}

#[test]
fn a_sidecar_that_cannot_be_added_leaves_the_model_as_it_was() {
    let mut model = base();
    let (metadata, tensors) = parts("llama", 1);
    add(&mut model, file(&metadata, &tensors)).expect("a sidecar");
    let wanted = use_of(&mut model);
    let before = memory(&model);
    // Without one of its tensors, however many were loaded before it is missed.
    for missing in 0..tensors.len() {
        let mut rest = tensors.clone();
        let (name, ..) = rest.remove(missing);
        if name.ends_with("bias") && !name.starts_with("accept") || name == "accept.weight" {
            continue;
        }
        add(&mut model, file(&metadata, &rest)).expect_err(&name);
        assert_eq!(memory(&model), before, "{name}");
    }
    assert_eq!(use_of(&mut model), wanted);
}

/// Bytes that are there for some reads only; the next one never ends.
struct Stalls {
    bytes: BytesSource,
    reads: usize,
}

impl Source for Stalls {
    fn len(&self) -> u64 {
        self.bytes.len()
    }

    fn read_at<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> Read<'a> {
        match self.reads.checked_sub(1) {
            Some(left) => {
                self.reads = left;
                self.bytes.read_at(offset, buf)
            }
            None => Box::pin(std::future::pending()),
        }
    }
}

#[test]
fn loading_that_is_given_up_half_way_holds_nothing_in_the_end() {
    let mut model = base();
    let (metadata, tensors) = parts("llama", 1);
    let bytes = file(&metadata, &tensors);
    add(&mut model, bytes.clone()).expect("a sidecar");
    let wanted = use_of(&mut model);
    let before = memory(&model);
    let gguf = pollster::block_on(Gguf::read(&mut source(bytes.clone()))).expect("a header");
    for reads in 0..tensors.len() {
        let mut sources: Vec<Box<dyn Source>> = vec![Box::new(Stalls { bytes: BytesSource(bytes.clone()), reads })];
        {
            let adding = pin!(model.add_sidecar(&gguf, &mut sources));
            assert!(adding.poll(&mut Context::from_waker(Waker::noop())).is_pending(), "{reads} reads");
        }
        assert_eq!(use_of(&mut model), wanted, "{reads} reads");
        assert_eq!(memory(&model), before, "{reads} reads");
    }
    add(&mut model, bytes).expect("a sidecar");
    assert_eq!(memory(&model), before);
    assert_eq!(use_of(&mut model), wanted);
}
