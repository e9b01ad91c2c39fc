// The first half of `select`: the largest logit of every block of 64 columns or more, and the sum of exp(logit - largest) over
// it. A warp takes a block.
struct Params {
    const float* logits;
    float2* blocks;
    // Columns of the logits, columns of a block, and blocks of a row.
    unsigned n;
    unsigned block;
    unsigned n_blocks;
};

// Below every logit.
constexpr float NONE = -3.4e38f;

extern "C" __global__ void select_blocks_kernel(const Params p) {
    unsigned block = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (block >= p.n_blocks) {
        return;
    }
    const float* logits = p.logits + (size_t)blockIdx.y * p.n;
    unsigned end = min((block + 1) * p.block, p.n);
    float largest = NONE;
    for (unsigned i = block * p.block + threadIdx.x % 32; i < end; i += 32) {
        largest = fmaxf(largest, logits[i]);
    }
    largest = warp_max(largest);
    float sum = 0.0f;
    for (unsigned i = block * p.block + threadIdx.x % 32; i < end; i += 32) {
        sum += expf(logits[i] - largest);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) {
        p.blocks[(size_t)blockIdx.y * p.n_blocks + block] = make_float2(largest, sum);
    }
}
