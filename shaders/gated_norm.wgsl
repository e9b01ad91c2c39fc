// out = x / rms(x) * weight * g with g = gate * s(gate), or where the gate comes first out = x g / rms(x g) * weight. One workgroup a group of
// columns.
struct Params {
    dim: u32,
    // Columns of `out`, which are padded to whole groups of 32.
    stride: u32,
    // Columns of a group.
    width: u32,
    gate_first: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> gate: array<f32>;
@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

fn gated(at: u32) -> f32 {
    let z = gate[at];
    return z / (1.0 + exp(min(-z, 87.0)));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let first = id.x * params.width;
    let row = id.y * params.dim + first;
    var squares = 0.0;
    for (var i = t; i < params.width; i += THREADS) {
        var v = x[row + i];
        if params.gate_first != 0u {
            v *= gated(row + i);
        }
        squares += v * v;
    }
    let scale = 1.0 / sqrt(total(squares, t) / f32(params.width) + params.eps);
    for (var i = t; i < params.width; i += THREADS) {
        out[id.y * params.stride + first + i] = x[row + i] * gated(row + i) * scale * weight[first + i];
    }
}
