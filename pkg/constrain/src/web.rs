//! The same for JavaScript. The core calls it through the page's worker, which holds both.

use crate::{Source, Vocabulary as Inner};
use js_sys::{Function, Uint32Array};
use std::cell::RefCell;
use wasm_bindgen::prelude::*;

thread_local! {
    /// The tokenizer of the worker's one model.
    static TOKENIZE: RefCell<Option<Function>> = const { RefCell::new(None) };
}

fn tokenize(text: &str) -> Vec<u32> {
    let call =
        |f: &Option<Function>| f.as_ref()?.call1(&JsValue::NULL, &text.into()).ok()?.dyn_into::<Uint32Array>().ok();
    TOKENIZE.with_borrow(call).map_or_else(Vec::new, |tokens| tokens.to_vec())
}

/// The tokens of a model.
#[wasm_bindgen]
pub struct Vocabulary(Inner);

/// A grammar and the answer so far.
#[wasm_bindgen]
pub struct Grammar(crate::Grammar);

#[wasm_bindgen]
impl Vocabulary {
    /// `bytes` of all tokens behind each other, their `lengths` (negative for those that are never text), those that end an answer, and
    /// a function of texts that gives a `Uint32Array`. One at a time.
    #[wasm_bindgen(constructor)]
    pub fn new(bytes: &[u8], lengths: &[i32], ends: &[u32], tokenize_by: Function) -> Result<Vocabulary, String> {
        let mut rest = bytes;
        let mut tokens = Vec::with_capacity(lengths.len());
        for length in lengths {
            let (token, more) = rest.split_at_checked(length.unsigned_abs() as usize).ok_or("bytes are missing")?;
            tokens.push(token.to_vec());
            rest = more;
        }
        TOKENIZE.set(Some(tokenize_by));
        let is_control = |id: u32| lengths[id as usize] < 0;
        Inner::new(tokens, is_control, ends, Box::new(tokenize)).map(Vocabulary)
    }

    /// Compiles a grammar: JSON with `schema`, `lark` or `regex`.
    pub fn compile(&self, source: &str) -> Result<Grammar, String> {
        let source: Source = serde_json::from_str(source).map_err(|e| e.to_string())?;
        self.0.compile(&source).map(Grammar)
    }
}

#[wasm_bindgen]
impl Grammar {
    /// See [`crate::Grammar::mask`].
    pub fn mask(&mut self, ahead: &[u32]) -> Vec<u32> {
        self.0.mask(ahead)
    }

    /// See [`crate::Grammar::accept`].
    pub fn accept(&mut self, token: u32) {
        self.0.accept(token);
    }

    /// See [`crate::Grammar::forced`].
    pub fn forced(&mut self) -> Vec<u32> {
        self.0.forced()
    }

    /// See [`crate::Grammar::conclude`].
    pub fn conclude(&mut self) {
        self.0.conclude();
    }

    /// See [`crate::Grammar::failure`].
    pub fn failure(&self) -> Option<String> {
        self.0.failure()
    }

    /// Another one, which goes its own way.
    pub fn copy(&self) -> Grammar {
        Grammar(self.0.clone())
    }
}
