//! What the backends for GPUs share: how a plan lies in the device's memory, what memory steps need, how ops are cut, and the
//! recording of those whose kernels have one form.

mod memory;
mod plan;
mod record;
mod scratch;

use super::{Activation, Routing, Scores};
pub(super) use memory::{
    Allocation, CacheData, LayerData, Purpose, cell_words, check_heads, check_rows, layer_words, memory_use, repack,
};
pub(super) use plan::StepPlan;
pub(super) use record::{Recorder, Routes, recorded_ops};
pub(super) use scratch::{AngleTables, Scratch, Work};

/// Blocks of columns that the logits of a row are cut into: few enough for one group of threads to search, and to count in 16
/// bits.
const MAX_BLOCKS: usize = 4096;

/// Columns of a block, and blocks, for logits of so many columns; see `select_blocks` among the kernels.
fn select_blocks(n: usize) -> (usize, usize) {
    let block = n.div_ceil(MAX_BLOCKS).next_power_of_two().max(64);
    (block, n.div_ceil(block))
}

/// The number of an activation in the kernels `gate`.
pub(super) fn activation(activation: Activation) -> u32 {
    match activation {
        Activation::Silu => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::ClampedSwish => 3,
    }
}

/// What the kernels `route` call flags.
fn route_flags(routing: &Routing) -> u32 {
    u32::from(routing.scores == Scores::Sigmoid)
        | u32::from(routing.bias.is_some()) << 1
        | u32::from(routing.normalized) << 2
}

/// How many pairs of a row and an expert a group of threads takes: as many as an expert has on average, up to `most`. Where a
/// group takes several, pairs are sorted by their expert first.
pub(super) fn tile_of_experts(n_pairs: usize, n_experts: usize, most: usize) -> usize {
    (n_pairs / n_experts.max(1)).next_power_of_two().clamp(1, most)
}

/// The most groups that this makes.
fn tiles_of_experts(n_pairs: usize, n_experts: usize, tile: usize) -> usize {
    if tile == 1 { n_pairs } else { n_pairs.min(n_pairs / tile + n_experts) }
}

/// Query heads of an attention tile of at most `most` queries: those that share a key/value head, or an equal part of them.
pub(super) fn group_of(n_heads: usize, n_kv_heads: usize, most: usize) -> usize {
    let sharing = n_heads / n_kv_heads.max(1);
    (1..=sharing.min(most)).rev().find(|g| sharing.is_multiple_of(*g)).unwrap_or(1)
}
