//! A grammar and the answer so far.

use crate::course::Course;
use crate::guard::FAILED;
use llguidance::toktrie::TokEnv;
use llguidance::{Matcher, TokenParser};

/// Says which tokens may come next, and follows the answer.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
    /// A token that ends an answer.
    end: u32,
    tokens: TokEnv,
    course: Course,
    /// What may come behind the answer, once it was asked for.
    mask: Option<Vec<u32>>,
}

/// Most tokens that are forced at once.
const MOST_FORCED: usize = 64;

impl Grammar {
    /// A grammar for an answer that begins; `json` where it is JSON or has such in it.
    pub(crate) fn new(parser: TokenParser, json: bool) -> Result<Self, String> {
        let tokens = parser.token_env.clone();
        let (matcher, end, course) = (Matcher::new(Ok(parser)), tokens.eos_token(), Course::new(json));
        let mut grammar = Grammar { matcher, end, tokens, course, mask: None };
        // Finds out whether anything fits it at all.
        grammar.mask(&[]);
        grammar.failure().map_or(Ok(grammar), Err)
    }

    /// The tokens that may come behind the answer and the guesses `ahead`: token `t` is bit `t % 32` of number `t / 32`. None
    /// behind guesses that do not fit; only those that end an answer where it is complete.
    pub fn mask(&mut self, ahead: &[u32]) -> Vec<u32> {
        if !ahead.is_empty() {
            // A copy: what goes wrong on the way says nothing about the answer.
            let mut matcher = self.matcher.clone();
            let fits = matcher.try_consume_tokens(ahead).is_ok_and(|n| n == ahead.len());
            let mut course = self.course;
            ahead.iter().for_each(|&token| course.push(self.tokens.tok_trie().token(token)));
            return if fits { mask_of(&mut matcher, &course, &self.tokens) } else { Vec::new() };
        }
        let Grammar { matcher, course, tokens, mask, .. } = self;
        mask.get_or_insert_with(|| mask_of(matcher, course, tokens)).clone()
    }

    /// The answer goes on with `token`.
    pub fn accept(&mut self, token: u32) {
        self.mask = None;
        if !self.matcher.is_stopped() {
            // What is wrong is kept, and told by `failure`.
            let _ = self.matcher.consume_token(token);
        }
        self.course.push(self.tokens.tok_trie().token(token));
    }

    /// The answer goes in circles: it comes to an end that fits. The first string that does so ends, and what follows is as free as
    /// before. Where it happens again, or outside of strings, all that can end does.
    pub fn conclude(&mut self) {
        self.mask = None;
        self.course.conclude();
    }

    /// Tokens of which each is the only one that may come behind those before it.
    pub fn forced(&mut self) -> Vec<u32> {
        let mut tokens = Vec::new();
        let Some(mut next) = only(&mut self.matcher, self.end) else { return tokens };
        let mut matcher = self.matcher.clone();
        loop {
            tokens.push(next);
            if tokens.len() == MOST_FORCED || matcher.is_stopped() || matcher.consume_token(next).is_err() {
                return tokens;
            }
            match only(&mut matcher, self.end) {
                Some(token) => next = token,
                None => return tokens,
            }
        }
    }

    /// Why nothing may come next.
    pub fn failure(&self) -> Option<String> {
        let error = self.matcher.get_error()?;
        let error = error.split("\n<").next().unwrap_or_default().trim();
        Some(match error {
            panic if panic.starts_with("panic: ") => FAILED.to_string(),
            "NoExtensionBias" => "nothing that the model can write fits".to_string(),
            other => other.to_string(),
        })
    }
}

/// The only token that may come next; `end` where an answer is complete.
fn only(matcher: &mut Matcher, end: u32) -> Option<u32> {
    if matcher.is_error() {
        return None;
    }
    // The first only: behind it, the mask asks again.
    if matcher.is_stopped() { Some(end) } else { matcher.compute_ff_tokens().first().copied() }
}

fn mask_of(matcher: &mut Matcher, course: &Course, tokens: &TokEnv) -> Vec<u32> {
    let mut mask = matcher.compute_mask_or_eos().map_or_else(|_| Vec::new(), |mask| mask.as_slice().to_vec());
    let trie = tokens.tok_trie();
    course.narrow(&mut mask, trie.eos_tokens(), |token| trie.token(token).first().copied());
    mask
}
