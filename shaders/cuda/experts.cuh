// In place of `epilogue`: a product of pairs of a row and an expert. A tile is one pair, or some that one expert has.
struct Params {
    Operand x;
    const unsigned* weight;
    // [n_experts, n_rows] and [n_experts]; null: none.
    const float* bias;
    const float* factors;
    float* out;
    // Experts of the pairs.
    const unsigned* chosen;
    // Of `sort_experts`; null: pairs are not sorted, and a tile is one.
    const unsigned* tiles;
    unsigned n_pairs;
    // Panels and rows of an expert.
    unsigned n_panels;
    unsigned n_rows;
    // Pairs that share a row of `x`.
    unsigned share;
};

// What a block works on: an expert, and some places of pairs.
struct Work {
    unsigned expert;
    unsigned first;
    unsigned end;
};

__device__ __forceinline__ Work work_of(const Params& p, unsigned tokens) {
    unsigned y = blockIdx.y;
    if (p.tiles == nullptr) {
        return Work{p.chosen[y], y, y + 1};
    }
    const unsigned* at = p.tiles + p.n_pairs + 3 * y;
    return Work{at[0], at[1], min(at[1] + tokens, at[2])};
}

__device__ __forceinline__ unsigned pair_at(const Params& p, unsigned place) {
    return p.tiles != nullptr ? p.tiles[place] : place;
}

__device__ __forceinline__ const unsigned* panel_of(const Params& p, const Work& work, unsigned words) {
    return p.weight + ((size_t)work.expert * p.n_panels + blockIdx.x) * words;
}

// The row of `x` of a place; those behind the last one repeat it and are not stored.
__device__ __forceinline__ size_t input_of(const Params& p, const Work& work, unsigned place) {
    return pair_at(p, min(place, work.end - 1)) / p.share;
}

__device__ __forceinline__ void store(const Params& p, const Work& work, unsigned place, unsigned r, float sum) {
    unsigned row = blockIdx.x * 16 + r;
    if (place >= work.end || row >= p.n_rows) {
        return;
    }
    float y = sum;
    if (p.bias != nullptr) {
        y += p.bias[(size_t)work.expert * p.n_rows + row];
    }
    if (p.factors != nullptr) {
        y *= p.factors[work.expert];
    }
    p.out[(size_t)pair_at(p, place) * p.n_rows + row] = y;
}
