//! Any bytes: an error, or a header that keeps its promises, whose tensors decode, and which survives being written.
#![no_main]

use foreword::gguf::source::{BytesSource, Source};
use foreword::gguf::{Gguf, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = read(bytes.to_vec()) else { return };
    let mut places: Vec<_> = gguf.tensors.iter().map(|t| (t.offset, t.offset + t.n_bytes)).collect();
    places.sort_unstable();
    assert!(places.iter().all(|&(start, end)| start < end && end <= bytes.len() as u64));
    assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    for tensor in &gguf.tensors {
        let mut decoded = vec![0.0; tensor.dims.iter().product::<u64>() as usize];
        let data = &bytes[tensor.offset as usize..][..tensor.n_bytes as usize];
        foreword::quant::decode(tensor.ty, data, &mut decoded).expect("whole blocks");
        assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
    }
    for (key, value) in gguf.metadata.iter() {
        assert_eq!(gguf.metadata.get(key).map(std::ptr::from_ref), Some(std::ptr::from_ref(value)));
    }
    // A great alignment makes a great file.
    if gguf.metadata.opt_u32("general.alignment").is_ok_and(|a| a.is_none_or(|a| a <= 4096)) {
        let again = read(write::to_bytes(&gguf.metadata, &[]).expect("an alignment that was read"));
        let n_pairs = gguf.metadata.len();
        // Without tensors their number may be wrong.
        assert!(
            again.is_ok_and(|again| again.metadata.len() == n_pairs)
                || gguf.metadata.get("split.tensors.count").is_some()
        );
    }
});

fn read(bytes: Vec<u8>) -> foreword::Result<Gguf> {
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(BytesSource(bytes))];
    pollster::block_on(Gguf::read(&mut sources))
}
