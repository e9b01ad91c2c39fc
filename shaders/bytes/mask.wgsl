// Bytes of a word as floats, without shifts: SwiftShader makes a shift of a vector one lane at a time, and a half float takes
// it several. Bits stay where they are, and the power of two that they are too large by is divided out of the float. All of it
// is exact.
fn bytes(word: u32) -> vec4<f32> {
    // The last byte would be the sign of an integer.
    return vec4<f32>(
        f32(i32(word & 0xffu)),
        f32(i32(word & 0xff00u)),
        f32(i32(word & 0xff0000u)),
        f32(bitcast<i32>((word & 0xff000000u) ^ 0x80000000u)),
    ) * vec4<f32>(1.0, 0x1p-8, 0x1p-16, 0x1p-24) + vec4<f32>(0.0, 0.0, 0.0, 128.0);
}

// Four bits of each byte: the low ones for h = 0, the high ones for h = 1.
fn nibbles(word: u32, h: u32) -> vec4<f32> {
    if h == 0u {
        return vec4<f32>(
            f32(i32(word & 0xfu)),
            f32(i32(word & 0xf00u)),
            f32(i32(word & 0xf0000u)),
            f32(i32(word & 0xf000000u)),
        ) * vec4<f32>(1.0, 0x1p-8, 0x1p-16, 0x1p-24);
    }
    return vec4<f32>(
        f32(i32(word & 0xf0u)),
        f32(i32(word & 0xf000u)),
        f32(i32(word & 0xf00000u)),
        f32(bitcast<i32>((word & 0xf0000000u) ^ 0x80000000u)),
    ) * vec4<f32>(0x1p-4, 0x1p-12, 0x1p-20, 0x1p-28) + vec4<f32>(0.0, 0.0, 0.0, 8.0);
}

fn signed_bytes(word: u32) -> vec4<f32> {
    return bytes(word ^ 0x80808080u) - vec4<f32>(128.0);
}

// A half float from its bits, already where a float has them: exponents differ by 112; numbers below the normal ones are
// what is left when their leading one is taken away again.
fn half_at(bits: u32, sign: u32) -> f32 {
    let normal = bitcast<f32>((bits + 0x38000000u) | sign);
    let small = bitcast<f32>(bits + 0x38800000u) - 0x1p-14;
    return select(normal, bitcast<f32>(bitcast<u32>(small) | sign), bits < 0x00800000u);
}

// Two half floats.
fn halves(word: u32) -> vec2<f32> {
    return vec2<f32>(
        half_at((word & 0x7fffu) * 8192u, (word & 0x8000u) * 65536u),
        half_at((word & 0x7fff0000u) >> 3u, word & 0x80000000u),
    );
}
