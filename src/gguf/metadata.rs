//! Key-value pairs of a GGUF header.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;

/// Many strings in one allocation: vocabularies have a quarter of a million.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strings {
    text: String,
    /// End of each string in `text`.
    ends: Vec<u32>,
}

impl Strings {
    /// Appends a string; `false` when the text would exceed 4 GiB.
    pub fn push(&mut self, s: &str) -> bool {
        let Ok(end) = u32::try_from(self.text.len().saturating_add(s.len())) else { return false };
        self.text.push_str(s);
        self.ends.push(end);
        true
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string at `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)? as usize,
            None => 0,
        };
        self.text.get(start..end)
    }

    /// All strings, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i).unwrap_or_default())
    }
}

impl<'a> FromIterator<&'a str> for Strings {
    fn from_iter<T: IntoIterator<Item = &'a str>>(iter: T) -> Self {
        let mut strings = Strings::default();
        for s in iter {
            strings.push(s);
        }
        strings
    }
}

/// A value of the GGUF specification. Integers are widened; arrays are homogeneous.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
    Bools(Vec<bool>),
    Strings(Strings),
    /// What no key that is read may hold, in words; its content is not kept. A file is not refused for it, as most keys
    /// are for people.
    Other(&'static str),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Value::Unsigned(_) | Value::Signed(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a boolean",
            Value::String(_) => "a string",
            Value::Integers(_) => "an array of integers",
            Value::Floats(_) => "an array of floats",
            Value::Bools(_) => "an array of booleans",
            Value::Strings(_) => "an array of strings",
            Value::Other(what) => what,
        }
    }
}

/// The metadata of a model, in file order.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    /// Where each key is in `entries`: a hostile file may have millions.
    index: HashMap<String, usize>,
    /// Of each entry that was read, where its pair lies in the file.
    places: Vec<Range<u64>>,
}

macro_rules! getters {
    ($($(#[$doc:meta])* $opt:ident, $req:ident: $ty:ty = $wanted:literal, $get:expr;)*) => { $(
        $(#[$doc])*
        ///
        /// # Errors
        /// [`crate::Kind::BadFile`] when the key holds something else.
        #[allow(clippy::needless_lifetimes, reason = "one macro for copies and for references")]
        pub fn $opt<'a>(&'a self, key: &str) -> Result<Option<$ty>> {
            let get: fn(&'a Value) -> Option<$ty> = $get;
            match self.get(key) {
                None => Ok(None),
                Some(value) => get(value).map(Some).ok_or_else(|| wrong(key, $wanted, value.kind())),
            }
        }

        /// The same for a key that must be there.
        ///
        /// # Errors
        /// [`crate::Kind::BadFile`] when the key is missing or holds something else.
        #[allow(clippy::needless_lifetimes, reason = "one macro for copies and for references")]
        pub fn $req<'a>(&'a self, key: &str) -> Result<$ty> {
            self.$opt(key)?.ok_or_else(|| Error::bad_file(format!("metadata key {key} is missing")))
        }
    )* };
}

fn wrong(key: &str, wanted: &str, found: &str) -> Error {
    Error::bad_file(format!("metadata key {key} should be {wanted}, but is {found}"))
}

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(*self.index.get(key)?).map(|(_, v)| v)
    }

    /// All pairs, in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Where the pair of a key lies in the (first) file that it was read from, key and type included.
    pub fn place(&self, key: &str) -> Option<Range<u64>> {
        self.places.get(*self.index.get(key)?).cloned()
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sets a key; `false` and unchanged when it is there already.
    pub fn insert(&mut self, key: impl Into<String>, value: Value) -> bool {
        let key = key.into();
        if self.index.contains_key(&key) {
            return false;
        }
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        true
    }

    /// Adds what a file says of a key, at this place. Of two values that differ neither counts.
    pub(super) fn add(&mut self, key: &str, value: Value, place: Range<u64>) {
        let known = self.index.get(key).and_then(|&at| self.entries.get_mut(at));
        match known {
            Some((_, first)) if *first != value => *first = Value::Other("given twice with different values"),
            Some(_) => {}
            None => {
                self.insert(key, value);
                self.places.push(place);
            }
        }
    }

    getters! {
        /// An unsigned integer.
        opt_u32, u32: u32 = "an unsigned 32-bit integer", |v| match v {
            Value::Unsigned(v) => u32::try_from(*v).ok(),
            Value::Signed(v) => u32::try_from(*v).ok(),
            Value::Float(v) => Some(*v as u32).filter(|&n| f64::from(n) == *v),
            _ => None,
        };
        /// A number that is finite as 32-bit float.
        opt_f32, f32: f32 = "a finite number", |v| match v {
            Value::Float(v) => Some(*v as f32).filter(|v| v.is_finite()),
            Value::Unsigned(v) => Some(*v as f32),
            Value::Signed(v) => Some(*v as f32),
            _ => None,
        };
        /// A boolean.
        opt_bool, bool: bool = "a boolean", |v| match v {
            Value::Bool(v) => Some(*v),
            Value::Unsigned(v @ 0..=1) => Some(*v == 1),
            Value::Signed(v @ 0..=1) => Some(*v == 1),
            _ => None,
        };
        /// A string.
        opt_str, str: &'a str = "a string", |v| if let Value::String(v) = v { Some(v) } else { None };
        /// An array of strings.
        opt_strings, strings: &'a Strings = "an array of strings", |v| if let Value::Strings(v) = v { Some(v) } else { None };
        /// An array of integers.
        opt_integers, integers: &'a [i64] = "an array of integers", |v| if let Value::Integers(v) = v { Some(v) } else { None };
        /// An array of floats.
        opt_floats, floats: &'a [f32] = "an array of floats", |v| if let Value::Floats(v) = v { Some(v) } else { None };
        /// An array of booleans.
        opt_bools, bools: &'a [bool] = "an array of booleans", |v| if let Value::Bools(v) = v { Some(v) } else { None };
    }
}
