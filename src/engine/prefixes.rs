//! Known beginnings: a radix tree over blocks of the KV cache that finished answers left.
//!
//! A node is one block: up to [`BLOCK`] tokens with their keys and values. A path from the root is a text; texts with a
//! common beginning share its blocks. A new request takes the blocks of the longest path that it begins with, down to
//! the token. When memory is short, the leaf that was of no use for longest goes first.
//!
//! Where layers keep states, a request can go on only from a text whose state was kept. Kept states share the cache's slots with
//! the sequences; when these run short, the state that was of no use for longest goes first.

use crate::backend::BLOCK;
use crate::batch::SeqId;
use crate::kv::KvCache;
use crate::prefill::common;

/// See the module text.
#[derive(Debug)]
pub(super) struct Prefixes {
    /// The first one is the root, which has no block.
    nodes: Vec<Node>,
    /// Unused entries of `nodes`.
    unused: Vec<usize>,
    states: Vec<State>,
    /// Counts uses.
    now: u64,
}

/// A state that was kept.
#[derive(Debug)]
struct State {
    /// What was read.
    text: Vec<u32>,
    slot: u32,
    /// When it was last of use.
    used: u64,
}

/// A beginning whose cache is there.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Its tokens.
    pub(super) len: usize,
    /// Where they lie.
    pub(super) blocks: Vec<u32>,
    /// The state behind them, where layers keep states.
    pub(super) slot: Option<u32>,
}

#[derive(Debug, Default)]
struct Node {
    /// 1 to [`BLOCK`] tokens; fewer only in leaves. None in the root and in unused entries.
    tokens: Vec<u32>,
    block: u32,
    parent: usize,
    /// Ordered by their tokens.
    children: Vec<usize>,
    /// When it was last of use.
    used: u64,
}

const ROOT: usize = 0;

impl Prefixes {
    pub(super) fn new() -> Self {
        Prefixes { nodes: vec![Node::default()], unused: Vec::new(), states: Vec::new(), now: 0 }
    }

    /// The longest beginning of `text` that a request can go on from.
    pub(super) fn longest(&mut self, kv: &KvCache, text: &[u32]) -> Known {
        self.now += 1;
        let mut known = Known::default();
        let mut at = ROOT;
        while let Some((child, shared)) = self.closest(at, &text[known.len..]) {
            known.blocks.push(self.nodes[child].block);
            self.nodes[child].used = self.now;
            known.len += shared;
            if shared < BLOCK {
                break;
            }
            at = child;
        }
        if kv.spec().has_states() {
            let text = &text[..known.len];
            let kept = self.states.iter_mut().filter(|state| text.starts_with(&state.text));
            let longest = kept.max_by_key(|state| state.text.len());
            known.slot = longest.as_ref().map(|state| state.slot);
            known.len = longest.map_or(0, |state| {
                state.used = self.now;
                state.text.len()
            });
            known.blocks.truncate(known.len.div_ceil(BLOCK));
        }
        known
    }

    /// The child that shares most with `text`, and how many tokens that is; `None` when it is none.
    fn closest(&self, at: usize, text: &[u32]) -> Option<(usize, usize)> {
        let children = &self.nodes[at].children;
        // In order, the longest common beginning is with a neighbour of the place where `text` would stand.
        let place = children.partition_point(|&c| self.nodes[c].tokens[..] < *text);
        let neighbours = place.saturating_sub(1)..(place + 1).min(children.len());
        let shared = children[neighbours].iter().map(|&c| (c, common(&self.nodes[c].tokens, text)));
        shared.filter(|(_, n)| *n > 0).max_by_key(|(_, n)| *n)
    }

