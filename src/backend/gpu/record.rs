//! Ops that every GPU records in the same way: their kernels have the same buffers and constants in each language.

use super::super::{
    Buf, Cache, ConvForm, Experts, Gate, LinearAttend, Operand, Rows, Rule, Select, Shared, ShortConv, Stack,
};
use super::{StepPlan, Work, route_flags, select_blocks, tiles_of_experts};
use crate::error::Result;

/// Where pairs of a row and an expert lie that the kernels for experts go through.
#[derive(Clone, Copy)]
pub(in crate::backend) struct Routes<P> {
    /// Experts of the pairs.
    pub(in crate::backend) chosen: P,
    /// What each pair counts for.
    pub(in crate::backend) scores: P,
    /// The pairs sorted by their expert, and tiles of them; written where a tile has several pairs.
    pub(in crate::backend) tiles: P,
    /// Experts of a row.
    pub(in crate::backend) used: usize,
    pub(in crate::backend) n_experts: usize,
    pub(in crate::backend) n_pairs: usize,
    /// Pairs that a group of threads takes, and how many groups that makes.
    pub(in crate::backend) tile: usize,
    pub(in crate::backend) n_tiles: usize,
}

/// A backend that records kernels and runs them later.
pub(in crate::backend) trait Recorder {
    /// A name of memory on the device.
    type Place: Copy;
    type Kernel;

    const SHORT_CONV: Self::Kernel;
    const LINEAR_ROWS: Self::Kernel;
    const LINEAR_ATTEND: Self::Kernel;
    const ROUTE: Self::Kernel;
    const SUM_EXPERTS: Self::Kernel;
    const SELECT_BLOCKS: Self::Kernel;
    const SELECT: Self::Kernel;

    /// Threads of a group of the kernels in which each takes a column.
    const THREADS: usize;
    /// Blocks of logits that a group of `select_blocks` searches.
    const BLOCKS_OF_GROUP: usize;

    /// The plan of this step.
    fn plan(&self) -> &StepPlan;
    /// Where its words lie.
    fn plan_place(&self) -> Self::Place;
    fn place(&self, buf: Buf) -> Self::Place;
    /// Of something that no kernel reads where there is no `buf`.
    fn place_or_none(&self, buf: Option<Buf>) -> Self::Place;
    /// Rows and columns.
    fn shape(&self, buf: Buf) -> (usize, usize);
    /// The states of a layer, which must keep some.
    fn states(&self, cache: Cache, layer: usize) -> Self::Place;
    /// Scratch memory of at least `bytes`.
    fn scratch(&mut self, work: Work, bytes: usize) -> Result<Self::Place>;
    /// Records a kernel: its buffers in their order, the words of its constants behind them, and the groups of threads.
    fn record(&mut self, kernel: Self::Kernel, buffers: &[Self::Place], words: &[u32], groups: [usize; 3]);

    /// A gate of the first `n` rows.
    fn record_gate_of(&mut self, op: &Gate, n: usize);
    /// Pairs of a row and an expert that a group of threads takes.
    fn tile_of(&self, n_pairs: usize, n_experts: usize) -> usize;
    /// Sorts pairs by their expert, and cuts them into tiles.
    fn record_sort(&mut self, routes: &Routes<Self::Place>);
    /// Products of each pair; so many of them have one row of `x`.
    fn record_stack(&mut self, stack: &Stack, x: (Operand, usize), out: Buf, routes: &Routes<Self::Place>);

    fn record_gate(&mut self, op: &Gate) -> Result<()> {
        let n = self.plan().n_rows(Rows::All);
        self.record_gate_of(op, n);
        Ok(())
    }

    fn record_short_conv(&mut self, op: &ShortConv) -> Result<()> {
        let (_, dim) = self.shape(op.out);
        let (form, bias) = match op.form {
            ConvForm::Gated => (0, None),
            ConvForm::Silu { bias } => (if bias.is_some() { 3 } else { 1 }, bias),
        };
        let buffers = [
            self.plan_place(),
            self.place(op.x),
            self.place(op.weight),
            self.place(op.kept),
            self.states(op.cache, op.layer),
            self.place(op.out),
            self.place_or_none(bias),
        ];
        let words = [dim as u32, op.taps as u32, form];
        self.record(Self::SHORT_CONV, &buffers, &words, [dim.div_ceil(Self::THREADS), 1, 1]);
        Ok(())
    }

    fn record_linear_attend(&mut self, op: &LinearAttend) -> Result<()> {
        let n = self.plan().n_rows(Rows::All);
        let (gains, skip, eps) = match op.rule {
            Rule::Delta { gains, eps } => (Some(gains), None, eps),
            Rule::Mamba { skip } => (None, Some(skip), 0.0),
        };
        let [key_heads, key_dim, heads, head_dim] =
            [op.n_key_heads, op.key_dim, op.n_heads, op.head_dim].map(|n| n as u32);
        let words = [key_heads, key_dim, heads, head_dim, u32::from(gains.is_some())];
        // Of a column of states, which a thread has 32 values of.
        let threads = op.key_dim.div_ceil(32).next_power_of_two();
        let kept = self.place(op.kept);
        let [made, learnt] = [
            [self.place(op.x), self.place(op.steps), self.place(op.rates), self.place_or_none(gains), kept],
            [self.plan_place(), kept, self.place_or_none(skip), self.states(op.cache, op.layer), self.place(op.out)],
        ];
        let of_part = |part: u32| [&words[..], &[threads as u32, part]].concat();
        let columns = [(op.n_heads * op.head_dim).div_ceil(Self::THREADS / threads), 1, 1];
        let parts = [(2 * op.n_key_heads + op.n_heads).div_ceil(Self::THREADS), n, 1];
        // What was kept of the step before is read before that of this one takes its place.
        self.record(Self::LINEAR_ATTEND, &learnt, &of_part(0), columns);
        self.record(Self::LINEAR_ROWS, &made, &[&words[..], &[eps.to_bits()]].concat(), parts);
        self.record(Self::LINEAR_ATTEND, &learnt, &of_part(1), columns);
        Ok(())
    }

