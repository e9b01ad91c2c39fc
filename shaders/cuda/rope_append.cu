// Norm and rotary embedding of each head of queries and keys; keys and values into the cache. One block a head of a row: query
// heads, then key heads, then value heads.
constexpr unsigned WARPS = 2;
constexpr unsigned THREADS = WARPS * 32;

struct Params {
    const unsigned* plan;
    // Null: none.
    float* q;
    const float* k;
    const float* v;
    // Weights [DIM]; null: none.
    const float* q_norm;
    const float* k_norm;
    // Cosine and sine [n, half].
    const float2* angles;
    // Of this layer: [cell][keys, then values of each head][ENTRY].
    unsigned* cache;
    unsigned n_heads;
    unsigned n_kv_heads;
    // Pairs that are rotated.
    unsigned half;
    // Neighbours are pairs.
    unsigned adjacent;
    float eps;
    // Norms come behind the rotation.
    unsigned norm_last;
    // Queries grow by 1 + temperature * ln(1 + position / length).
    float temperature;
    unsigned length;
    // Values are normed, too, without weights.
    unsigned norm_values;
};

// head = head / rms(head) * weight, by the threads of the block; null: without weights.
__device__ __forceinline__ void normalise(float* head, const float* weight, float eps) {
    float squares = 0.0f;
    for (unsigned i = threadIdx.x; i < DIM; i += THREADS) {
        squares += head[i] * head[i];
    }
    float scale = 1.0f / sqrtf(block_sum<WARPS>(squares) / DIM + eps);
    for (unsigned i = threadIdx.x; i < DIM; i += THREADS) {
        head[i] *= scale * (weight != nullptr ? weight[i] : 1.0f);
    }
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS) rope_append_kernel(const Params p) {
    __shared__ float head[DIM];
    unsigned row = blockIdx.y, t = threadIdx.x;
    unsigned n_queries = p.q != nullptr ? p.n_heads : 0;
    bool is_query = blockIdx.x < n_queries;
    unsigned entry = blockIdx.x - n_queries;
    bool is_value = !is_query && entry >= p.n_kv_heads;
    size_t of_query = ((size_t)row * p.n_heads + blockIdx.x) * DIM;
    size_t of_entry = ((size_t)row * p.n_kv_heads + entry % p.n_kv_heads) * DIM;
    const float* source = is_query ? p.q + of_query : (is_value ? p.v : p.k) + of_entry;
    for (unsigned i = t; i < DIM; i += THREADS) {
        head[i] = source[i];
    }
    __syncthreads();
    const float* weight = is_query ? p.q_norm : is_value ? nullptr : p.k_norm;
    bool has_norm = is_value ? p.norm_values != 0 : weight != nullptr;
    if (has_norm && !p.norm_last) {
        normalise(head, weight, p.eps);
    }
    if (!is_value) {
        for (unsigned i = t; i < p.half; i += THREADS) {
            unsigned a = p.adjacent ? 2 * i : i;
            unsigned b = p.adjacent ? 2 * i + 1 : i + p.half;
            float2 angle = p.angles[(size_t)row * p.half + i];
            float u = head[a], v = head[b];
            head[a] = u * angle.x - v * angle.y;
            head[b] = u * angle.y + v * angle.x;
        }
        __syncthreads();
    }
    if (has_norm && p.norm_last) {
        normalise(head, weight, p.eps);
    }
    if (is_query) {
        unsigned steps = p.plan[step_of(p.plan).positions + row] / p.length;
        float growth = 1.0f + p.temperature * logf(1.0f + steps);
        for (unsigned i = t; i < DIM; i += THREADS) {
            p.q[of_query + i] = head[i] * growth;
        }
        return;
    }
    size_t cell = p.plan[step_of(p.plan).cells + row];
    unsigned* to = p.cache + (cell * 2 * p.n_kv_heads + entry) * ENTRY;
    for (unsigned i = t; i < ENTRY; i += THREADS) {
        to[i] = word_of(head, i);
    }
}