    /// Frees a sequence that begins with `tokens`, and keeps the cache of these.
    pub(super) fn take(&mut self, kv: &mut KvCache, seq: SeqId, tokens: &[u32]) {
        self.now += 1;
        // Only a sequence that does not exist is an error, and such a one has nothing to keep.
        if kv.truncate(seq, tokens.len()).and_then(|len| kv.checkpoint(seq, len)).is_ok() {
            self.insert_states(kv, seq, tokens);
            self.insert_blocks(kv, kv.blocks(seq).to_vec(), tokens);
        }
        kv.free(seq);
    }

    fn insert_states(&mut self, kv: &mut KvCache, seq: SeqId, tokens: &[u32]) {
        for kept in kv.checkpoints(seq).to_vec() {
            let text = &tokens[..kept.len];
            match self.states.iter_mut().find(|state| state.text == text) {
                Some(known) => known.used = self.now,
                None => {
                    kv.hold_slot(kept.slot);
                    self.states.push(State { text: text.to_vec(), slot: kept.slot, used: self.now });
                }
            }
        }
    }

    fn insert_blocks(&mut self, kv: &mut KvCache, blocks: Vec<u32>, tokens: &[u32]) {
        let mut at = ROOT;
        for (chunk, &block) in tokens.chunks(BLOCK).zip(&blocks) {
            let known = self.closest(at, chunk);
            if let Some((child, shared)) = known {
                if shared == chunk.len() {
                    // All of it is known. Behind a partial chunk there is nothing, so `at` may be any child.
                    self.nodes[child].used = self.now;
                    at = child;
                    continue;
                }
                if shared == self.nodes[child].tokens.len() {
                    // A leaf that ends earlier is of no more use.
                    self.remove(kv, child);
                }
            }
            kv.hold(block);
            at = self.add(at, chunk, block);
        }
    }

    fn add(&mut self, parent: usize, tokens: &[u32], block: u32) -> usize {
        let node = Node { tokens: tokens.to_vec(), block, parent, children: Vec::new(), used: self.now };
        let index = self.unused.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            self.nodes.len() - 1
        });
        self.nodes[index] = node;
        let place = self.nodes[parent].children.partition_point(|&c| self.nodes[c].tokens[..] < *tokens);
        self.nodes[parent].children.insert(place, index);
        index
    }

    fn remove(&mut self, kv: &mut KvCache, leaf: usize) {
        let node = std::mem::take(&mut self.nodes[leaf]);
        self.nodes[node.parent].children.retain(|&c| c != leaf);
        self.unused.push(leaf);
        kv.release(node.block);
    }

    /// Gives up the state that was of no use for longest, at first those whose slot nobody else holds; `false` when none is kept.
    pub(super) fn forget_state(&mut self, kv: &mut KvCache) -> bool {
        let states = self.states.iter().enumerate();
        let oldest = states.min_by_key(|(_, state)| (kv.slot_holders(state.slot) > 1, state.used)).map(|(i, _)| i);
        if let Some(i) = oldest {
            kv.release_slot(self.states.swap_remove(i).slot);
        }
        oldest.is_some()
    }

    /// Gives up everything.
    pub(super) fn clear(&mut self, kv: &mut KvCache) {
        while self.evict(kv) || self.forget_state(kv) {}
    }

    /// Blocks that only this tree holds.
    pub(super) fn evictable(&self, kv: &KvCache) -> usize {
        self.nodes[1..].iter().filter(|n| !n.tokens.is_empty() && kv.holders(n.block) == 1).count()
    }

    /// Gives up the leaf that was of no use for longest, at first those whose block nobody else holds; `false` when the
    /// tree is empty.
    pub(super) fn evict(&mut self, kv: &mut KvCache) -> bool {
        let leaves = self.nodes.iter().enumerate().filter(|(_, n)| !n.tokens.is_empty() && n.children.is_empty());
        let oldest = leaves.min_by_key(|(_, n)| (kv.holders(n.block) > 1, n.used)).map(|(i, _)| i);
        if let Some(leaf) = oldest {
            self.remove(kv, leaf);
        }
        oldest.is_some()
    }
}
