//! The CPU backend's threads: every task runs once, parts of a matrix are disjoint, and neither misuse nor a panic does harm.
//! Miri runs this file too (`./test`), with fewer rounds.

#[path = "common/random.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with tests that need more of it")]
mod random;

use foreword::backend::cpu::pool::{Columns, Pool, none};
use random::Random;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rounds of a test: few under Miri, which is some hundred times slower.
const fn rounds(n: usize) -> usize {
    if cfg!(miri) { n.div_ceil(500) } else { n }
}

/// Counts how often each of `n` tasks ran.
struct Counts(Vec<AtomicUsize>);

impl Counts {
    fn new(n: usize) -> Self {
        Counts((0..n).map(|_| AtomicUsize::new(0)).collect())
    }

    fn add(&self, task: usize) {
        self.0[task].fetch_add(1, Ordering::Relaxed);
    }

    fn assert_all(&self, times: usize) {
        let counts: Vec<_> = self.0.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        assert!(counts.iter().all(|&c| c == times), "{times} times each, not {counts:?}");
    }
}

#[test]
fn every_task_runs_once_in_thousands_of_regions() {
    let pool = Pool::new(2);
    for n in (0..rounds(20_000)).map(|i| i % 38) {
        let counts = Counts::new(n);
        pool.run(n, &|task| counts.add(task));
        counts.assert_all(1);
    }
}

#[test]
fn sleeping_workers_wake_up() {
    let pool = Pool::new(2);
    for _ in 0..3 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let counts = Counts::new(64);
        pool.run(64, &|task| counts.add(task));
        counts.assert_all(1);
    }
}

#[test]
fn threads_may_share_a_pool() {
    let pool = Pool::new(2);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..rounds(2_000) {
                    let counts = Counts::new(16);
                    pool.run(16, &|task| counts.add(task));
                    counts.assert_all(1);
                }
            });
        }
    });
}

#[test]
fn a_task_may_run_a_region() {
    let pool = Pool::new(3);
    for _ in 0..rounds(500) {
        let counts = Counts::new(8 * 8);
        pool.run(8, &|outer| pool.run(8, &|inner| counts.add(outer * 8 + inner)));
        counts.assert_all(1);
    }
}

#[test]
fn a_panic_of_a_task_reaches_the_caller_and_the_pool_works_on() {
    let pool = Pool::new(2);
    let caller = std::thread::current().id();
    for round in 0..rounds(1_000) {
        // A task on the caller, on a worker, and on both at once.
        let (on_caller, on_worker) = [(true, false), (false, true), (true, true)][round % 3];
        let met = std::sync::Barrier::new(2);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.run(2, &|_| {
                let is_caller = std::thread::current().id() == caller;
                // Both threads have a task.
                met.wait();
                if if is_caller { on_caller } else { on_worker } {
                    // As a panic, but without a message on the terminal.
                    resume_unwind(Box::new(round));
                }
            });
        }));
        assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&round), "caller {on_caller}, worker {on_worker}");
        // No thread is lost: two tasks that wait for each other need two.
        pool.run(2, &|_| {
            met.wait();
        });
    }
}

#[test]
fn rows_are_given_out_once_each_also_picked_ones() {
    let pool = Pool::new(2);
    let (mut a, mut b, mut c) = (vec![0u32; 9 * 3], vec![0u8; 4 * 2], vec![0.0f32; 4]);
    let pick = [1, 2, 5, 8];
    pool.rows(4, (&mut a, 3, Some(&pick)), (&mut b, 2), (&mut c, 1), &|row, a, b, c| {
        a.iter_mut().for_each(|v| *v += row as u32 + 1);
        b.iter_mut().for_each(|v| *v += 1);
        c[0] += 1.0;
    });
    let expected = |row: usize| pick.iter().position(|&p| p as usize == row).map_or(0, |i| i as u32 + 1);
    assert!(a.chunks(3).enumerate().all(|(row, values)| values.iter().all(|&v| v == expected(row))));
    assert!(b.iter().all(|&v| v == 1) && c.iter().all(|&v| v == 1.0));
}

#[test]
fn columns_are_shared_out_completely() {
    let pool = Pool::new(3);
    let (mut a, mut b) = (vec![0.0f32; 3 * 50], vec![0.0f32; 3 * 7]);
    let mut outs = [Columns::new(&mut a, 50), Columns::new(&mut b, 7)];
    pool.columns(&mut outs, 16, 2, &|which, _, part| {
        for row in 0..3 {
            part.row(row).iter_mut().for_each(|v| *v += (which + 1) as f32);
        }
    });
    assert!(a.iter().all(|&v| v == 1.0) && b.iter().all(|&v| v == 2.0));
}

