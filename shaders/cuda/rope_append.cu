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
};

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
    const float* weight = is_query ? p.q_norm : p.k_norm;
    if (!is_value && weight != nullptr) {
        float squares = 0.0f;
        for (unsigned i = t; i < DIM; i += THREADS) {
            squares += head[i] * head[i];
        }
        float scale = 1.0f / sqrtf(block_sum<WARPS>(squares) / DIM + p.eps);
        for (unsigned i = t; i < DIM; i += THREADS) {
            head[i] *= scale * weight[i];
        }
        __syncthreads();
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
    if (is_query) {
        for (unsigned i = t; i < DIM; i += THREADS) {
            p.q[of_query + i] = head[i];
        }
        return;
    }
    size_t cell = p.plan[step_of(p.plan).cells + row];
    unsigned* to = p.cache + (cell * 2 * p.n_kv_heads + entry) * ENTRY;
    for (unsigned i = t; i < ENTRY; i += THREADS) {
        to[i] = word_of(head, i);
    }
}
