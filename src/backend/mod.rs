//! What a device must be able to do: the trait [`Backend`], fused ops at the grain of one kernel launch.
//!
//! Memory belongs to the backend; the code above holds small copyable handles. What was made for one file is a [`Scope`], and is
//! given back as one ([`Backend::release`]); a handle of it panics from then on, whatever takes its place. A step is [`Backend::begin`], a sequence
//! of ops, and [`send`](Backend::send) of the few numbers that the sampler needs. The CPU runs each op at once;
//! GPU backends record, submit once and map once. Shapes are checked above this trait (in `model/`); a backend reports
//! only what nobody could foresee: out of memory and device lost.
//!
//! All matrices are row-major, one row a token, f32 unless said otherwise.

use crate::error::{Error, Result};
use crate::quant::TensorType;
use crate::send::{BoxFuture, MaybeSend};
use std::ops::Range;
use std::task::{Context, Poll};

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "no_cuda.rs"]
mod cuda;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod gpu;
mod handles;
mod open;
mod ops;
mod scan;
mod trial;
#[cfg(feature = "wgpu")]
pub mod webgpu;
#[cfg(not(feature = "wgpu"))]
#[path = "no_webgpu.rs"]
mod webgpu;

pub use cpu::simd::Level;
pub use handles::{Buf, Cache, Operand, Scope, Weight};
pub use open::{Choice, Options, open};
pub use ops::{
    Activation, Attend, Before, ConvForm, Delta, Epilogue, Experts, Gate, GatedNorm, LinearAttend, MAX_EXPERTS,
    MAX_KEY_DIM, MAX_SELECTED, MAX_TAPS, Norm, NormWeights, Product, ReadCells, RopeAppend, RopePairs, Routing, Rows,
    Rule, Scores, Select, Shared, ShortConv, Stack, StateStep, Temperature,
};
pub use trial::trial;

/// Tokens in a block of the paged KV cache.
pub const BLOCK: usize = 32;

/// Number format of a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum CacheType {
    /// 32-bit floats.
    F32,
    /// Half floats.
    #[default]
    F16,
    /// 8-bit integers with a half-float scale for every 32 values of a head.
    Q8_0,
}

impl CacheType {
    /// Bytes that `n` values of one head take (`n` a multiple of 32 for [`CacheType::Q8_0`]).
    pub const fn bytes(self, n: usize) -> usize {
        match self {
            CacheType::F32 => n * 4,
            CacheType::F16 => n * 2,
            CacheType::Q8_0 => n + n / 32 * 2,
        }
    }
}

/// What one layer keeps of one token: a key and a value for each of `n_kv_heads` heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellShape {
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Number format.
    pub ty: CacheType,
}

impl CellShape {
    /// Bytes of a cell.
    pub const fn bytes(&self) -> usize {
        2 * self.n_kv_heads * self.ty.bytes(self.head_dim)
    }
}

/// What a layer keeps of the tokens that it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerCache {
    /// Keys and values of every token, in blocks of cells.
    Paged(CellShape),
    /// One state for a whole sequence, in a slot of so many floats.
    State {
        /// Floats of a slot.
        floats: usize,
    },
    /// Nothing: it attends to the keys and values of this earlier, paged layer.
    SharedWith(usize),
}

/// Shape of a [`Cache`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    /// What each layer keeps.
    pub layers: Vec<LayerCache>,
    /// Blocks of [`BLOCK`] cells that each paged layer has.
    pub n_blocks: usize,
    /// Slots that each layer with a state has.
    pub n_slots: usize,
}

impl CacheSpec {
    /// A cache of `n_layers` paged layers of one shape.
    pub fn paged(n_layers: usize, shape: CellShape, n_blocks: usize) -> Self {
        CacheSpec { layers: vec![LayerCache::Paged(shape); n_layers], n_blocks, n_slots: 0 }
    }

    /// Bytes of keys and values of one token over all layers.
    pub fn bytes_per_token(&self) -> usize {
        let bytes = |layer: &LayerCache| if let LayerCache::Paged(shape) = layer { shape.bytes() } else { 0 };
        self.layers.iter().map(bytes).fold(0, usize::saturating_add)
    }

    /// Bytes of the keys and values of each layer.
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    pub(crate) fn layer_bytes(&self) -> impl Iterator<Item = usize> {
        let bytes = |layer: &LayerCache| if let LayerCache::Paged(shape) = layer { shape.bytes() } else { 0 };
        self.layers.iter().map(move |layer| self.n_blocks.saturating_mul(BLOCK).saturating_mul(bytes(layer)))
    }

    /// Whether a layer keeps a state.
    pub fn has_states(&self) -> bool {
        self.layers.iter().any(|layer| matches!(layer, LayerCache::State { .. }))
    }

