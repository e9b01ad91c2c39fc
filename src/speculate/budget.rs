//! How much to draft: what a guess is worth against what a row of the forward costs, both measured as the answer is written.
//!
//! SpecDec++ (arXiv 2405.19715) stops when a rejection has become likely; with a measured cost curve the same idea is: add
//! the guess that is most likely to be accepted as long as expected tokens a millisecond still rise.

use super::draft::CLASSES;

/// Sizes of a forward, in rows, at which its cost is kept; straight lines between.
const KNOTS: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/// What the curve is taken for before it is measured: a fifth more for four rows, twice as much for ten.
const GUESS: [f64; KNOTS.len()] = [1.0, 1.07, 1.2, 1.7, 3.0, 6.0, 12.0, 24.0, 48.0];

/// Time of a target forward against its rows, relative to one row, and of a drafter's forward.
#[derive(Clone, Debug)]
pub struct Cost {
    /// Milliseconds of one row; 0 before the first measurement.
    base: f64,
    /// At the knots; it never falls, and is 1 for one row.
    ratio: [f64; KNOTS.len()],
    /// Milliseconds of a drafter's forward.
    draft: f64,
}

impl Default for Cost {
    fn default() -> Self {
        Cost { base: 0.0, ratio: GUESS, draft: 0.0 }
    }
}

impl Cost {
    /// The knot at or below `rows`, and how far `rows` lies on the way to the next one.
    fn locate(rows: usize) -> (usize, f64) {
        let i = KNOTS.partition_point(|&k| k <= rows).clamp(1, KNOTS.len() - 1) - 1;
        (i, (rows as f64 - KNOTS[i] as f64) / (KNOTS[i + 1] - KNOTS[i]) as f64)
    }

    /// Cost of a forward of `rows` rows relative to one row.
    pub fn ratio(&self, rows: usize) -> f64 {
        let (i, way) = Self::locate(rows.max(1));
        self.ratio[i] + (self.ratio[i + 1] - self.ratio[i]) * way
    }

    /// Cost of a drafter's forward relative to one row of the target's.
    pub(crate) fn draft_ratio(&self) -> f64 {
        if self.base > 0.0 { self.draft / self.base } else { 0.0 }
    }

    /// Learns from a forward. One that is wider than all knots teaches nothing: the curve is drawn out there.
    pub fn measured(&mut self, rows: usize, milliseconds: f64) {
        if rows > KNOTS[KNOTS.len() - 1] {
            return;
        }
        if self.base <= 0.0 {
            self.base = milliseconds / self.ratio(rows);
            return;
        }
        // One interruption by the system must not look like a slow device.
        let now = (milliseconds / self.base).clamp(0.3 * self.ratio(rows), 2.0 * self.ratio(rows));
        let off = now - self.ratio(rows);
        // The time of one row drifts with the length of the text; the shape of the curve is learnt from larger forwards.
        self.base *= 1.0 + 0.1 * off / self.ratio(rows);
        let (i, way) = Self::locate(rows.max(1));
        for (knot, share) in [(i, 1.0 - way), (i + 1, way)] {
            if knot > 0 {
                self.ratio[knot] += 0.1 * share * off;
            }
        }
        self.straighten(if way < 0.5 { i } else { i + 1 });
    }

    /// Makes the curve one that never falls and nowhere costs less than one row: beyond its last knot, a falling one would lead below
    /// zero. The knot that was `measured` stays, and the others are moved.
    fn straighten(&mut self, measured: usize) {
        let most = self.ratio[measured].max(1.0);
        let mut least = 1.0;
        for (knot, ratio) in self.ratio.iter_mut().enumerate() {
            least = if knot < measured { ratio.min(most).max(least) } else { ratio.max(most).max(least) };
            *ratio = least;
        }
    }

    /// Learns from a drafter's forward.
    pub fn drafted(&mut self, milliseconds: f64) {
        self.draft += if self.draft > 0.0 { 0.1 * (milliseconds - self.draft) } else { milliseconds };
    }
}

/// Siblings that are told apart; later ones count as the last.
const SIBLINGS: usize = 3;

/// How often guesses were accepted, by the drafter's class and the number of the sibling.
#[derive(Clone, Debug)]
pub(crate) struct Rates {
    /// Probability that a sibling is accepted when those before it were not.
    rate: [[f64; SIBLINGS]; CLASSES],
    /// Observations behind it, at most [`MEMORY`].
    weight: [[f64; SIBLINGS]; CLASSES],
}

/// Observations that count: texts change.
const MEMORY: f64 = 40.0;

/// Weight of what is believed at first.
const PRIOR: f64 = 4.0;

impl Default for Rates {
    fn default() -> Self {
        let mut rate = [[0.0; SIBLINGS]; CLASSES];
        for (class, rates) in rate.iter_mut().enumerate() {
            let first = 0.15 + 0.6 * class as f64 / CLASSES as f64;
            *rates = [first, 0.4 * first, 0.2 * first];
        }
        Rates { rate, weight: [[PRIOR; SIBLINGS]; CLASSES] }
    }
}

impl Rates {
    /// Probability that sibling `k` (from 0) of a slot of this class is accepted when those before it were not.
    pub(crate) fn get(&self, class: usize, k: usize) -> f64 {
        self.rate[class.min(CLASSES - 1)][k.min(SIBLINGS - 1)]
    }

    /// Learns what became of a sibling.
    pub(crate) fn observed(&mut self, class: usize, k: usize, accepted: bool) {
        let (class, k) = (class.min(CLASSES - 1), k.min(SIBLINGS - 1));
        let weight = &mut self.weight[class][k];
        *weight = (*weight + 1.0).min(MEMORY);
        self.rate[class][k] += (f64::from(u8::from(accepted)) - self.rate[class][k]) / *weight;
    }
}

/// Guesses that are looked ahead: a row may pay only together with the next ones.
const AHEAD: usize = 4;

/// Whether one more guess pays that is accepted with probability `gain`, and whose children would each be with
/// probability `onward`: `expected` tokens and `rows` rows so far, `drafts` drafter forwards so far, `per_guess` more for it.
pub(crate) fn pays(
    cost: &Cost,
    (expected, rows, drafts): (f64, usize, usize),
    (gain, onward): (f64, f64),
    per_guess: usize,
) -> bool {
    let time = |more: usize| cost.ratio(rows + more) + cost.draft_ratio() * (drafts + per_guess * more) as f64;
    let now = expected / time(0);
    let (mut sum, mut next) = (expected, gain);
    (1..=AHEAD).any(|more| {
        sum += next;
        next *= onward;
        sum / time(more) > now
    })
}
