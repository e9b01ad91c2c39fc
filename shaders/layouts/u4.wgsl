// Four bits: low nibbles are columns 0..16, high ones 16..32; then (scale, minimum) as half floats, one word a row.
const GROUP: u32 = 20u;

struct Raw {
    codes: vec4<u32>,
    scales: u32,
}

fn load(at: u32, r: u32) -> Raw {
    return Raw(w[at + r], w[at + 16u + r / 4u][r % 4u]);
}

fn codes(raw: Raw, h: u32) -> mat4x4<f32> {
    let v = raw.codes >> vec4<u32>(4u * h);
    return mat4x4<f32>(nibbles(v.x), nibbles(v.y), nibbles(v.z), nibbles(v.w));
}

fn scales(raw: Raw, h: u32) -> vec2<f32> {
    return unpack2x16float(raw.scales);
}
