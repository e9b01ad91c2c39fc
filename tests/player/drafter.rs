//! A drafter of a caller's own, which does all that a drafter can do wrong.

use crate::common::random::Random;
use crate::common::simulated::stalls;
use foreword::batch::Streams;
use foreword::error::{Error, Result};
use foreword::speculate::Probs;
use foreword::speculate::draft::{Context, Drafter, Proposal, Proposals};
use std::future::poll_fn;
use std::task::Poll;

/// Guesses anything, at random: also tokens that there are not, too few proposals or too many, streams that nobody computed.
/// Or it fails.
pub struct Wild {
    pub random: Random,
    pub is_model: bool,
}

impl Wild {
    fn proposals(&mut self, context: &Context<'_>, slots: &[usize]) -> Result<Vec<Proposal>> {
        let random = &mut self.random;
        let n = match random.below(40) {
            0 => return Err(Error::invalid_request("injected: the drafter fails")),
            1 => return Err(Error::out_of_memory("injected: the drafter has no memory")),
            2 => return Err(Error::device_lost("injected: the drafter's device is gone")),
            3..8 => random.below(slots.len() + 1),
            8 => slots.len() + 1,
            _ => slots.len(),
        };
        Ok((0..n).map(|_| proposal(random, context.text)).collect())
    }
}

fn proposal(random: &mut Random, text: &[u32]) -> Proposal {
    let known = text[random.below(text.len())];
    let token = |random: &mut Random| match random.below(60) {
        0 => u32::MAX - random.below(3) as u32,
        1 => 264,
        2..20 => known + random.below(3) as u32,
        _ => random.below(264) as u32,
    };
    let weight = |random: &mut Random| [1.0, 0.5, 3.0, 0.0, -1.0, 1e-300, 1e300, f64::NAN][random.below(8)];
    let weights = (0..random.below(7)).map(|_| (token(random), weight(random))).collect();
    Proposal { law: Probs::from_weights(weights), class: random.below(40) }
}

impl Drafter for Wild {
    fn propose<'a>(&'a mut self, context: Context<'a>, slots: &'a [usize]) -> Proposals<'a> {
        Box::pin(async move {
            poll_fn(|_| if stalls() { Poll::Pending } else { Poll::Ready(()) }).await;
            self.proposals(&context, slots)
        })
    }

    fn take_streams(&mut self) -> Streams {
        match self.random.below(60) {
            0 => Streams { layers: 1, values: vec![0.5; 32 * self.random.below(16) + 1 + self.random.below(31)] },
            1 => Streams { layers: 1000, values: vec![0.5; 32] },
            _ => Streams::default(),
        }
    }

    fn end(&mut self, _: u64) {}

    fn is_model(&self) -> bool {
        self.is_model
    }
}
