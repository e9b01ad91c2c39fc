//! Grids of the IQ types: the vectors of magnitudes that weights may have. ggml's tables, made into `grids.bin` by
//! `tests/data/make_grids.py`, which says how entries lie there.

use std::ops::Range;
use std::sync::LazyLock;

/// Where a grid lies among all entries.
pub(super) type Grid = Range<usize>;

/// 8 magnitudes of 2 bits an entry.
pub(super) const IQ2_XXS: Grid = 0..256;
pub(super) const IQ2_XS: Grid = 256..768;
pub(super) const IQ2_S: Grid = 768..1792;
/// 4 magnitudes of 4 bits an entry.
pub(super) const IQ3_XXS: Grid = 1792..2048;
pub(super) const IQ3_S: Grid = 2048..2560;
/// 8 values of 2 bits an entry.
pub(super) const IQ1: Grid = 2560..4608;

/// The entries of a grid; expanded once, as the file holds differences.
pub(super) fn entries(grid: Grid) -> &'static [u16] {
    static ALL: LazyLock<Vec<u16>> = LazyLock::new(|| {
        let differences = include_bytes!("grids.bin").as_chunks::<2>().0.iter().map(|&b| u16::from_le_bytes(b));
        differences
            .scan(0_u16, |last, d| {
                *last = last.wrapping_add(d);
                Some(*last)
            })
            .collect()
    });
    &ALL[grid]
}
