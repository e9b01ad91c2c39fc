// Cache entries of the plan's cells as floats. One workgroup an entry of a row: keys of all heads, then values.
struct Params {
    n_kv_heads: u32,
    dim: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> plan: array<u32>;
@group(0) @binding(3) var<storage, read> cache: array<u32>;
@group(0) @binding(4) var<storage, read_write> k: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> v: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let dim = params.dim;
    let source = (plan[step.cells + id.y] * 2u * params.n_kv_heads + id.x) * entry_words(dim);
    let to = (id.y * params.n_kv_heads + id.x % params.n_kv_heads) * (dim / 4u);
    for (var i = t; i < dim / 4u; i += 64u) {
        if id.x < params.n_kv_heads {
            k[to + i] = quad(source, dim, i);
        } else {
            v[to + i] = quad(source, dim, i);
        }
    }
}