    /// For backends: shapes of the paged layers in order, and for every layer the index there of what it attends to; `usize::MAX`
    /// for one with a state.
    ///
    /// # Errors
    /// [`crate::Kind::Unsupported`] where a layer shares those of one that is not an earlier paged one.
    pub fn paged_layers(&self) -> Result<(Vec<CellShape>, Vec<usize>)> {
        let (mut shapes, mut index) = (Vec::new(), Vec::<usize>::new());
        for (i, layer) in self.layers.iter().enumerate() {
            match *layer {
                LayerCache::Paged(shape) => {
                    index.push(shapes.len());
                    shapes.push(shape);
                }
                LayerCache::State { .. } => index.push(usize::MAX),
                LayerCache::SharedWith(other) if other < i && index[other] != usize::MAX => index.push(index[other]),
                LayerCache::SharedWith(other) => {
                    return Err(Error::unsupported(format!("layer {i} cannot share the cache of layer {other}")));
                }
            }
        }
        Ok((shapes, index))
    }

    /// For backends: floats of the states of each layer, in all slots; 0 for layers without.
    pub fn state_floats(&self) -> impl Iterator<Item = usize> {
        self.layers.iter().map(|layer| match layer {
            LayerCache::State { floats } => self.n_slots.saturating_mul(*floats),
            _ => 0,
        })
    }
}

/// What a token of a [`Plan`] sees: the cells of positions `0..prefix` of its block table, then `extra` cells, whose
/// positions go on from `prefix`. Where attention is causal, the last visible cell is the token's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    /// Start of the sequence's block table in [`Plan::blocks`].
    pub table: u32,
    /// Visible positions that the block table covers.
    pub prefix: u32,
    /// Start in [`Plan::extras`].
    pub extra: u32,
    /// Number of cells in [`Plan::extras`]; 0 but for draft trees.
    pub n_extra: u32,
}

impl Span {
    /// Number of visible positions, the token's own included.
    pub fn len(&self) -> usize {
        (self.prefix + self.n_extra) as usize
    }

    /// Whether nothing is visible; never true for a token of a valid plan.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A batch resolved against the KV cache: where each token is written and what it sees. Made by [`crate::kv`].
/// A cell number is `block * BLOCK + slot`.
#[derive(Debug, Default)]
pub struct Plan {
    /// Vocabulary ids `[n]`, or rows of `chosen`.
    pub tokens: Vec<u32>,
    /// Set where only the device knows the tokens: what [`Select`] with `k = 1` made in the step before. `tokens` are rows of it
    /// then, and the column in each row is the token.
    pub chosen: Option<Buf>,
    /// Positions `[n]`, by which queries and keys are rotated. They need not be those of the cells: what a token sees, and where
    /// a window begins, is counted in the cells of its span.
    pub positions: Vec<u32>,
    /// Cell that receives the token's key and value `[n]`.
    pub cells: Vec<u32>,
    /// What each token sees `[n]`. Tokens of one sequence are adjacent and share `table`.
    pub spans: Vec<Span>,
    /// Block tables of the sequences, one behind the other.
    pub blocks: Vec<u32>,
    /// Cells of ancestors inside a draft tree, the root's first child first.
    pub extras: Vec<u32>,
    /// Rows whose logits are wanted, ascending.
    pub outputs: Vec<u32>,
    /// What is to be done to states, in this order, before the rows run.
    pub states: Vec<StateStep>,
    /// What lies before each token `[n]`; empty where layers keep no states.
    pub before: Vec<Before>,
}

impl Plan {
    /// The rows of an operand, and of what is made of it, for tokens of this plan.
    pub fn places(&self, rows: Rows) -> Range<usize> {
        match rows {
            Rows::All => 0..self.tokens.len(),
            Rows::Outputs => 0..self.outputs.len(),
            Rows::Run { start, end } => start as usize..end as usize,
        }
    }

    /// Empties the plan and keeps its memory.
    pub fn clear(&mut self) {
        let Plan { tokens, chosen, positions, cells, spans, blocks, extras, outputs, states, before } = self;
        *chosen = None;
        for list in [tokens, positions, cells, blocks, extras, outputs] {
            list.clear();
        }
        spans.clear();
        states.clear();
        before.clear();
    }
}

impl Clone for Plan {
    fn clone(&self) -> Self {
        let mut plan = Plan::default();
        plan.clone_from(self);
        plan
    }

    /// Keeps the vectors' memory, which the derived form does not: a decode step allocates nothing.
    fn clone_from(&mut self, source: &Self) {
        let Plan { tokens, chosen, positions, cells, spans, blocks, extras, outputs, states, before } = source;
        self.chosen = *chosen;
        self.tokens.clone_from(tokens);
        self.positions.clone_from(positions);
        self.cells.clone_from(cells);
        self.spans.clone_from(spans);
        self.blocks.clone_from(blocks);
        self.extras.clone_from(extras);
        self.outputs.clone_from(outputs);
        self.states.clone_from(states);
        self.before.clone_from(before);
    }
}

/// Rows of a matrix on their way to the host; see [`Backend::send`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// What is copied.
    pub src: Buf,
    /// Its rows.
    pub rows: Range<usize>,
    /// Tells it from others.
    pub number: u64,
}

