//! What an answer has to look like, by a `.wasm` of its own that the page's worker loads with the first request that needs it.

use foreword::sample::{Compiler, Constraint, Effect, LogitsMut, Rule};
use foreword::tokenizer::Tokenizer;
use foreword::{Error, Result};
use js_sys::{Function, Reflect, Uint32Array};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    /// Of `foreword-constrain`.
    #[derive(Debug)]
    type Vocabulary;
    #[wasm_bindgen(method, catch, structural)]
    fn compile(this: &Vocabulary, source: &str) -> std::result::Result<Grammar, JsValue>;

    /// Of `foreword-constrain`.
    #[derive(Debug)]
    type Grammar;
    #[wasm_bindgen(method, catch, structural)]
    fn mask(this: &Grammar, ahead: &[u32]) -> std::result::Result<Vec<u32>, JsValue>;
    #[wasm_bindgen(method, catch, structural)]
    fn accept(this: &Grammar, token: u32) -> std::result::Result<(), JsValue>;
    #[wasm_bindgen(method, catch, structural)]
    fn forced(this: &Grammar) -> std::result::Result<Vec<u32>, JsValue>;
    #[wasm_bindgen(method, catch, structural)]
    fn conclude(this: &Grammar) -> std::result::Result<(), JsValue>;
    #[wasm_bindgen(method, catch, structural)]
    fn failure(this: &Grammar) -> std::result::Result<Option<String>, JsValue>;
    #[wasm_bindgen(method, catch, structural)]
    fn copy(this: &Grammar) -> std::result::Result<Grammar, JsValue>;
    #[wasm_bindgen(method, catch, structural)]
    fn free(this: &Grammar) -> std::result::Result<(), JsValue>;
}

/// Compiles grammars for a model's vocabulary.
struct Compile {
    tokenizer: Arc<Tokenizer>,
    make: Function,
    vocabulary: Kept,
    /// What the vocabulary asks for tokens of texts.
    tokenize: Closure<dyn Fn(String) -> Uint32Array>,
}

/// The vocabulary of an instance of the `.wasm`; none behind a trap, which leaves that instance's memory in an unknown state.
type Kept = Rc<RefCell<Option<Vocabulary>>>;

/// A compiler for the model with this tokenizer; `make(bytes, lengths, ends, tokenize)` makes the `Vocabulary` in an instance of its own.
pub(crate) fn compiler(tokenizer: &Arc<Tokenizer>, make: &Function) -> std::result::Result<Box<dyn Compiler>, JsValue> {
    let own = Arc::clone(tokenizer);
    let tokenize = move |text: String| Uint32Array::from(&own.encode(&text, false)[..]);
    let tokenize = Closure::<dyn Fn(String) -> Uint32Array>::new(tokenize);
    let compile =
        Compile { tokenizer: Arc::clone(tokenizer), make: make.clone(), vocabulary: Kept::default(), tokenize };
    compile.prepare()?;
    Ok(Box::new(compile))
}

impl Compile {
    /// Makes the vocabulary where there is none.
    fn prepare(&self) -> std::result::Result<(), JsValue> {
        if self.vocabulary.borrow().is_some() {
            return Ok(());
        }
        let (mut bytes, mut lengths) = (Vec::new(), Vec::new());
        for id in 0..self.tokenizer.n_vocab() as u32 {
            let token = self.tokenizer.token_bytes(id);
            bytes.extend_from_slice(&token);
            lengths.push(if self.tokenizer.is_control(id) { -(token.len() as i32) } else { token.len() as i32 });
        }
        let (bytes, lengths) = (js_sys::Uint8Array::from(&bytes[..]), js_sys::Int32Array::from(&lengths[..]));
        let ends = Uint32Array::from(self.tokenizer.end_of_generation());
        let arguments = js_sys::Array::of4(&bytes, &lengths, &ends, self.tokenize.as_ref());
        let vocabulary = self.make.apply(&JsValue::NULL, &arguments)?;
        *self.vocabulary.borrow_mut() = Some(vocabulary.unchecked_into());
        Ok(())
    }
}

impl Compiler for Compile {
    fn compile(&self, constraint: &Constraint) -> Result<Box<dyn Rule>> {
        let source = serde_json::to_string(constraint).map_err(|e| Error::invalid_request(e.to_string()))?;
        self.prepare().map_err(|e| trapped(&self.vocabulary, &e))?;
        let grammar = self.vocabulary.borrow().as_ref().map(|vocabulary| vocabulary.compile(&source));
        let grammar = grammar.unwrap_or(Err(JsValue::UNDEFINED)).map_err(|e| match e.as_string() {
            Some(why) => Error::invalid_request(why),
            None => trapped(&self.vocabulary, &e),
        })?;
        Ok(Box::new(Constrained { grammar, vocabulary: Rc::clone(&self.vocabulary), trap: RefCell::default() }))
    }
}

/// The next grammar is compiled by another instance; the core knows nothing of either's memory.
fn trapped(vocabulary: &Kept, error: &JsValue) -> Error {
    vocabulary.borrow_mut().take();
    let message = Reflect::get(error, &"message".into()).ok().and_then(|m| m.as_string()).unwrap_or_default();
    Error::invalid_request(format!("what compiles grammars failed at this one: {message}"))
}

/// An answer that keeps to a grammar.
#[derive(Debug)]
struct Constrained {
    grammar: Grammar,
    vocabulary: Kept,
    trap: RefCell<Option<Error>>,
}

impl Constrained {
    /// Keeps the error of a call.
    fn take<T: Default>(&self, outcome: std::result::Result<T, JsValue>) -> T {
        outcome.unwrap_or_else(|error| {
            *self.trap.borrow_mut() = Some(trapped(&self.vocabulary, &error));
            T::default()
        })
    }
}

impl Rule for Constrained {
    fn effect(&self, _ahead: usize) -> Effect {
        Effect::Lowers(usize::MAX)
    }

    fn adjust(&self, ahead: &[u32], logits: &mut LogitsMut<'_>) {
        logits.keep(&self.take(self.grammar.mask(ahead)));
    }

    // The grammar is that of the answer.
    fn read(&mut self, _prompt: &[u32]) {}

    fn accept(&mut self, token: u32) {
        self.take(self.grammar.accept(token));
    }

    fn forced(&self) -> Vec<u32> {
        self.take(self.grammar.forced())
    }

    fn conclude(&mut self) -> bool {
        self.take(self.grammar.conclude());
        true
    }

    fn failure(&self) -> Option<Error> {
        let why = self.take(self.grammar.failure());
        let misfit = |why| Error::invalid_request(format!("the answer cannot go on as it has to: {why}"));
        self.trap.borrow().clone().or(why.map(misfit))
    }

    fn boxed(&self) -> Box<dyn Rule> {
        let copy = self.grammar.copy().map_err(|e| *self.trap.borrow_mut() = Some(trapped(&self.vocabulary, &e)));
        let grammar = copy.unwrap_or_else(|()| JsValue::UNDEFINED.unchecked_into());
        Box::new(Constrained { grammar, vocabulary: Rc::clone(&self.vocabulary), trap: self.trap.clone() })
    }
}

impl Drop for Constrained {
    fn drop(&mut self) {
        // After a trap there is nothing to free.
        let _ = self.grammar.free();
    }
}
