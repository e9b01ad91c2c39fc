//! Responses that can be asked for again, or gone on from. They are kept in memory only.

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

/// Most bytes of JSON that are kept; the oldest responses go first.
const MOST_BYTES: usize = 64 << 20;

/// A response that is kept.
#[derive(Clone, Debug)]
pub(in crate::serve) struct Kept {
    pub(super) response: Value,
    /// The conversation up to its end, without instructions.
    pub(super) messages: Vec<Value>,
    bytes: usize,
}

/// All that are kept, the oldest first.
#[derive(Debug, Default)]
pub(in crate::serve) struct Stored(Mutex<VecDeque<Kept>>);

impl Stored {
    fn all(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn keep(&self, response: Value, messages: Vec<Value>) {
        let bytes = json!([response, messages]).to_string().len();
        let mut all = self.all();
        all.push_back(Kept { response, messages, bytes });
        while all.iter().map(|kept| kept.bytes).sum::<usize>() > MOST_BYTES {
            all.pop_front();
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<Kept> {
        self.all().iter().find(|kept| kept.response["id"] == id).cloned()
    }

    /// Forgets a response; whether it was there.
    pub(super) fn remove(&self, id: &str) -> bool {
        let mut all = self.all();
        let n = all.len();
        all.retain(|kept| kept.response["id"] != id);
        all.len() < n
    }
}
