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

// The low four bits of each byte.
fn nibbles(word: u32) -> vec4<f32> {
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
