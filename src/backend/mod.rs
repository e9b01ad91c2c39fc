//! What a device must be able to do: the trait [`Backend`], fused ops at the grain of one kernel launch.
//!
//! Memory belongs to the backend; the code above holds small copyable handles. A step is [`Backend::begin`], a sequence
//! of ops, and [`send`](Backend::send) of the few numbers that the sampler needs. The CPU runs each op at once;
//! GPU backends record, submit once and map once. Shapes are checked above this trait (in `model/`); a backend reports
//! only what nobody could foresee: out of memory and device lost.
//!
//! All matrices are row-major, one row a token, f32 unless said otherwise.

use crate::error::Result;
use crate::quant::TensorType;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "no_cuda.rs"]
mod cuda;
mod open;
mod trial;
#[cfg(feature = "wgpu")]
pub mod webgpu;
#[cfg(not(feature = "wgpu"))]
#[path = "no_webgpu.rs"]
mod webgpu;

pub use open::{Choice, open};
pub use trial::trial;

/// Tokens in a block of the paged KV cache.
pub const BLOCK: usize = 32;

/// An f32 matrix `[rows, cols]` in the backend's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buf(pub u32);

/// The left side of a matrix product, `[rows, cols]`, in the form that the backend's kernels read: on the CPU, 8-bit
/// integers with a scale for every 32 values, plain f32 for float weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand(pub u32);

/// A weight matrix `[rows, cols]` (`rows` outputs, `cols` inputs), repacked, still quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight(pub u32);

/// Paged keys and values of all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache(pub u32);

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

/// Shape of a [`Cache`]: `n_blocks` blocks of [`BLOCK`] cells; a cell holds keys and values `[n_kv_heads, head_dim]` of
/// every layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Transformer layers.
    pub n_layers: usize,
    /// Key/value heads of a layer.
    pub n_kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Number format.
    pub ty: CacheType,
    /// Blocks of [`BLOCK`] tokens.
    pub n_blocks: usize,
}

impl CacheShape {
    /// Bytes of keys and values of one token over all layers.
    pub const fn bytes_per_token(&self) -> usize {
        2 * self.n_layers * self.n_kv_heads * self.ty.bytes(self.head_dim)
    }
}

/// What a token of a [`Plan`] sees: the cells of positions `0..prefix` of its block table, then `extra` cells, whose
/// positions go on from `prefix`. The last visible cell is the token's own.
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
    /// Where set, what [`Select`] made with `k = 1` in the step before: the tokens are the columns in these rows, known on the
    /// device only.
    pub chosen: Option<Buf>,
    /// Positions `[n]`; always `spans[i].len() - 1`.
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
}

impl Plan {
    /// Empties the plan and keeps its memory.
    pub fn clear(&mut self) {
        let Plan { tokens, chosen, positions, cells, spans, blocks, extras, outputs } = self;
        *chosen = None;
        for list in [tokens, positions, cells, blocks, extras, outputs] {
            list.clear();
        }
        spans.clear();
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
        let Plan { tokens, chosen, positions, cells, spans, blocks, extras, outputs } = source;
        self.chosen = *chosen;
        self.tokens.clone_from(tokens);
        self.positions.clone_from(positions);
        self.cells.clone_from(cells);
        self.spans.clone_from(spans);
        self.blocks.clone_from(blocks);
        self.extras.clone_from(extras);
        self.outputs.clone_from(outputs);
    }
}

/// Which rows of the step an op covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Every token of the plan.
    All,
    /// Only [`Plan::outputs`]; the result's rows are compacted.
    Outputs,
}

/// Something to add to the residual stream before a norm.
#[derive(Clone, Copy, Debug)]
pub struct Delta {
    /// `[n, dim]`.
    pub buf: Buf,
    /// Weights `[dim]` of an RMS norm applied to `buf` first (post-norm models).
    pub norm: Option<Buf>,
    /// Factor applied after the norm.
    pub scale: f32,
}

