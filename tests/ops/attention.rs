//! Rotary embedding, the cache and attention.

use super::common::random::{Form, Random, Sequence, Steps};
use super::{Named, Topic, backends, buf, check, float_operand, get, tolerance};
use foreword::backend::{
    Attend, BLOCK, Backend, CacheSpec, CacheType, CellShape, LayerCache, Plan, ReadCells, RopeAppend, RopePairs, Rows,
    Span, Temperature,
};

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
    norm_last: bool,
    /// Values are normed, too.
    norm_values: bool,
    /// Queries of a layer that keeps nothing are turned alone: once more.
    alone: bool,
    temperature: Option<Temperature>,
    ty: CacheType,
    window: Option<u32>,
    softcap: f32,
    /// Cells copied before the last attention.
    moves: Vec<(u32, u32)>,
    /// Tokens see all of their sequence, those behind them too.
    both_ways: bool,
    /// Positions are any numbers.
    free: bool,
    /// The window lies around its token.
    centered: bool,
    /// Each head has a score that stands for no position.
    sinks: bool,
    /// What is made passes a gate.
    gated: bool,
}

const PLAIN: Attention = Attention {
    sequences: Vec::new(),
    n_heads: 3,
    n_kv_heads: 1,
    head_dim: 64,
    rope_dim: 64,
    pairs: RopePairs::Adjacent,
    norms: false,
    norm_last: false,
    norm_values: false,
    alone: false,
    temperature: None,
    ty: CacheType::F32,
    window: None,
    softcap: 0.0,
    moves: Vec::new(),
    both_ways: false,
    free: false,
    centered: false,
    sinks: false,
    gated: false,
};

