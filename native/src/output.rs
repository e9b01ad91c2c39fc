//! A file that is there once it is whole.

use foreword::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Grows as `NAME.part` and gets its name at the end; what is given up half way is removed.
pub(crate) struct Output {
    file: BufWriter<File>,
    part: PathBuf,
    path: PathBuf,
    written: u64,
    whole: bool,
}

impl Output {
    /// Begins the file. One that is there is left alone.
    pub(crate) fn create(path: &Path) -> Result<Output> {
        if path.exists() {
            let message = format!("{} is there already; remove it, or name another file", path.display());
            return Err(Error::invalid_request(message));
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).map_err(|e| cannot(path, e))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(Output { file, part, path: path.to_path_buf(), written: 0, whole: false })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|e| cannot(&self.path, e))
    }

    /// Zeros up to a multiple of `alignment`.
    pub(crate) fn pad(&mut self, alignment: u64) -> Result<()> {
        let zeros = self.written.next_multiple_of(alignment) - self.written;
        self.write(&vec![0; zeros as usize])
    }

    /// Gives the file its name; returns its length.
    pub(crate) fn finish(mut self) -> Result<u64> {
        let flushed = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        flushed.and_then(|()| std::fs::rename(&self.part, &self.path)).map_err(|e| cannot(&self.path, e))?;
        self.whole = true;
        Ok(self.written)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.whole {
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

fn cannot(path: &Path, e: std::io::Error) -> Error {
    Error::storage(format!("cannot write {}: {e}", path.display())).caused_by(e)
}
