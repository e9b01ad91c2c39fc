//! Answers that go in circles.

use foldhash::fast::FixedState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

/// Length of the runs that are compared, in words.
const RUN: usize = 12;

/// How often a run has to occur for an answer to go in circles.
const TIMES: u32 = 3;

/// Notices when a text says a run of words over and over.
///
/// Only what has a letter in it is a word: numbers, lines of tables and lists of zeros may repeat themselves. Numbers behind a colon
/// are words, too: records of the same fields are not the same.
#[derive(Debug, Default)]
pub(super) struct Circles {
    /// The beginning of a word whose end has not come yet.
    word: String,
    /// Whether numbers are words: a colon was there, and no letter since.
    value: bool,
    /// Words so far.
    words: usize,
    /// Hashes of the last words, and whether they have letters.
    last: VecDeque<(u64, bool)>,
    /// By a run's hash, how often it occurred, and where it ended last. Occurrences that overlap count once.
    runs: HashMap<u64, (u32, usize), FixedState>,
}

impl Circles {
    /// Takes more of the text; whether it goes in circles.
    pub(super) fn push(&mut self, text: &str) -> bool {
        text.chars().fold(false, |circles, c| {
            if c.is_alphanumeric() || self.value && c == '.' && !self.word.is_empty() {
                self.word.push(c);
                return circles;
            }
            let over = self.end_word();
            self.value |= c == ':';
            over || circles
        })
    }

    fn end_word(&mut self) -> bool {
        let word = std::mem::take(&mut self.word);
        let letters = word.chars().any(char::is_alphabetic);
        if word.is_empty() || !letters && !self.value {
            return false;
        }
        self.value &= !letters;
        self.words += 1;
        self.last.push_back((FixedState::default().hash_one(&word), letters));
        if self.last.len() > RUN {
            self.last.pop_front();
        }
        if self.last.len() < RUN || !self.last.iter().any(|(_, letters)| *letters) {
            return false;
        }
        let run = FixedState::default().hash_one(&self.last);
        let (times, end) = self.runs.entry(run).or_default();
        if *times == 0 || self.words >= *end + RUN {
            (*times, *end) = (*times + 1, self.words);
        }
        *times >= TIMES
    }
}
