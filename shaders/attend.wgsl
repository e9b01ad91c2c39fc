// Attention with a running softmax (FlashAttention, arXiv:2205.14135). A workgroup takes a tile of neighbouring tokens of one
// sequence and the query heads that share a key/value head, QUERIES at most, and walks the visible positions 64 at a time:
// first the block table that all share, then what each token of a draft tree sees besides.
struct Params {
    n_heads: u32,
    n_kv_heads: u32,
    // Query heads of a workgroup: those that share a key/value head, or an equal part of them.
    group: u32,
    dim: u32,
    // Columns of `out`, which are padded to whole groups of 32.
    stride: u32,
    // 0: none.
    window: u32,
    scale: f32,
    softcap: f32,
    // Whether a window lies around its token's position.
    centered: u32,
    // Whether there are sinks.
    has_sinks: u32,
    // Whether there is a gate.
    has_gate: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> plan: array<u32>;
@group(0) @binding(3) var<storage, read> q: array<f32>;
@group(0) @binding(4) var<storage, read> cache: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read> sinks: array<f32>;
@group(0) @binding(7) var<storage, read> gate: array<f32>;

const NONE: f32 = -3.0e38;

// Queries [QUERIES][dim / 4], scaled; later the sums of the threads.
var<workgroup> queries: array<vec4<f32>, QUERIES * QUADS>;
// Scores of 64 positions, then probabilities.
var<workgroup> scores: array<f32, QUERIES * 64u>;
// Eight partial maxima or sums a query.
var<workgroup> partial: array<f32, QUERIES * 8u>;
// Factor on a query's earlier sums.
var<workgroup> factor: array<f32, QUERIES>;

struct Span {
    table: u32,
    prefix: u32,
    extra: u32,
    n_extra: u32,
}

fn span_of(row: u32) -> Span {
    let at = step.spans + 4u * row;
    return Span(plan[at], plan[at + 1u], plan[at + 2u], plan[at + 3u]);
}

fn first_visible(row: u32, span: Span) -> u32 {
    if params.window == 0u {
        return 0u;
    }
    if params.centered != 0u {
        let own = plan[step.positions + row];
        return own - min(own, params.window / 2u);
    }
    let len = span.prefix + span.n_extra;
    return len - min(len, params.window);
}

// Behind the last position of the table that a token sees.
fn end_visible(row: u32, span: Span) -> u32 {
    if params.window == 0u || params.centered == 0u {
        return span.prefix;
    }
    return min(span.prefix, plan[step.positions + row] + params.window / 2u + 1u);
}

fn softcapped(v: f32) -> f32 {
    if params.softcap == 0.0 {
        return v;
    }
    return params.softcap * tanh(clamp(v / params.softcap, -15.0, 15.0));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let quads = params.dim / 4u;
    let words = entry_words(params.dim);
    // Query heads of this workgroup; all share one key/value head.
    let group = params.group;
    let kv_head = id.x * group * params.n_kv_heads / params.n_heads;
    let first = plan[step.tiles + 2u * id.y];
    let n_tokens = plan[step.tiles + 2u * id.y + 1u];
    let n_queries = n_tokens * group;
    for (var i = t; i < QUERIES * quads; i += 64u) {
        let query = min(i / quads, n_queries - 1u);
        let at = ((first + query / group) * params.n_heads + id.x * group + query % group) * params.dim + i % quads * 4u;
        queries[i] = vec4<f32>(q[at], q[at + 1u], q[at + 2u], q[at + 3u]) * params.scale;
    }
    // Positions that any token of the tile sees through the table.
    var start = 0xffffffffu;
    var end = 0u;
    for (var i = 0u; i < n_tokens; i++) {
        let span = span_of(first + i);
        start = min(start, first_visible(first + i, span));
        end = max(end, end_visible(first + i, span));
    }
    start = start / 64u * 64u;
    var acc: array<vec4<f32>, QUERIES>;
    // Of query t / 8, kept by its eight threads alike; the sum by each for its own share.
    var largest = NONE;
    var sum = 0.0;
    if params.has_sinks != 0u {
        largest = sinks[id.x * group + t / 8u % group];
        sum = select(0.0, 1.0, t % 8u == 0u);
    }
    // Values: this thread's quad of dimensions, and its share of the positions.
    let slices = 64u / quads;
    let my_quad = t % quads;
    let my_slice = t / quads;

    // Rounds: 64 positions of the table each, then one a 64 extra cells of each token.
    var round_start = start;
    var token = 0u;
    var extra = 0u;
    loop {
        let in_table = round_start < end;
        if !in_table {
            // The next token with cells left.
            while token < n_tokens && extra >= span_of(first + token).n_extra {
                token += 1u;
                extra = 0u;
            }
            if token >= n_tokens {
                break;
            }
        }
        let own = span_of(first + token);
        let count = select(min(own.n_extra - min(extra, own.n_extra), 64u), min(end - min(round_start, end), 64u), in_table);
        workgroupBarrier();
        // Scores: one position a thread.
        if t < count {
            let at = cell_at(in_table, round_start + t, own, extra + t) * 2u * params.n_kv_heads + kv_head;
            // Chromium's software adapter does not zero a variable of a loop at each turn, though it should.
            var dots = array<f32, QUERIES>();
            for (var d = 0u; d < quads; d++) {
                let key = quad(at * words, params.dim, d);
                for (var i = 0u; i < QUERIES; i++) {
                    dots[i] += dot(key, queries[i * quads + d]);
                }
            }
            for (var i = 0u; i < QUERIES; i++) {
                let owner = min(i / group, n_tokens - 1u);
                let span = span_of(first + owner);
                let position = select(own.prefix + extra, round_start, in_table) + t;
                var visible = position >= first_visible(first + owner, span);
                visible = visible && select(owner == token, position < end_visible(first + owner, span), in_table);
                scores[i * 64u + t] = select(NONE, softcapped(dots[i]), visible);
            }
        } else {
            for (var i = 0u; i < QUERIES; i++) {
                scores[i * 64u + t] = NONE;
            }
        }
        workgroupBarrier();
        let query = t / 8u;
        if query < QUERIES {
            var m = NONE;
            for (var i = 0u; i < 8u; i++) {
                m = max(m, scores[query * 64u + t % 8u + 8u * i]);
            }
            partial[t] = m;
        }
        workgroupBarrier();
        if query < QUERIES {
            var m = largest;
            for (var i = 0u; i < 8u; i++) {
                m = max(m, partial[query * 8u + i]);
            }
            let scale = exp(largest - m);
            var p_sum = 0.0;
            for (var i = 0u; i < 8u; i++) {
                let at = query * 64u + t % 8u + 8u * i;
                let s = scores[at];
                let p = select(0.0, exp(s - m), s > NONE);
                scores[at] = p;
                p_sum += p;
            }
            sum = sum * scale + p_sum;
            largest = m;
            if t % 8u == 0u {
                factor[query] = scale;
            }
        }
        workgroupBarrier();
        if my_slice < slices {
            for (var i = 0u; i < QUERIES; i++) {
                acc[i] *= factor[i];
            }
            for (var j = my_slice; j < count; j += slices) {
                let at = cell_at(in_table, round_start + j, own, extra + j) * 2u * params.n_kv_heads + params.n_kv_heads + kv_head;
                let value = quad(at * words, params.dim, my_quad);
                for (var i = 0u; i < QUERIES; i++) {
                    acc[i] += scores[i * 64u + j] * value;
                }
            }
        }
        if in_table {
            round_start += 64u;
        } else {
            extra += 64u;
        }
    }
    if t / 8u < QUERIES {
        partial[t] = sum;
    }
    // The slices' sums, one after the other into the place of the queries.
    for (var slice = 0u; slice < slices; slice++) {
        workgroupBarrier();
        if my_slice == slice {
            for (var i = 0u; i < QUERIES; i++) {
                let at = i * quads + my_quad;
                queries[at] = select(queries[at] + acc[i], acc[i], slice == 0u);
            }
        }
    }
    workgroupBarrier();
    for (var i = t; i < n_queries * quads; i += 64u) {
        let query = i / quads;
        var all = 0.0;
        for (var j = 0u; j < 8u; j++) {
            all += partial[query * 8u + j];
        }
        var value = queries[i] / all;
        let row = first + query / group;
        let column = (id.x * group + query % group) * params.dim + i % quads * 4u;
        if params.has_gate != 0u {
            let g = row * params.n_heads * params.dim + column;
            let z = -vec4<f32>(gate[g], gate[g + 1u], gate[g + 2u], gate[g + 3u]);
            value /= 1.0 + exp(min(z, vec4<f32>(87.0)));
        }
        let at = row * params.stride + column;
        out[at] = value.x;
        out[at + 1u] = value.y;
        out[at + 2u] = value.z;
        out[at + 3u] = value.w;
    }
}

fn cell_at(in_table: bool, position: u32, own: Span, extra: u32) -> u32 {
    if in_table {
        return plan[step.blocks + own.table + position / 32u] * 32u + position % 32u;
    }
    return plan[step.extras + own.extra + extra];
}
