//! How much of a prompt fits into a step beside answers that are being written.

use crate::model::ModelConfig;

/// Multiply-adds of quantized weights that take as long as one of attention: integer dot products do four at a time.
const ATTENTION_WEIGHT: f64 = 4.0;

/// What forwards cost, counted in rows: 1 is a token that sees nothing and whose logits are not wanted.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Of a visible position.
    per_cell: f64,
    /// Of a row of logits.
    per_output: f64,
}

impl Cost {
    /// The cost model of a transformer, from its sizes.
    pub fn of(config: &ModelConfig) -> Self {
        let (c, n_layers) = (config, config.layers.len());
        let row = c.work(0..n_layers);
        // Layers with a window soon see no more than before.
        let full = (0..n_layers).filter_map(|layer| c.attention(layer)).filter(|a| a.window.is_none());
        let cell = ATTENTION_WEIGHT * full.map(|a| 2 * a.q_dim()).sum::<usize>() as f64;
        Cost { per_cell: cell / row as f64, per_output: (c.dim * c.n_vocab) as f64 / row as f64 }
    }

    /// Rows' worth of `n` tokens behind `past` others, of which `outputs` give logits.
    pub fn run(&self, past: usize, n: usize, outputs: usize) -> f64 {
        let seen = n as f64 * (past as f64 + n as f64 / 2.0);
        n as f64 + seen * self.per_cell + outputs as f64 * self.per_output
    }

    /// Most tokens behind `past` others that cost no more than `rows`.
    pub fn fit(&self, past: usize, rows: f64) -> usize {
        if rows == f64::INFINITY {
            return usize::MAX;
        }
        // n + n (past + n/2) c = rows, solved for n.
        let (a, b) = (self.per_cell / 2.0, 1.0 + past as f64 * self.per_cell);
        if rows <= 0.0 { 0 } else { (2.0 * rows / (b + (b * b + 4.0 * a * rows).sqrt())) as usize }
    }
}

/// The budget of a step, from the measured times of earlier ones: a line through the mean of steps that only write and
/// the mean of those that also read. Means forget quickly, so the budget follows the device (heat, other programs).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    target_ms: f64,
    writing: Option<Mean>,
    reading: Option<Mean>,
}

#[derive(Clone, Copy, Debug)]
struct Mean {
    rows: f64,
    ms: f64,
}

/// Weight of a new step in its mean.
const NEW: f64 = 0.4;

impl Pace {
    /// Steps with answers under way are to take `target_ms` at most.
    pub(crate) fn new(target_ms: f64) -> Self {
        Pace { target_ms, writing: None, reading: None }
    }

    /// The target, in milliseconds.
    pub(crate) fn target_ms(&self) -> f64 {
        self.target_ms
    }

    /// Sets the target and keeps what was measured.
    pub(crate) fn set_target_ms(&mut self, target_ms: f64) {
        self.target_ms = target_ms;
    }

    /// Notes that a step of this many rows' worth took `ms`; `reading` when prompts were part of it.
    pub(crate) fn observe(&mut self, reading: bool, rows: f64, ms: f64) {
        let mean = if reading { &mut self.reading } else { &mut self.writing };
        *mean = Some(mean.map_or(Mean { rows, ms }, |m| Mean {
            rows: m.rows + (rows - m.rows) * NEW,
            ms: m.ms + (ms - m.ms) * NEW,
        }));
    }

    /// Rows' worth of prompts that keep a step within the target when its answers take `writing` rows; 0 or less when
    /// the answers alone take as long, or nothing was measured yet.
    pub(crate) fn room(&self, writing: f64) -> f64 {
        let Some((start, per_row)) = self.line() else { return 0.0 };
        if per_row <= 0.0 {
            return f64::INFINITY;
        }
        (self.target_ms - start) / per_row - writing
    }

    /// Milliseconds that so many rows' worth of prompts take, once anything was measured.
    pub(crate) fn ms(&self, rows: f64) -> Option<f64> {
        self.line().map(|(_, per_row)| rows * per_row)
    }

    /// Milliseconds of a step without rows, and of each row.
    fn line(&self) -> Option<(f64, f64)> {
        let one = |m: Mean| (0.0, m.ms / m.rows);
        match (self.writing, self.reading) {
            (Some(w), Some(r)) if r.rows > 1.5 * w.rows && r.ms > w.ms => {
                let per_row = (r.ms - w.ms) / (r.rows - w.rows);
                Some(((w.ms - per_row * w.rows).max(0.0), per_row))
            }
            (_, Some(r)) => Some(one(r)),
            (Some(w), None) => Some(one(w)),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost { per_cell: 1.0 / 800.0, per_output: 0.3 };

    #[test]
    fn fit_is_the_inverse_of_run() {
        for past in [0, 10, 500, 8000] {
            for rows in [0.5, 1.0, 20.0, 300.0] {
                let n = COST.fit(past, rows);
                assert!(COST.run(past, n, 0) <= rows + 1e-6);
                assert!(COST.run(past, n + 1, 0) > rows);
            }
        }
    }

    #[test]
    fn steps_come_to_the_target_and_follow_the_device() {
        let mut pace = Pace::new(50.0);
        // Milliseconds of a step; the device becomes three times as slow later.
        let time = |rows: f64, slow: f64| slow * (8.0 + 0.4 * rows);
        let writing = COST.run(100, 1, 1) * 4.0;
        pace.observe(false, writing, time(writing, 1.0));
        for (slow, steps) in [(1.0, 12), (3.0, 12)] {
            let mut last = 0.0;
            for _ in 0..steps {
                let rows = writing + pace.room(writing).clamp(8.0, 256.0);
                last = time(rows, slow);
                pace.observe(true, rows, last);
                pace.observe(false, writing, time(writing, slow));
            }
            assert!((40.0..=55.0).contains(&last), "{last} ms on a device {slow} times as slow");
        }
    }

    #[test]
    fn the_first_steps_do_not_overshoot() {
        let mut pace = Pace::new(50.0);
        let time = |rows: f64| 12.0 + 0.4 * rows;
        for _ in 0..20 {
            pace.observe(false, 5.0, time(5.0));
        }
        for _ in 0..20 {
            let rows = 5.0 + pace.room(5.0).clamp(8.0, 256.0);
            assert!(time(rows) <= 60.0, "{rows} rows");
            pace.observe(true, rows, time(rows));
        }
    }

    #[test]
    fn without_measurements_there_is_no_room() {
        assert_eq!(Pace::new(50.0).room(4.0), 0.0);
        let mut pace = Pace::new(1.0);
        pace.observe(true, 100.0, 500.0);
        assert!(pace.room(4.0) <= 0.0, "the target is out of reach");
    }
}
