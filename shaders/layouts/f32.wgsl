// Floats, four columns of the 16 rows after four columns.
const GROUP: u32 = 128u;

struct Raw {
    at: u32,
}

fn load(at: u32, r: u32) -> Raw {
    return Raw(at + r);
}

fn codes(raw: Raw, h: u32) -> mat4x4<f32> {
    let at = raw.at + 64u * h;
    return mat4x4<f32>(
        bitcast<vec4<f32>>(w[at]),
        bitcast<vec4<f32>>(w[at + 16u]),
        bitcast<vec4<f32>>(w[at + 32u]),
        bitcast<vec4<f32>>(w[at + 48u]),
    );
}

fn scales(raw: Raw, h: u32) -> vec2<f32> {
    return vec2<f32>(1.0, 0.0);
}
