// What linear attention keeps of each row: queries, keys and values, then a decay and a gain for each head. A thread takes a query, a key
// or a value.
struct Params {
    const float* x;
    const float* steps;
    const float* rates;
    // Null where the rule is Mamba's.
    const float* gains;
    float* kept;
    unsigned n_key_heads;
    unsigned key_dim;
    unsigned n_heads;
    unsigned head_dim;
    // Whether the rule is DeltaNet's.
    unsigned delta;
    float eps;
};

extern "C" __global__ void linear_rows_kernel(const Params p) {
    unsigned id = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned keys = p.n_key_heads * p.key_dim, values = p.n_heads * p.head_dim;
    const float* from = p.x + (size_t)blockIdx.y * (2 * keys + values);
    float* to = p.kept + (size_t)blockIdx.y * (2 * keys + values + 2 * p.n_heads);
    if (id < 2 * p.n_key_heads) {
        bool is_key = id >= p.n_key_heads;
        to += id * p.key_dim;
        // Mamba's rows are values, keys and queries.
        from += p.delta ? id * p.key_dim : values + (is_key ? 0 : keys) + id % p.n_key_heads * p.key_dim;
        float scale = 1.0f;
        if (p.delta) {
            float squares = p.eps;
            for (unsigned i = 0; i < p.key_dim; i++) {
                squares += from[i] * from[i];
            }
            scale = 1.0f / sqrtf(is_key ? squares : squares * p.key_dim);
        }
        for (unsigned i = 0; i < p.key_dim; i++) {
            to[i] = from[i] * scale;
        }
        return;
    }
    unsigned head = id - 2 * p.n_key_heads;
    if (head >= p.n_heads) {
        return;
    }
    for (unsigned i = 0; i < p.head_dim; i++) {
        to[2 * keys + head * p.head_dim + i] = from[(p.delta ? 2 * keys : 0) + head * p.head_dim + i];
    }
    size_t row = (size_t)blockIdx.y * p.n_heads + head;
    // The logarithm of 1 + e^v, where e^v may be infinite.
    float v = p.steps[row];
    float dt = fmaxf(v, 0.0f) + logf(1.0f + expf(-fabsf(v)));
    to[2 * keys + values + head] = expf(p.rates[head] * dt);
    to[2 * keys + values + p.n_heads + head] = p.delta ? 1.0f / (1.0f + expf(-p.gains[row])) : dt;
}
