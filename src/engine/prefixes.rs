//! Known beginnings: a radix tree over blocks of the KV cache that finished answers left.
//!
//! A node is one block: up to [`BLOCK`] tokens with their keys and values. A path from the root is a text; texts with a
//! common beginning share its blocks. A new request takes the blocks of the longest path that it begins with, down to
//! the token. When memory is short, the leaf that was of no use for longest goes first.

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
    /// Counts uses.
    now: u64,
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
        Prefixes { nodes: vec![Node::default()], unused: Vec::new(), now: 0 }
    }

    /// Collects the blocks of the longest known beginning of `text`; returns its length in tokens.
    pub(super) fn longest(&mut self, text: &[u32], blocks: &mut Vec<u32>) -> usize {
        self.now += 1;
        blocks.clear();
        let (mut at, mut len) = (ROOT, 0);
        while let Some((child, shared)) = self.closest(at, &text[len..]) {
            blocks.push(self.nodes[child].block);
            self.nodes[child].used = self.now;
            len += shared;
            if shared < BLOCK {
                break;
            }
            at = child;
        }
        len
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

    /// Keeps the cache of a sequence, which holds `tokens`; the sequence may be freed afterwards.
    pub(super) fn insert(&mut self, kv: &mut KvCache, seq: SeqId, tokens: &[u32]) {
        self.now += 1;
        let blocks = kv.blocks(seq).to_vec();
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