/// RMS norm of the residual stream: `x += delta; out = x / rms(x) * weight`.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Residual stream `[n, dim]`, updated by `delta`.
    pub x: Buf,
    /// Added first.
    pub delta: Option<Delta>,
    /// Weights `[dim]`.
    pub weight: Buf,
    /// Added to the mean square.
    pub eps: f32,
    /// Receives the normalised rows.
    pub out: Operand,
    /// Rows covered.
    pub rows: Rows,
}

/// One product of [`Backend::matmul`]: `out = f(operand · weightᵀ)`.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// `[rows, cols]`.
    pub weight: Weight,
    /// `[n, rows]`.
    pub out: Buf,
    /// What happens to a result before it is stored.
    pub epilogue: Epilogue,
}

/// `y = scale * product + bias; y = softcap * tanh(y / softcap); out = accumulate ? out + y : y`.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue {
    /// Factor on the product.
    pub scale: f32,
    /// `[rows]`.
    pub bias: Option<Buf>,
    /// 0 for none.
    pub softcap: f32,
    /// Add to what `out` holds.
    pub accumulate: bool,
}

impl Epilogue {
    /// Stores the plain product.
    pub const STORE: Epilogue = Epilogue { scale: 1.0, bias: None, softcap: 0.0, accumulate: false };
}

/// How rotary embedding pairs up the dimensions of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// `(0, 1), (2, 3), …` (ggml "norm": llama).
    Adjacent,
    /// `(0, d/2), (1, d/2 + 1), …` (ggml "neox": qwen, gemma, phi).
    Halves,
}

/// RMS norm of each query and key head, rotary embedding, and writing of keys and values into the cache at
/// [`Plan::cells`].
#[derive(Clone, Copy, Debug)]
pub struct RopeAppend {
    /// `[n, n_heads * head_dim]`, rotated in place; `None` when only the cache is filled (KV prediction).
    pub q: Option<Buf>,
    /// `[n, n_kv_heads * head_dim]`, before rotary embedding.
    pub k: Buf,
    /// `[n, n_kv_heads * head_dim]`.
    pub v: Buf,
    /// Query heads.
    pub n_heads: usize,
    /// Weights `[head_dim]` of the query norm.
    pub q_norm: Option<Buf>,
    /// Weights `[head_dim]` of the key norm.
    pub k_norm: Option<Buf>,
    /// Of the norms.
    pub eps: f32,
    /// Angle a position `[rope_dim / 2]`; the dimensions of a head behind `rope_dim` are not rotated.
    pub freqs: Buf,
    /// Rotated dimensions of a head.
    pub rope_dim: usize,
    /// Pairing.
    pub pairs: RopePairs,
    /// Factor on sine and cosine (YaRN, LongRoPE).
    pub magnitude: f32,
    /// Receives keys and values; its shape gives `n_kv_heads` and `head_dim`.
    pub cache: Cache,
    /// Layer of the cache.
    pub layer: usize,
}

/// Attention of each token's queries over what its [`Span`] shows.
#[derive(Clone, Copy, Debug)]
pub struct Attend {
    /// `[n, n_heads * head_dim]`, rotated.
    pub q: Buf,
    /// Keys and values.
    pub cache: Cache,
    /// Layer of the cache.
    pub layer: usize,
    /// Query heads; a multiple of the cache's key/value heads.
    pub n_heads: usize,
    /// Factor on the dot products.
    pub scale: f32,
    /// `softcap * tanh(score / softcap)`; 0 for none.
    pub softcap: f32,
    /// Only the last `window` positions, the token's own included.
    pub window: Option<u32>,
    /// Receives `[n, n_heads * head_dim]`.
    pub out: Operand,
}

/// Activation of a gated feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Φ(x)` in the tanh approximation.
    GeluTanh,
}

/// `out = activation(gate) * up`.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// `[n, dim]`.
    pub gate: Buf,
    /// `[n, dim]`.
    pub up: Buf,
    /// On `gate`.
    pub activation: Activation,
    /// Receives `[n, dim]`.
    pub out: Operand,
}

