//! What Miri runs beside `tests/pool.rs`, at sizes that an interpreter can take: the scalar level's kernels on two threads,
//! the KV cache and the parsers. `./test` says how it is called.

#[path = "common/random.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with tests that need more of it")]
mod random;

use foreword::backend::cpu::{Cpu, simd::Level};
use foreword::backend::{
    Attend, Backend, Buf, CacheSpec, CacheType, CellShape, Epilogue, Norm, NormWeights, Plan, Product, RopeAppend,
    RopePairs, Rows, read,
};
use foreword::batch::{Batch, BatchToken};
use foreword::chat::{ChatTemplate, Message};
use foreword::gguf::source::{BytesSource, Source};
use foreword::gguf::{Gguf, write};
use foreword::kv::KvCache;
use foreword::quant::{TensorType, decode};
use foreword::tokenizer::{Detokenizer, Tokenizer};
use pollster::block_on;
use random::{Form, Random, Sequence, Steps, rows};

fn cpu() -> Cpu {
    Cpu::with_level(2, Level::Scalar)
}

fn buf(b: &mut Cpu, cols: usize, data: &[f32]) -> Buf {
    let buf = b.new_buf(data.len() / cols, cols).expect("memory");
    b.write(buf, 0, data).expect("a fit");
    buf
}

fn open(bytes: &[u8]) -> foreword::Result<(Gguf, Vec<Box<dyn Source>>)> {
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(BytesSource(bytes.to_vec()))];
    let gguf = block_on(Gguf::read(&mut sources))?;
    Ok((gguf, sources))
}

#[test]
fn products_of_every_type() {
    let (n, n_rows) = (1, 3);
    // Larger blocks take Miri minutes.
    for &ty in TensorType::ALL.iter().filter(|ty| !cfg!(miri) || ty.block_len() <= 32) {
        let cols = ty.block_len().max(32);
        let mut random = Random::new(5);
        let (bytes, x) = (random.weights(ty, n_rows * cols), random.floats(n * cols));
        let mut weights = vec![0.0; n_rows * cols];
        decode(ty, &bytes, &mut weights).expect("whole blocks");
        let mut b = cpu();
        let weight = b.new_weight(ty, n_rows, cols).expect("memory");
        b.load_rows(weight, 0, &bytes).expect("whole rows");
        let (stream, norm) = (buf(&mut b, cols, &x), buf(&mut b, cols, &vec![1.0; cols]));
        let out = b.new_buf(n, n_rows).expect("memory");
        let operand = b.new_operand(n, cols, &[weight]).expect("memory");
        b.begin(&rows(n)).expect("a plan");
        b.norm(&Norm {
            x: stream,
            delta: None,
            norm: Some(NormWeights::rms(norm)),
            eps: 0.0,
            out: Some(operand),
            rows: Rows::All,
        });
        b.matmul(operand, Rows::All, &[Product { weight, out, epilogue: Epilogue::STORE }]);
        let mut got = vec![0.0; n * n_rows];
        block_on(read(&mut b, out, n, &mut got)).expect("a result");
        for (row, x) in x.chunks(cols).enumerate() {
            let scale = (x.iter().map(|v| v * v).sum::<f32>() / cols as f32).sqrt();
            for (column, weights) in weights.chunks(cols).enumerate() {
                let wanted: f32 = x.iter().zip(weights).map(|(x, w)| x / scale * w).sum();
                let size: f32 = x.iter().zip(weights).map(|(x, w)| (x / scale * w).abs()).sum();
                let got = got[row * n_rows + column];
                assert!((got - wanted).abs() <= 0.02 * size + 1e-4, "{}: {got} for {wanted}", ty.name());
            }
        }
    }
}

