// Cache entries of one head as half floats: word i is values 2 i and 2 i + 1.
fn entry_words(dim: u32) -> u32 {
    return dim / 2u;
}

fn quad(at: u32, dim: u32, i: u32) -> vec4<f32> {
    let source = at + 2u * i;
    return vec4<f32>(unpack2x16float(cache[source]), unpack2x16float(cache[source + 1u]));
}

// The head that is being written; only rope_append uses it.
var<workgroup> head: array<f32, 512>;

// Word i of the entry made of `head`.
fn word(dim: u32, i: u32) -> u32 {
    return pack2x16float(vec2<f32>(head[2u * i], head[2u * i + 1u]));
}
