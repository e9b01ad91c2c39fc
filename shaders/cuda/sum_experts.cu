// out = what was there, as far as it is kept, + the scores of a row's experts times what these made.
struct Params {
    const float* parts;
    const float* scores;
    const float* gate;
    float* out;
    unsigned dim;
    // Experts of a row.
    unsigned used;
    // 0: nothing is kept, 1: all of it, 2: the logistic function of `gate` times it.
    unsigned kept;
};

extern "C" __global__ void sum_experts_kernel(const Params p) {
    unsigned column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= p.dim) {
        return;
    }
    float* out = p.out + (size_t)blockIdx.y * p.dim + column;
    float y = p.kept ? *out : 0.0f;
    if (p.kept == 2) {
        y /= 1.0f + expf(-p.gate[blockIdx.y]);
    }
    for (unsigned i = blockIdx.y * p.used; i < (blockIdx.y + 1) * p.used; i++) {
        y += p.scores[i] * p.parts[(size_t)i * p.dim + column];
    }
    *out = y;
}
