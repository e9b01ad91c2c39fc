// out = activation(gate), times up where there is one.
struct Params {
    dim: u32,
    // Columns of `out`, which are padded to whole groups of 32.
    stride: u32,
    // 0: SiLU, 1: GELU, 2: GELU in the tanh approximation, 3: clamped swish.
    activation: u32,
    // Whether there is an up.
    gated: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> gate: array<f32>;
@group(0) @binding(3) var<storage, read> up: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x;
    if i >= params.dim {
        return;
    }
    let at = id.y * params.dim + i;
    var y = activated(gate[at]);
    if params.gated != 0u {
        y *= select(up[at], clamp(up[at], -7.0, 7.0) + 1.0, params.activation == 3u);
    }
    out[id.y * params.stride + i] = y;
}

fn activated(x: f32) -> f32 {
    let v = select(x, min(x, 7.0), params.activation == 3u);
    if params.activation == 1u {
        // erfc(|v| / sqrt 2) by Abramowitz and Stegun's formula 7.1.26, which is off by at most 1.5e-7.
        let z = abs(v) * 0.70710678;
        let t = 1.0 / (1.0 + 0.3275911 * z);
        let p = t * (0.2548296 + t * (-0.28449674 + t * (1.4214137 + t * (-1.453152 + t * 1.0614054))));
        return max(v, 0.0) - 0.5 * abs(v) * p * exp(-min(z * z, 87.0));
    }
    // The others are v times a logistic function: tanh(z) = 2 s(2z) - 1 turns GELU's (1 + tanh z) / 2 into s(2z).
    let tanh = select(v, 1.5957691216 * (v + 0.044715 * v * v * v), params.activation == 2u);
    let z = select(tanh, 1.702 * v, params.activation == 3u);
    // Beyond 87 the exponential overflows, where the result is 0 to the last bit anyway.
    return v / (1.0 + exp(min(-z, 87.0)));
}
