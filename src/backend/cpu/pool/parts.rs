//! Regions over matrices: the only place that hands one buffer to several threads. Every task gets parts of it that no
//! other task has.

use super::Pool;
use std::ops::Range;

/// Called with a row's number and its part of each of the matrices of [`Pool::rows`].
pub type RowsJob<'a, A, B, C> = &'a (dyn Fn(usize, &mut [A], &mut [B], &mut [C]) + Sync);

/// No matrix, for [`Pool::rows`].
pub fn none() -> (&'static mut [u8], usize) {
    (&mut [], 0)
}

impl Pool {
    /// Shares out the first `n` rows of three matrices, `(data, row length)` each: `job(row, a, b, c)`. The rows of `a` may be
    /// picked from a larger matrix.
    ///
    /// # Panics
    /// If `pick` is not strictly ascending or a matrix is too short.
    pub fn rows<A: Send, B: Send, C: Send>(
        &self,
        n: usize,
        (a, a_len, pick): (&mut [A], usize, Option<&[u32]>),
        (b, b_len): (&mut [B], usize),
        (c, c_len): (&mut [C], usize),
        job: RowsJob<'_, A, B, C>,
    ) {
        assert!(pick.is_none_or(|p| p.len() == n && p.is_sorted_by(|a, b| a < b)), "rows must be distinct and sorted");
        let a_rows = pick.map_or(n, |p| p.last().map_or(0, |&last| last as usize + 1));
        let fit = fits(a_rows, a_len, a) && fits(n, b_len, b) && fits(n, c_len, c);
        assert!(fit, "a matrix is too short for its rows");
        let (a, b, c) = (Parts::new(a), Parts::new(b), Parts::new(c));
        self.run(n, &|row| {
            let a_row = pick.map_or(row, |p| p[row] as usize);
            // SAFETY: each row belongs to one task, picked rows are distinct, and rows of a matrix do not overlap, as their
            // offsets do not overflow.
            #[allow(unsafe_code, reason = "disjoint parts of one buffer for several threads")]
            let (a, b, c) = unsafe {
                (
                    a.part(a_row * a_len..(a_row + 1) * a_len),
                    b.part(row * b_len..(row + 1) * b_len),
                    c.part(row * c_len..(row + 1) * c_len),
                )
            };
            job(row, a, b, c);
        });
    }

    /// Gives task `i` the chunk `chunks[i]` of `data`, `len` long.
    ///
    /// # Panics
    /// If `chunks` is not strictly ascending (two threads would share a chunk), or `data` too short.
    pub fn chunks<T: Send>(&self, data: &mut [T], len: usize, chunks: &[u32], job: &(dyn Fn(usize, &mut [T]) + Sync)) {
        assert!(chunks.is_sorted_by(|a, b| a < b), "chunks must be distinct and sorted");
        let n = chunks.last().map_or(0, |&last| last as usize + 1);
        assert!(fits(n, len, data), "the data is too short for its chunks");
        let shared = Parts::new(data);
        self.run(chunks.len(), &|i| {
            let start = chunks[i] as usize * len;
            // SAFETY: `chunks` is strictly ascending, so no two tasks have the same chunk, and chunks do not overlap, as their
            // offsets do not overflow.
            #[allow(unsafe_code, reason = "disjoint parts of one buffer for several threads")]
            job(i, unsafe { shared.part(start..start + len) });
        });
    }