/// Entries of the cache are written, moved, and seen from a tree. All values are 1, and so is any mean of them.
#[test]
fn attention_from_a_tree() {
    let all = [(CacheType::F32, 8), (CacheType::F16, 32), (CacheType::Q8_0, 32)];
    for (ty, head_dim) in all.into_iter().take(if cfg!(miri) { 1 } else { 3 }) {
        let n_heads = 2;
        let mut random = Random::new(9);
        let Steps { fill, step, n_blocks, rows } =
            Steps::new(&mut random, &[Sequence { past: 1, new: 3, form: Form::Branches }]);
        let mut b = cpu();
        let shape = CellShape { n_kv_heads: 1, head_dim, ty };
        let cache = b.new_cache(&CacheSpec::paged(1, shape, n_blocks)).expect("memory");
        let freqs = buf(&mut b, head_dim / 2, &vec![0.5; head_dim / 2]);
        let q = buf(&mut b, n_heads * head_dim, &random.floats(rows * n_heads * head_dim));
        let k = buf(&mut b, head_dim, &random.floats(rows * head_dim));
        let v = buf(&mut b, head_dim, &vec![1.0; rows * head_dim]);
        let ones: Vec<u8> = vec![1f32; n_heads * head_dim].iter().flat_map(|v| v.to_le_bytes()).collect();
        let sum = b.new_weight(TensorType::F32, 1, n_heads * head_dim).expect("memory");
        b.load_rows(sum, 0, &ones).expect("a row");
        let operand = b.new_operand(rows, n_heads * head_dim, &[sum]).expect("memory");
        let out = b.new_buf(rows, 1).expect("memory");
        for plan in fill.iter().chain([&step]) {
            b.begin(plan).expect("a plan");
            let (pairs, layer) = (RopePairs::Halves, 0);
            let (q_norm, k_norm, eps, magnitude) = (None, None, 1e-6, 1.0);
            let (q, rope_dim) = (Some(q), head_dim);
            b.rope_append(&RopeAppend {
                q,
                kv: Some([k, v]),
                n_heads,
                norm_values: false,
                q_norm,
                k_norm,
                eps,
                norm_last: false,
                temperature: None,
                freqs,
                rope_dim,
                pairs,
                magnitude,
                cache,
                layer,
            });
        }
        b.move_cells(cache, &[(1, 0)]);
        let attend = Attend {
            q,
            cache,
            layer: 0,
            n_heads,
            scale: 0.2,
            softcap: 0.0,
            window: Some(2),
            centered: false,
            sinks: None,
            gate: None,
            out: operand,
        };
        b.attend(&attend);
        b.matmul(operand, Rows::All, &[Product { weight: sum, out, epilogue: Epilogue::STORE }]);
        let mut got = vec![0.0; step.tokens.len()];
        block_on(read(&mut b, out, got.len(), &mut got)).expect("a result");
        let wanted = (n_heads * head_dim) as f32;
        assert!(got.iter().all(|sum| (sum - wanted).abs() < 0.1), "{ty:?}: {got:?} for {wanted}");
    }
}

