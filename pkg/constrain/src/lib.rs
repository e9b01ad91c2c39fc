//! What an answer has to look like: JSON schemas, Lark grammars and regular expressions, by llguidance.
//!
//! A [`Vocabulary`] is made once for a model and compiles a [`Source`] into a [`Grammar`], which says which tokens may come
//! next. Natively, `compiler` makes rules of them for `foreword::sample::Rule`; in the browser this crate is a `.wasm` of its
//! own, which knows nothing of the core.

mod course;
mod formats;
mod grammar;
mod guard;
mod locate;
mod product;
#[cfg(not(target_arch = "wasm32"))]
mod rule;
mod vocabulary;
#[cfg(target_arch = "wasm32")]
mod web;

pub use grammar::Grammar;
#[cfg(not(target_arch = "wasm32"))]
pub use rule::compiler;
pub use vocabulary::{Source, Tokenize, Vocabulary};