impl Attention {
    /// The rotated queries and what attention makes of them.
    async fn run(&self, b: &mut dyn Backend) -> Vec<f32> {
        let (n_heads, dim, kv_dim) = (self.n_heads, self.head_dim, self.n_kv_heads * self.head_dim);
        let mut random = Random::new(7);
        let mut steps = Steps::new(&mut random, &self.sequences);
        for plan in steps.fill.iter_mut().chain([&mut steps.step]).filter(|_| self.both_ways) {
            if self.free {
                plan.positions.iter_mut().for_each(|position| *position = random.below(3000) as u32);
            }
            see_all(plan);
        }
        let n = steps.rows;
        let shape = CellShape { n_kv_heads: self.n_kv_heads, head_dim: dim, ty: self.ty };
        // Layers of other shapes between, and one that attends to what the third keeps.
        let other = LayerCache::Paged(CellShape { n_kv_heads: 1, head_dim: 32, ty: CacheType::F32 });
        let layers = vec![LayerCache::Paged(shape), other, LayerCache::Paged(shape), LayerCache::SharedWith(2)];
        let cache = b.new_cache(&CacheSpec { layers, n_blocks: steps.n_blocks.max(1), n_slots: 0 }).unwrap();
        let freqs: Vec<f32> =
            (0..self.rope_dim / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / self.rope_dim as f32)).collect();
        let freqs = buf(b, self.rope_dim / 2, &freqs);
        let weights = random.floats(2 * dim);
        let norms = [0, 1].map(|i| self.norms.then(|| buf(b, dim, &weights[i * dim..][..dim])));
        let [q, k, v] = [n_heads * dim, kv_dim, kv_dim].map(|cols| (b.new_buf(n, cols).unwrap(), cols));
        let (out, reader) = float_operand(b, n, n_heads * dim);
        let rope = |q, layer| RopeAppend {
            q,
            kv: Some([k.0, v.0]),
            n_heads,
            norm_values: self.norm_values,
            q_norm: norms[0],
            k_norm: norms[1],
            eps: 1e-6,
            norm_last: self.norm_last,
            temperature: self.temperature,
            freqs,
            rope_dim: self.rope_dim,
            pairs: self.pairs,
            magnitude: 1.1,
            cache,
            layer,
        };
        for plan in steps.fill.iter().chain([&steps.step]) {
            let last = std::ptr::eq(plan, &steps.step);
            for layer in [0, 2] {
                for (buf, cols) in [q, k, v] {
                    b.write(buf, 0, &random.floats(plan.tokens.len() * cols)).unwrap();
                }
                b.begin(plan).unwrap();
                b.rope_append(&rope(last.then_some(q.0), layer));
            }
        }
        if self.alone {
            b.begin(&steps.step).unwrap();
            b.rope_append(&RopeAppend { kv: None, ..rope(Some(q.0), 3) });
        }
        if !self.moves.is_empty() {
            b.move_cells(cache, &self.moves);
        }
        let (softcap, window, centered) = (self.softcap, self.window, self.centered);
        let sinks = self.sinks.then(|| buf(b, n_heads, &Random::new(8).floats(n_heads)));
        let gate = self.gated.then(|| buf(b, q.1, &Random::new(9).floats(n * q.1)));
        let attend =
            Attend { q: q.0, cache, layer: 3, n_heads, scale: 0.125, softcap, window, centered, sinks, gate, out };
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

/// See [`Attention::both_ways`].
fn see_all(plan: &mut Plan) {
    for i in 0..plan.spans.len() {
        let same = plan.spans.iter().filter(|span| span.table == plan.spans[i].table);
        plan.spans[i].prefix = same.map(|span| span.prefix).max().unwrap_or(0);
    }
}

fn chain(past: usize, new: usize) -> Sequence {
    Sequence { past, new, form: Form::Chain }
}

fn tree(past: usize, new: usize) -> Sequence {
    Sequence { past, new, form: Form::Tree }
}

fn branches(past: usize, new: usize) -> Sequence {
    Sequence { past, new, form: Form::Branches }
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
            let sinks = Attention { sinks: true, n_heads: 6, ..window };
            sinks.check(&mut backends, &format!("batch {i} in a window with sinks")).await;
            let gated = Attention { gated: true, ..sinks };
            gated.check(&mut backends, &format!("batch {i} behind a gate")).await;
            let shared =
                Attention { norms: true, norm_values: true, alone: true, sequences: sequences.clone(), ty, ..PLAIN };
            shared.check(&mut backends, &format!("batch {i} with normed values, by a layer without keys")).await;
        }
    }
}

/// The window begins inside a branch, also in a later block than the branch does.
async fn attention_in_windows_smaller_than_a_branch() {
    let mut backends = backends(Topic::Other).await;
    for sequences in [vec![branches(31, 80)], vec![branches(0, 9)], vec![branches(40, 90), chain(5, 3)]] {
        for ty in [CacheType::F32, CacheType::F16, CacheType::Q8_0] {
            for window in [1, 4, 20] {
                let case = Attention { sequences: sequences.clone(), ty, window: Some(window), ..PLAIN };
                case.check(&mut backends, &format!("{sequences:?} in a window of {window}")).await;
            }
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
                if ty == CacheType::F16 {
                    let temperature = Some(Temperature { scale: 0.4, length: 5 });
                    let other = Attention { norm_last: true, temperature, ..case };
                    other.check(&mut backends, &format!("{pairs:?}, norms behind, growing queries")).await;
                }
            }
        }
    }
}

