//! A folder with safetensors: which tensors there are, and where their bytes lie.

use super::json::Object;
use foreword::gguf::source::{FileSource, Source};
use foreword::{Error, Result};
use pollster::block_on;
use safetensors::tensor::{Dtype, Metadata};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What the format's own library takes at most.
const MAX_HEADER: u64 = 100_000_000;

/// A tensor as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// Its name, as in the file.
    pub(super) name: String,
    pub(super) dtype: Dtype,
    /// The length of a row last.
    pub(super) shape: Vec<u64>,
    /// Index of the file in [`Checkpoint::files`], and where in it the bytes begin.
    pub(super) file: usize,
    pub(super) offset: u64,
}

/// The tensors of a folder, in the order of names.
pub(super) struct Checkpoint {
    pub(super) folder: PathBuf,
    pub(super) files: Vec<FileSource>,
    pub(super) tensors: Vec<Stored>,
}

impl Checkpoint {
    pub(super) fn open(folder: &Path) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint { folder: folder.to_path_buf(), files: Vec::new(), tensors: Vec::new() };
        let map = index(folder)?;
        let names = match &map {
            Some(map) => map.values().cloned().collect(),
            None => shards(folder)?,
        };
        for name in &names {
            checkpoint.add(&folder.join(name))?;
        }
        if let Some(map) = &map {
            checkpoint.agrees_with(map)?;
        }
        checkpoint.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some([twice, _]) = checkpoint.tensors.array_windows().find(|[a, b]| a.name == b.name) {
            return Err(Error::bad_file(format!("tensor {} is in two files", twice.name)));
        }
        Ok(checkpoint)
    }

    /// Adds the tensors of one file.
    pub(super) fn add(&mut self, path: &Path) -> Result<()> {
        let mut source = FileSource::open(path)?;
        let (metadata, start) = header(&mut source).map_err(|e| e.at(path.display()))?;
        let file = self.files.len();
        self.files.push(source);
        self.tensors.extend(metadata.tensors().into_iter().map(|(name, info)| {
            let shape = info.shape.iter().map(|&n| n as u64).collect();
            Stored { name, dtype: info.dtype, shape, file, offset: start + info.data_offsets.0 as u64 }
        }));
        Ok(())
    }

    fn agrees_with(&self, map: &BTreeMap<String, String>) -> Result<()> {
        let found: BTreeSet<&str> = self.tensors.iter().map(|t| t.name.as_str()).collect();
        match map.iter().find(|(name, _)| !found.contains(name.as_str())) {
            Some((name, file)) => Err(Error::bad_file(format!(
                "{INDEX} says that {name} is in {file}, where it is not; download it again"
            ))),
            None => Ok(()),
        }
    }
}

const INDEX: &str = "model.safetensors.index.json";

/// Which tensor is in which file, where the folder says so.
pub(super) fn index(folder: &Path) -> Result<Option<BTreeMap<String, String>>> {
    let Some(index) = Object::read(folder, INDEX)? else { return Ok(None) };
    let map = index.object("weight_map")?.ok_or_else(|| index.wrong("weight_map is missing"))?;
    let files = map.iter().map(|(name, file)| match file {
        // Files of this folder, and no others.
        Value::String(file) if Path::new(file).file_name().is_some_and(|f| f == file.as_str()) => {
            Ok((name.to_string(), file.clone()))
        }
        other => Err(index.wrong(&format!("weight_map: {name} is in {other}, which names no file of the folder"))),
    });
    files.collect::<Result<_>>().map(Some)
}

/// The files of a folder without an index.
fn shards(folder: &Path) -> Result<BTreeSet<String>> {
    let cannot = |e: std::io::Error| Error::storage(format!("cannot read {}: {e}", folder.display())).caused_by(e);
    let mut names = BTreeSet::new();
    let mut others = false;
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let name = entry.map_err(cannot)?.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with("model") && name.ends_with(".safetensors") {
            names.insert(name.to_string());
        }
        others |= name.ends_with(".bin") || name.ends_with(".pth") || name.ends_with(".pt");
    }
    let numbered = names.iter().find_map(|name| name.strip_suffix(".safetensors")?.split_once("-of-"));
    if let Some((_, count)) = numbered
        && count.parse() != Ok(names.len())
    {
        let message = format!("{} has {} of {count} pieces, and no {INDEX}", folder.display(), names.len());
        return Err(Error::bad_file(message));
    }
    match (names.is_empty(), others) {
        (false, _) => Ok(names),
        (true, true) => Err(Error::unsupported(format!(
            "{} has PyTorch's pickled weights only, which run code when they are read; save the model as safetensors",
            folder.display()
        ))),
        (true, false) => Err(Error::storage(format!("there is no model.safetensors in {}", folder.display()))),
    }
}

/// The header of a file, and where its data begin.
fn header(source: &mut FileSource) -> Result<(Metadata, u64)> {
    let cut = |what: String| Error::bad_file(format!("{what}; it is damaged or its download incomplete"));
    let mut length = [0; 8];
    if source.len() < 8 {
        return Err(cut(format!("a safetensors file of {} bytes", source.len())));
    }
    block_on(source.read_at(0, &mut length))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length + 8 > source.len() {
        return Err(cut(format!("its header should have {length} bytes, but the file has {}", source.len())));
    }
    let mut bytes = vec![0; length as usize];
    block_on(source.read_at(8, &mut bytes))?;
    // What comes of it has no gaps and no overlaps, and shapes that fit their bytes.
    let metadata: Metadata =
        serde_json::from_slice(&bytes).map_err(|e| cut(format!("its header: {e}")).caused_by(e))?;
    let (start, data) = (length + 8, metadata.data_len() as u64);
    match start.checked_add(data) {
        Some(end) if end == source.len() => Ok((metadata, start)),
        _ => Err(cut(format!("its header tells of {data} bytes of tensors, but there are {}", source.len() - start))),
    }
}
