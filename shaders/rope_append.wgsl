// Norm and rotary embedding of each head of queries and keys; keys and values into the cache. One workgroup a head of a row:
// query heads, then key heads, then value heads.
struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    dim: u32,
    // Pairs that are rotated.
    half: u32,
    // 1: neighbours are pairs, 2: norm of queries, 4: norm of keys, 8: no queries, 16: norms behind the rotation.
    // 32: norm of values, without weights.
    flags: u32,
    eps: f32,
    // Queries grow by 1 + temperature * ln(1 + position / length).
    temperature: f32,
    length: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> plan: array<u32>;
@group(0) @binding(3) var<storage, read_write> q: array<f32>;
@group(0) @binding(4) var<storage, read> k: array<f32>;
@group(0) @binding(5) var<storage, read> v: array<f32>;
// Weights [2, dim]: of queries, of keys.
@group(0) @binding(6) var<storage, read> q_norm: array<f32>;
@group(0) @binding(7) var<storage, read> k_norm: array<f32>;
// Cosine and sine [n, half].
@group(0) @binding(8) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(9) var<storage, read_write> cache: array<u32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let dim = params.dim;
    let row = id.y;
    var n_queries = params.n_heads;
    if (params.flags & 8u) != 0u {
        n_queries = 0u;
    }
    let is_query = id.x < n_queries;
    let entry = id.x - n_queries;
    let is_value = !is_query && entry >= params.n_kv_heads;
    let source = (row * select(params.n_kv_heads, params.n_heads, is_query) + select(entry % params.n_kv_heads, id.x, is_query)) * dim;
    for (var i = t; i < dim; i += THREADS) {
        if is_query {
            head[i] = q[source + i];
        } else if is_value {
            head[i] = v[source + i];
        } else {
            head[i] = k[source + i];
        }
    }
    workgroupBarrier();
    let has_norm = (params.flags & select(select(4u, 32u, is_value), 2u, is_query)) != 0u;
    let is_last = (params.flags & 16u) != 0u;
    if has_norm && !is_last {
        normalise(dim, is_query, is_value, t);
    }
    if !is_value {
        rotate(row, t);
        workgroupBarrier();
    }
    if has_norm && is_last {
        normalise(dim, is_query, is_value, t);
    }
    if is_query {
        let steps = plan[step.positions + row] / params.length;
        let growth = 1.0 + params.temperature * log(f32(1u + steps));
        for (var i = t; i < dim; i += THREADS) {
            q[source + i] = head[i] * growth;
        }
        return;
    }
    let words = entry_words(dim);
    let to = (plan[step.cells + row] * 2u * params.n_kv_heads + entry) * words;
    for (var i = t; i < words; i += THREADS) {
        cache[to + i] = word(dim, i);
    }
}

fn normalise(dim: u32, is_query: bool, is_value: bool, t: u32) {
    var squares = 0.0;
    for (var i = t; i < dim; i += THREADS) {
        squares += head[i] * head[i];
    }
    let scale = 1.0 / sqrt(total(squares, t) / f32(dim) + params.eps);
    for (var i = t; i < dim; i += THREADS) {
        var weight = 1.0;
        if !is_value {
            weight = select(k_norm[i], q_norm[i], is_query);
        }
        head[i] *= scale * weight;
    }
    workgroupBarrier();
}

fn rotate(row: u32, t: u32) {
    for (var i = t; i < params.half; i += THREADS) {
        var a = i;
        var b = i + params.half;
        if (params.flags & 1u) != 0u {
            a = 2u * i;
            b = 2u * i + 1u;
        }
        let angle = angles[row * params.half + i];
        let u = head[a];
        let v = head[b];
        head[a] = u * angle.x - v * angle.y;
        head[b] = u * angle.y + v * angle.x;
    }
}
