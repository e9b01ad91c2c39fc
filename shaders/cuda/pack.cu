// out[i] = x[i], the left side of products from a plain matrix; a warp takes 32 columns of a row.
struct Params {
    const unsigned* plan;
    const float* x;
    Operand out;
    unsigned dim;
    // Rows of `x` are the plan's outputs.
    unsigned outputs;
};

extern "C" __global__ void pack_kernel(const Params p) {
    unsigned column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column / 32 >= p.out.groups) {
        return;
    }
    unsigned row = p.outputs ? p.plan[step_of(p.plan).outputs + blockIdx.y] : blockIdx.y;
    store_operand(p.out, blockIdx.y, column / 32, column < p.dim ? p.x[(size_t)row * p.dim + column] : 0.0f);
}
