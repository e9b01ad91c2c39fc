//! A model's tokens, and what compiles grammars for them.

use crate::formats;
use crate::guard::{FAILED, check_shape, guarded};
use crate::locate::locate;
use crate::{Grammar, product};
use llguidance::ParserFactory;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use serde_json::{Value, json};
use std::sync::Arc;

/// Text to tokens, as the model's tokenizer writes it, without BOS.
pub type Tokenize = Box<dyn Fn(&str) -> Vec<u32> + Send + Sync>;

/// What a grammar is made of.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// JSON that fits a schema (draft 2020-12), on one line, with its properties in the order of the schema.
    Schema {
        /// The schema.
        schema: Value,
        /// What no grammar can promise is an error; otherwise it is passed over.
        strict: bool,
    },
    /// A grammar in llguidance's dialect of Lark.
    Lark(String),
    /// A regular expression (Rust's syntax, without looking around) that the whole answer matches.
    Regex(String),
}

/// The tokens of a model; see the crate's text.
#[derive(Clone)]
pub struct Vocabulary {
    factory: Arc<ParserFactory>,
}

/// A grammar is compiled in about a second at most, a mask in some milliseconds; lexer states take 1 to 2 kB each.
const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2000,
    initial_lexer_fuel: 1_000_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    max_lexer_states: 50_000,
    max_grammar_size: 500_000,
    precompute_large_lexemes: false,
    verbose_errors: false,
};

/// Longest token in bytes; there are no longer ones but in broken files.
const LONGEST: usize = 1000;

/// Most bytes of a schema, grammar or expression.
const MOST_BYTES: usize = 1 << 20;

/// Characters of an error.
const LONGEST_ERROR: usize = 400;

/// Longest schema, in bytes, in which the place of a fault is looked for.
const LOCATED: usize = 1 << 14;

impl Vocabulary {
    /// `tokens` are the bytes of each, `is_control` says which are never text, `ends` are those that end an answer.
    ///
    /// # Errors
    /// Says what is wrong with the vocabulary.
    pub fn new(
        mut tokens: Vec<Vec<u8>>,
        is_control: impl Fn(u32) -> bool,
        ends: &[u32],
        tokenize: Tokenize,
    ) -> Result<Self, String> {
        if ends.is_empty() {
            return Err("the model has no token that ends an answer".into());
        }
        for (id, bytes) in (0..).zip(&mut tokens) {
            // A marker that no text has; without it the byte would be taken for one.
            if is_control(id) || ends.contains(&id) {
                bytes.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
            } else if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
                bytes.clear();
            }
            if bytes.len() > LONGEST {
                bytes.clear();
            }
        }
        let trie = TokTrie::from(&TokRxInfo::new(tokens.len() as u32, ends[0]), &tokens).with_eos_tokens(ends);
        let env: TokEnv = Arc::new(Env { trie, tokenize });
        let capabilities = InferenceCapabilities { ff_tokens: true, ..InferenceCapabilities::default() };
        let slices = SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&env, capabilities, &slices).map_err(|e| format!("{e:#}"))?;
        factory.quiet();
        *factory.limits_mut() = LIMITS;
        Ok(Vocabulary { factory: Arc::new(factory) })
    }

    /// One of the tokens that end an answer.
    pub fn end(&self) -> u32 {
        self.factory.tok_env().eos_token()
    }

    /// Compiles a grammar.
    ///
    /// # Errors
    /// Says what is wrong, and where in a schema.
    pub fn compile(&self, source: &Source) -> Result<Grammar, String> {
        let (what, bytes) = match source {
            Source::Schema { schema, .. } => ("the schema", schema.to_string().len()),
            Source::Lark(text) => ("the grammar", text.len()),
            Source::Regex(text) => ("the expression", text.len()),
        };
        if bytes > MOST_BYTES {
            return Err(format!("{what} has {bytes} bytes; at most {MOST_BYTES} are compiled"));
        }
        let (own, source) = (self.clone(), source.clone());
        guarded(move || match &source {
            Source::Schema { schema, strict } => own.schema(schema, *strict, bytes),
            Source::Lark(text) => {
                check_shape(text)?;
                // Schemas within; what is no JSON is an error of the grammar.
                for inner in text.split("%json").skip(1) {
                    if let Some(Ok(schema)) = serde_json::Deserializer::from_str(inner).into_iter().next() {
                        product::check(&schema)?;
                    }
                }
                own.grammar(TopLevelGrammar::from_lark(text.clone()), text.contains("%json"))
            }
            Source::Regex(text) => own.grammar(TopLevelGrammar::from_regex(text), false),
        })
    }

    fn schema(&self, schema: &Value, strict: bool, bytes: usize) -> Result<Grammar, String> {
        product::check(schema)?;
        let compile = |schema: &Value| self.grammar(of_schema(schema, strict), true);
        compile(schema).map_err(|error| {
            // A long one may take long for each trial.
            let place = if bytes > LOCATED { String::new() } else { locate(schema, &|s| compile(s).is_ok()) };
            if place.is_empty() { error } else { format!("at {place}: {error}") }
        })
    }

    fn grammar(&self, top: TopLevelGrammar, json: bool) -> Result<Grammar, String> {
        let parser = self.factory.create_parser(top).map_err(|e| short(&format!("{e:#}")))?;
        Grammar::new(parser, json)
    }
}

/// JSON on one line, as Python writes it: where whitespace is free, small models write it without end, and little is forced.
fn of_schema(schema: &Value, strict: bool) -> TopLevelGrammar {
    let mut schema = if *schema == Value::Bool(true) { json!({}) } else { schema.clone() };
    formats::narrow(&mut schema);
    if let Some(fields) = schema.as_object_mut().filter(|fields| !fields.contains_key("x-guidance")) {
        let form = json!({
            "whitespace_flexible": false,
            "item_separator": ", ",
            "key_separator": ": ",
            "lenient": !strict,
        });
        fields.insert("x-guidance".into(), form);
    }
    TopLevelGrammar::from_json_schema(schema)
}

/// An error's beginning: some repeat the whole grammar.
fn short(error: &str) -> String {
    if error.contains("panic: ") {
        return FAILED.into();
    }
    match error.char_indices().nth(LONGEST_ERROR) {
        Some((end, _)) => format!("{} …", &error[..end]),
        None => error.to_owned(),
    }
}

struct Env {
    trie: TokTrie,
    tokenize: Tokenize,
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            let tokens = (self.tokenize)(text);
            // Some tokenizers put a space in front.
            let same = self.trie.decode_raw(&tokens) == text.as_bytes();
            if same { tokens } else { self.trie.greedy_tokenize(text.as_bytes()) }
        })
    }
}
