// Four bits that index a table, as u4; then the scale as a float, one word a row.
const GROUP: u32 = 20u;

struct Raw {
    codes: vec4<u32>,
    scale: f32,
}

fn load(at: u32, r: u32) -> Raw {
    return Raw(w[at + r], bitcast<f32>(w[at + 16u + (r >> 2u)][r & 3u]));
}

fn codes(raw: Raw, h: u32) -> mat4x4<f32> {
    let v = (raw.codes >> vec4<u32>(4u * h)) & vec4<u32>(0x0f0f0f0fu);
    return mat4x4<f32>(looked_up(v.x), looked_up(v.y), looked_up(v.z), looked_up(v.w));
}

fn scales(raw: Raw, h: u32) -> vec2<f32> {
    return vec2<f32>(raw.scale, 0.0);
}
