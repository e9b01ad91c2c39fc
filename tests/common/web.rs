//! Files in the browser: the page that runs the tests (`pkg/test/core.test.mjs`) serves them.

use foreword::gguf::source::{Read, Source};
use js_sys::Uint8Array;
use std::path::{Path, PathBuf};
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    /// The bytes of a file that the page's server has.
    #[wasm_bindgen(js_name = testFile)]
    fn test_file(name: &str) -> Uint8Array;
}

/// The file of a model of the registry.
pub fn model_path(file: &str) -> PathBuf {
    PathBuf::from("models").join(file)
}

/// A file of `tests/data`.
pub fn data(name: &str) -> PathBuf {
    PathBuf::from("data").join(name)
}

fn fetch(path: &Path) -> Uint8Array {
    test_file(path.to_str().expect("a UTF-8 name"))
}

/// All bytes of a file.
pub fn read(path: &Path) -> Vec<u8> {
    fetch(path).to_vec()
}

/// A file as a source of a model. Its bytes stay in JavaScript's memory, as in the package.
pub fn open_source(path: &Path) -> Box<dyn Source> {
    Box::new(WebFile(fetch(path)))
}

struct WebFile(Uint8Array);

impl Source for WebFile {
    fn len(&self) -> u64 {
        u64::from(self.0.length())
    }

    fn read_at<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> Read<'a> {
        let start = u32::try_from(offset).expect("a test file is small");
        self.0.subarray(start, start + buf.len() as u32).copy_to(buf);
        Box::pin(std::future::ready(Ok(())))
    }
}
