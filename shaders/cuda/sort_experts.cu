// Sorts pairs of a row and an expert by the expert, and cuts those of each into tiles; one block for all.
constexpr unsigned MAX_EXPERTS = 512;

struct Params {
    // Experts of the pairs.
    const unsigned* chosen;
    // The pairs, sorted; then of each tile the expert, the first of its pairs, and behind the last one of this expert.
    unsigned* tiles;
    unsigned n_pairs;
    unsigned n_experts;
    // Pairs of a tile, and tiles.
    unsigned tokens;
    unsigned n_tiles;
};

__device__ __forceinline__ void set_tile(const Params& p, unsigned tile, unsigned expert, unsigned first, unsigned end) {
    unsigned* at = p.tiles + p.n_pairs + 3 * tile;
    at[0] = expert;
    at[1] = first;
    at[2] = end;
}

__device__ __forceinline__ unsigned tiles_before(const Params& p, const unsigned* counts, unsigned expert) {
    unsigned n = 0;
    for (unsigned e = 0; e < expert; e++) {
        n += (counts[e] + p.tokens - 1) / p.tokens;
    }
    return n;
}

extern "C" __global__ void sort_experts_kernel(const Params p) {
    __shared__ unsigned counts[MAX_EXPERTS];
    for (unsigned e = threadIdx.x; e < p.n_experts; e += blockDim.x) {
        unsigned count = 0;
        for (unsigned i = 0; i < p.n_pairs; i++) {
            count += p.chosen[i] == e;
        }
        counts[e] = count;
    }
    __syncthreads();
    for (unsigned e = threadIdx.x; e < p.n_experts; e += blockDim.x) {
        unsigned first = 0;
        for (unsigned other = 0; other < e; other++) {
            first += counts[other];
        }
        unsigned at = first;
        for (unsigned i = 0; i < p.n_pairs; i++) {
            if (p.chosen[i] == e) {
                p.tiles[at++] = i;
            }
        }
        for (unsigned tile = tiles_before(p, counts, e); first < at; tile++) {
            set_tile(p, tile, e, first, at);
            first += p.tokens;
        }
    }
    // As many as there are at most; these have nothing to do.
    for (unsigned tile = tiles_before(p, counts, p.n_experts) + threadIdx.x; tile < p.n_tiles; tile += blockDim.x) {
        set_tile(p, tile, 0, 0, 0);
    }
}