#[test]
fn strips_have_the_same_columns_of_all_matrices_and_share_none() {
    let pool = Pool::new(3);
    for (n_cols, width) in [(1, 4), (10, 4), (8, 4)] {
        let [mut a, mut b] = [3, 5].map(|n_rows| vec![0.0; n_rows * n_cols]);
        let mut both = [Columns::new(&mut a, n_cols), Columns::new(&mut b, n_cols)];
        pool.strips(&mut both, width, &|columns, [a, b]| {
            (0..3).for_each(|row| a.row(row).iter_mut().for_each(|v| *v += 1.0));
            (0..5).for_each(|row| b.row(row).iter_mut().zip(columns.clone()).for_each(|(v, at)| *v += at as f32));
        });
        assert!(a.iter().all(|v| *v == 1.0));
        assert!(b.iter().enumerate().all(|(i, v)| *v == (i % n_cols) as f32));
    }
    let (mut a, mut b) = (vec![0.0; 6], vec![0.0; 6]);
    let mut both = [Columns::new(&mut a, 2), Columns::new(&mut b, 3)];
    let refused = catch_unwind(AssertUnwindSafe(|| pool.strips(&mut both, 2, &|_, _| {})));
    assert!(refused.is_err(), "matrices of different columns");
}

/// How often each value of a matrix `[n_rows, n_cols]` was in a tile of the grid of `ranges` and `width`; `None` when it is
/// refused.
fn tiles_at(pool: &Pool, (n_rows, n_cols): (usize, usize), ranges: &[Range<usize>], width: usize) -> Option<Vec<f32>> {
    let mut matrix = vec![0.0f32; n_rows * n_cols];
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        pool.grid(&mut Columns::new(&mut matrix, n_cols), ranges, width, &|i, _, tile| {
            for row in ranges[i].clone() {
                tile.row(row).iter_mut().for_each(|v| *v += 1.0);
            }
        });
    }));
    outcome.ok().map(|()| matrix)
}

#[test]
fn tiles_of_a_grid_are_disjoint_or_it_is_refused() {
    let pool = Pool::new(2);
    let mut random = Random::new(3);
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..rounds(4_000) {
        let (n_rows, n_cols, width) = (1 + random.below(8), 1 + random.below(9), 1 + random.below(10));
        let mut ranges: Vec<Range<usize>> = (0..random.below(4)).map(|_| random.below(10)..random.below(10)).collect();
        // Half of them in order, or nearly so; any would hardly ever be.
        if random.below(2) == 0 {
            let mut borders: Vec<usize> = ranges.iter().flat_map(|r| [r.start, r.end]).collect();
            borders.sort_unstable();
            ranges = borders.chunks(2).map(|b| b[0]..b[1]).collect();
        }
        let is_fine = ranges.iter().all(|r| r.start <= r.end && r.end <= n_rows)
            && ranges.windows(2).all(|pair| pair[0].end <= pair[1].start);
        match tiles_at(&pool, (n_rows, n_cols), &ranges, width) {
            None => {
                refused += 1;
                assert!(!is_fine, "{ranges:?} of {n_rows} rows are refused");
            }
            Some(matrix) => {
                taken += 1;
                assert!(is_fine, "{ranges:?} of {n_rows} rows are taken");
                for (row, values) in matrix.chunks(n_cols).enumerate() {
                    let expected = ranges.iter().filter(|r| r.contains(&row)).count() as f32;
                    assert!(values.iter().all(|&v| v == expected), "row {row} of {ranges:?}: {values:?}");
                }
            }
        }
    }
    assert!(cfg!(miri) || refused > 100 && taken > 100, "{refused} refused, {taken} taken");
}

#[test]
fn a_tile_has_no_row_of_another() {
    let mut matrix = [0.0f32; 8];
    let pool = Pool::new(2);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        pool.grid(&mut Columns::new(&mut matrix, 2), &[0..2, 2..4], 2, &|i, _, tile| {
            tile.row(2 - 2 * i);
        });
    }));
    assert!(outcome.is_err());
}

/// Whether a call panics.
fn is_refused(call: impl FnOnce(&Pool)) -> bool {
    let pool = Pool::new(2);
    catch_unwind(AssertUnwindSafe(|| call(&pool))).is_err()
}

#[test]
fn what_would_overlap_or_reach_too_far_is_refused() {
    let mut eight = [0u8; 8];
    assert!(is_refused(|pool| pool.chunks(&mut eight, 4, &[1, 1], &|_, _| {})));
    assert!(is_refused(|pool| pool.chunks(&mut eight, 4, &[1, 0], &|_, _| {})));
    assert!(is_refused(|pool| pool.chunks(&mut eight, 4, &[0, 2], &|_, _| {})));
    assert!(is_refused(|pool| pool.rows(2, (&mut eight, 1, Some(&[3, 3])), none(), none(), &|_, _, _, _| {})));
    assert!(is_refused(|pool| pool.rows(3, (&mut eight, 3, None), none(), none(), &|_, _, _, _| {})));
    // The offset of the last row would come around to that of the first.
    assert!(is_refused(|pool| pool.rows(
        3,
        (&mut eight, 1 << (usize::BITS - 1), None),
        none(),
        none(),
        &|_, _, _, _| {}
    )));
    assert!(is_refused(|_| {
        Columns::new(&mut [0.0; 8], 3);
    }));
}
