// The four unsigned bytes of a word. Through signed integers, because most processors convert only these to floats.
fn bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(bitcast<vec4<i32>>(unpack4xU8(word)));
}
