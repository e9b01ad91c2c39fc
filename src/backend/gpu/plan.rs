//! A step's plan in the words that kernels read: all that changes from step to step, in one buffer.

use super::super::scan::{self, Scan};
use super::super::{BLOCK, Plan, Rows};
use std::ops::Range;

/// Words of the header: two row counts, then where each part starts; `Step` of the kernels.
const HEADER: usize = 11;

/// The plan of a step, laid out.
#[derive(Default)]
pub(in crate::backend) struct StepPlan {
    plan: Plan,
    /// The header and the parts that it points to.
    words: Vec<u32>,
    /// Whether the device has other words.
    stale: bool,
    /// Rows that an attention tile may hold; 0 while there are no tiles.
    tile: usize,
    tiles: Vec<Range<usize>>,
    /// What is done to the states of each layer.
    scan: Vec<Scan>,
    /// Those of them that come before the rows.
    n_moves: usize,
}

impl StepPlan {
    /// Takes a new plan.
    pub(in crate::backend) fn begin(&mut self, plan: &Plan) {
        self.plan.clone_from(plan);
        self.tile = 0;
        self.tiles.clear();
        self.n_moves = scan::lay_out(plan, &mut self.scan);
        self.lay_out();
    }

    /// What was laid out.
    pub(in crate::backend) fn get(&self) -> &Plan {
        &self.plan
    }

    /// Rows that an op covers.
    pub(in crate::backend) fn n_rows(&self, rows: Rows) -> usize {
        self.plan.places(rows).len()
    }

    /// The number of attention tiles of at most `n` rows, and the rows of the longest; `None` where they are not
    /// [cut](Self::cut).
    pub(in crate::backend) fn tiles(&self, n: usize) -> Option<(usize, usize)> {
        (self.tile == n).then(|| self.n_tiles())
    }

    /// Whether there are tiles, which kernels that were recorded may read.
    pub(in crate::backend) fn has_tiles(&self) -> bool {
        self.tile != 0
    }

    /// Cuts the rows into tiles of at most `n` neighbours of one sequence; returns their number and the rows of the longest.
    pub(in crate::backend) fn cut(&mut self, n: usize) -> (usize, usize) {
        self.tile = n;
        self.tiles.clear();
        for (i, span) in self.plan.spans.iter().enumerate() {
            match self.tiles.last_mut() {
                Some(tile) if tile.len() < n && self.plan.spans[tile.start].table == span.table => tile.end = i + 1,
                _ => self.tiles.push(i..i + 1),
            }
        }
        self.lay_out();
        self.n_tiles()
    }

    fn n_tiles(&self) -> (usize, usize) {
        (self.tiles.len(), self.tiles.iter().map(Range::len).max().unwrap_or(1))
    }

    fn lay_out(&mut self) {
        let (plan, words) = (&self.plan, &mut self.words);
        words.clear();
        words.extend([plan.tokens.len() as u32, plan.outputs.len() as u32]);
        words.resize(HEADER, 0);
        let spans = plan.spans.iter().flat_map(|s| [s.table, s.prefix, s.extra, s.n_extra]);
        let tiles = self.tiles.iter().flat_map(|t| [t.start as u32, t.len() as u32]);
        let scan = [self.scan.len(), self.n_moves]
            .map(|n| n as u32)
            .into_iter()
            .chain(self.scan.iter().map(|step| step.word()));
        let parts: [&mut dyn Iterator<Item = u32>; HEADER - 2] = [
            &mut plan.tokens.iter().copied(),
            &mut plan.positions.iter().copied(),
            &mut plan.cells.iter().copied(),
            &mut { spans },
            &mut plan.blocks.iter().copied(),
            &mut plan.extras.iter().copied(),
            &mut plan.outputs.iter().copied(),
            &mut { tiles },
            &mut { scan },
        ];
        for (part, place) in parts.into_iter().zip(2..) {
            words[place] = words.len() as u32;
            words.extend(part);
        }
        self.stale = true;
    }

    /// Bytes that the device must have room for. Tiles are cut when kernels that read this buffer are recorded already, so room
    /// is left for as many as there are rows.
    pub(in crate::backend) fn bytes(&self) -> usize {
        (self.words.len() + 2 * (self.plan.tokens.len() - self.tiles.len())) * 4
    }

    /// The words, where the device does not have them.
    pub(in crate::backend) fn take_stale(&mut self) -> Option<&[u32]> {
        std::mem::take(&mut self.stale).then_some(&self.words[..])
    }

    /// Bytes of the header, with which the words begin; CUDA's kernels read it where it lies.
    #[cfg(feature = "wgpu")]
    pub(in crate::backend) const HEADER_BYTES: usize = HEADER * 4;
}

const _: () = assert!(BLOCK == 32, "the kernels `attend` have the length of a block as a number");
