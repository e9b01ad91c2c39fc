// Half floats, eight columns of the 16 rows after eight columns.
const GROUP: u32 = 64u;

struct Raw {
    at: u32,
}

fn load(at: u32, r: u32) -> Raw {
    return Raw(at + r);
}

fn codes(raw: Raw, h: u32) -> mat4x4<f32> {
    let a = w[raw.at + 32u * h];
    let b = w[raw.at + 32u * h + 16u];
    return mat4x4<f32>(
        vec4<f32>(halves(a.x), halves(a.y)),
        vec4<f32>(halves(a.z), halves(a.w)),
        vec4<f32>(halves(b.x), halves(b.y)),
        vec4<f32>(halves(b.z), halves(b.w)),
    );
}

fn scales(raw: Raw, h: u32) -> vec2<f32> {
    return vec2<f32>(1.0, 0.0);
}
