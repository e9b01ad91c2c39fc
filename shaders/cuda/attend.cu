// Attention with a running softmax (FlashAttention, arXiv:2205.14135), the positions cut into parts where there are few rows
// (Flash-Decoding). A block takes a tile of neighbouring tokens of one sequence, the query heads that share a key/value head,
// QUERIES at most, and one part of the visible positions: first of the block table that all share, 32 at a time, then what
// each token of a draft tree sees besides. `combine` puts the parts together.
constexpr unsigned WARPS = 4;
constexpr unsigned THREADS = WARPS * 32;
// Queries whose scores a warp makes, and sums that a thread holds.
constexpr unsigned A_WARP = (QUERIES + WARPS - 1) / WARPS;
constexpr unsigned SUMS = (QUERIES * DIM + THREADS - 1) / THREADS;
constexpr float NONE = -3.0e38f;

struct Params {
    const unsigned* plan;
    const float* q;
    // Of this layer: [cell][keys, then values of each head][ENTRY].
    const unsigned* cache;
    // [parts, n, n_heads, DIM + 2]: sums, the largest score, the sum of weights.
    float* partials;
    unsigned n_heads;
    unsigned n_kv_heads;
    // Query heads of a block: those that share a key/value head, or an equal part of them.
    unsigned group;
    // 0: none.
    unsigned window;
    // Whether a window lies around its token's position.
    unsigned centered;
    float scale;
    float softcap;
};

__device__ __forceinline__ unsigned first_visible(const Params& p, unsigned row, const Span& span) {
    if (p.window == 0) {
        return 0;
    }
    if (p.centered) {
        unsigned own = p.plan[step_of(p.plan).positions + row];
        return own - min(own, p.window / 2);
    }
    unsigned len = span.prefix + span.n_extra;
    return len - min(len, p.window);
}

// Behind the last position of the table that a token sees.
__device__ __forceinline__ unsigned end_visible(const Params& p, unsigned row, const Span& span) {
    if (p.window == 0 || !p.centered) {
        return span.prefix;
    }
    return min(span.prefix, p.plan[step_of(p.plan).positions + row] + p.window / 2 + 1);
}

// 32 positions: of the table, or, where `token` is one of the tile, of its extra cells.
struct Round {
    bool in_table;
    unsigned start;
    unsigned count;
    unsigned token;
};

__device__ __forceinline__ unsigned cell_of(const Params& p, const Step& step, const Span& span, const Round& round, unsigned i) {
    unsigned at = round.start + i;
    return round.in_table ? p.plan[step.blocks + span.table + at / 32] * 32 + at % 32 : p.plan[step.extras + span.extra + at];
}

