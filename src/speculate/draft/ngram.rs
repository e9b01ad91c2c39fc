//! Guesses from the text itself: what followed the last words when they occurred before. Needs no model.

use super::{CLASSES, Context, Drafter, Proposal, Proposals};
use crate::speculate::{Prediction, Probs};

/// Longest match that is told from a longer one.
const LONGEST: usize = 9;

/// Classes by how often the first guess was right in answers of SmolLM2 to prompts of our own (`train/prompts.py`): rows for
/// longest matches of 1, 2, 3 to 4, 5 to 8 and 9 tokens; columns for several of them that do not go on alike, a single one, and
/// several that do. One word that went on alike whenever it occurred (right in 58 of 100) is a better sign than three words
/// that went on differently (35).
const RANKS: [[usize; 3]; 5] = [[0, 1, 6], [2, 5, 10], [3, 7, 11], [4, 8, 13], [9, 12, CLASSES - 1]];

/// How much more a match counts that is one token longer.
const LONGER: f64 = 8.0;

/// Tokens of the text that are searched, from its end.
const REACH: usize = 8192;

/// Prompt lookup with counts as probabilities.
#[derive(Debug, Default)]
pub struct Ngram;

impl Ngram {
    /// What may follow `text` and then `path`, by what followed the same words there or in a prediction; its class says how sure
    /// the longest matches make it.
    pub fn proposal(text: &[u32], prediction: Prediction<'_>, path: &[u32], temperature: f32) -> Proposal {
        let text = &text[text.len().saturating_sub(REACH)..];
        let at = |from_end: usize| {
            path.len()
                .checked_sub(from_end + 1)
                .map_or_else(|| text.len().checked_sub(from_end + 1 - path.len()).map(|i| text[i]), |i| Some(path[i]))
        };
        let Some(last) = at(0) else { return Proposal::default() };
        let mut longest = Longest::default();
        let mut weights: Vec<(u32, f64)> = Vec::new();
        for (i, _) in text.iter().enumerate().take(text.len().saturating_sub(1)).filter(|(_, t)| **t == last) {
            let matched = (1..LONGEST.min(i + 1)).take_while(|&n| at(n) == Some(text[i - n])).count() + 1;
            longest.add(matched, text[i + 1]);
            weights.push((text[i + 1], LONGER.powi(matched as i32)));
        }
        let Prediction { prompt, tokens } = prediction;
        let before = |i: usize, n: usize| {
            let of_prompt = || prompt.len().checked_sub(n + 1 - i).map(|at| prompt[at]);
            i.checked_sub(n + 1).map_or_else(of_prompt, |at| Some(tokens[at]))
        };
        for (i, &next) in tokens.iter().enumerate().filter(|(i, _)| before(*i, 0) == Some(last)) {
            let matched = (1..LONGEST).take_while(|&n| at(n).is_some() && at(n) == before(i, n)).count() + 1;
            longest.add(matched, next);
            weights.push((next, LONGER.powi(matched as i32)));
        }
        let mut law = Probs::from_weights(weights);
        if temperature > 0.0 && temperature != 1.0 {
            let power = 1.0 / f64::from(temperature);
            law = Probs::from_weights(law.entries().iter().map(|&(t, p)| (t, p.powf(power))).collect());
        }
        Proposal { law, class: longest.class() }
    }
}

/// The longest matches, and what follows them.
#[derive(Default)]
struct Longest {
    len: usize,
    count: usize,
    next: u32,
    /// Whether something else follows one of them.
    parted: bool,
}

impl Longest {
    fn add(&mut self, len: usize, next: u32) {
        if len > self.len {
            *self = Longest { len, count: 1, next, parted: false };
        } else if len == self.len {
            self.count += 1;
            self.parted |= next != self.next;
        }
    }

    fn class(&self) -> usize {
        let row = match self.len {
            0..=2 => self.len.saturating_sub(1),
            3..=4 => 2,
            5..LONGEST => 3,
            _ => 4,
        };
        let column = match self.count {
            _ if self.parted => 0,
            0..=1 => 1,
            _ => 2,
        };
        RANKS[row][column]
    }
}

impl Drafter for Ngram {
    fn propose<'a>(&'a mut self, context: Context<'a>, slots: &'a [usize]) -> Proposals<'a> {
        let temperature = context.sampler.params().temperature;
        let one =
            |&slot: &usize| Ngram::proposal(context.text, context.prediction, &context.tree.path(slot), temperature);
        let proposals = slots.iter().map(one).collect();
        Box::pin(std::future::ready(Ok(proposals)))
    }

    fn end(&mut self, _: u64) {}

    fn is_model(&self) -> bool {
        false
    }
}