/// What a backend runs on and how much memory it holds.
#[derive(Clone, Debug, Default)]
pub struct DeviceInfo {
    /// `"cpu"`, `"webgpu"` or `"cuda"`.
    pub backend: &'static str,
    /// Device and instruction set or driver, for people.
    pub device: String,
    /// Worker threads; 1 on a GPU.
    pub threads: usize,
}

/// Bytes held by a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Repacked weights.
    pub weights: usize,
    /// KV caches.
    pub cache: usize,
    /// Activations and scratch.
    pub buffers: usize,
}

/// Time and number of runs of one kernel; see [`Backend::kernel_times`].
#[derive(Clone, Debug)]
pub struct KernelTime {
    /// Its file in `shaders/`.
    pub kernel: &'static str,
    /// Time on the device.
    pub nanoseconds: f64,
    /// How often it ran.
    pub runs: u64,
}

/// What a model will ask of a backend, known before its tensors are there; see [`Backend::prepare`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Workload {
    /// Types of the matrices, that of the embeddings first.
    pub types: Vec<TensorType>,
    /// Forms of attention, each once: query heads, and what is kept of a token.
    pub attention: Vec<(usize, CellShape)>,
}

/// Finds out whether there is room; see [`Backend::room`].
pub type RoomFuture<'a> = BoxFuture<'a, Result<()>>;

/// What a GPU was asked to do since it was opened; zeros where ops run at once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Activity {
    /// Kernels run.
    pub dispatches: u64,
    /// Command buffers sent.
    pub submits: u64,
    /// Bytes read back.
    pub read_bytes: u64,
    /// Kernels compiled, those that are being compiled included.
    pub pipelines: u64,
    /// Milliseconds of compiling, mostly beside the loading of a model.
    pub compile_ms: f64,
}

/// Is told of products: the weights of those that read the same rows, the rows `[n, cols]`, and `cols`.
#[cfg(not(target_arch = "wasm32"))]
pub type Watch = Box<dyn FnMut(&[Product], &[f32], usize) + Send>;

/// A device that runs the ops of a transformer; see the module text.
pub trait Backend: MaybeSend {
    /// What this backend runs on.
    fn info(&self) -> DeviceInfo;

    /// Bytes held.
    fn memory(&self) -> MemoryUse;

    /// Time a kernel since the backend was opened; empty where it is not measured.
    fn kernel_times(&self) -> Vec<KernelTime> {
        Vec::new()
    }

