//! Handles of what a backend holds, and the tables behind them.

use slotmap::{Key, SlotMap, new_key_type};
use std::fmt::Debug;
use std::ops::{Index, IndexMut};

new_key_type! {
    /// An f32 matrix `[rows, cols]` in the backend's memory.
    pub struct Buf;

    /// The left side of a matrix product, `[rows, cols]`, in the form that the backend's kernels read: on the CPU, 8-bit
    /// integers with a scale for every 32 values, plain f32 for float weights.
    pub struct Operand;

    /// A weight matrix `[rows, cols]` (`rows` outputs, `cols` inputs), repacked, still quantized.
    pub struct Weight;

    /// What all layers keep of the tokens that they have seen; see [`CacheSpec`](super::CacheSpec).
    pub struct Cache;
}

/// What is given back together, such as all that was made for one file; see [`Backend::begin_scope`](super::Backend::begin_scope).
/// The default one is what belongs to no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope(u32);

/// The scopes of a backend.
#[derive(Default)]
pub(super) struct Scopes {
    current: Scope,
    last: u32,
}

impl Scopes {
    /// What is made next belongs to this one.
    pub(super) fn current(&self) -> Scope {
        self.current
    }

    /// See [`super::Backend::begin_scope`].
    pub(super) fn begin(&mut self) -> Scope {
        self.last += 1;
        self.current = Scope(self.last);
        self.current
    }

    /// See [`super::Backend::end_scope`].
    pub(super) fn end(&mut self) {
        self.current = Scope::default();
    }
}

/// Items by their handles, each in a scope. A handle whose item was released panics, also when another item has its place.
pub(super) struct Table<K: Key, T>(SlotMap<K, (Scope, T)>);

impl<K: Key, T> Default for Table<K, T> {
    fn default() -> Self {
        Table(SlotMap::with_key())
    }
}

impl<K: Key, T> Table<K, T> {
    pub(super) fn insert(&mut self, scope: Scope, item: T) -> K {
        self.0.insert((scope, item))
    }

    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    pub(super) fn contains(&self, key: K) -> bool {
        self.0.contains_key(key)
    }

    /// Drops all items of a scope.
    pub(super) fn release(&mut self, scope: Scope) {
        self.0.retain(|_, (of, _)| *of != scope);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.values().map(|(_, item)| item)
    }
}

impl<K: Key, T> Index<K> for Table<K, T> {
    type Output = T;

    fn index(&self, key: K) -> &T {
        self.0.get(key).map_or_else(|| released(&key), |(_, item)| item)
    }
}

impl<K: Key, T> IndexMut<K> for Table<K, T> {
    fn index_mut(&mut self, key: K) -> &mut T {
        self.0.get_mut(key).map_or_else(|| released(&key), |(_, item)| item)
    }
}

#[cold]
fn released(key: &dyn Debug) -> ! {
    panic!("{key:?} is used after its scope was released")
}
