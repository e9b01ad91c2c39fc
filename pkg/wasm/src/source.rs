//! Byte ranges that JavaScript reads: from a file handle in the worker, a blob, or memory.

use foreword::gguf::source::{Read, Source};
use foreword::{Error, Result};
use js_sys::{Promise, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    /// `{size, read(offset, length)}`.
    pub(crate) type Bytes;
    #[wasm_bindgen(method, getter, structural)]
    fn size(this: &Bytes) -> f64;
    /// Returns a `Uint8Array`, or a promise of one.
    #[wasm_bindgen(method, catch, structural)]
    fn read(this: &Bytes, offset: f64, length: f64) -> std::result::Result<JsValue, JsValue>;
}

struct JsSource {
    bytes: Bytes,
    len: u64,
}

/// A source over a JavaScript object.
pub(crate) fn open(value: JsValue) -> Result<Box<dyn Source>> {
    let bytes: Bytes = value.unchecked_into();
    let len = bytes.size();
    if !(0.0..9e15).contains(&len) {
        return Err(Error::storage("a file has no size"));
    }
    Ok(Box::new(JsSource { bytes, len: len as u64 }))
}

impl Source for JsSource {
    fn len(&self) -> u64 {
        self.len
    }

    /// The worker closes files once their model is loaded.
    fn stays_open(&self) -> bool {
        false
    }

    fn read_at<'a>(&'a mut self, offset: u64, buf: &'a mut [u8]) -> Read<'a> {
        Box::pin(async move {
            if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
                return Err(Error::bad_file(format!("{} bytes at {offset} lie behind the end of the file", buf.len())));
            }
            let mut value = self.bytes.read(offset as f64, buf.len() as f64).map_err(|e| failed(&e))?;
            if value.is_instance_of::<Promise>() {
                value = JsFuture::from(value.unchecked_into::<Promise>()).await.map_err(|e| failed(&e))?;
            }
            let bytes: Uint8Array = value.dyn_into().map_err(|e| failed(&e))?;
            if bytes.length() as usize != buf.len() {
                return Err(Error::storage(format!(
                    "{} of {} bytes at {offset} could be read: the file changed or went away",
                    bytes.length(),
                    buf.len()
                )));
            }
            bytes.copy_to(buf);
            Ok(())
        })
    }
}

/// Reads an object that answers at once, from its front to its end.
pub(crate) struct Reader {
    pub(crate) bytes: Bytes,
    pub(crate) at: f64,
}

impl std::io::Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = (self.bytes.size() - self.at).min(buf.len() as f64);
        let value = self.bytes.read(self.at, n).map_err(|e| std::io::Error::other(text_of(&e)))?;
        let bytes: Uint8Array = value.dyn_into().map_err(|e| std::io::Error::other(text_of(&e)))?;
        let n = (bytes.length() as usize).min(buf.len());
        bytes.subarray(0, n as u32).copy_to(&mut buf[..n]);
        self.at += n as f64;
        Ok(n)
    }
}

/// Gives each piece to a function, as a `Uint8Array` of its own.
pub(crate) struct Writer(pub(crate) js_sys::Function);

impl std::io::Write for Writer {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let written = self.0.call1(&JsValue::NULL, &Uint8Array::from(buf));
        written.map(|_| buf.len()).map_err(|e| std::io::Error::other(text_of(&e)))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn failed(error: &JsValue) -> Error {
    Error::storage(format!("the model cannot be read: {}", text_of(error)))
}

/// What an exception says.
fn text_of(error: &JsValue) -> String {
    let text = js_sys::Reflect::get(error, &"message".into()).ok().and_then(|m| m.as_string());
    text.unwrap_or_else(|| format!("{error:?}"))
}