    /// Fails with [`crate::Kind::OutOfMemory`] where so many bytes of weights, the cache when it has grown to its end, or a matrix
    /// of `largest` bytes cannot be had, before weights are loaded. Backends that can tell only by trying say nothing here.
    fn room(&mut self, weights: u64, cache: &CacheSpec, largest: usize) -> RoomFuture<'_> {
        _ = (weights, cache, largest);
        Box::pin(std::future::ready(Ok(())))
    }

    /// Begins to compile the kernels for a model, where that can go on beside its loading.
    fn prepare(&mut self, workload: &Workload) {
        _ = workload;
    }

    /// Called while bytes of the model are awaited: time to go on with what `prepare` began.
    fn idle(&mut self) {}

    /// What the device was asked to do.
    fn activity(&self) -> Activity {
        Activity::default()
    }

    /// Has `watch` told of every product from here on, but for those of experts.
    ///
    /// # Errors
    /// [`crate::Kind::Unsupported`] where the host does not see what products read: everywhere but on the CPU.
    #[cfg(not(target_arch = "wasm32"))]
    fn watch(&mut self, watch: Watch) -> Result<()> {
        drop(watch);
        Err(Error::unsupported("what products read can be seen on the CPU only; take the backend cpu"))
    }

    /// Begins a scope: the weights, matrices, operands and caches that are made from here on belong to it, until the next one
    /// begins or [`end_scope`](Self::end_scope).
    fn begin_scope(&mut self) -> Scope;

    /// Ends the scope that was begun last: what is made from here on belongs to [`Scope::default`].
    fn end_scope(&mut self);

    /// Gives back the memory of all that belongs to `scope`, also where making it went only half way; its handles must not be
    /// used any more, and panic. What was recorded with them runs first.
    fn release(&mut self, scope: Scope);

    /// Memory for a weight matrix; [`load_rows`](Self::load_rows) must fill all of it before it is used.
    fn new_weight(&mut self, ty: TensorType, rows: usize, cols: usize) -> Result<Weight>;

    /// Repacks whole rows in GGUF form. `first_row` is a multiple of 16, and so is the number of rows unless they are the
    /// last ones.
    fn load_rows(&mut self, weight: Weight, first_row: usize, bytes: &[u8]) -> Result<()>;

    /// A zeroed matrix.
    fn new_buf(&mut self, rows: usize, cols: usize) -> Result<Buf>;

    /// Overwrites rows from `first_row`.
    fn write(&mut self, buf: Buf, first_row: usize, data: &[f32]) -> Result<()>;

    /// An operand for products with `readers`; their types decide its form.
    fn new_operand(&mut self, rows: usize, cols: usize, readers: &[Weight]) -> Result<Operand>;

    /// A zeroed cache. Fails with [`crate::Kind::Unsupported`] for layers that the backend has no ops for.
    fn new_cache(&mut self, spec: &CacheSpec) -> Result<Cache>;

    /// Gives the paged layers of a cache so many blocks. What is in those that stay is kept; new ones are zeroed. What was recorded
    /// with the cache runs first. Where memory for it cannot be had, each layer still holds what it held.
    fn resize_cache(&mut self, cache: Cache, n_blocks: usize) -> Result<()>;

    /// Gives the layers of a cache that keep states so many slots; as for [`resize_cache`](Self::resize_cache), but new ones hold
    /// anything.
    fn resize_states(&mut self, cache: Cache, n_slots: usize) -> Result<()>;

    /// Begins a step over the tokens of `plan`; ops up to the next `begin` refer to it.
    fn begin(&mut self, plan: &Plan) -> Result<()>;

    /// `out[i] = scale * table[tokens[i]]`, or the token that [`Plan::chosen`] says.
    fn embed(&mut self, table: Weight, scale: f32, out: Buf);

    /// See [`Norm`].
    fn norm(&mut self, op: &Norm);

    /// Makes rows of a plain matrix `[n, cols]` the left side of products; a norm, gate or attention does that by itself.
    fn pack(&mut self, x: Buf, rows: Rows, out: Operand);

    /// Products of one operand with several weights. `rows` says which rows the operand holds.
    fn matmul(&mut self, x: Operand, rows: Rows, products: &[Product]);

    /// See [`RopeAppend`].
    fn rope_append(&mut self, op: &RopeAppend);

    /// See [`Attend`].
    fn attend(&mut self, op: &Attend);

    /// See [`ShortConv`].
    fn short_conv(&mut self, op: &ShortConv);

    /// See [`LinearAttend`].
    fn linear_attend(&mut self, op: &LinearAttend);

    /// See [`GatedNorm`].
    fn gated_norm(&mut self, op: &GatedNorm);

    /// See [`Gate`].
    fn gate(&mut self, op: &Gate);

    /// See [`Experts`].
    fn experts(&mut self, op: &Experts);

    /// See [`Select`].
    fn select(&mut self, op: &Select);

    /// See [`ReadCells`].
    fn read_cells(&mut self, op: &ReadCells);

    /// Copies cells of all layers, in order: `(from, to)`.
    fn move_cells(&mut self, cache: Cache, moves: &[(u32, u32)]);

    /// Whether a step may be recorded and sent while results of the one before are on their way: two at a time. Where ops run at
    /// once there is nothing to gain.
    fn runs_ahead(&self) -> bool {
        false
    }

    /// Submits what was recorded and has rows of `src` copied for the host behind it, to be had by
    /// [`poll_sent`](Self::poll_sent). Two copies are kept until they are fetched; a third takes the place of the oldest. A backend
    /// that does not [run ahead](Self::runs_ahead) may copy only in `poll_sent`, so no op may come in between.
    fn send(&mut self, src: Buf, rows: Range<usize>) -> Sent;

    /// Copies what was sent to `dst` once it is there. Poll until ready.
    fn poll_sent(&mut self, cx: &mut Context<'_>, sent: &Sent, dst: &mut [f32]) -> Poll<Result<()>>;
}

/// Waits for what was sent; see [`Backend::send`].
///
/// # Errors
/// [`crate::Kind::DeviceLost`], [`crate::Kind::OutOfMemory`].
pub(crate) async fn receive(backend: &mut dyn Backend, sent: &Sent, dst: &mut [f32]) -> Result<()> {
    std::future::poll_fn(|cx| backend.poll_sent(cx, sent, dst)).await
}

/// Reads the first `n` rows of `src`.
///
/// # Errors
/// [`crate::Kind::DeviceLost`], [`crate::Kind::OutOfMemory`].
pub async fn read(backend: &mut dyn Backend, src: Buf, n: usize, dst: &mut [f32]) -> Result<()> {
    let sent = backend.send(src, 0..n);
    receive(backend, &sent, dst).await
}
