// Copies cells of all layers, in order. A thread carries one word of a cell through all copies, so that a later one sees what an
// earlier one wrote.
struct Params {
    // (from, to) of each.
    const uint2* moves;
    unsigned* cache;
    // Words of a layer.
    unsigned long long layer;
    unsigned n_moves;
    // Words of a cell.
    unsigned words;
};

extern "C" __global__ void move_cells_kernel(const Params p) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.words) {
        return;
    }
    unsigned* cache = p.cache + blockIdx.y * p.layer + i;
    for (unsigned m = 0; m < p.n_moves; m++) {
        uint2 move = p.moves[m];
        cache[(size_t)move.y * p.words] = cache[(size_t)move.x * p.words];
    }
}
