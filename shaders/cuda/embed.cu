// out[i] = scale * table[tokens[i]], the tokens by their numbers or as columns that `select` chose; a thread decodes eight
// columns.
struct Params {
    const unsigned* plan;
    const unsigned* table;
    // [rows, chosen_cols], or none.
    const float* chosen;
    float* out;
    unsigned groups;
    unsigned cols;
    unsigned chosen_cols;
    float scale;
};

extern "C" __global__ void embed_kernel(const Params p) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned group = i / 4, j = i % 4;
    if (group >= p.groups) {
        return;
    }
    unsigned row = p.plan[step_of(p.plan).tokens + blockIdx.y];
    if (p.chosen) {
        row = (unsigned)p.chosen[row * p.chosen_cols + 1];
    }
    float4 low, high;
    eight(p.table + ((size_t)(row / 16) * p.groups + group) * GROUP, row % 16, j, low, high);
    float values[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    for (unsigned k = 0; k < 8; k++) {
        unsigned column = group * 32 + k / 4 * 16 + j * 4 + k % 4;
        if (column < p.cols) {
            p.out[(size_t)blockIdx.y * p.cols + column] = p.scale * values[k];
        }
    }
}
