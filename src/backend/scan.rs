//! What a step does to the states of a layer, as one list that every lane (a column, or a head) goes through by itself: states
//! are copied, moved on by rows that were kept, and rows are run behind them. Drafts, chunks of prompts, forks and checkpoints differ in
//! their lists only.

use super::{Before, Plan, StateStep};

/// A step of a lane, which carries one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// It carries the state of no tokens.
    Clear,
    /// It carries that of this slot.
    Load(u32),
    /// What it carries is put into this slot.
    Store(u32),
    /// It moves on by what was kept of a row: of the forward before, until the first [`Scan::Row`], of this one from then on.
    Kept(u32),
    /// It moves on by a row of this step, whose result is wanted, and what it needs to do so again is kept.
    Row(u32),
}

impl Scan {
    /// The word that kernels read: what is to be done in the highest four bits, and the slot or row.
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    pub(super) fn word(self) -> u32 {
        let (code, of) = match self {
            Scan::Clear => (0, 0),
            Scan::Load(slot) => (1, slot),
            Scan::Store(slot) => (2, slot),
            Scan::Kept(row) => (3, row),
            Scan::Row(row) => (4, row),
        };
        code << 28 | of
    }
}

/// Lays out what a plan asks for; returns how many steps come before those of its rows. Nothing is carried from the former to the
/// latter.
pub(super) fn lay_out(plan: &Plan, scan: &mut Vec<Scan>) -> usize {
    scan.clear();
    for step in &plan.states {
        match step {
            StateStep::Clear { slot } => scan.extend([Scan::Clear, Scan::Store(*slot)]),
            StateStep::Copy { from, to } => scan.extend([Scan::Load(*from), Scan::Store(*to)]),
            StateStep::Advance { slot, rows } => {
                scan.push(Scan::Load(*slot));
                scan.extend(rows.iter().map(|&row| Scan::Kept(row)));
                scan.push(Scan::Store(*slot));
            }
        }
    }
    let (n_moves, mut carried) = (scan.len(), None);
    for (before, row) in plan.before.iter().zip(0..) {
        if carried.is_none_or(|last| *before != Before::Row(last)) {
            // Another branch of a draft, or another sequence: what lies before is run once more.
            let first = scan.len();
            let mut at = *before;
            while let Before::Row(ancestor) = at {
                scan.push(Scan::Kept(ancestor));
                at = plan.before[ancestor as usize];
            }
            if let Before::Slot(slot) = at {
                scan.push(Scan::Load(slot));
            }
            scan[first..].reverse();
        }
        scan.push(Scan::Row(row));
        carried = Some(row);
    }
    n_moves
}
