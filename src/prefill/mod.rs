//! METHOD: prepacked prefill. Which prompts, and how much of each, share a forward.
//!
//! Prepacking (arXiv 2404.09529) puts prompts of different lengths side by side into compact rows in place of padding each
//! to the longest; positions restart at every prompt and no prompt sees another. A [`crate::batch::Batch`] has that form
//! anyway, so what is left of the method is a schedule:
//!
//! - **Order** (`Turn`): the shortest prompt first among those that came together, which makes the mean time to the first
//!   token least; a later one overtakes only while fewer tokens were read since than the earlier one has.
//! - **Packing** ([`width`]): prompts fill a forward in that order, and the last one is cut where the forward is full; the
//!   rest leads the next forward. Reading a prompt in two parts costs nothing here, so no bin stays partly filled, which
//!   first-fit decreasing over whole prompts cannot promise. Forwards of one lot are of equal width.
//! - **Sharing** ([`common`]): what prompts have in common at their beginning is read once; the others
//!   wait for it and fork.
//! - **Pace** (`Pace`): beside answers that are being written, prompts get what is left of a step's time (chunked
//!   prefill with stall-free batching, Sarathi-Serve, arXiv 2403.02310).
//!
//! Everything here is arithmetic on lengths; `engine/schedule.rs` applies it.

mod pace;

pub use pace::Cost;
pub(crate) use pace::Pace;

/// Tokens of a common beginning from which on it is worth to wait until another prompt has read it. A shorter one is
/// read again with less delay than a forward takes.
pub(crate) const WORTH_WAITING: usize = 16;

/// Tokens of the first prompt that a step reads at least, so that reading goes on where the target is out of reach.
pub(crate) const LEAST: usize = 8;

/// When it is a prompt's turn: smaller is sooner.
///
/// The deadline of a prompt is the number of prompt tokens that had been read when it came, plus its own length. So
/// short prompts go first, and a long one is not starved: whatever comes after as many tokens as it has goes behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    priority: std::cmp::Reverse<i32>,
    deadline: u64,
    id: u64,
}

impl Turn {
    /// For a prompt of `len` tokens that comes when `n_read` have been read in all. Higher priorities always go first;
    /// `id` decides ties.
    pub(crate) fn new(priority: i32, n_read: u64, len: usize, id: u64) -> Self {
        Turn { priority: std::cmp::Reverse(priority), deadline: n_read + len as u64, id }
    }
}

/// Rows of each forward when `total` tokens are read with at most `budget` at a time: as few forwards as possible, all of
/// one width. 280 tokens are two forwards of 140, not one of 256 and one of 24 that reads all weights for little.
pub fn width(total: usize, budget: usize) -> usize {
    total.div_ceil(total.div_ceil(budget.max(1)).max(1))
}

/// Tokens that two prompts have in common at their beginning.
pub fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_few_and_even() {
        for budget in [1, 7, 48, 100, 256] {
            for total in 1..2000 {
                let width = width(total, budget);
                let forwards = total.div_ceil(width);
                assert!(width <= budget, "{total} by {budget}");
                assert_eq!(forwards, total.div_ceil(budget), "{total} by {budget}");
                assert!(forwards * width - total < forwards, "the last forward is nearly as wide as the others");
            }
        }
    }

    #[test]
    fn short_prompts_go_first_but_not_for_ever() {
        let long = Turn::new(0, 0, 1000, 0);
        assert!(Turn::new(0, 0, 10, 1) < long, "together: the shorter one");
        assert!(Turn::new(0, 900, 50, 2) < long, "soon after: overtakes");
        assert!(long < Turn::new(0, 1000, 1, 3), "late: waits");
        assert!(long < Turn::new(-1, 0, 1, 4), "priority comes before length");
    }
}
