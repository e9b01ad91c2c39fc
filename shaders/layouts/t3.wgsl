// Three bits that index a table, 16 bytes a row, as u3.
const GROUP: u32 = 16u;

struct Raw {
    words: vec4<u32>,
}

fn load(at: u32, r: u32) -> Raw {
    return Raw(w[at + r]);
}

fn codes(raw: Raw, h: u32) -> mat4x4<f32> {
    let q = vec4<u32>(4u * h) + vec4<u32>(0u, 1u, 2u, 3u);
    let word = select(raw.words.x, raw.words.y, h == 1u);
    let low = (vec4<u32>(word) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(0x03030303u);
    let v = low | (((vec4<u32>(raw.words.z) >> q) & vec4<u32>(0x01010101u)) << vec4<u32>(2u));
    return mat4x4<f32>(looked_up(v.x), looked_up(v.y), looked_up(v.z), looked_up(v.w));
}

fn scales(raw: Raw, h: u32) -> vec2<f32> {
    let both = halves(raw.words.w);
    return vec2<f32>(select(both.x, both.y, h == 1u), 0.0);
}
