//! Numbered places with reference counts: blocks and slots.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// See the module text.
#[derive(Debug)]
pub(super) struct Pool {
    /// Holders of each place that there is memory for.
    refs: Vec<u32>,
    /// The lowest is taken first, so that what is held lies together and memory behind it can be given back.
    free: BinaryHeap<Reverse<u32>>,
}

impl Pool {
    /// `n` free places.
    pub(super) fn new(n: usize) -> Self {
        Pool { refs: vec![0; n], free: (0..n as u32).map(Reverse).collect() }
    }

    /// Number of places.
    pub(super) fn len(&self) -> usize {
        self.refs.len()
    }

    /// Places up to the last one that is held.
    pub(super) fn held(&self) -> usize {
        self.refs.iter().rposition(|&holders| holders > 0).map_or(0, |last| last + 1)
    }

    /// The same once so many more are taken.
    pub(super) fn held_with(&self, more: usize) -> usize {
        let mut free: Vec<u32> = self.free.iter().map(|place| place.0).collect();
        free.sort_unstable();
        let last = more.min(free.len()).checked_sub(1).map_or(0, |last| free[last] as usize + 1);
        self.held().max(last)
    }

    /// Adds free places, or takes them away behind those that are [held](Pool::held).
    pub(super) fn resize(&mut self, n: usize) {
        self.free.extend((self.refs.len()..n).map(|place| Reverse(place as u32)));
        self.free.retain(|place| (place.0 as usize) < n);
        self.refs.resize(n, 0);
    }

    /// A free place, with one holder.
    pub(super) fn take(&mut self) -> Option<u32> {
        let Reverse(place) = self.free.pop()?;
        self.refs[place as usize] = 1;
        Some(place)
    }

    /// Adds a holder to a held place.
    pub(super) fn hold(&mut self, place: u32) {
        debug_assert!(self.refs[place as usize] > 0, "a place that nobody holds has no content");
        self.refs[place as usize] += 1;
    }

    /// Takes a holder away; without any, the place is free.
    pub(super) fn release(&mut self, place: u32) {
        let refs = &mut self.refs[place as usize];
        *refs -= 1;
        if *refs == 0 {
            self.free.push(Reverse(place));
        }
    }

    /// Holders of a place; 0 for one that there is no memory for.
    pub(super) fn holders(&self, place: u32) -> u32 {
        self.refs.get(place as usize).copied().unwrap_or(0)
    }

    /// Number of free places.
    pub(super) fn n_free(&self) -> usize {
        self.free.len()
    }
}
