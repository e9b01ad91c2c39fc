// Chooses the experts of a row; a workgroup takes one row. An expert's place is the number of those that come before it.
struct Params {
    n_experts: u32,
    // Experts of a row.
    used: u32,
    // 1: scores are logistic functions, not the softmax; 2: bias; 4: scores are divided by the sum of the chosen ones.
    flags: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
// [n, used], both.
@group(0) @binding(4) var<storage, read_write> chosen: array<u32>;
@group(0) @binding(5) var<storage, read_write> scores: array<f32>;

// `MAX_EXPERTS` of the host.
var<workgroup> raw: array<f32, 512>;
var<workgroup> values: array<f32, 512>;
var<workgroup> places: array<u32, 512>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    for (var e = t; e < params.n_experts; e += 64u) {
        raw[e] = logits[id.x * params.n_experts + e];
    }
    // What is no number has no place, and somebody has to have each.
    for (var i = t; i < params.used; i += 64u) {
        places[i] = i;
    }
    workgroupBarrier();
    var largest = raw[0];
    for (var e = 1u; e < params.n_experts; e++) {
        largest = max(largest, raw[e]);
    }
    var sum = 0.0;
    for (var e = 0u; e < params.n_experts; e++) {
        sum += exp(raw[e] - largest);
    }
    for (var e = t; e < params.n_experts; e += 64u) {
        var value = score(raw[e], largest, sum);
        if (params.flags & 2u) != 0u {
            value += bias[e];
        }
        values[e] = value;
    }
    workgroupBarrier();
    for (var e = t; e < params.n_experts; e += 64u) {
        let value = values[e];
        var place = 0u;
        for (var other = 0u; other < params.n_experts; other++) {
            let v = values[other];
            place += select(0u, 1u, v > value || (v == value && other < e));
        }
        if place < params.used {
            places[place] = e;
        }
    }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < params.used; i++) {
        total += score(raw[places[i]], largest, sum);
    }
    let scale = params.scale / select(1.0, max(total, 6.1035156e-5), (params.flags & 4u) != 0u);
    for (var i = t; i < params.used; i += 64u) {
        chosen[id.x * params.used + i] = places[i];
        scores[id.x * params.used + i] = scale * score(raw[places[i]], largest, sum);
    }
}

fn score(l: f32, largest: f32, sum: f32) -> f32 {
    if (params.flags & 1u) != 0u {
        return 1.0 / (1.0 + exp(min(-l, 87.0)));
    }
    return exp(l - largest) / sum;
}
