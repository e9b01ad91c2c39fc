// x = gain (x + delta); y = x / rms(x) * weight, or LayerNorm; out = y. One workgroup a row.
struct Params {
    dim: u32,
    // Columns of `out`, which are padded to whole groups of 32.
    stride: u32,
    // 1: delta, 2: norm of delta, 4: rows are the plan's outputs, 8: the mean is subtracted, 16: bias, 32: x = y, too.
    // 64: y = x, 128: there is no out.
    flags: u32,
    eps: f32,
    delta_scale: f32,
    gain: f32,
    // The first row, where rows are a run of the plan's.
    first: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> plan: array<u32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read> delta: array<f32>;
@group(0) @binding(6) var<storage, read> delta_norm: array<f32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let to = params.first + id.x;
    var row = to;
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
            x[at + i] = (x[at + i] + d) * params.gain;
        }
    }
    // Each thread reads back only what it wrote itself.
    var mean = 0.0;
    if (params.flags & 8u) != 0u {
        var sum = 0.0;
        for (var i = t; i < params.dim; i += THREADS) {
            sum += x[at + i];
        }
        mean = total(sum, t) / f32(params.dim);
    }
    var squares = 0.0;
    for (var i = t; i < params.dim; i += THREADS) {
        let v = x[at + i] - mean;
        squares += v * v;
    }
    let scale = 1.0 / sqrt(total(squares, t) / f32(params.dim) + params.eps);
    for (var i = t; i < params.dim; i += THREADS) {
        var y = x[at + i];
        if (params.flags & 64u) == 0u {
            y = (y - mean) * scale * weight[i];
        }
        if (params.flags & 16u) != 0u {
            y += bias[i];
        }
        if (params.flags & 32u) != 0u {
            x[at + i] = y;
        }
        if (params.flags & 128u) == 0u {
            out[to * params.stride + i] = y;
        }
    }
}
