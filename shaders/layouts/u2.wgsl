// Two bits, 16 bytes a row: bits 0 and 1 of each half as in u6, then (scale, minimum) of each half.
const GROUP: u32 = 16u;

struct Raw {
    words: vec4<u32>,
}

fn load(at: u32, r: u32) -> Raw {
    return Raw(w[at + r]);
}

fn codes(raw: Raw, h: u32) -> mat4x4<f32> {
    let word = select(raw.words.x, raw.words.y, h == 1u);
    let v = (vec4<u32>(word) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(0x03030303u);
    return mat4x4<f32>(bytes(v.x), bytes(v.y), bytes(v.z), bytes(v.w));
}

fn scales(raw: Raw, h: u32) -> vec2<f32> {
    return halves(select(raw.words.z, raw.words.w, h == 1u));
}
