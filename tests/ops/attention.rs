//! Rotary embedding, the cache and attention.

use super::common::random::{Random, Sequence, Steps};
use super::{Named, Topic, backends, buf, check, float_operand, get, tolerance};
use foreword::backend::{Attend, Backend, CacheShape, CacheType, RopeAppend, RopePairs, Rows};

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
    async fn run(&self, b: &mut dyn Backend) -> Vec<f32> {
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
        let mut got = reader.read(b, Rows::All, n).await;
        b.begin(&steps.step).unwrap();
        b.attend(&Attend { layer: 0, ..attend });
        got.extend(reader.read(b, Rows::All, n).await);
        got.extend(get(b, q.0, n, q.1).await);
        got
    }

    async fn check(&self, backends: &mut [Named], what: &str) {
        let what = format!("{what}, {:?}, {} x {}", self.ty, self.n_heads, self.head_dim);
        check(
            backends,
            &what,
            async |b: &mut dyn Backend| self.run(b).await,
            |_, largest| tolerance::attend(self.ty) * largest,
        )
        .await;
    }
}

fn chain(past: usize, new: usize) -> Sequence {
    Sequence { past, new, tree: false }
}

fn tree(past: usize, new: usize) -> Sequence {
    Sequence { past, new, tree: true }
}

async fn attention_over_sequences_and_trees() {
    let mut backends = backends(Topic::Other).await;
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
            case.check(&mut backends, &format!("batch {i}")).await;
            let window = Attention { window: Some(20), softcap: 2.0, n_heads: 4, n_kv_heads: 2, ..case };
            window.check(&mut backends, &format!("batch {i} in a window")).await;
        }
    }
}

async fn attention_of_all_shapes() {
    let mut backends = backends(Topic::Lanes).await;
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
                case.check(&mut backends, &format!("{pairs:?}")).await;
            }
        }
    }
}

async fn attention_after_moving_cells() {
    let mut backends = backends(Topic::Other).await;
    for ty in [CacheType::F32, CacheType::F16, CacheType::Q8_0] {
        let moves = vec![(40, 3), (41, 40), (70, 41), (3, 64)];
        let case = Attention { sequences: vec![chain(90, 3)], n_heads: 4, n_kv_heads: 2, moves, ty, ..PLAIN };
        case.check(&mut backends, "moved cells").await;
    }
}

tests![attention_over_sequences_and_trees, attention_of_all_shapes, attention_after_moving_cells];
