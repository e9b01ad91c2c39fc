// out = what was there, as far as it is kept, + the scores of a row's experts times what these made.
struct Params {
    dim: u32,
    // Experts of a row.
    used: u32,
    // 0: nothing is kept, 1: all of it, 2: the logistic function of `gate` times it.
    kept: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> parts: array<f32>;
@group(0) @binding(3) var<storage, read> scores: array<f32>;
@group(0) @binding(4) var<storage, read> gate: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.dim {
        return;
    }
    let at = id.y * params.dim + id.x;
    var y = 0.0;
    if params.kept != 0u {
        y = out[at];
    }
    if params.kept == 2u {
        y /= 1.0 + exp(min(-gate[id.y], 87.0));
    }
    for (var i = id.y * params.used; i < (id.y + 1u) * params.used; i++) {
        y += scores[i] * parts[i * params.dim + id.x];
    }
    out[at] = y;
}
