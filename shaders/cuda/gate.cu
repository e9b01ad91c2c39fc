// out = activation(gate) * up; a warp takes 32 columns of a row.
struct Params {
    const float* gate;
    const float* up;
    Operand out;
    unsigned dim;
    // 0: x * sigmoid(x); 1: x * Φ(x) in the tanh approximation.
    unsigned gelu;
};

extern "C" __global__ void gate_kernel(const Params p) {
    unsigned column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column / 32 >= p.out.groups) {
        return;
    }
    float y = 0.0f;
    if (column < p.dim) {
        size_t at = (size_t)blockIdx.y * p.dim + column;
        float x = p.gate[at];
        if (p.gelu) {
            y = 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
        } else {
            y = x / (1.0f + expf(-x));
        }
        y *= p.up[at];
    }
    store_operand(p.out, blockIdx.y, column / 32, y);
}
