// Linear attention with a decay. A column of the states is in the registers of some threads, 32 values in each; they take it through a part
// of the list of the step, so they carry the state of whatever sequence comes, and no other column has to wait.
constexpr unsigned THREADS = 256;
// Values of a column that a thread has.
constexpr unsigned OWN = 32;

struct Params {
    const unsigned* plan;
    const float* kept;
    const float* skip;
    float* states;
    float* out;
    unsigned n_key_heads;
    unsigned key_dim;
    unsigned n_heads;
    unsigned head_dim;
    // Whether the rule is DeltaNet's.
    unsigned delta;
    // Threads of a column: 1, 2, 4 or 8.
    unsigned threads;
    // 0: what moves states on, 1: the rows.
    unsigned part;
};

extern "C" __global__ void __launch_bounds__(THREADS) linear_attend_kernel(const Params p) {
    __shared__ float shares[THREADS];
    unsigned t = threadIdx.x, n_columns = THREADS / p.threads;
    unsigned keys = p.n_key_heads * p.key_dim, values = p.n_heads * p.head_dim;
    unsigned wanted = blockIdx.x * n_columns + t % n_columns;
    bool is_there = wanted < values;
    unsigned column = min(wanted, values - 1), first_key = t / n_columns * OWN;
    unsigned head = column / p.head_dim;
    unsigned key_head = p.delta ? head % p.n_key_heads : head / (p.n_heads / p.n_key_heads);
    // The sum over the threads of a column.
    auto sum_of = [&](float share) {
        __syncthreads();
        shares[t] = share;
        __syncthreads();
        float sum = 0.0f;
        for (unsigned i = t % n_columns; i < THREADS; i += n_columns) {
            sum += shares[i];
        }
        return sum;
    };
    float state[OWN] = {};
    const unsigned* scan = p.plan + step_of(p.plan).scan;
    unsigned first = p.part ? scan[1] : 0, end = p.part ? scan[0] : scan[1];
    for (unsigned i = first; i < end; i++) {
        // `Scan` of the host.
        unsigned code = scan[2 + i] >> 28, which = scan[2 + i] & 0x0fffffff;
        if (code < 3) {
            float* kept = p.states + ((size_t)which * p.key_dim + first_key) * values + column;
#pragma unroll
            for (unsigned j = 0; j < OWN; j++) {
                bool has_key = first_key + j < p.key_dim;
                if (code < 2) {
                    state[j] = code == 1 && has_key ? kept[(size_t)j * values] : 0.0f;
                } else if (is_there && has_key) {
                    kept[(size_t)j * values] = state[j];
                }
            }
            continue;
        }
        const float* row = p.kept + (size_t)which * (2 * keys + values + 2 * p.n_heads);
        const float *q = row + key_head * p.key_dim + first_key, *k = q + keys;
        float v = row[2 * keys + column];
        float decay = row[2 * keys + values + head], gain = row[2 * keys + values + p.n_heads + head];
        float learnt = v;
        if (p.delta) {
            float known = 0.0f;
#pragma unroll
            for (unsigned j = 0; j < OWN; j++) {
                known += first_key + j < p.key_dim ? k[j] * state[j] : 0.0f;
            }
            learnt -= decay * sum_of(known);
        }
        learnt *= gain;
        float y = 0.0f;
#pragma unroll
        for (unsigned j = 0; j < OWN; j++) {
            if (first_key + j < p.key_dim) {
                state[j] = decay * state[j] + k[j] * learnt;
                y += q[j] * state[j];
            }
        }
        if (code == 4) {
            y = sum_of(y);
            if (is_there && first_key == 0) {
                p.out[(size_t)which * values + column] = p.delta ? y : y + p.skip[head] * v;
            }
        }
    }
}
