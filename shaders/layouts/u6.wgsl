// Six bits, offset 32: u4, then two words a row, one for each half, whose bits 8 b + 2 q and the next are bits 4 and 5 of
// column 4 q + b of the half, then the scales of both halves.
const GROUP: u32 = 28u;

struct Raw {
    codes: vec4<u32>,
    high: vec2<u32>,
    scales: u32,
}

fn load(at: u32, r: u32) -> Raw {
    let i = at + 16u + (r >> 2u);
    return Raw(w[at + r], vec2<u32>(w[i][r & 3u], w[i + 4u][r & 3u]), w[i + 8u][r & 3u]);
}

fn codes(raw: Raw, h: u32) -> mat4x4<f32> {
    let high = select(raw.high.x, raw.high.y, h == 1u);
    let low = (raw.codes >> vec4<u32>(4u * h)) & vec4<u32>(0x0f0f0f0fu);
    let v = low | (((vec4<u32>(high) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(0x03030303u)) << vec4<u32>(4u));
    return mat4x4<f32>(bytes(v.x), bytes(v.y), bytes(v.z), bytes(v.w));
}

fn scales(raw: Raw, h: u32) -> vec2<f32> {
    let both = halves(raw.scales);
    let scale = select(both.x, both.y, h == 1u);
    return vec2<f32>(scale, -32.0 * scale);
}
