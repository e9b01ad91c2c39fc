//! What answers are checked against: a model that reads one text at a time and decodes token by token, with a sampler beside it.

use super::schedule::{SidecarKind, WIDE_HEADS};
use crate::common::random::Random;
use crate::common::sidecars::{Owned, file, header, layer, layers_of, maps, noisy, streams};
use crate::common::{data, read};
use foreword::backend::CacheType;
use foreword::backend::cpu::Cpu;
use foreword::batch::Batch;
use foreword::engine::Request;
use foreword::gguf::source::{BytesSource, Source};
use foreword::gguf::{Gguf, Value};
use foreword::model::{Model, ModelOptions};
use foreword::quant::TensorType;
use foreword::sample::{Logits, Sampler};
use foreword::tokenizer::Tokenizer;
use std::collections::HashMap;

/// Files and models that all schedules share.
#[derive(Default)]
pub struct Shared {
    files: HashMap<String, Vec<u8>>,
    models: HashMap<(&'static str, CacheType), Reference>,
}

pub struct Reference {
    model: Model,
    pub tokenizer: Tokenizer,
    /// Answers that were found right: prompt and settings, and the longest one.
    known: HashMap<(Vec<u32>, String), Vec<u32>>,
}

/// Longest text of the reference.
const CONTEXT: usize = 4096;

impl Shared {
    fn file(&mut self, name: String, make: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        self.files.entry(name).or_insert_with(make).clone()
    }

    pub fn model(&mut self, name: &str) -> Vec<u8> {
        self.file(name.into(), || {
            let mut bytes = read(&data(&format!("models/{name}.gguf")));
            if name == WIDE_HEADS {
                widen_heads(&mut bytes);
            }
            bytes
        })
    }

    pub fn sidecar(&mut self, name: &str, kind: SidecarKind) -> Vec<u8> {
        self.file(format!("{name} {kind:?}"), || sidecar(name, kind))
    }

    pub fn reference(&mut self, name: &'static str, cache_type: CacheType) -> &mut Reference {
        let bytes = self.model(name);
        self.models.entry((name, cache_type)).or_insert_with(|| Reference::new(bytes, cache_type))
    }
}

/// Makes of four heads of 16 values two of 32.
fn widen_heads(bytes: &mut [u8]) {
    let fields = [
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("attention.key_length", 32),
        ("attention.value_length", 32),
        ("rope.dimension_count", 32),
    ];
    for (field, value) in fields {
        // Behind the name come the value's type, 4 for an unsigned number of 32 bits, and the value.
        let name = [format!("{WIDE_HEADS}.{field}").as_bytes(), &4u32.to_le_bytes()].concat();
        let at = bytes.windows(name.len()).position(|window| window == name).expect("a number") + name.len();
        bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
    }
}

/// Loads a model from bytes.
pub fn load(bytes: Vec<u8>, options: &ModelOptions) -> (Model, Tokenizer) {
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(BytesSource(bytes))];
    pollster::block_on(async {
        let gguf = Gguf::read(&mut sources).await?;
        let tokenizer = Tokenizer::from_gguf(&gguf.metadata)?;
        let cpu = Box::new(Cpu::new(1));
        Ok::<_, foreword::Error>((Model::load(&gguf, sources, cpu, options, &mut |_| {}).await?, tokenizer))
    })
    .expect("a sound model")
}

/// A token of an answer to be checked; whatever was made of predictions is not.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    pub token: u32,
    pub exact: bool,
}

impl Reference {
    fn new(bytes: Vec<u8>, cache_type: CacheType) -> Reference {
        let options = ModelOptions {
            context_length: Some(CONTEXT),
            cache_type,
            cache_tokens: None,
            max_batch: 64,
            kv_memory: None,
        };
        let (model, tokenizer) = load(bytes, &options);
        Reference { model, tokenizer, known: HashMap::new() }
    }

    /// Checks that each exact token of an answer is what the request's settings choose behind those before it.
    pub fn check(&mut self, request: &Request, answer: &[Given]) -> Result<(), String> {
        let key = (request.prompt.clone(), format!("{:?} {:?} {:?}", request.params, request.rules, request.against));
        let tokens: Vec<u32> = answer.iter().map(|g| g.token).collect();
        let all_exact = answer.iter().all(|g| g.exact);
        if all_exact && self.known.get(&key).is_some_and(|known| known.starts_with(&tokens)) {
            return Ok(());
        }
        self.decode(request, answer)?;
        if all_exact {
            if self.known.len() > 20_000 {
                self.known.clear();
            }
            self.known.insert(key, tokens);
        }
        Ok(())
    }

