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
    Operand x;
    Product products[MAX_PRODUCTS];
    // Panels of all products.
    unsigned n_panels;
    // Rows of `x`, and of each result.
    unsigned n;
};

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
    float y = sum;
    if (to.bias != nullptr) {
        y += to.bias[row];
    }
    y *= to.scale;
    if (to.softcap != 0.0f) {
        y = to.softcap * tanhf(y / to.softcap);
    }
    float* at = to.out + (size_t)token * to.stride + row;
    *at = to.accumulate ? *at + y : y;
}

// What a block works on that takes one panel: a panel of a product, and some rows.
struct Work {
    const Product* product;
    unsigned inside;
    unsigned first;
    unsigned end;
};

__device__ __forceinline__ Work work_of(const Params& p, unsigned tokens) {
    Work work;
    work.product = &product_of(p, blockIdx.x, work.inside);
    work.first = blockIdx.y * tokens;
    work.end = p.n;
    return work;
}

__device__ __forceinline__ const unsigned* panel_of(const Params&, const Work& work, unsigned words) {
    return work.product->weight + (size_t)work.inside * words;
}

// The row of `x` of a token; those behind the last one repeat it and are not stored.
__device__ __forceinline__ size_t input_of(const Params&, const Work& work, unsigned token) {
    return min(token, work.end - 1);
}

__device__ __forceinline__ void store(const Params&, const Work& work, unsigned token, unsigned r, float sum) {
    finish(*work.product, work.end, token, work.inside * 16 + r, sum);
}
