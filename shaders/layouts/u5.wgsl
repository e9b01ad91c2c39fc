// Five bits: u4, then a word a row whose bit 8 b + q is bit 4 of column 4 q + b, then (scale, minimum).
const GROUP: u32 = 24u;

struct Raw {
    codes: vec4<u32>,
    high: u32,
    scales: u32,
}

fn load(at: u32, r: u32) -> Raw {
    return Raw(w[at + r], w[at + 16u + (r >> 2u)][r & 3u], w[at + 20u + (r >> 2u)][r & 3u]);
}

fn codes(raw: Raw, h: u32) -> mat4x4<f32> {
    let q = vec4<u32>(4u * h) + vec4<u32>(0u, 1u, 2u, 3u);
    let low = (raw.codes >> vec4<u32>(4u * h)) & vec4<u32>(0x0f0f0f0fu);
    let v = low | (((vec4<u32>(raw.high) >> q) & vec4<u32>(0x01010101u)) << vec4<u32>(4u));
    return mat4x4<f32>(bytes(v.x), bytes(v.y), bytes(v.z), bytes(v.w));
}

fn scales(raw: Raw, h: u32) -> vec2<f32> {
    return halves(raw.scales);
}
