// The first half of `select`: the largest logit of every block of neighbouring columns, and the sum of exp(logit - largest)
// over the block. A thread takes a block: no barriers, whatever the size of the vocabulary.
struct Params {
    // Columns of the logits, columns of a block, and blocks of a row.
    n: u32,
    block: u32,
    n_blocks: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read_write> blocks: array<vec2<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.n_blocks || id.y >= step.n_outputs {
        return;
    }
    let row = id.y * params.n;
    let first = row + id.x * params.block;
    let end = row + min((id.x + 1u) * params.block, params.n);
    var largest = logits[first];
    for (var i = first + 1u; i < end; i++) {
        largest = max(largest, logits[i]);
    }
    var sum = 0.0;
    for (var i = first; i < end; i++) {
        sum += exp(logits[i] - largest);
    }
    blocks[id.y * params.n_blocks + id.x] = vec2<f32>(largest, sum);
}
