//! Every op of every backend against the naive 64-bit definition in `common/reference.rs`, on ragged shapes.

mod common;

use common::random::{Random, Sequence, Steps, rows};
use common::reference::Reference;
use foreword::backend::cpu::{Cpu, simd::Level};
use foreword::backend::{
    Activation, Attend, Backend, Buf, CacheShape, CacheType, Delta, Epilogue, Gate, Norm, Operand, Plan, Product,
    RopeAppend, RopePairs, Rows, read,
};
use foreword::quant::{TensorType, decode};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// What an op may be off by.
mod tolerance {
    use super::CacheType;

    /// Ops in 32-bit floats, relative to the largest result of the case.
    pub(super) const FLOAT: f64 = 1e-4;
    /// Rounding of scales to half floats, relative to the largest weight of a row.
    pub(super) const SCALES: f64 = 1e-3;
    /// Half a step of activations quantized to 8 bits, relative to the largest of 32 values.
    pub(super) const ACTIVATIONS: f64 = 0.5 / 127.0;

    /// Attention: a value on the border between two codes of the cache may fall to either side.
    pub(super) fn attend(ty: CacheType) -> f64 {
        match ty {
            CacheType::F32 => FLOAT,
            CacheType::F16 => 1e-3,
            CacheType::Q8_0 => 1e-2,
        }
    }
}

/// Every backend and variant that can run here.
fn backends() -> Vec<(String, Box<dyn Backend>)> {
    let mut all: Vec<(String, Box<dyn Backend>)> = Vec::new();
    cuda(&mut all);
    if common::only_cuda() {
        return all;
    }
    for level in Level::available() {
        for threads in [1, 3] {
            all.push((format!("{} x{threads}", level.name()), Box::new(Cpu::with_level(threads, level))));
        }
    }
    webgpu(&mut all);
    all
}

/// The GPU with everything that it offers, and as the WebGPU defaults guarantee it.
#[cfg(feature = "wgpu")]
fn webgpu(all: &mut Vec<(String, Box<dyn Backend>)>) {
    use foreword::backend::webgpu::{Options, WebGpu};
    let plain = Options { subgroups: false, large_bindings: false, is_processor: Some(false), ..Options::default() };
    for (name, options) in [("webgpu", Options::default()), ("webgpu, plain", plain)] {
        let gpu = pollster::block_on(WebGpu::open(&options)).expect("an adapter; ./test installs a software one");
        all.push((format!("{name}, {}", gpu.info().device), Box::new(gpu)));
    }
}

#[cfg(not(feature = "wgpu"))]
fn webgpu(_: &mut Vec<(String, Box<dyn Backend>)>) {}