    /// Splits the columns of several matrices into panels of `width` columns and shares `grain` panels at a time:
    /// `job(matrix, panels, columns)`.
    pub fn columns(
        &self,
        outs: &mut [Columns<'_>],
        width: usize,
        grain: usize,
        job: &(dyn Fn(usize, Range<usize>, &mut ColumnsPart<'_>) + Sync),
    ) {
        let n_tasks = outs.iter().map(|o| o.n_cols.div_ceil(width).div_ceil(grain)).sum();
        let outs: &[Columns<'_>] = outs;
        self.run(n_tasks, &|mut task| {
            for (which, out) in outs.iter().enumerate() {
                let n_panels = out.n_cols.div_ceil(width);
                let n = n_panels.div_ceil(grain);
                if task >= n {
                    task -= n;
                    continue;
                }
                let panels = task * grain..((task + 1) * grain).min(n_panels);
                let cols = panels.start * width..(panels.end * width).min(out.n_cols);
                return job(which, panels, &mut out.part(cols));
            }
        });
    }

    /// Splits the columns of matrices that have equally many into strips of `width` columns: `job(columns, parts)`.
    ///
    /// # Panics
    /// If the matrices differ in their columns.
    pub fn strips<const N: usize>(
        &self,
        outs: &mut [Columns<'_>; N],
        width: usize,
        job: &(dyn Fn(Range<usize>, &mut [ColumnsPart<'_>; N]) + Sync),
    ) {
        let n_cols = outs.first().map_or(0, |out| out.n_cols);
        assert!(outs.iter().all(|out| out.n_cols == n_cols), "matrices of different columns");
        let outs: &[Columns<'_>; N] = outs;
        self.run(n_cols.div_ceil(width), &|strip| {
            let cols = strip * width..((strip + 1) * width).min(n_cols);
            job(cols.clone(), &mut outs.each_ref().map(|out| out.part(cols.clone())));
        });
    }

    /// Splits a matrix into tiles of `rows[i]` times `width` columns: `job(i, panel, tile)`.
    ///
    /// # Panics
    /// If `rows` are not ranges of the matrix's rows, ascending and disjoint.
    pub fn grid(
        &self,
        out: &mut Columns<'_>,
        rows: &[Range<usize>],
        width: usize,
        job: &(dyn Fn(usize, usize, &mut ColumnsPart<'_>) + Sync),
    ) {
        let forward = rows.iter().all(|r| r.start <= r.end);
        assert!(forward && rows.is_sorted_by(|a, b| a.end <= b.start), "row ranges must be disjoint and sorted");
        assert!(rows.last().is_none_or(|r| r.end <= out.n_rows()), "the matrix is too short for its rows");
        let n_panels = out.n_cols.div_ceil(width);
        let out: &Columns<'_> = out;
        self.run(rows.len() * n_panels, &|task| {
            let (tile, panel) = (task / n_panels, task % n_panels);
            let cols = panel * width..((panel + 1) * width).min(out.n_cols);
            let rows = rows[tile].clone();
            job(tile, panel, &mut ColumnsPart { data: &out.data, n_cols: out.n_cols, rows, cols });
        });
    }
}

/// Whether `n` rows of `len` values lie in `data`.
fn fits<T>(n: usize, len: usize, data: &[T]) -> bool {
    n.checked_mul(len).is_some_and(|needed| needed <= data.len())
}

/// A buffer of which several threads write disjoint parts.
struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    owner: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: threads get disjoint parts only (the contract of `part`), and `T: Send`.
#[allow(unsafe_code, reason = "disjoint parts of one buffer for several threads")]
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    fn new(data: &'a mut [T]) -> Self {
        Parts { start: data.as_mut_ptr(), len: data.len(), owner: std::marker::PhantomData }
    }

    /// # Safety
    /// No two parts that live at the same time may overlap.
    #[allow(unsafe_code, clippy::mut_from_ref, reason = "disjoint parts of one buffer for several threads")]
    unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part out of bounds");
        // SAFETY: in bounds by the assertion, exclusive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// A matrix `[rows, n_cols]` whose columns [`Pool::columns`] shares out.
pub struct Columns<'a> {
    data: Parts<'a, f32>,
    n_cols: usize,
}

impl<'a> Columns<'a> {
    /// `data` is row-major with `n_cols` columns.
    ///
    /// # Panics
    /// If it is not made of whole rows.
    pub fn new(data: &'a mut [f32], n_cols: usize) -> Self {
        assert!(data.len().is_multiple_of(n_cols), "a matrix is made of whole rows");
        Columns { data: Parts::new(data), n_cols }
    }

    /// Some columns of all rows.
    fn part(&self, cols: Range<usize>) -> ColumnsPart<'_> {
        ColumnsPart { data: &self.data, n_cols: self.n_cols, rows: 0..self.n_rows(), cols }
    }

    fn n_rows(&self) -> usize {
        self.data.len.checked_div(self.n_cols).unwrap_or(0)
    }
}

/// Some rows and columns of a matrix, for one thread.
pub struct ColumnsPart<'a> {
    data: &'a Parts<'a, f32>,
    n_cols: usize,
    rows: Range<usize>,
    cols: Range<usize>,
}

impl ColumnsPart<'_> {
    /// This part of a row of the matrix.
    ///
    /// # Panics
    /// If the row is not one of this part.
    #[inline(always)]
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(self.rows.contains(&row), "row of another part");
        let start = row * self.n_cols;
        // SAFETY: `Pool` made this part for one thread, and its rows and columns overlap with no other part's; `&mut self`
        // keeps this thread from holding two rows at once.
        #[allow(unsafe_code, reason = "disjoint parts of one buffer for several threads")]
        unsafe {
            self.data.part(start + self.cols.start..start + self.cols.end)
        }
    }
}
