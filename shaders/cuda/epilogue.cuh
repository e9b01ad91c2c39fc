// Up to four products of one operand whose weights have one layout, and what happens to their results.
struct Product {
    // Panels of 16 rows, each a sequence of groups of 32 columns.
    const unsigned* weight;
    // Null: none.
    const float* bias;
    float* out;
    // Panels of this product and those before it.
    unsigned end;
    unsigned n_rows;
    // Columns of `out`.
    unsigned stride;
    unsigned accumulate;
    float scale;
    float softcap;
};

constexpr unsigned MAX_PRODUCTS = 4;

struct Params {
    const unsigned* plan;
    Operand x;
    Product products[MAX_PRODUCTS];
    // Panels of all products.
    unsigned n_panels;
    // Rows are the plan's outputs.
    unsigned outputs;
};

__device__ __forceinline__ unsigned n_tokens(const Params& p) {
    return p.plan[p.outputs];
}

// The product of a panel of the grid, and its number in that product.
__device__ __forceinline__ const Product& product_of(const Params& p, unsigned panel, unsigned& inside) {
    unsigned i = 0;
    unsigned first = 0;
    while (i + 1 < MAX_PRODUCTS && panel >= p.products[i].end) {
        first = p.products[i].end;
        i++;
    }
    inside = panel - first;
    return p.products[i];
}

__device__ __forceinline__ void finish(const Product& to, unsigned n, unsigned token, unsigned row, float sum) {
    if (token >= n || row >= to.n_rows) {
        return;
    }
    float y = to.scale * sum;
    if (to.bias != nullptr) {
        y += to.bias[row];
    }
    if (to.softcap != 0.0f) {
        y = to.softcap * tanhf(y / to.softcap);
    }
    float* at = to.out + (size_t)token * to.stride + row;
    *at = to.accumulate ? *at + y : y;
}
