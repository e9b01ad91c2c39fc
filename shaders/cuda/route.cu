// Chooses the experts of a row; a block takes one row. An expert's place is the number of those that come before it.
constexpr unsigned MAX_EXPERTS = 512;

struct Params {
    const float* logits;
    // Null: none.
    const float* bias;
    // [n, used], both.
    unsigned* chosen;
    float* scores;
    unsigned n_experts;
    // Experts of a row.
    unsigned used;
    // 1: scores are logistic functions, not the softmax; 4: scores are divided by the sum of the chosen ones.
    unsigned flags;
    float scale;
};

__device__ __forceinline__ float score(const Params& p, float l, float largest, float sum) {
    return p.flags & 1 ? 1.0f / (1.0f + expf(-l)) : expf(l - largest) / sum;
}

extern "C" __global__ void route_kernel(const Params p) {
    __shared__ float raw[MAX_EXPERTS];
    __shared__ float values[MAX_EXPERTS];
    __shared__ unsigned places[MAX_EXPERTS];
    const float* logits = p.logits + (size_t)blockIdx.x * p.n_experts;
    for (unsigned e = threadIdx.x; e < p.n_experts; e += blockDim.x) {
        raw[e] = logits[e];
    }
    // What is no number has no place, and somebody has to have each.
    for (unsigned i = threadIdx.x; i < p.used; i += blockDim.x) {
        places[i] = i;
    }
    __syncthreads();
    float largest = raw[0];
    for (unsigned e = 1; e < p.n_experts; e++) {
        largest = fmaxf(largest, raw[e]);
    }
    float sum = 0.0f;
    for (unsigned e = 0; e < p.n_experts; e++) {
        sum += expf(raw[e] - largest);
    }
    for (unsigned e = threadIdx.x; e < p.n_experts; e += blockDim.x) {
        values[e] = score(p, raw[e], largest, sum) + (p.bias != nullptr ? p.bias[e] : 0.0f);
    }
    __syncthreads();
    for (unsigned e = threadIdx.x; e < p.n_experts; e += blockDim.x) {
        unsigned place = 0;
        for (unsigned other = 0; other < p.n_experts; other++) {
            place += values[other] > values[e] || (values[other] == values[e] && other < e);
        }
        if (place < p.used) {
            places[place] = e;
        }
    }
    __syncthreads();
    float total = 0.0f;
    for (unsigned i = 0; i < p.used; i++) {
        total += score(p, raw[places[i]], largest, sum);
    }
    float scale = p.flags & 4 ? p.scale / fmaxf(total, 6.1035156e-5f) : p.scale;
    for (unsigned i = threadIdx.x; i < p.used; i += blockDim.x) {
        p.chosen[(size_t)blockIdx.x * p.used + i] = places[i];
        p.scores[(size_t)blockIdx.x * p.used + i] = scale * score(p, raw[places[i]], largest, sum);
    }
}
