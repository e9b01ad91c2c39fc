// The plan of a step, as the host lays it out in words: this header, then the parts that it points to.
struct Step {
    unsigned n;
    unsigned n_outputs;
    // Where the parts start, in words from the start of the plan.
    unsigned tokens;
    unsigned positions;
    unsigned cells;
    unsigned spans;
    unsigned blocks;
    unsigned extras;
    unsigned outputs;
    // Pairs: first row and number of rows of an attention tile.
    unsigned tiles;
    // The number of steps that are done to states, how many of them come before the rows, then each.
    unsigned scan;
};

// What a row sees; `Span` of the host.
struct Span {
    unsigned table;
    unsigned prefix;
    unsigned extra;
    unsigned n_extra;
};

__device__ __forceinline__ Step step_of(const unsigned* plan) {
    return Step{plan[0], plan[1], plan[2], plan[3], plan[4], plan[5], plan[6], plan[7], plan[8], plan[9], plan[10]};
}

__device__ __forceinline__ Span span_of(const unsigned* plan, unsigned row) {
    const unsigned* at = plan + step_of(plan).spans + 4 * row;
    return Span{at[0], at[1], at[2], at[3]};
}