    fn decode(&mut self, request: &Request, answer: &[Given]) -> Result<(), String> {
        let mut sampler = Sampler::with_rules(request.params.clone(), request.rules.clone());
        sampler.read(&request.prompt);
        let (seq, mut logits, mut next) = self.read(&request.prompt)?;
        let mut other = request.against.as_ref().map(|against| self.read(&against.prompt)).transpose()?;
        let mut result = Ok(());
        for (i, given) in answer.iter().enumerate() {
            self.forward(seq, &[next], &mut logits);
            let wanted = match (&mut other, &request.against) {
                (Some((seq, other, next)), Some(against)) => {
                    self.forward(*seq, &[*next], other);
                    *next = given.token;
                    sampler.sample(Logits::Pair { own: &logits, other, contrast: against.contrast })
                }
                _ => sampler.sample(Logits::All(&logits)),
            };
            if given.exact && wanted != given.token {
                result = Err(format!("token {i} of an answer is {}, but plain decoding gives {wanted}", given.token));
                break;
            }
            sampler.accept(given.token);
            next = given.token;
        }
        other.into_iter().for_each(|(seq, ..)| self.model.kv_mut().free(seq));
        self.model.kv_mut().free(seq);
        result
    }

    /// A sequence behind all of a prompt but its last token, room for logits, and that token.
    fn read(&mut self, prompt: &[u32]) -> Result<(foreword::batch::SeqId, Vec<f32>, u32), String> {
        let seq = self.model.kv_mut().new_seq();
        let (last, start) = prompt.split_last().ok_or("an empty prompt")?;
        let mut logits = Vec::new();
        for chunk in start.chunks(64) {
            self.forward(seq, chunk, &mut logits);
        }
        Ok((seq, logits, *last))
    }

    fn forward(&mut self, seq: foreword::batch::SeqId, tokens: &[u32], logits: &mut Vec<f32>) {
        let mut batch = Batch::new();
        batch.push_run(seq, tokens, true);
        pollster::block_on(self.model.forward(&batch, logits)).expect("a forward");
        self.model.kv_mut().commit_run(seq).expect("a commit");
    }
}

/// A sidecar of noise; its trunk is a layer, or two for one kind, so that sidecars of several trunks follow one another.
fn sidecar(name: &str, kind: SidecarKind) -> Vec<u8> {
    let n_layers = layers_of(&header(name, 1).0);
    let trunk = if kind == SidecarKind::Accepts && n_layers > 2 { 2 } else { 1 };
    let (_, all, mut metadata) = header(name, trunk);
    let mut out = streams(&all, trunk, (32.0, 1.0 / 32.0));
    out.extend((trunk..n_layers).flat_map(|l| maps(&all, l, l)));
    match kind {
        SidecarKind::Maps => {}
        SidecarKind::Own => {
            metadata.insert("foreword-sidecar.own_layers", Value::Unsigned(1));
            let own = noisy(layer(&all, trunk, trunk), 0.05);
            out.extend(own.into_iter().map(|t| (t.0.replace(&format!("blk.{trunk}."), "own.0."), t.1, t.2, t.3)));
        }
        SidecarKind::Drafts | SidecarKind::Accepts => {
            metadata.insert("foreword-sidecar.draft_layers", Value::Unsigned(1));
            out.extend(noisy(layer(&all, trunk, n_layers), 0.05));
        }
    }
    if kind == SidecarKind::Accepts {
        let tokens = (0..264).filter(|t| t % 3 != 1).collect();
        metadata.insert("foreword-sidecar.draft_tokens", Value::Integers(tokens));
        out.extend(acceptance(&all));
    }
    file(&metadata, &out)
}

fn acceptance(all: &[Owned]) -> Vec<Owned> {
    let dim = all.iter().find(|t| t.0 == "output_norm.weight").expect("a norm").2[0];
    let bytes = |values: Vec<f32>| values.into_iter().flat_map(f32::to_le_bytes).collect();
    let row = Random::new(3).floats(dim as usize);
    vec![
        ("accept.weight".into(), TensorType::F32, vec![dim, 1], bytes(row)),
        ("accept.bias".into(), TensorType::F32, vec![2], bytes(vec![0.0, 1.0])),
    ]
}
