// Signed bytes, columns 0..16 of the rows, then 16..32; then (scale, 0) as half floats, one word a row.
const GROUP: u32 = 36u;

struct Raw {
    low: vec4<u32>,
    high: vec4<u32>,
    scales: u32,
}

fn load(at: u32, r: u32) -> Raw {
    return Raw(w[at + r], w[at + 16u + r], w[at + 32u + (r >> 2u)][r & 3u]);
}

fn codes(raw: Raw, h: u32) -> mat4x4<f32> {
    let v = select(raw.low, raw.high, h == 1u);
    return mat4x4<f32>(signed_bytes(v.x), signed_bytes(v.y), signed_bytes(v.z), signed_bytes(v.w));
}

fn scales(raw: Raw, h: u32) -> vec2<f32> {
    return vec2<f32>(halves(raw.scales).x, 0.0);
}
