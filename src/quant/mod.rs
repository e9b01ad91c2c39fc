//! Tensor types of GGUF files: block geometry and decoding.
//!
//! [`TensorType`] is the table of types that Foreword reads. Kernels do not work on these blocks: loading repacks them
//! into the few layouts of `layout.rs`.

mod types;

pub use types::TensorType;