/// The GPU with and without matrix instructions.
#[cfg(feature = "cuda")]
fn cuda(all: &mut Vec<(String, Box<dyn Backend>)>) {
    for matrix_instructions in [true, false] {
        let options = foreword::backend::cuda::Options { matrix_instructions, ..Default::default() };
        if let Some(gpu) = common::cuda::open(&options) {
            all.push((format!("cuda, {}", gpu.info().device), Box::new(gpu)));
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Vec<(String, Box<dyn Backend>)>) {}

/// Runs `case` on every backend and on the reference; `bound(i, largest)` is what result `i` may be off by, where `largest`
/// is the largest result of the case.
fn check(
    backends: &mut [(String, Box<dyn Backend>)],
    what: &str,
    case: impl Fn(&mut dyn Backend) -> Vec<f32>,
    bound: impl Fn(usize, f64) -> f64,
) {
    let wanted = case(&mut Reference::default());
    let largest = wanted.iter().fold(0.0, |m: f64, v| m.max(f64::from(v.abs())));
    for (name, backend) in backends {
        let got = case(&mut **backend);
        assert_eq!(got.len(), wanted.len(), "{name}, {what}");
        for (i, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
            let (diff, bound) = (f64::from((got - wanted).abs()), bound(i, largest));
            assert!(diff <= bound, "{name}, {what}: {got} for {wanted} at {i}, {diff:e} > {bound:e}");
        }
    }
}

fn float_bound(_: usize, largest: f64) -> f64 {
    tolerance::FLOAT * largest + 1e-6
}

fn buf(b: &mut dyn Backend, cols: usize, data: &[f32]) -> Buf {
    let buf = b.new_buf(data.len() / cols, cols).unwrap();
    b.write(buf, 0, data).unwrap();
    buf
}

fn get(b: &mut dyn Backend, src: Buf, n: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; n * cols];
    pollster::block_on(read(b, src, n, &mut out)).unwrap();
    out
}

/// An operand in plain floats, and a function that reads it: the product with the identity.
fn float_operand(
    b: &mut dyn Backend,
    n: usize,
    cols: usize,
) -> (Operand, impl Fn(&mut dyn Backend, Rows, usize) -> Vec<f32> + use<>) {
    let mut identity = vec![0u8; cols * cols * 4];
    (0..cols).for_each(|i| identity[(i * cols + i) * 4..][..4].copy_from_slice(&1f32.to_le_bytes()));
    let weight = b.new_weight(TensorType::F32, cols, cols).unwrap();
    b.load_rows(weight, 0, &identity).unwrap();
    let operand = b.new_operand(n, cols, &[weight]).unwrap();
    let out = b.new_buf(n, cols).unwrap();
    let reader = move |b: &mut dyn Backend, rows: Rows, n: usize| {
        b.matmul(operand, rows, &[Product { weight, out, epilogue: Epilogue::STORE }]);
        get(b, out, n, cols)
    };
    (operand, reader)
}

/// Rows divided by their root mean square, as a norm with weights of one makes them.
fn normalised(x: &[f32], cols: usize) -> Vec<f64> {
    let rms = |row: &[f32]| (row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / cols as f64).sqrt();
    x.chunks(cols).flat_map(|row| row.iter().map(move |&v| f64::from(v) / rms(row))).collect()
}

/// Bound on `weight · x` when `x` is quantized: per 32 columns, the largest `|x|` times the sum of `|w|`.
fn product_bounds(ty: TensorType, decoded: &[f32], x: &[f64], cols: usize) -> Vec<f64> {
    let relative = if ty.is_float() { 1e-5 } else { tolerance::ACTIVATIONS + tolerance::SCALES };
    let bound = |x: &[f64], w: &[f32]| -> f64 {
        let groups = x.chunks(32).zip(w.chunks(32));
        let sum: f64 = groups
            .map(|(x, w)| {
                x.iter().fold(0.0, |m: f64, v| m.max(v.abs())) * w.iter().map(|w| f64::from(w.abs())).sum::<f64>()
            })
            .sum();
        sum * relative + 1e-5
    };
    x.chunks(cols).flat_map(|x| decoded.chunks(cols).map(move |w| bound(x, w))).collect()
}

struct Shape {
    ty: TensorType,
    rows: usize,
    cols: usize,
    n: usize,
}

/// Norm with weights of one, then a product.
fn matmul_case(
    backends: &mut [(String, Box<dyn Backend>)],
    shape: &Shape,
    epilogue: &dyn Fn(&mut dyn Backend) -> Epilogue,
) {
    let &Shape { ty, rows: n_rows, cols, n } = shape;
    let mut random = Random::new((n_rows * 31 + cols * 7 + n) as u64);
    let bytes = random.weights(ty, n_rows * cols);
    let (x, before) = (random.floats(n * cols), random.floats(n * n_rows));
    let mut decoded = vec![0.0; n_rows * cols];
    decode(ty, &bytes, &mut decoded).unwrap();
    let bounds = product_bounds(ty, &decoded, &normalised(&x, cols), cols);
    let case = |b: &mut dyn Backend| {
        let weight = b.new_weight(ty, n_rows, cols).unwrap();
        // In two parts, the second one ragged.
        let cut = (n_rows / 2).next_multiple_of(16).min(n_rows);
        let (first, second) = bytes.split_at(ty.row_bytes(cut * cols).unwrap());
        b.load_rows(weight, 0, first).unwrap();
        if !second.is_empty() {
            b.load_rows(weight, cut, second).unwrap();
        }
        let (x, ones, out) = (buf(b, cols, &x), buf(b, cols, &vec![1.0; cols]), buf(b, n_rows, &before));
        let operand = b.new_operand(n, cols, &[weight]).unwrap();
        let epilogue = epilogue(b);
        b.begin(&rows(n)).unwrap();
        b.norm(&Norm { x, delta: None, weight: ones, eps: 0.0, out: operand, rows: Rows::All });
        b.matmul(operand, Rows::All, &[Product { weight, out, epilogue }]);
        get(b, out, n, n_rows)
    };
    // Factors of the epilogues below are at most 1, and a soft-cap only flattens.
    check(backends, &format!("matmul {ty:?} [{n_rows}, {cols}] x {n}"), case, |i, _| bounds[i]);
}

#[test]
fn matmul_of_every_type() {
    let mut backends = backends();
    for &ty in TensorType::ALL {
        for (n_rows, cols, n) in [
            (1, 32, 1),
            (17, 96, 2),
            (16, 256, 1),
            (37, 256, 3),
            (70, 576, 7),
            (64, 512, 33),
            (130, 768, 100),
            (49, 64, 16),
        ] {
            if cols % ty.block_len() == 0 {
                matmul_case(&mut backends, &Shape { ty, rows: n_rows, cols, n }, &|_| Epilogue::STORE);
            }
        }
    }
    for (n_rows, cols, n) in [(5, 7, 1), (33, 50, 3), (65, 33, 40)] {
        for ty in [TensorType::F32, TensorType::F16, TensorType::BF16] {
            matmul_case(&mut backends, &Shape { ty, rows: n_rows, cols, n }, &|_| Epilogue::STORE);
        }
    }
}

#[test]
fn matmul_epilogues() {
    let mut backends = backends();
    for n in [1, 3, 40] {
        for i in 0..16 {
            let shape = Shape { ty: [TensorType::Q4_1, TensorType::F32][i % 2], rows: 50, cols: 96, n };
            matmul_case(&mut backends, &shape, &move |b| Epilogue {
                scale: if i & 8 == 0 { 1.0 } else { -0.7 },
                bias: (i & 1 == 0).then(|| buf(b, 50, &Random::new(5).floats(50))),
                softcap: if i & 2 == 0 { 0.0 } else { 0.8 },
                accumulate: i & 4 == 0,
            });
        }
    }
}

#[test]
fn matmul_of_several_weights() {
    let mut backends = backends();
    let types = [TensorType::Q4_0, TensorType::Q4_0, TensorType::Q6_K, TensorType::Q8_0, TensorType::Q4_0];
    let (sizes, cols) = ([48, 16, 33, 5, 100], 256);
    for n in [1, 7, 50] {
        let mut random = Random::new(n as u64);
        let x = random.floats(n * cols);
        let bytes: Vec<Vec<u8>> = types.iter().zip(sizes).map(|(&ty, rows)| random.weights(ty, rows * cols)).collect();
        let scaled = normalised(&x, cols);
        let mut bounds = Vec::new();
        for ((&ty, rows), bytes) in types.iter().zip(sizes).zip(&bytes) {
            let mut decoded = vec![0.0; rows * cols];
            decode(ty, bytes, &mut decoded).unwrap();
            bounds.extend(product_bounds(ty, &decoded, &scaled, cols));
        }
        let case = |b: &mut dyn Backend| {
            let mut weights = Vec::new();
            for ((&ty, rows), bytes) in types.iter().zip(sizes).zip(&bytes) {
                let weight = b.new_weight(ty, rows, cols).unwrap();
                b.load_rows(weight, 0, bytes).unwrap();
                weights.push(weight);
            }
            let (x, ones) = (buf(b, cols, &x), buf(b, cols, &vec![1.0; cols]));
            let operand = b.new_operand(n, cols, &weights).unwrap();
            let product =
                |(&weight, rows)| Product { weight, out: b.new_buf(n, rows).unwrap(), epilogue: Epilogue::STORE };
            let products: Vec<Product> = weights.iter().zip(sizes).map(product).collect();
            b.begin(&rows(n)).unwrap();
            b.norm(&Norm { x, delta: None, weight: ones, eps: 0.0, out: operand, rows: Rows::All });
            b.matmul(operand, Rows::All, &products);
            products.iter().zip(sizes).flat_map(|(p, rows)| get(b, p.out, n, rows)).collect()
        };
        check(&mut backends, &format!("matmul of five weights x {n}"), case, |i, _| bounds[i]);
    }
}

#[test]
fn embed_of_every_type() {
    let mut backends = backends();
    for &ty in TensorType::ALL {
        for (n_rows, cols, n) in [(40, 256, 1), (100, 768, 9)] {
            let mut random = Random::new(n as u64);
            let bytes = random.weights(ty, n_rows * cols);
            let tokens: Vec<u32> = (0..n).map(|_| random.below(n_rows) as u32).collect();
            let case = |b: &mut dyn Backend| {
                let table = b.new_weight(ty, n_rows, cols).unwrap();
                b.load_rows(table, 0, &bytes).unwrap();
                let out = b.new_buf(n, cols).unwrap();
                b.begin(&Plan { tokens: tokens.clone(), ..rows(n) }).unwrap();
                b.embed(table, 1.5, out);
                get(b, out, n, cols)
            };
            check(&mut backends, &format!("embed {ty:?}"), case, |_, largest| tolerance::SCALES * largest + 1e-6);
        }
    }
}

#[test]
fn norm_of_all_forms() {
    let mut backends = backends();
    for (n, dim) in [(1, 32), (3, 96), (16, 256), (7, 576), (33, 50)] {
        for form in 0..6 {
            let mut random = Random::new((n + dim + form) as u64);
            let (x, delta) = (random.floats(n * dim), random.floats(n * dim));
            let (weight, post) = (random.floats(dim), random.floats(dim));
            let outputs: Vec<u32> = (0..n as u32).filter(|_| random.below(2) == 0).chain([n as u32 - 1]).collect();
            let plan = Plan {
                outputs: {
                    let mut o = outputs;
                    o.dedup();
                    o
                },
                ..rows(n)
            };
            let covered = if form % 2 == 0 { Rows::All } else { Rows::Outputs };
            let case = |b: &mut dyn Backend| {
                let (xb, weight) = (buf(b, dim, &x), buf(b, dim, &weight));
                let (delta, norm) = (buf(b, dim, &delta), buf(b, dim, &post));
                let delta = match form / 2 {
                    0 => None,
                    1 => Some(Delta { buf: delta, norm: None, scale: 0.3 }),
                    _ => Some(Delta { buf: delta, norm: Some(norm), scale: -1.2 }),
                };
                let (out, reader) = float_operand(b, n, dim);
                b.begin(&plan).unwrap();
                b.norm(&Norm { x: xb, delta, weight, eps: 1e-5, out, rows: covered });
                let n_out = if covered == Rows::All { n } else { plan.outputs.len() };
                let mut got = reader(b, covered, n_out);
                got.extend(get(b, xb, n, dim));
                got
            };
            check(&mut backends, &format!("norm [{n}, {dim}], form {form}"), case, float_bound);
        }
    }
}

#[test]
fn gate_with_both_activations() {
    let mut backends = backends();
    for (n, dim) in [(1, 32), (3, 96), (33, 257), (2, 1536)] {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let mut random = Random::new((n + dim) as u64);
            let gate: Vec<f32> = random.floats(n * dim).iter().map(|v| v * 12.0).collect();
            let up = random.floats(n * dim);
            let case = |b: &mut dyn Backend| {
                let (gate, up) = (buf(b, dim, &gate), buf(b, dim, &up));
                let (out, reader) = float_operand(b, n, dim);
                b.begin(&rows(n)).unwrap();
                b.gate(&Gate { gate, up, activation, out });
                reader(b, Rows::All, n)
            };
            check(&mut backends, &format!("{activation:?} [{n}, {dim}]"), case, float_bound);
        }
    }
}

