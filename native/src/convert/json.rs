//! JSON files of a checkpoint: who asks for a value is told where it is and what is wrong with it.

use foreword::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// Far beyond the vocabulary of any real model.
const MAX_BYTES: u64 = 512 << 20;

/// An object, and the name of its file for messages.
#[derive(Clone, Debug)]
pub(super) struct Object {
    file: String,
    values: Map<String, Value>,
}

impl Object {
    /// Reads a file of `folder`; nothing where there is none.
    pub(super) fn read(folder: &Path, name: &str) -> Result<Option<Object>> {
        Ok(read(folder, name)?.map(|values| Object { file: name.into(), values }))
    }

    /// The same for a file that has to be there.
    pub(super) fn require(folder: &Path, name: &str) -> Result<Object> {
        Object::read(folder, name)?
            .ok_or_else(|| Error::storage(format!("{} is missing: a checkpoint has one", folder.join(name).display())))
    }

    /// An object with no values, as if `file` were empty.
    pub(super) fn empty(file: &str) -> Object {
        Object { file: file.into(), values: Map::new() }
    }

    /// The first of these keys that has a value; null is none.
    pub(super) fn get(&self, names: &[&str]) -> Option<&Value> {
        names.iter().find_map(|&name| self.values.get(name).filter(|v| !v.is_null()))
    }

    pub(super) fn count(&self, names: &[&str]) -> Result<Option<u64>> {
        self.as_kind(names, "an unsigned integer", |v| v.as_u64().or_else(|| whole(v)))
    }

    pub(super) fn number(&self, names: &[&str]) -> Result<Option<f64>> {
        self.as_kind(names, "a number", Value::as_f64)
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>> {
        self.as_kind(&[name], "a string", Value::as_str)
    }

    pub(super) fn list(&self, name: &str) -> Result<Option<&Vec<Value>>> {
        self.as_kind(&[name], "a list", Value::as_array)
    }

    /// An object inside; it bears the name of the same file.
    pub(super) fn object(&self, name: &str) -> Result<Option<Object>> {
        let found = self.as_kind(&[name], "an object", Value::as_object)?;
        Ok(found.map(|values| Object { file: self.file.clone(), values: values.clone() }))
    }

    /// The same, which is no longer there then: a copy of a vocabulary is as large as it.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<Object>> {
        self.as_kind(&[name], "an object", Value::as_object)?;
        match self.values.remove(name) {
            Some(Value::Object(values)) => Ok(Some(Object { file: self.file.clone(), values })),
            _ => Ok(None),
        }
    }

    fn as_kind<'a, T>(
        &'a self,
        names: &[&str],
        wanted: &str,
        get: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(names) else { return Ok(None) };
        let wrong = || self.wrong(&format!("{} is {}, not {wanted}", names.join(" or "), short(value)));
        get(value).map(Some).ok_or_else(wrong)
    }

    /// An error about what is in this file.
    pub(super) fn wrong(&self, what: &str) -> Error {
        Error::bad_file(format!("{}: {what}", self.file))
    }

    /// Sets a value that is not there.
    pub(super) fn set_default(&mut self, name: &str, value: impl Into<Value>) {
        if self.get(&[name]).is_none() {
            self.values.insert(name.into(), value.into());
        }
    }

    /// Takes over what `other` has.
    pub(super) fn overlay(&mut self, other: &Object) {
        let given = other.values.iter().filter(|(_, v)| !v.is_null());
        self.values.extend(given.map(|(k, v)| (k.clone(), v.clone())));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(k, v)| (k.as_str(), v))
    }
}

/// A JSON file of `folder` whose outermost value is of the type that is wanted.
pub(super) fn read<T: serde::de::DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<T>> {
    let path = folder.join(name);
    let Some(bytes) = read_bytes(&path)? else { return Ok(None) };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|e| Error::bad_file(format!("{}: {e}", path.display())).caused_by(e))
}

/// A file as a whole; nothing where there is none.
pub(super) fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    let cannot = |e: std::io::Error| Error::storage(format!("cannot read {}: {e}", path.display())).caused_by(e);
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(cannot(e)),
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            let message = format!("{} has {} bytes, which none of its kind has", path.display(), metadata.len());
            return Err(Error::bad_file(message));
        }
        Ok(_) => {}
    }
    std::fs::read(path).map(Some).map_err(cannot)
}

/// Python writes some integers as 64.0.
fn whole(value: &Value) -> Option<u64> {
    value.as_f64().filter(|v| *v >= 0.0 && *v <= 9.0e15 && v.fract() == 0.0).map(|v| v as u64)
}

/// A value as far as a message has room for it.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
