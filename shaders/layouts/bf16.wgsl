// The upper halves of floats, eight columns of the 16 rows after eight columns.
const GROUP: u32 = 64u;

struct Raw {
    at: u32,
}

fn load(at: u32, r: u32) -> Raw {
    return Raw(at + r);
}

fn pairs(v: vec2<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(v.x << 16u, v.x & 0xffff0000u, v.y << 16u, v.y & 0xffff0000u));
}

fn codes(raw: Raw, h: u32) -> mat4x4<f32> {
    let a = w[raw.at + 32u * h];
    let b = w[raw.at + 32u * h + 16u];
    return mat4x4<f32>(pairs(a.xy), pairs(a.zw), pairs(b.xy), pairs(b.zw));
}

fn scales(raw: Raw, h: u32) -> vec2<f32> {
    return vec2<f32>(1.0, 0.0);
}
