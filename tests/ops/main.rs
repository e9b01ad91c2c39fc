//! Every op of every backend against the naive 64-bit definition in `common/reference.rs`, on ragged shapes.
//!
//! Tests are async functions, as a browser cannot wait for its GPU; `pkg/test/core.test.mjs` runs them there.

#[path = "../common/mod.rs"]
mod common;

/// Makes tests of async functions.
macro_rules! tests {
    ($($name:ident),*) => {
        mod tests {
            $(
                #[cfg(not(target_arch = "wasm32"))]
                #[test]
                fn $name() {
                    pollster::block_on(super::$name());
                }

                #[cfg(target_arch = "wasm32")]
                #[wasm_bindgen_test::wasm_bindgen_test]
                async fn $name() {
                    super::$name().await;
                }
            )*
        }
    };
}

mod attention;
mod experts;
mod products;
mod rows;
mod scopes;
mod states;

use common::reference::Reference;
use foreword::backend::cpu::{Cpu, simd::Level};
use foreword::backend::{Backend, Buf, CacheType, Epilogue, Operand, Product, Rows, Weight, read};
use foreword::quant::TensorType;
use std::ops::{Deref, DerefMut};

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

type Named = (String, Box<dyn Backend>);

/// What a test is about: variants of a backend that have the same kernels for it are tested once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Topic {
    /// `norm` and `rope_append`, which sum over the threads of a workgroup.
    Lanes,
    /// All other ops.
    Other,
}

/// The backends of a test.
struct Backends {
    all: Vec<Named>,
    /// The GPU as it is used where it is a processor comes first, if there is WebGPU.
    n_software: usize,
    /// Those behind are WebGPU's as real GPUs use it.
    n_before_gpus: usize,
    /// Those behind differ from others by their lanes only.
    n_distinct: usize,
    topic: Topic,
}

impl Backends {
    /// WebGPU's kernels decode a type by one function, and have one form for all types: a few types see every form. The others
    /// see none of those for processors, which take software GPUs up to 15 seconds to compile, and real GPUs' only `if in_gpus`.
    fn of_type(&mut self, ty: TensorType, in_gpus: bool) -> &mut [Named] {
        match ty {
            TensorType::F16 | TensorType::Q4_1 | TensorType::Q6_K | TensorType::IQ4_XS => self,
            _ if in_gpus => &mut self.all[self.n_software..self.n_distinct],
            _ => &mut self.all[self.n_software..self.n_before_gpus],
        }
    }
}

impl Deref for Backends {
    type Target = [Named];

    fn deref(&self) -> &[Named] {
        let n = if self.topic == Topic::Lanes { self.all.len() } else { self.n_distinct };
        &self.all[..n]
    }
}

impl DerefMut for Backends {
    fn deref_mut(&mut self) -> &mut [Named] {
        let n = self.len();
        &mut self.all[..n]
    }
}

/// In a browser tests run one behind the other, and a kernel takes a second to compile: the next test has the same backends.
#[cfg(target_arch = "wasm32")]
mod kept {
    use super::{Backends, Named, Topic};
    use std::cell::Cell;

    thread_local!(static KEPT: Cell<Option<Backends>> = const { Cell::new(None) });

    pub(super) fn take(topic: Topic) -> Option<Backends> {
        KEPT.take().map(|mut kept| {
            kept.topic = topic;
            kept
        })
    }

    impl Drop for Backends {
        fn drop(&mut self) {
            if !self.all.is_empty() {
                KEPT.set(Some(Backends { all: std::mem::take(&mut self.all), ..*self }));
            }
        }
    }
}

/// Every backend and variant that can run here.
async fn backends(topic: Topic) -> Backends {
    #[cfg(target_arch = "wasm32")]
    if let Some(kept) = kept::take(topic) {
        return kept;
    }
    let mut all = Vec::new();
    cuda(&mut all);
    if common::only_cuda() {
        let n = all.len();
        return Backends { all, n_software: 0, n_before_gpus: n, n_distinct: n, topic };
    }
    for level in Level::available() {
        for threads in [1, 3] {
            all.push((format!("{} x{threads}", level.name()), Box::new(Cpu::with_level(threads, level))));
        }
    }
    let n_others = all.len();
    let n_distinct = webgpu(&mut all).await;
    let n_software = usize::from(cfg!(feature = "wgpu"));
    Backends { all, n_software, n_before_gpus: n_software + n_others, n_distinct, topic }
}

