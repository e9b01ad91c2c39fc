//! How far a model's predictions are from those of another run: Kullback-Leibler divergence from log-probabilities that were
//! saved. The file is llama.cpp's (`llama-perplexity --save-all-logits`), so each reads what the other wrote.
//!
//! It holds `_logits_`; as i32 the tokens of a window, the vocabulary's size, the number of windows and all tokens; then, for
//! every scored token, the log-probabilities of the whole vocabulary as 16-bit steps between the least and the largest: two
//! floats (size of a step, log-probability of step 0), the steps, and padding to an even number.

use foreword::{Error, Result};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"_logits_";

/// Logits this far under the largest are as good as impossible: all of them are step 0, which says nothing of how unlikely each is.
const DEEPEST: f32 = 16.0;

/// What was scored: the windows, and the size of the vocabulary.
#[derive(Clone, Copy)]
pub(crate) struct Scored<'a> {
    pub(crate) tokens: &'a [u32],
    pub(crate) context: usize,
    pub(crate) n_vocab: usize,
}

impl Scored<'_> {
    /// The file's head.
    fn head(&self) -> Vec<u8> {
        let sizes = [self.context, self.n_vocab, self.tokens.len() / self.context].map(|n| n as u32);
        let numbers = sizes.iter().chain(self.tokens).flat_map(|n| n.to_le_bytes());
        MAGIC.iter().copied().chain(numbers).collect()
    }

    /// Bytes of a row.
    fn row_bytes(&self) -> usize {
        (self.n_vocab.next_multiple_of(2) + 4) * 2
    }
}

/// Writes log-probabilities.
pub(crate) struct Saving {
    out: BufWriter<File>,
    path: PathBuf,
    row: Vec<u8>,
}

impl Saving {
    /// Makes the file. One that is there is left alone.
    pub(crate) fn create(path: &Path, scored: &Scored<'_>) -> Result<Saving> {
        let file = File::create_new(path).map_err(|e| cannot("write", path, e))?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&scored.head()).map_err(|e| cannot("write", path, e))?;
        Ok(Saving { out, path: path.to_path_buf(), row: vec![0; scored.row_bytes()] })
    }

    /// Adds a row.
    pub(crate) fn add(&mut self, logits: &[f32]) -> Result<()> {
        let (largest, log_sum) = log_sum(logits);
        let least = logits.iter().copied().fold(f32::INFINITY, f32::min).max(largest - DEEPEST);
        let step = (largest - least) / 65535.0;
        self.row[..4].copy_from_slice(&step.to_le_bytes());
        self.row[4..8].copy_from_slice(&((f64::from(least) - log_sum) as f32).to_le_bytes());
        for (at, &logit) in self.row[8..].as_chunks_mut::<2>().0.iter_mut().zip(logits) {
            let steps = if logit > least { ((logit - least) / step).round_ties_even() as u16 } else { 0 };
            *at = steps.to_le_bytes();
        }
        self.out.write_all(&self.row).map_err(|e| cannot("write", &self.path, e))
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        self.out.flush().map_err(|e| cannot("write", &self.path, e))
    }
}

/// Compares with log-probabilities that were saved.
pub(crate) struct Comparing {
    input: BufReader<File>,
    path: PathBuf,
    row: Vec<u8>,
    /// Of every row.
    divergences: Vec<f64>,
    /// Rows whose most probable token is the same.
    agreed: usize,
}

/// What a comparison found, in nats a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Divergence {
    pub(crate) mean: f64,
    pub(crate) median: f64,
    /// 99.9 % of the rows are below.
    pub(crate) high: f64,
    /// Share of rows whose most probable token is the same.
    pub(crate) agreement: f64,
}

impl Comparing {
    /// Opens a file, which must be one of the same windows.
    pub(crate) fn open(path: &Path, scored: &Scored<'_>) -> Result<Comparing> {
        let mut input = BufReader::with_capacity(1 << 20, File::open(path).map_err(|e| cannot("read", path, e))?);
        let wanted = scored.head();
        let mut head = vec![0; wanted.len()];
        let whole = input.read_exact(&mut head).is_ok();
        if !head.starts_with(MAGIC) {
            return Err(Error::bad_file("no saved log-probabilities").at(path.display()));
        }
        if !whole || head != wanted {
            let message = "the saved log-probabilities are those of another text, tokenizer, --context or --chunks";
            return Err(Error::invalid_request(message).at(path.display()));
        }
        let row = vec![0; scored.row_bytes()];
        Ok(Comparing { input, path: path.to_path_buf(), row, divergences: Vec::new(), agreed: 0 })
    }