/// The largest logits of every output row: all that choosing a token mostly needs, in a hundredth of the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Select {
    /// `[n_outputs, n_vocab]`.
    pub logits: Buf,
    /// Receives `[n_outputs, 2 k + 1]`, `k` from 1 to [`MAX_SELECTED`] and at most `n_vocab`: the `k` largest logits, from
    /// the largest down and equal ones by their columns; their columns; the sum of `exp(logit - largest)` over the row.
    pub out: Buf,
    /// Whether the sum is wanted; it may be anything otherwise.
    pub sum: bool,
}

/// Most logits that [`Select`] takes of a row.
pub const MAX_SELECTED: usize = 256;

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
pub struct Workload {
    /// Types of the matrices, that of the embeddings first.
    pub types: Vec<TensorType>,
    /// Its KV cache.
    pub cache: CacheShape,
    /// Query heads.
    pub n_heads: usize,
}

/// Whether there is room; see [`Backend::room`].
pub type Room<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

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

/// A device that runs the ops of a transformer; see the module text.
pub trait Backend {
    /// What this backend runs on.
    fn info(&self) -> DeviceInfo;

    /// Bytes held.
    fn memory(&self) -> MemoryUse;

    /// Time a kernel since the backend was opened; empty where it is not measured.
    fn kernel_times(&self) -> Vec<KernelTime> {
        Vec::new()
    }

    /// Fails with [`crate::Kind::OutOfMemory`] where `bytes` of weights, or a matrix of `largest` bytes, cannot be had, before
    /// they are loaded. Backends that can tell only by trying say nothing here.
    fn room(&mut self, bytes: u64, largest: usize) -> Room<'_> {
        _ = (bytes, largest);
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

    /// A zeroed cache.
    fn new_cache(&mut self, shape: CacheShape) -> Result<Cache>;

    /// Begins a step over the tokens of `plan`; ops up to the next `begin` refer to it.
    fn begin(&mut self, plan: &Plan) -> Result<()>;

    /// `out[i] = scale * table[tokens[i]]`, or the token that [`Plan::chosen`] says.
    fn embed(&mut self, table: Weight, scale: f32, out: Buf);

    /// See [`Norm`].
    fn norm(&mut self, op: &Norm);

    /// Products of one operand with several weights. `rows` says how many rows the operand holds.
    fn matmul(&mut self, x: Operand, rows: Rows, products: &[Product]);

    /// See [`RopeAppend`].
    fn rope_append(&mut self, op: &RopeAppend);

    /// See [`Attend`].
    fn attend(&mut self, op: &Attend);

    /// See [`Gate`].
    fn gate(&mut self, op: &Gate);

    /// See [`Select`].
    fn select(&mut self, op: &Select);

    /// Copies cells of all layers, in order: `(from, to)`.
    fn move_cells(&mut self, cache: Cache, moves: &[(u32, u32)]);

    /// Whether a step may be recorded and sent while results of the one before are on their way: two at a time. Where ops run at
    /// once there is nothing to gain.
    fn runs_ahead(&self) -> bool {
        false
    }

    /// Submits what was recorded and has rows of `src` copied for the host behind it, to be had by
    /// [`poll_sent`](Self::poll_sent). Of more than two copies that nobody fetched, the oldest is given up. A backend that does
    /// not [run ahead](Self::runs_ahead) may do all of that in `poll_sent`, so nothing else is to be asked of it before.
    fn send(&mut self, src: Buf, rows: Range<usize>) -> Sent;

    /// Copies what was sent to `dst` once it is there. Poll until ready.
    fn poll_sent(&mut self, cx: &mut Context<'_>, sent: &Sent, dst: &mut [f32]) -> Poll<Result<()>>;
}

/// Waits for what was sent; see [`Backend::send`].
///
/// # Errors
/// [`crate::Kind::DeviceLost`], [`crate::Kind::OutOfMemory`].
pub async fn receive(backend: &mut dyn Backend, sent: &Sent, dst: &mut [f32]) -> Result<()> {
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