/// The GPU as it is used by default, as the WebGPU defaults guarantee it (bindings are made so small there that the larger
/// weights take several), and with all that a real one would use, half floats included, where the adapter has them. How many of
/// all differ by more than their lanes.
#[cfg(feature = "wgpu")]
async fn webgpu(all: &mut Vec<Named>) -> usize {
    use foreword::backend::webgpu::{Floats, Options, WebGpu};
    let real = Options { is_processor: Some(false), ..Options::default() };
    let plain = Options { subgroups: false, half_floats: false, max_binding: Some(2 << 20), ..real.clone() };
    let mut has_half_floats = false;
    for (name, options) in [("webgpu", Options::default()), ("webgpu, plain", plain), ("webgpu, real", real)] {
        let gpu = WebGpu::open(&options).await.expect("an adapter; ./test installs a software one");
        has_half_floats = gpu.floats() == Floats::F16;
        let at = if name == "webgpu" { 0 } else { all.len() };
        all.insert(at, (format!("{name}, {}", gpu.info().device), Box::new(gpu)));
    }
    if !has_half_floats {
        println!("half floats are not tested, the adapter has none");
    }
    all.len() - usize::from(!has_half_floats)
}

#[cfg(not(feature = "wgpu"))]
async fn webgpu(all: &mut [Named]) -> usize {
    all.len()
}

/// The GPU with and without matrix instructions.
#[cfg(feature = "cuda")]
fn cuda(all: &mut Vec<Named>) {
    for matrix_instructions in [true, false] {
        let options = foreword::backend::cuda::Options { matrix_instructions, ..Default::default() };
        if let Some(gpu) = common::cuda::open(&options) {
            all.push((format!("cuda, {}", gpu.info().device), Box::new(gpu)));
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Vec<Named>) {}

/// Runs `case` on every backend and on the reference; `bound(i, largest)` is what result `i` may be off by, where `largest`
/// is the largest result of the case.
async fn check(
    backends: &mut [Named],
    what: &str,
    case: impl AsyncFn(&mut dyn Backend) -> Vec<f32>,
    bound: impl Fn(usize, f64) -> f64,
) {
    let wanted = case(&mut Reference::default()).await;
    let largest = wanted.iter().fold(0.0, |m: f64, v| m.max(f64::from(v.abs())));
    for (name, backend) in backends {
        let got = case(&mut **backend).await;
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

async fn get(b: &mut dyn Backend, src: Buf, n: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; n * cols];
    read(b, src, n, &mut out).await.unwrap();
    out
}

/// Reads an operand in plain floats: the product with the identity.
struct FloatReader {
    operand: Operand,
    identity: Weight,
    out: Buf,
    cols: usize,
}

/// An operand in plain floats, and what reads it.
fn float_operand(b: &mut dyn Backend, n: usize, cols: usize) -> (Operand, FloatReader) {
    let mut ones = vec![0u8; cols * cols * 4];
    (0..cols).for_each(|i| ones[(i * cols + i) * 4..][..4].copy_from_slice(&1f32.to_le_bytes()));
    let identity = b.new_weight(TensorType::F32, cols, cols).unwrap();
    b.load_rows(identity, 0, &ones).unwrap();
    let operand = b.new_operand(n, cols, &[identity]).unwrap();
    let out = b.new_buf(n, cols).unwrap();
    (operand, FloatReader { operand, identity, out, cols })
}

impl FloatReader {
    async fn read(&self, b: &mut dyn Backend, rows: Rows, n: usize) -> Vec<f32> {
        b.matmul(self.operand, rows, &[Product { weight: self.identity, out: self.out, epilogue: Epilogue::STORE }]);
        get(b, self.out, n, self.cols).await
    }
}
