// Cache entries of one head as signed bytes, four a word, then a float a 32 values: their scale, rounded to a half float.
fn entry_words(dim: u32) -> u32 {
    return dim / 4u + dim / 32u;
}

fn quad(at: u32, dim: u32, i: u32) -> vec4<f32> {
    let scale = bitcast<f32>(cache[at + dim / 4u + i / 8u]);
    return vec4<f32>(unpack4xI8(cache[at + i])) * scale;
}

// The head that is being written; only rope_append uses it.
var<workgroup> head: array<f32, 512>;

// Word i of the entry made of `head`.
fn word(dim: u32, i: u32) -> u32 {
    let is_scale = i >= dim / 4u;
    let first = select(i / 8u, i - dim / 4u, is_scale) * 32u;
    var largest = 0.0;
    for (var j = first; j < first + 32u; j++) {
        largest = max(largest, abs(head[j]));
    }
    let scale = unpack2x16float(pack2x16float(vec2<f32>(largest / 127.0, 0.0))).x;
    if is_scale {
        return bitcast<u32>(scale);
    }
    let inverse = select(0.0, 1.0 / scale, scale > 0.0);
    let v = vec4<f32>(head[4u * i], head[4u * i + 1u], head[4u * i + 2u], head[4u * i + 3u]) * inverse;
    return pack4xI8Clamp(vec4<i32>(clamp(round(v), vec4<f32>(-127.0), vec4<f32>(127.0))));
}
