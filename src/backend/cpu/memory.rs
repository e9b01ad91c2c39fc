//! Memory of weights and caches.

/// Bytes that are 0, or None where memory cannot be had. The system clears them where and when they are touched: doing so
/// beforehand would take a good part of the time to load a model, and memory for a context that is never filled.
#[allow(unsafe_code, reason = "the standard library has no such vector whose allocation may fail")]
fn zeroed(len: usize) -> Option<Vec<u8>> {
    let layout = std::alloc::Layout::array::<u8>(len).ok()?;
    // SAFETY: the layout has a size (`AlignedBytes` asks for a line at least), and the vector gets what the global allocator
    // made: bytes of value 0, as many as its length and capacity say.
    unsafe {
        let bytes = std::alloc::alloc_zeroed(layout);
        (!bytes.is_null()).then(|| Vec::from_raw_parts(bytes, len, len))
    }
}

/// Bytes that begin on a cache line, so that no register load crosses one; 0 at first.
pub(super) struct AlignedBytes {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

const LINE: usize = 64;

impl AlignedBytes {
    /// None where memory cannot be had.
    pub(super) fn new(len: usize) -> Option<Self> {
        let bytes = zeroed(len.saturating_add(LINE))?;
        let start = bytes.as_ptr().align_offset(LINE).min(LINE);
        Some(AlignedBytes { bytes, start, len })
    }

    #[inline(always)]
    pub(super) fn get(&self) -> &[u8] {
        &self.bytes[self.start..][..self.len]
    }

    pub(super) fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }
}