/// Attention over a cache that rope_append filled.
#[derive(Clone)]
struct Attention {
    sequences: Vec<Sequence>,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    rope_dim: usize,
    pairs: RopePairs,
    norms: bool,
    ty: CacheType,
    window: Option<u32>,
    softcap: f32,
    /// Cells copied before the last attention.
    moves: Vec<(u32, u32)>,
}

const PLAIN: Attention = Attention {
    sequences: Vec::new(),
    n_heads: 3,
    n_kv_heads: 1,
    head_dim: 64,
    rope_dim: 64,
    pairs: RopePairs::Adjacent,
    norms: false,
    ty: CacheType::F32,
    window: None,
    softcap: 0.0,
    moves: Vec::new(),
};

impl Attention {
    /// The rotated queries and what attention makes of them.
    fn run(&self, b: &mut dyn Backend) -> Vec<f32> {
        let (n_heads, dim, kv_dim) = (self.n_heads, self.head_dim, self.n_kv_heads * self.head_dim);
        let mut random = Random::new(7);
        let steps = Steps::new(&mut random, &self.sequences);
        let n = steps.rows;
        let shape = CacheShape {
            n_layers: 2,
            n_kv_heads: self.n_kv_heads,
            head_dim: dim,
            ty: self.ty,
            n_blocks: steps.n_blocks.max(1),
        };
        let cache = b.new_cache(shape).unwrap();
        let freqs: Vec<f32> =
            (0..self.rope_dim / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / self.rope_dim as f32)).collect();
        let freqs = buf(b, self.rope_dim / 2, &freqs);
        let weights = random.floats(2 * dim);
        let norms = [0, 1].map(|i| self.norms.then(|| buf(b, dim, &weights[i * dim..][..dim])));
        let [q, k, v] = [n_heads * dim, kv_dim, kv_dim].map(|cols| (b.new_buf(n, cols).unwrap(), cols));
        let (out, reader) = float_operand(b, n, n_heads * dim);
        let rope = |q, layer| RopeAppend {
            q,
            k: k.0,
            v: v.0,
            n_heads,
            q_norm: norms[0],
            k_norm: norms[1],
            eps: 1e-6,
            freqs,
            rope_dim: self.rope_dim,
            pairs: self.pairs,
            magnitude: 1.1,
            cache,
            layer,
        };
        for plan in steps.fill.iter().chain([&steps.step]) {
            let last = std::ptr::eq(plan, &steps.step);
            for layer in 0..2 {
                for (buf, cols) in [q, k, v] {
                    b.write(buf, 0, &random.floats(plan.tokens.len() * cols)).unwrap();
                }
                b.begin(plan).unwrap();
                b.rope_append(&rope(last.then_some(q.0), layer));
            }
        }
        if !self.moves.is_empty() {
            b.move_cells(cache, &self.moves);
        }
        let attend =
            Attend { q: q.0, cache, layer: 1, n_heads, scale: 0.125, softcap: self.softcap, window: self.window, out };
        b.begin(&steps.step).unwrap();
        b.attend(&attend);
        let n = steps.step.tokens.len();
        let mut got = reader(b, Rows::All, n);
        let other = reader;
        b.begin(&steps.step).unwrap();
        b.attend(&Attend { layer: 0, ..attend });
        got.extend(other(b, Rows::All, n));
        got.extend(get(b, q.0, n, q.1));
        got
    }

    fn check(&self, backends: &mut [(String, Box<dyn Backend>)], what: &str) {
        let what = format!("{what}, {:?}, {} x {}", self.ty, self.n_heads, self.head_dim);
        check(backends, &what, |b| self.run(b), |_, largest| tolerance::attend(self.ty) * largest);
    }
}

