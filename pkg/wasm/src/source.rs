//! Byte ranges that JavaScript reads: from a file handle in the worker, a blob, or memory.

use foreword::gguf::source::{Read, Source};
use foreword::{Error, Result};
use js_sys::{Promise, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    /// `{size, read(offset, length)}`.
    type Bytes;
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

fn failed(error: &JsValue) -> Error {
    let text = js_sys::Reflect::get(error, &"message".into()).ok().and_then(|m| m.as_string());
    Error::storage(format!("the model cannot be read: {}", text.unwrap_or_else(|| format!("{error:?}"))))
}
