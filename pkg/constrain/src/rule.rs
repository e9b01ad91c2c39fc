//! Grammars as rules of the core.

use crate::{Grammar, Source, Vocabulary};
use foreword::sample::{Compiler, Constraint, Effect, LogitsMut, Rule};
use foreword::tokenizer::Tokenizer;
use foreword::{Error, Result};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Compiles constraints for a model with this tokenizer. What it needs of the vocabulary is made with the first one.
pub fn compiler(tokenizer: Arc<Tokenizer>) -> Box<dyn Compiler> {
    Box::new(Compile { tokenizer, vocabulary: OnceLock::new() })
}

struct Compile {
    tokenizer: Arc<Tokenizer>,
    vocabulary: OnceLock<std::result::Result<Vocabulary, String>>,
}

impl Compiler for Compile {
    fn compile(&self, constraint: &Constraint) -> Result<Box<dyn Rule>> {
        let vocabulary = self.vocabulary.get_or_init(|| vocabulary(&self.tokenizer));
        let vocabulary = vocabulary.as_ref().map_err(|e| Error::unsupported(e.clone()))?;
        let source = match constraint {
            Constraint::Schema { schema, strict } => Source::Schema { schema: schema.clone(), strict: *strict },
            Constraint::Lark(text) => Source::Lark(text.clone()),
            Constraint::Regex(text) => Source::Regex(text.clone()),
        };
        let grammar = vocabulary.compile(&source).map_err(Error::invalid_request)?;
        Ok(Box::new(Constrained(Mutex::new(grammar))))
    }
}

fn vocabulary(tokenizer: &Arc<Tokenizer>) -> std::result::Result<Vocabulary, String> {
    let tokens = (0..tokenizer.n_vocab() as u32).map(|id| tokenizer.token_bytes(id).into_owned()).collect();
    let own = Arc::clone(tokenizer);
    let tokenize = Box::new(move |text: &str| own.encode(text, false));
    Vocabulary::new(tokens, |id| tokenizer.is_control(id), tokenizer.end_of_generation(), tokenize)
}

/// An answer that keeps to a grammar.
struct Constrained(Mutex<Grammar>);

impl Constrained {
    fn grammar(&self) -> MutexGuard<'_, Grammar> {
        // What panics in a grammar is an error of that grammar.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Constrained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constrained")
    }
}

impl Rule for Constrained {
    fn effect(&self, _ahead: usize) -> Effect {
        Effect::Lowers(usize::MAX)
    }

    fn adjust(&self, ahead: &[u32], logits: &mut LogitsMut<'_>) {
        logits.keep(&self.grammar().mask(ahead));
    }

    // The grammar is that of the answer.
    fn read(&mut self, _prompt: &[u32]) {}

    fn accept(&mut self, token: u32) {
        self.grammar().accept(token);
    }

    fn forced(&self) -> Vec<u32> {
        self.grammar().forced()
    }

    fn conclude(&mut self) -> bool {
        self.grammar().conclude();
        true
    }

    fn failure(&self) -> Option<Error> {
        let why = self.grammar().failure()?;
        Some(Error::invalid_request(format!("the answer cannot go on as it has to: {why}")))
    }

    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(Constrained(Mutex::new(self.grammar().clone())))
    }
}
