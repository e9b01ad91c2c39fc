// Bytes of a word as floats. By shifts and through signed integers: on software GPUs the built-in unpacking took twice the
// time of a whole product, and most processors convert only signed integers to floats.
fn bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(
        f32(i32(word & 255u)),
        f32(i32((word >> 8u) & 255u)),
        f32(i32((word >> 16u) & 255u)),
        f32(i32(word >> 24u)),
    );
}

// Four bits of each byte: the low ones for h = 0, the high ones for h = 1.
fn nibbles(words: u32, h: u32) -> vec4<f32> {
    let word = words >> (4u * h);
    return vec4<f32>(
        f32(i32(word & 15u)),
        f32(i32((word >> 8u) & 15u)),
        f32(i32((word >> 16u) & 15u)),
        f32(i32((word >> 24u) & 15u)),
    );
}

fn signed_bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(
        f32(bitcast<i32>(word << 24u) >> 24u),
        f32(bitcast<i32>(word << 16u) >> 24u),
        f32(bitcast<i32>(word << 8u) >> 24u),
        f32(bitcast<i32>(word) >> 24u),
    );
}

// Two half floats.
fn halves(word: u32) -> vec2<f32> {
    return unpack2x16float(word);
}
