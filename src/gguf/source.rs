//! Where the bytes of a model come from: asynchronous byte ranges.

use crate::error::{Error, Result};
use crate::send::{BoxFuture, MaybeSend};

/// A future of [`Source::read_at`].
pub type Read<'a> = BoxFuture<'a, Result<()>>;

/// A file-like thing that can be read at any offset; in the browser reading is asynchronous.
pub trait Source: MaybeSend {
    /// Bytes in all.
    fn len(&self) -> u64;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it can still be read when the model is loaded.
    fn stays_open(&self) -> bool {
        true
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`crate::Kind::Storage`] or [`crate::Kind::Download`] when the bytes cannot be had,
    /// [`crate::Kind::BadFile`] when they lie behind the end.
    fn read_at<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> Read<'a>;
}

/// Bytes in memory.
#[derive(Clone, Debug)]
pub struct BytesSource(pub Vec<u8>);

impl Source for BytesSource {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> Read<'a> {
        let range = usize::try_from(offset).ok().and_then(|start| self.0.get(start..start.checked_add(buf.len())?));
        let result = match range {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(past_end(offset, buf.len(), self.len())),
        };
        Box::pin(std::future::ready(result))
    }
}

fn past_end(offset: u64, n: usize, len: u64) -> Error {
    Error::bad_file(format!("{n} bytes at {offset} lie behind the end of the file ({len} bytes): it is truncated"))
}

#[cfg(not(target_arch = "wasm32"))]
pub use file::{FileSource, open, pieces};

#[cfg(not(target_arch = "wasm32"))]
mod file {
    use super::{Error, Read, Source, past_end};
    use crate::error::Result;
    use std::fs::File;
    use std::io::{Read as _, Seek, SeekFrom};
    use std::path::{Path, PathBuf};

    /// The files of a model: the one that was named, or all pieces when it is `…-00001-of-00003.gguf`.
    ///
    /// # Errors
    /// [`crate::Kind::Storage`] when one cannot be opened.
    pub fn open(path: &Path) -> Result<Vec<Box<dyn Source>>> {
        pieces(path).iter().map(|p| Ok(Box::new(FileSource::open(p)?) as Box<dyn Source>)).collect()
    }

    /// The names of the files that [`open`] opens.
    pub fn pieces(path: &Path) -> Vec<PathBuf> {
        let one = || vec![path.to_path_buf()];
        let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".gguf")) else {
            return one();
        };
        let Some((front, count)) = name.rsplit_once("-of-") else { return one() };
        let Some((stem, _)) = front.rsplit_once('-') else { return one() };
        match count.parse::<usize>() {
            Ok(n) if (2..=9999).contains(&n) && count.len() == 5 => {
                (1..=n).map(|i| path.with_file_name(format!("{stem}-{i:05}-of-{count}.gguf"))).collect()
            }
            _ => one(),
        }
    }

    /// A file on disk.
    #[derive(Debug)]
    pub struct FileSource {
        file: File,
        path: PathBuf,
        len: u64,
    }

    impl FileSource {
        /// Opens a file.
        ///
        /// # Errors
        /// [`crate::Kind::Storage`] when it cannot be opened.
        pub fn open(path: &Path) -> Result<Self> {
            let opened = File::open(path).and_then(|file| {
                let metadata = file.metadata()?;
                if metadata.is_dir() {
                    return Err(std::io::ErrorKind::IsADirectory.into());
                }
                Ok((file, metadata.len()))
            });
            let (file, len) =
                opened.map_err(|e| Error::storage(format!("cannot open {}: {e}", path.display())).caused_by(e))?;
            Ok(FileSource { file, path: path.to_path_buf(), len })
        }
    }

    impl Source for FileSource {
        fn len(&self) -> u64 {
            self.len
        }

        fn read_at<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> Read<'a> {
            let result = if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
                Err(past_end(offset, buf.len(), self.len).at(self.path.display()))
            } else {
                let read = self.file.seek(SeekFrom::Start(offset)).and_then(|_| self.file.read_exact(buf));
                read.map_err(|e| Error::storage(format!("cannot read {}: {e}", self.path.display())).caused_by(e))
            };
            Box::pin(std::future::ready(result))
        }
    }
}
