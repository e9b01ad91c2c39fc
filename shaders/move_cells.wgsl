// Copies cells of one layer, in order. A thread carries one word of a cell through all copies, so that a later one sees
// what an earlier one wrote.
struct Params {
    // Words of a cell.
    words: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// Their number, then (from, to) of each.
@group(0) @binding(2) var<storage, read> moves: array<u32>;
@group(0) @binding(3) var<storage, read_write> cache: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.words {
        return;
    }
    for (var i = 0u; i < moves[0]; i++) {
        let source = moves[1u + 2u * i];
        let to = moves[2u + 2u * i];
        cache[to * params.words + id.x] = cache[source * params.words + id.x];
    }
}
