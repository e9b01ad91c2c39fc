// Four bits: low nibbles are columns 0..16, high ones 16..32; then (scale, minimum) as half floats, one word a row.
const GROUP: u32 = 20u;

struct Raw {
    codes: vec4<u32>,
    scales: u32,
}

fn load(at: u32, r: u32) -> Raw {
    return Raw(w[at + r], w[at + 16u + (r >> 2u)][r & 3u]);
}

fn codes(raw: Raw, h: u32) -> mat4x4<f32> {
    let v = raw.codes;
    return mat4x4<f32>(nibbles(v.x, h), nibbles(v.y, h), nibbles(v.z, h), nibbles(v.w, h));
}

fn scales(raw: Raw, h: u32) -> vec2<f32> {
    return halves(raw.scales);
}