/// Sequences that come and go, fork, grow by trees and are cut: no block is lost, or counted twice.
#[test]
fn sequences_of_the_cache_come_and_go() {
    let shape = CellShape { n_kv_heads: 1, head_dim: 32, ty: CacheType::F16 };
    let mut b = cpu();
    let mut kv = KvCache::new(&mut b, CacheSpec::paged(1, shape, 12)).expect("memory");
    let (mut plan, mut batch, mut random) = (Plan::default(), Batch::new(), Random::new(11));
    let mut open = Vec::new();
    for _ in 0..if cfg!(miri) { 50 } else { 5_000 } {
        let seq = (!open.is_empty()).then(|| open[random.below(open.len())]);
        match (random.below(8), seq) {
            (0, _) | (_, None) => open.push(kv.new_seq()),
            (1, Some(seq)) => open.push(kv.fork(seq, random.below(kv.len(seq) + 1)).expect("a shorter one")),
            (2, Some(seq)) => drop(kv.truncate(seq, random.below(kv.len(seq) + 1)).expect("a known one")),
            (3, Some(seq)) => {
                kv.free(seq);
                open.retain(|&other| other != seq);
            }
            (_, Some(seq)) => {
                batch.clear();
                let n = 1 + random.below(40);
                for i in 0..n {
                    let parent = random.below(i + 1).checked_sub(1).map(|p| p as u32);
                    batch.push(BatchToken { token: 0, seq, parent, output: false });
                }
                let before = (kv.len(seq), kv.free_blocks());
                if kv.plan(&mut b, &batch, &mut plan).is_err() {
                    assert_eq!((kv.len(seq), kv.free_blocks()), before, "a refused plan changes nothing");
                    continue;
                }
                // The path to a random token.
                let mut path = vec![random.below(n) as u32];
                while let Some(parent) = batch.tokens()[path[0] as usize].parent {
                    path.insert(0, parent);
                }
                kv.commit(&mut b, seq, &path).expect("a path");
                assert_eq!(kv.len(seq), before.0 + path.len());
            }
        }
        let mut held: Vec<u32> = open.iter().flat_map(|&seq| kv.blocks(seq)).copied().collect();
        assert!(held.iter().all(|&block| kv.holders(block) as usize == held.iter().filter(|&&h| h == block).count()));
        held.sort_unstable();
        held.dedup();
        assert_eq!(held.len() + kv.free_blocks(), kv.spec().n_blocks);
    }
}

/// Files of the fuzzer, whole, cut, and with a byte changed.
#[test]
fn headers_are_read_or_refused() {
    let files: [&[u8]; 4] = [
        include_bytes!("fuzz/seeds/gguf/aligned"),
        include_bytes!("fuzz/seeds/gguf/empty"),
        include_bytes!("fuzz/seeds/gguf/types"),
        include_bytes!("fuzz/seeds/gguf/values"),
    ];
    let mut random = Random::new(2);
    for file in files {
        let (gguf, _) = open(file).expect("a sound file");
        for tensor in &gguf.tensors {
            let mut values = vec![0.0; tensor.dims.iter().product::<u64>() as usize];
            let data = &file[tensor.offset as usize..][..tensor.n_bytes as usize];
            decode(tensor.ty, data, &mut values).expect("whole blocks");
        }
        let (again, _) = open(&write::to_bytes(&gguf.metadata, &[]).expect("an alignment")).expect("what was written");
        assert_eq!(again.metadata.len(), gguf.metadata.len());
        for _ in 0..if cfg!(miri) { 3 } else { 2_000 } {
            let _ = open(&file[..random.below(file.len())]);
            let mut changed = file.to_vec();
            changed[random.below(file.len())] = random.bits() as u8;
            let _ = open(&changed);
        }
    }
}

#[test]
fn tokenizers_and_templates_of_files() {
    let files: [&[u8]; 2] =
        [include_bytes!("fuzz/seeds/tokenizer/bpe"), include_bytes!("fuzz/seeds/tokenizer/no_bytes")];
    for file in files {
        let (gguf, _) = open(file).expect("a sound file");
        let tokenizer = Tokenizer::from_gguf(&gguf.metadata).expect("a sound vocabulary");
        for text in ["", " the and then\n<|im_end|>é\u{1f600}", "\u{2581} 12345\r\n\t\0\u{fffd}"] {
            let ids = tokenizer.encode(text, true);
            let (mut streamed, mut detokenizer) = (String::new(), Detokenizer::new(false));
            ids.iter().for_each(|&id| streamed.push_str(&detokenizer.push(&tokenizer, id)));
            streamed.push_str(&detokenizer.finish());
            assert_eq!(streamed, tokenizer.decode(&ids));
        }
    }
    let json =
        r#"[{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, {"role": "user", "content": "é"}]"#;
    let messages: Vec<Message> = serde_json::from_str(json).expect("messages");
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    let text = ChatTemplate::new(source, "<s>", "</s>").expect("a template").render(&messages, None, true);
    assert_eq!(text.expect("a text"), "<system>Be brief.<user>é");
}