    fn record_select(&mut self, op: &Select) -> Result<()> {
        let ((_, n), (most, cols)) = (self.shape(op.logits), self.shape(op.out));
        let (n_rows, k) = (self.plan().n_rows(Rows::Outputs), cols / 2);
        let (block, n_blocks) = select_blocks(n);
        // For any number of rows, so that what was recorded for one serves another.
        let blocks = self.scratch(Work::Blocks, most * n_blocks * 8)?;
        let (logits, out) = (self.place(op.logits), self.place(op.out));
        let words = [n, block, n_blocks, k].map(|v| v as u32);
        let groups = [n_blocks.div_ceil(Self::BLOCKS_OF_GROUP), n_rows, 1];
        self.record(Self::SELECT_BLOCKS, &[logits, blocks], &words[..3], groups);
        self.record(Self::SELECT, &[logits, blocks, out], &words, [n_rows, 1, 1]);
        Ok(())
    }

    fn record_experts(&mut self, op: &Experts) -> Result<()> {
        let n = self.plan().n_rows(Rows::All);
        let routes = self.record_routes(op, n)?;
        let [gate, up] = op.hidden;
        self.record_stack(&op.gate, (op.x, routes.used), gate, &routes);
        self.record_stack(&op.up, (op.x, routes.used), up, &routes);
        let gated = Gate { gate, up: Some(up), activation: op.activation, out: op.gated };
        self.record_gate_of(&gated, routes.n_pairs);
        self.record_stack(&op.down, (op.gated, 1), op.parts, &routes);
        let dim = op.down.rows;
        let (kept, gate) = match op.shared {
            Shared::Nothing => (0, None),
            Shared::Whole => (1, None),
            Shared::Gated(gate) => (2, Some(gate)),
        };
        let buffers = [self.place(op.parts), routes.scores, self.place_or_none(gate), self.place(op.out)];
        let words = [dim as u32, routes.used as u32, kept];
        self.record(Self::SUM_EXPERTS, &buffers, &words, [dim.div_ceil(Self::THREADS), n, 1]);
        Ok(())
    }

    /// Chooses experts, and sorts the pairs where a group of threads takes several.
    fn record_routes(&mut self, op: &Experts, n: usize) -> Result<Routes<Self::Place>> {
        let (most, _) = self.shape(op.parts);
        let (_, n_experts) = self.shape(op.logits);
        let used = op.routing.used;
        // For any number of rows, so that what was recorded for one serves another.
        let chosen = self.scratch(Work::Chosen, most * 4)?;
        let scores = self.scratch(Work::Scores, most * 4)?;
        let tiles = self.scratch(Work::Tiles, most * 16)?;
        let words = [n_experts as u32, used as u32, route_flags(&op.routing), op.routing.scale.to_bits()];
        let buffers = [self.place(op.logits), self.place_or_none(op.routing.bias), chosen, scores];
        self.record(Self::ROUTE, &buffers, &words, [n, 1, 1]);
        let n_pairs = n * used;
        let tile = self.tile_of(n_pairs, n_experts);
        let n_tiles = tiles_of_experts(n_pairs, n_experts, tile);
        let routes = Routes { chosen, scores, tiles, used, n_experts, n_pairs, tile, n_tiles };
        if tile > 1 {
            self.record_sort(&routes);
        }
        Ok(routes)
    }
}

/// The ops of [`Backend`](super::super::Backend) for one that records them: what cannot be recorded is noted for the next call that
/// can fail.
macro_rules! recorded_ops {
    () => {
        recorded_ops! {
            embed => record_embed(table: Weight, scale: f32, out: Buf);
            norm => record_norm(op: &Norm);
            pack => record_pack(x: Buf, rows: Rows, out: Operand);
            matmul => record_matmul(x: Operand, rows: Rows, products: &[Product]);
            rope_append => record_rope_append(op: &RopeAppend);
            attend => record_attend(op: &Attend);
            short_conv => record_short_conv(op: &ShortConv);
            linear_attend => record_linear_attend(op: &LinearAttend);
            gated_norm => record_gated_norm(op: &GatedNorm);
            gate => record_gate(op: &Gate);
            experts => record_experts(op: &Experts);
            select => record_select(op: &Select);
            read_cells => record_read_cells(op: &ReadCells);
            move_cells => record_move_cells(cache: Cache, moves: &[(u32, u32)]);
        }
    };
    ($($op:ident => $record:ident($($arg:ident: $ty:ty),*);)*) => {
        $(fn $op(&mut self, $($arg: $ty),*) {
            let recorded = self.$record($($arg),*);
            self.note(recorded);
        })*
    };
}
pub(in crate::backend) use recorded_ops;
