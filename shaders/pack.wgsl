// out[i] = x[i], the left side of products from a plain matrix.
struct Params {
    dim: u32,
    // Columns of `out`, which are padded to whole groups of 32.
    stride: u32,
    // 1: rows of `x` are the plan's outputs.
    outputs: u32,
    // The first row, where rows are a run of the plan's.
    first: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> plan: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.dim {
        return;
    }
    let to = params.first + id.y;
    var row = to;
    if params.outputs == 1u {
        row = plan[step.outputs + id.y];
    }
    out[to * params.stride + id.x] = x[row * params.dim + id.x];
}
