// The values (VALUES, a line of the linker) of the four bytes of a word.
fn looked_up(word: u32) -> vec4<f32> {
    var values = VALUES;
    let i = unpack4xU8(word);
    return vec4<f32>(values[i.x], values[i.y], values[i.z], values[i.w]);
}
