// What linear attention keeps of each row: queries, keys and values, then a decay and a gain for each head. A thread takes a query, a key
// or a value.
struct Params {
    n_key_heads: u32,
    key_dim: u32,
    n_heads: u32,
    head_dim: u32,
    // Whether the rule is DeltaNet's.
    delta: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> steps: array<f32>;
@group(0) @binding(4) var<storage, read> rates: array<f32>;
@group(0) @binding(5) var<storage, read> gains: array<f32>;
@group(0) @binding(6) var<storage, read_write> kept: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let keys = params.n_key_heads * params.key_dim;
    let values = params.n_heads * params.head_dim;
    let n_qk = 2u * params.n_key_heads;
    let x_row = id.y * (2u * keys + values);
    let to = id.y * (2u * keys + values + 2u * params.n_heads);
    if id.x < n_qk {
        let at = id.x * params.key_dim;
        // Mamba's rows are values, keys and queries.
        let is_key = id.x / params.n_key_heads;
        let swapped = values + (1u - is_key) * keys + id.x % params.n_key_heads * params.key_dim;
        let source = x_row + select(swapped, at, params.delta != 0u);
        var scale = 1.0;
        if params.delta != 0u {
            var squares = params.eps;
            for (var i = 0u; i < params.key_dim; i++) {
                squares += x[source + i] * x[source + i];
            }
            scale = 1.0 / sqrt(squares);
            if is_key == 0u {
                scale /= sqrt(f32(params.key_dim));
            }
        }
        for (var i = 0u; i < params.key_dim; i++) {
            kept[to + at + i] = x[source + i] * scale;
        }
        return;
    }
    let head = id.x - n_qk;
    if head >= params.n_heads {
        return;
    }
    let at = head * params.head_dim;
    let source = x_row + at + select(0u, 2u * keys, params.delta != 0u);
    for (var i = 0u; i < params.head_dim; i++) {
        kept[to + 2u * keys + at + i] = x[source + i];
    }
    let row = id.y * params.n_heads + head;
    // The logarithm of 1 + e^v, where e^v may be infinite.
    let v = steps[row];
    let dt = max(v, 0.0) + log(1.0 + exp(-abs(v)));
    var gain = dt;
    if params.delta != 0u {
        gain = 1.0 / (1.0 + exp(clamp(-gains[row], -87.0, 87.0)));
    }
    let heads = to + 2u * keys + values + head;
    kept[heads] = exp(max(rates[head] * dt, -87.0));
    kept[heads + params.n_heads] = gain;
}
