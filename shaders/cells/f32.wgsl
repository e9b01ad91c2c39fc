// Cache entries of one head as floats: word i is value i.
fn entry_words(dim: u32) -> u32 {
    return dim;
}

fn quad(at: u32, dim: u32, i: u32) -> vec4<f32> {
    let source = at + 4u * i;
    return bitcast<vec4<f32>>(vec4<u32>(cache[source], cache[source + 1u], cache[source + 2u], cache[source + 3u]));
}

// The head that is being written; only rope_append uses it.
var<workgroup> head: array<f32, 512>;

// Word i of the entry made of `head`.
fn word(dim: u32, i: u32) -> u32 {
    return bitcast<u32>(head[i]);
}