    /// Compares the next row.
    pub(crate) fn add(&mut self, logits: &[f32]) -> Result<()> {
        self.input.read_exact(&mut self.row).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::bad_file("the saved log-probabilities are cut off").at(self.path.display())
            }
            _ => cannot("read", &self.path, e),
        })?;
        let float =
            |at: usize| f32::from_le_bytes([self.row[at], self.row[at + 1], self.row[at + 2], self.row[at + 3]]);
        let (step, first) = (f64::from(float(0)), f64::from(float(4)));
        let (_, log_sum) = log_sum(logits);
        let (mut divergence, mut best, mut own) = (0.0, (f64::NEG_INFINITY, 0), 0);
        for (i, (&steps, &logit)) in self.row[8..].as_chunks::<2>().0.iter().zip(logits).enumerate() {
            let base = first + step * f64::from(u16::from_le_bytes(steps));
            if base > best.0 {
                best = (base, i);
            }
            if logit > logits[own] {
                own = i;
            }
            if base > -f64::from(DEEPEST) {
                divergence += base.exp() * (base - (f64::from(logit) - log_sum));
            }
        }
        self.divergences.push(divergence);
        self.agreed += usize::from(best.1 == own);
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Divergence {
        self.divergences.sort_by(f64::total_cmp);
        let n = self.divergences.len().max(1);
        let at = |share: f64| self.divergences.get((share * (n - 1) as f64).round() as usize).copied().unwrap_or(0.0);
        Divergence {
            mean: self.divergences.iter().sum::<f64>() / n as f64,
            median: at(0.5),
            high: at(0.999),
            agreement: self.agreed as f64 / n as f64,
        }
    }
}

/// The largest logit, and the logarithm of the sum of all exponentials.
fn log_sum(logits: &[f32]) -> (f32, f64) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
    (largest, f64::from(largest) + sum.ln())
}

fn cannot(what: &str, path: &Path, e: std::io::Error) -> Error {
    Error::storage(format!("cannot {what} {}: {e}", path.display())).caused_by(e)
}

#[cfg(test)]
mod tests {
    use super::*;

    const N_VOCAB: u32 = 30_001;

    /// Against the definition in 64 bits; the file's steps are 16 / 65535 wide. Most tokens of a vocabulary are as good as impossible.
    #[test]
    fn a_divergence_is_that_of_the_definition() {
        let row = |seed: u32| -> Vec<f32> {
            let noise = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 977) >> 8) % 1000;
            let likely = (0..301).map(|i| noise(i + seed) as f32 / 90.0);
            likely.chain((301..N_VOCAB).map(|i| -20.0 - noise(i + seed) as f32 / 50.0)).collect()
        };
        let softmax = |logits: &[f32]| -> Vec<f64> {
            let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
            logits.iter().map(|&l| f64::from(l).exp() / sum).collect()
        };
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("logits");
        let scored = Scored { tokens: &[1, 2, 3, 4], context: 4, n_vocab: N_VOCAB as usize };
        let mut saving = Saving::create(&path, &scored).expect("a file");
        (0..3).for_each(|i| saving.add(&row(i)).expect("room"));
        saving.finish().expect("room");
        let mut same = Comparing::open(&path, &scored).expect("the file");
        (0..3).for_each(|i| same.add(&row(i)).expect("a row"));
        let same = same.finish();
        assert!(same.mean.abs() < 1e-5 && same.agreement == 1.0, "{same:?}");
        let mut other = Comparing::open(&path, &scored).expect("the file");
        (0..3).for_each(|i| other.add(&row(i + 7)).expect("a row"));
        assert!(other.add(&row(0)).is_err(), "a row too many");
        let found = other.finish();
        let wanted: Vec<f64> = (0..3)
            .map(|i| softmax(&row(i)).iter().zip(softmax(&row(i + 7))).map(|(p, q)| p * (p / q).ln()).sum())
            .collect();
        let mean = wanted.iter().sum::<f64>() / 3.0;
        assert!((found.mean / mean - 1.0).abs() < 1e-3, "{found:?}, not {mean}");
        assert!(Comparing::open(&path, &Scored { tokens: &[1, 2, 3, 5], ..scored }).is_err(), "another text");
        assert!(Saving::create(&path, &scored).is_err(), "a file that is there");
    }
}