/// As in encoders, and where a token is a piece of an image.
async fn attention_in_both_directions_at_any_positions() {
    let mut backends = backends(Topic::Other).await;
    for sequences in [vec![chain(0, 9)], vec![chain(35, 1)], vec![chain(0, 7), chain(31, 40), chain(64, 2)]] {
        for (ty, pairs) in [(CacheType::F32, RopePairs::Halves), (CacheType::F16, RopePairs::Adjacent)] {
            let case = Attention { sequences: sequences.clone(), ty, pairs, both_ways: true, ..PLAIN };
            for window in [None, Some(20)] {
                let case = Attention { window, free: true, ..case.clone() };
                case.check(&mut backends, &format!("{sequences:?} in both directions, {window:?}")).await;
            }
            for window in [1, 6, 64] {
                let case = Attention { window: Some(window), centered: true, ..case.clone() };
                case.check(&mut backends, &format!("{sequences:?} in windows of {window} around tokens")).await;
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

/// Entries as they are read, once more after what was read was written to other cells, for which the cache has grown, and those
/// that stay when it shrinks.
async fn entries(b: &mut dyn Backend, shape: CellShape) -> [Vec<f32>; 3] {
    let (n, width) = (70, shape.n_kv_heads * shape.head_dim);
    let layers = vec![LayerCache::Paged(shape), LayerCache::SharedWith(0), LayerCache::Paged(shape)];
    let cache = b.new_cache(&CacheSpec { layers, n_blocks: 3, n_slots: 0 }).unwrap();
    let mut random = Random::new(3);
    let [k, v] = [random.floats(n * width), random.floats(n * width)].map(|values| buf(b, width, &values));
    let append = RopeAppend {
        q: None,
        kv: Some([k, v]),
        n_heads: shape.n_kv_heads,
        norm_values: false,
        q_norm: None,
        k_norm: None,
        eps: 0.0,
        norm_last: false,
        temperature: None,
        freqs: buf(b, 1, &[0.0]),
        rope_dim: 2,
        pairs: RopePairs::Adjacent,
        magnitude: 1.0,
        cache,
        layer: 2,
    };
    let mut seen = [Vec::new(), Vec::new(), Vec::new()];
    for (seen, (block, n_blocks, written)) in seen.iter_mut().zip([(0, 3, true), (3, 6, true), (0, 3, false)]) {
        let plan = cells_of(block, n);
        b.resize_cache(cache, n_blocks).unwrap();
        if written {
            b.begin(&plan).unwrap();
            b.rope_append(&append);
        }
        b.begin(&plan).unwrap();
        b.read_cells(&ReadCells { cache, layer: 2, k, v });
        *seen = get(b, k, n, width).await;
        seen.extend(get(b, v, n, width).await);
    }
    seen
}

/// `n` tokens of one sequence in cells from that of `block` on.
fn cells_of(block: u32, n: usize) -> Plan {
    let n = n as u32;
    let cells: Vec<u32> = (0..n).map(|i| block * BLOCK as u32 + i).collect();
    let spans = (0..n).map(|i| Span { table: 0, prefix: i + 1, extra: 0, n_extra: 0 }).collect();
    let blocks = (block..block + n.div_ceil(BLOCK as u32)).collect();
    Plan { tokens: vec![0; cells.len()], positions: (0..n).collect(), cells, spans, blocks, ..Plan::default() }
}

async fn entries_are_read_and_written_back_unchanged() {
    let mut backends = backends(Topic::Other).await;
    for ty in [CacheType::F32, CacheType::F16, CacheType::Q8_0] {
        for (n_kv_heads, head_dim) in [(1, 64), (3, 32), (2, 96)] {
            let shape = CellShape { n_kv_heads, head_dim, ty };
            let case = async |b: &mut dyn Backend| {
                let [first, again, kept] = entries(b, shape).await;
                assert!(first == again, "{shape:?}: other entries the second time");
                assert!(first == kept, "{shape:?}: other entries in a cache that has grown and shrunk");
                first
            };
            let bound = |_: usize, largest: f64| tolerance::attend(ty) * largest;
            check(&mut backends, &format!("entries, {shape:?}"), case, bound).await;
        }
    }
}

tests![
    attention_over_sequences_and_trees,
    attention_in_windows_smaller_than_a_branch,
    attention_of_all_shapes,
    attention_in_both_directions_at_any_positions,
    attention_after_moving_cells,
    entries_are_read_and_written_back_unchanged
];
