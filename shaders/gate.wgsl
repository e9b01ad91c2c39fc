// out = activation(gate) * up.
struct Params {
    dim: u32,
    // Columns of `out`, which are padded to whole groups of 32.
    stride: u32,
    // 0: SiLU, 1: GELU in the tanh approximation.
    activation: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> gate: array<f32>;
@group(0) @binding(3) var<storage, read> up: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x;
    if i >= params.dim || id.y >= step.n {
        return;
    }
    let v = gate[id.y * params.dim + i];
    // Both are v times a logistic function: tanh(z) = 2 s(2z) - 1 turns GELU's (1 + tanh z) / 2 into s(2z).
    let z = select(v, 1.5957691216 * (v + 0.044715 * v * v * v), params.activation == 1u);
    // Beyond 87 the exponential overflows, where the result is 0 to the last bit anyway.
    out[id.y * params.stride + i] = v / (1.0 + exp(min(-z, 87.0))) * up[id.y * params.dim + i];
}