// Keys or values of a round's positions, as floats.
__device__ void fetch(const Params& p, const Step& step, unsigned row, const Round& round, unsigned head, float tile[32][DIM + 1]) {
    Span span = span_of(p.plan, row);
    for (unsigned i = threadIdx.x; i < round.count * WORDS; i += THREADS) {
        size_t cell = cell_of(p, step, span, round, i / WORDS);
        values_of(p.cache + (cell * 2 * p.n_kv_heads + head) * ENTRY, i % WORDS, &tile[i / WORDS][i % WORDS * A_WORD]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) attend_kernel(const Params p) {
    __shared__ float queries[QUERIES][DIM];
    __shared__ float tile[32][DIM + 1];
    __shared__ float weights[QUERIES][32];
    __shared__ float factor[QUERIES];
    Step step = step_of(p.plan);
    unsigned t = threadIdx.x, lane = t % 32, warp = t / 32;
    unsigned first = p.plan[step.tiles + 2 * blockIdx.y], n_tokens = p.plan[step.tiles + 2 * blockIdx.y + 1];
    unsigned n_queries = n_tokens * p.group;
    unsigned kv_head = blockIdx.x * p.group * p.n_kv_heads / p.n_heads;
    for (unsigned i = t; i < n_queries * DIM; i += THREADS) {
        unsigned query = i / DIM;
        size_t row = first + query / p.group;
        queries[query][i % DIM] = p.q[(row * p.n_heads + blockIdx.x * p.group + query % p.group) * DIM + i % DIM] * p.scale;
    }
    // Positions that any token of the tile sees through the table; this block's part of them, in whole rounds.
    unsigned start = 0xffffffffu, end = 0;
    for (unsigned i = 0; i < n_tokens; i++) {
        Span span = span_of(p.plan, first + i);
        start = min(start, first_visible(p, first + i, span));
        end = max(end, end_visible(p, first + i, span));
    }
    start = start / 32 * 32;
    unsigned rounds = end > start ? (end - start + 31) / 32 : 0;
    unsigned share = (rounds + gridDim.z - 1) / gridDim.z * 32;
    unsigned my_start = start + blockIdx.z * share;
    unsigned my_end = min(end, my_start + share);
    bool takes_extras = blockIdx.z == gridDim.z - 1;

    float largest[A_WARP], sum[A_WARP], acc[SUMS] = {};
    for (unsigned j = 0; j < A_WARP; j++) {
        largest[j] = NONE;
        sum[j] = 0.0f;
    }
    Round round = {true, my_start, 0, 0};
    while (true) {
        if (round.in_table && round.start >= my_end) {
            if (!takes_extras) {
                break;
            }
            round = {false, 0, 0, 0};
        }
        if (!round.in_table) {
            // The next token with cells left.
            while (round.token < n_tokens && round.start >= span_of(p.plan, first + round.token).n_extra) {
                round.token++;
                round.start = 0;
            }
            if (round.token >= n_tokens) {
                break;
            }
        }
        Span own = span_of(p.plan, first + round.token);
        round.count = min(32u, (round.in_table ? my_end : own.n_extra) - round.start);
        __syncthreads();
        fetch(p, step, first + round.token, round, kv_head, tile);
        __syncthreads();
        // Scores: one position a lane.
        float dots[A_WARP] = {};
        for (unsigned d = 0; d < DIM; d++) {
            float key = tile[lane][d];
#pragma unroll
            for (unsigned j = 0; j < A_WARP; j++) {
                unsigned query = warp + WARPS * j;
                dots[j] += query < QUERIES ? key * queries[query][d] : 0.0f;
            }
        }
#pragma unroll
        for (unsigned j = 0; j < A_WARP; j++) {
            unsigned query = warp + WARPS * j;
            if (query >= n_queries) {
                continue;
            }
            unsigned owner = query / p.group;
            Span span = span_of(p.plan, first + owner);
            unsigned position = (round.in_table ? 0 : own.prefix) + round.start + lane;
            bool visible = lane < round.count && position >= first_visible(p, first + owner, span)
                && (round.in_table ? position < end_visible(p, first + owner, span) : owner == round.token);
            float score = p.softcap != 0.0f ? p.softcap * tanhf(dots[j] / p.softcap) : dots[j];
            float most = fmaxf(largest[j], warp_max(visible ? score : NONE));
            float weight = visible ? expf(score - most) : 0.0f;
            float shrink = expf(largest[j] - most);
            sum[j] = sum[j] * shrink + warp_sum(weight);
            largest[j] = most;
            weights[query][lane] = weight;
            if (lane == 0) {
                factor[query] = shrink;
            }
        }
        __syncthreads();
        fetch(p, step, first + round.token, round, p.n_kv_heads + kv_head, tile);
        __syncthreads();
#pragma unroll
        for (unsigned i = 0; i < SUMS; i++) {
            unsigned query = (t + THREADS * i) / DIM, d = (t + THREADS * i) % DIM;
            if (query >= n_queries) {
                continue;
            }
            float v = acc[i] * factor[query];
            for (unsigned j = 0; j < round.count; j++) {
                v += weights[query][j] * tile[j][d];
            }
            acc[i] = v;
        }
        round.start += 32;
    }
    // Where the results of a query go.
    auto place = [&](unsigned query) {
        size_t row = (size_t)blockIdx.z * step.n + first + query / p.group;
        return p.partials + (row * p.n_heads + blockIdx.x * p.group + query % p.group) * (DIM + 2);
    };
#pragma unroll
    for (unsigned i = 0; i < SUMS; i++) {
        unsigned query = (t + THREADS * i) / DIM;
        if (query < n_queries) {
            place(query)[(t + THREADS * i) % DIM] = acc[i];
        }
    }
#pragma unroll
    for (unsigned j = 0; j < A_WARP; j++) {
        unsigned query = warp + WARPS * j;
        if (lane == 0 && query < n_queries) {
            place(query)[DIM] = largest[j];
            place(query)[DIM + 1] = sum[j];
        }
    }
}
