// x += delta; out = x / rms(x) * weight. One workgroup a row.
struct Params {
    dim: u32,
    // Columns of `out`, which are padded to whole groups of 32.
    stride: u32,
    // 1: delta, 2: norm of delta, 4: rows are the plan's outputs.
    flags: u32,
    eps: f32,
    delta_scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> plan: array<u32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read> delta: array<f32>;
@group(0) @binding(6) var<storage, read> delta_norm: array<f32>;
@group(0) @binding(7) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    var row = id.x;
    if (params.flags & 4u) != 0u {
        row = plan[step.outputs + id.x];
    }
    let at = row * params.dim;
    if (params.flags & 1u) != 0u {
        var scale = params.delta_scale;
        if (params.flags & 2u) != 0u {
            var squares = 0.0;
            for (var i = t; i < params.dim; i += THREADS) {
                squares += delta[at + i] * delta[at + i];
            }
            scale /= sqrt(total(squares, t) / f32(params.dim) + params.eps);
        }
        for (var i = t; i < params.dim; i += THREADS) {
            var d = delta[at + i] * scale;
            if (params.flags & 2u) != 0u {
                d *= delta_norm[i];
            }
            x[at + i] += d;
        }
    }
    // Each thread reads back only what it wrote itself.
    var squares = 0.0;
    for (var i = t; i < params.dim; i += THREADS) {
        squares += x[at + i] * x[at + i];
    }
    let scale = 1.0 / sqrt(total(squares, t) / f32(params.dim) + params.eps);
    for (var i = t; i < params.dim; i += THREADS) {
        out[id.x * params.stride + i] = x[at + i] * scale * weight[i];
    }
}
