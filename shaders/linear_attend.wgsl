// Linear attention with a decay. A column of the states is in the registers of some threads, 32 values in each; they take it through a part
// of the list of the step, so they carry the state of whatever sequence comes, and no other column has to wait.
struct Params {
    n_key_heads: u32,
    key_dim: u32,
    n_heads: u32,
    head_dim: u32,
    // Whether the rule is DeltaNet's.
    delta: u32,
    // Threads of a column: 1, 2, 4 or 8.
    threads: u32,
    // 0: what moves states on, 1: the rows.
    part: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> plan: array<u32>;
@group(0) @binding(3) var<storage, read> kept: array<f32>;
@group(0) @binding(4) var<storage, read> skip: array<f32>;
@group(0) @binding(5) var<storage, read_write> states: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

// Eight times four values of a column.
const QUADS: u32 = 8u;

var<workgroup> shares: array<f32, 64>;

// The sum over the threads of a column.
fn sum_of(share: f32, t: u32) -> f32 {
    workgroupBarrier();
    shares[t] = share;
    workgroupBarrier();
    let n_columns = 64u / params.threads;
    var sum = 0.0;
    for (var i = t % n_columns; i < 64u; i += n_columns) {
        sum += shares[i];
    }
    return sum;
}

// Four values of a query or key; 0 behind its end.
fn quad_of(at: u32, key: u32) -> vec4<f32> {
    let last = params.key_dim - 1u;
    let keys = vec4<u32>(key, key + 1u, key + 2u, key + 3u);
    let i = vec4<u32>(at) + min(keys, vec4<u32>(last));
    return select(vec4<f32>(), vec4<f32>(kept[i.x], kept[i.y], kept[i.z], kept[i.w]), keys <= vec4<u32>(last));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let keys = params.n_key_heads * params.key_dim;
    let values = params.n_heads * params.head_dim;
    let n_columns = 64u / params.threads;
    let is_there = id.x * n_columns + t % n_columns < values;
    let column = min(id.x * n_columns + t % n_columns, values - 1u);
    let first_key = t / n_columns * 4u * QUADS;
    let width = 2u * keys + values + 2u * params.n_heads;
    let head = column / params.head_dim;
    let of_delta = head % params.n_key_heads;
    let key_head = select(head / (params.n_heads / params.n_key_heads), of_delta, params.delta != 0u);
    let n_moves = plan[step.scan + 1u];
    let first = select(0u, n_moves, params.part == 1u);
    let end = select(n_moves, plan[step.scan], params.part == 1u);
    var state: array<vec4<f32>, QUADS>;
    for (var i = first; i < end; i++) {
        // `Scan` of the host.
        let word = plan[step.scan + 2u + i];
        let which = word & 0x0fffffffu;
        let code = word >> 28u;
        if code < 3u {
            for (var j = 0u; j < QUADS; j++) {
                let key = first_key + 4u * j;
                let at = (which * params.key_dim + key) * values + column;
                var s = state[j];
                if code == 0u {
                    s = vec4<f32>();
                }
                if code == 1u {
                    s = vec4<f32>();
                    if key < params.key_dim { s.x = states[at]; }
                    if key + 1u < params.key_dim { s.y = states[at + values]; }
                    if key + 2u < params.key_dim { s.z = states[at + 2u * values]; }
                    if key + 3u < params.key_dim { s.w = states[at + 3u * values]; }
                }
                if code == 2u && is_there {
                    if key < params.key_dim { states[at] = s.x; }
                    if key + 1u < params.key_dim { states[at + values] = s.y; }
                    if key + 2u < params.key_dim { states[at + 2u * values] = s.z; }
                    if key + 3u < params.key_dim { states[at + 3u * values] = s.w; }
                }
                state[j] = s;
            }
            continue;
        }
        let row = which * width;
        let q = row + key_head * params.key_dim;
        let k = q + keys;
        let v = kept[row + 2u * keys + column];
        let decay = kept[row + 2u * keys + values + head];
        let gain = kept[row + 2u * keys + values + params.n_heads + head];
        var learnt = v;
        if params.delta != 0u {
            var known = 0.0;
            for (var j = 0u; j < QUADS; j++) {
                known += dot(quad_of(k, first_key + 4u * j), state[j]);
            }
            learnt -= decay * sum_of(known, t);
        }
        learnt *= gain;
        for (var j = 0u; j < QUADS; j++) {
            state[j] = decay * state[j] + quad_of(k, first_key + 4u * j) * learnt;
        }
        if code == 4u {
            var y = 0.0;
            for (var j = 0u; j < QUADS; j++) {
                y += dot(quad_of(q, first_key + 4u * j), state[j]);
            }
            y = sum_of(y, t);
            if params.delta == 0u {
                y += skip[head] * v;
            }
            if is_there && first_key == 0u {
                out[which * values + column] = y;
            }
        }
    }
}