fn chain(past: usize, new: usize) -> Sequence {
    Sequence { past, new, tree: false }
}

fn tree(past: usize, new: usize) -> Sequence {
    Sequence { past, new, tree: true }
}

#[test]
fn attention_over_sequences_and_trees() {
    let mut backends = backends();
    let batches = [
        vec![chain(0, 1)],
        vec![chain(0, 33)],
        vec![chain(300, 1)],
        vec![chain(70, 40)],
        vec![tree(45, 12)],
        vec![tree(0, 32)],
        vec![chain(0, 7), chain(31, 1), tree(64, 9), chain(130, 20), tree(3, 70)],
    ];
    for (i, sequences) in batches.into_iter().enumerate() {
        for ty in [CacheType::F32, CacheType::F16, CacheType::Q8_0] {
            let case = Attention { sequences: sequences.clone(), ty, ..PLAIN };
            case.check(&mut backends, &format!("batch {i}"));
            let window = Attention { window: Some(20), softcap: 2.0, n_heads: 4, n_kv_heads: 2, ..case };
            window.check(&mut backends, &format!("batch {i} in a window"));
        }
    }
}

#[test]
fn attention_of_all_shapes() {
    let mut backends = backends();
    let heads = [(1, 1, 32, 32), (8, 8, 64, 64), (6, 2, 96, 96), (4, 1, 256, 256), (9, 3, 80, 32), (5, 1, 128, 64)];
    for (n_heads, n_kv_heads, head_dim, rope_dim) in heads {
        for pairs in [RopePairs::Adjacent, RopePairs::Halves] {
            for ty in [CacheType::F32, CacheType::F16, CacheType::Q8_0] {
                if ty == CacheType::Q8_0 && head_dim % 32 != 0 {
                    continue;
                }
                let sequences = vec![chain(35, 4), tree(20, 6)];
                let norms = pairs == RopePairs::Halves;
                let case = Attention { sequences, n_heads, n_kv_heads, head_dim, rope_dim, pairs, norms, ty, ..PLAIN };
                case.check(&mut backends, &format!("{pairs:?}"));
            }
        }
    }
}

#[test]
fn attention_after_moving_cells() {
    let mut backends = backends();
    for ty in [CacheType::F32, CacheType::F16, CacheType::Q8_0] {
        let moves = vec![(40, 3), (41, 40), (70, 41), (3, 64)];
        let case = Attention { sequences: vec![chain(90, 3)], n_heads: 4, n_kv_heads: 2, moves, ty, ..PLAIN };
        case.check(&mut backends, "moved cells");
    }
}
