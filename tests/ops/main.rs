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
mod products;
mod rows;

use common::reference::Reference;
use foreword::backend::cpu::{Cpu, simd::Level};
use foreword::backend::{Backend, Buf, CacheType, Epilogue, Operand, Product, Rows, Weight, read};
use foreword::quant::TensorType;

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
async fn backends() -> Vec<(String, Box<dyn Backend>)> {
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
    webgpu(&mut all).await;
    all
}

/// The GPU as it is used by default, as the WebGPU defaults guarantee it (bindings are made so small there that the larger
/// weights take several), and with all that a real one would use, half floats included, where the adapter has them.
#[cfg(feature = "wgpu")]
async fn webgpu(all: &mut Vec<(String, Box<dyn Backend>)>) {
    use foreword::backend::webgpu::{Floats, Options, WebGpu};
    let real = Options { is_processor: Some(false), ..Options::default() };
    let plain = Options { subgroups: false, half_floats: false, max_binding: Some(2 << 20), ..real.clone() };
    for (name, options) in [("webgpu", Options::default()), ("webgpu, plain", plain), ("webgpu, real", real)] {
        let gpu = WebGpu::open(&options).await.expect("an adapter; ./test installs a software one");
        let name = format!("{name}, {}", gpu.info().device);
        if name.contains("real") && gpu.floats() == Floats::F32 {
            println!("{name}: half floats are not tested, the adapter has none");
        }
        all.push((name, Box::new(gpu)));
    }
}

#[cfg(not(feature = "wgpu"))]
async fn webgpu(_: &mut Vec<(String, Box<dyn Backend>)>) {}

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
async fn check(
    backends: &mut [(String, Box<dyn Backend>)],
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
