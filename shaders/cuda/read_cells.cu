// Cache entries of the plan's cells as floats. One block an entry of a row: keys of all heads, then values.
struct Params {
    const unsigned* plan;
    // Of this layer: [cell][keys, then values of each head][ENTRY].
    const unsigned* cache;
    float* k;
    float* v;
    unsigned n_kv_heads;
};

extern "C" __global__ void read_cells_kernel(const Params p) {
    unsigned row = blockIdx.y, entry = blockIdx.x;
    size_t cell = p.plan[step_of(p.plan).cells + row];
    const unsigned* source = p.cache + (cell * 2 * p.n_kv_heads + entry) * ENTRY;
    float* to = (entry < p.n_kv_heads ? p.k : p.v) + ((size_t)row * p.n_kv_heads + entry % p.n_kv_heads) * DIM;
    for (unsigned i = threadIdx.x; i < WORDS; i += blockDim.x) {
        values_of(source, i, to + A_WORD * i);
    }
}
