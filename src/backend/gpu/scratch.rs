//! Memory that steps need besides what a model made.

use super::super::{Buf, RopeAppend};
use crate::error::Result;

/// Memory that grows with what steps need of it: a device's name for it, and its bytes.
#[derive(Clone, Copy)]
pub(in crate::backend) struct Scratch<B>(Option<(B, usize)>);

impl<B> Default for Scratch<B> {
    fn default() -> Self {
        Scratch(None)
    }
}

impl<B: Copy> Scratch<B> {
    /// Memory of at least `bytes`, made by `make` where there is not enough; then also what it takes the place of.
    pub(in crate::backend) fn at_least(
        &mut self,
        bytes: usize,
        make: impl FnOnce(usize) -> Result<B>,
    ) -> Result<(B, Option<B>)> {
        match self.0 {
            Some((place, size)) if size >= bytes => Ok((place, None)),
            smaller => {
                let size = bytes.next_power_of_two().max(1024);
                let place = make(size)?;
                self.0 = Some((place, size));
                Ok((place, smaller.map(|(old, _)| old)))
            }
        }
    }

    /// The memory, if there is any.
    pub(in crate::backend) fn get(&self) -> Option<B> {
        self.0.map(|(place, _)| place)
    }
}

/// What ops need scratch memory for; a backend has a [`Scratch`] for each.
#[derive(Clone, Copy)]
pub(in crate::backend) enum Work {
    /// Lists of moved cells.
    Moves,
    /// Maxima of blocks of logits.
    Blocks,
    /// Experts of rows.
    Chosen,
    /// What these count for.
    Scores,
    /// Tiles of rows that share an expert.
    Tiles,
    /// Attention to parts of the positions.
    #[cfg(feature = "cuda")]
    Partials,
    /// Factors of groups of columns.
    Scales,
}

impl Work {
    pub(in crate::backend) const COUNT: usize = Work::Scales as usize + 1;
}

/// Cosines and sines `[n, rope_dim / 2]` of a step's positions.
pub(in crate::backend) struct Angles<B> {
    freqs: Buf,
    rope_dim: usize,
    magnitude: u32,
    pub(in crate::backend) memory: Scratch<B>,
    /// Whether they are those of this step.
    pub(in crate::backend) filled: bool,
}

impl<B> Angles<B> {
    fn of(op: &RopeAppend) -> Self {
        let (freqs, rope_dim, magnitude) = (op.freqs, op.rope_dim, op.magnitude.to_bits());
        Angles { freqs, rope_dim, magnitude, memory: Scratch::default(), filled: false }
    }
}

/// The angles of all frequencies; layers share them.
pub(in crate::backend) struct AngleTables<B>(Vec<Angles<B>>);

impl<B> Default for AngleTables<B> {
    fn default() -> Self {
        AngleTables(Vec::new())
    }
}

impl<B: Copy> AngleTables<B> {
    /// Those that an op reads, filled or not.
    pub(in crate::backend) fn of(&mut self, op: &RopeAppend) -> &mut Angles<B> {
        let key = |a: &Angles<B>| (a.freqs, a.rope_dim, a.magnitude);
        let wanted = Angles::of(op);
        let index = self.0.iter().position(|a| key(a) == key(&wanted)).unwrap_or_else(|| {
            self.0.push(wanted);
            self.0.len() - 1
        });
        &mut self.0[index]
    }

    /// Positions have changed.
    pub(in crate::backend) fn begin(&mut self) {
        self.0.iter_mut().for_each(|a| a.filled = false);
    }

    /// Frequencies may have changed.
    pub(in crate::backend) fn written(&mut self, buf: Buf) {
        self.0.iter_mut().filter(|a| a.freqs == buf).for_each(|a| a.filled = false);
    }

    /// Drops the angles of frequencies that are no longer held; returns their memory.
    pub(in crate::backend) fn release(&mut self, holds: impl Fn(Buf) -> bool) -> Vec<B> {
        self.0.extract_if(.., |a| !holds(a.freqs)).filter_map(|a| a.memory.get()).collect()
    }
}
