//! Guesses from the text itself: what followed the last words when they occurred before. Needs no model.

use super::{CLASSES, Context, Drafter, Proposal, Proposals};
use crate::speculate::Probs;

/// Longest match that is told from a longer one.
const LONGEST: usize = CLASSES - 1;

/// How much more a match counts that is one token longer.
const LONGER: f64 = 8.0;

/// Tokens of the text that are searched, from its end.
const REACH: usize = 8192;

/// Prompt lookup with counts as probabilities.
#[derive(Debug, Default)]
pub struct Ngram;

impl Ngram {
    /// What may follow `text` and then `path`; its class is the length of the longest match.
    pub fn proposal(text: &[u32], path: &[u32], temperature: f32) -> Proposal {
        let text = &text[text.len().saturating_sub(REACH)..];
        let at = |from_end: usize| {
            path.len()
                .checked_sub(from_end + 1)
                .map_or_else(|| text.len().checked_sub(from_end + 1 - path.len()).map(|i| text[i]), |i| Some(path[i]))
        };
        let (Some(last), mut longest) = (at(0), 0) else { return Proposal::default() };
        let mut weights: Vec<(u32, f64)> = Vec::new();
        for (i, _) in text.iter().enumerate().take(text.len().saturating_sub(1)).filter(|(_, t)| **t == last) {
            let matched = (1..LONGEST.min(i + 1)).take_while(|&n| at(n) == Some(text[i - n])).count() + 1;
            longest = longest.max(matched);
            weights.push((text[i + 1], LONGER.powi(matched as i32)));
        }
        let mut law = Probs::from_weights(weights);
        if temperature > 0.0 && temperature != 1.0 {
            let power = 1.0 / f64::from(temperature);
            law = Probs::from_weights(law.entries().iter().map(|&(t, p)| (t, p.powf(power))).collect());
        }
        Proposal { law, class: longest.min(CLASSES - 1) }
    }
}

impl Drafter for Ngram {
    fn propose<'a>(&'a mut self, context: Context<'a>, slots: &'a [usize]) -> Proposals<'a> {
        let temperature = context.sampler.params().temperature;
        let one = |&slot: &usize| Ngram::proposal(context.text, &context.tree.path(slot), temperature);
        let proposals = slots.iter().map(one).collect();
        Box::pin(std::future::ready(Ok(proposals)))
    }

    fn end(&mut self, _: u64) {}

    fn is_model(&self) -> bool {
        false
    }
}
