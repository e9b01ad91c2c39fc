// out = activation(gate), times up where there is one; a warp takes 32 columns of a row.
struct Params {
    const float* gate;
    // Null: none.
    const float* up;
    Operand out;
    unsigned dim;
    // 0: x * sigmoid(x); 1: x * Φ(x); 2: the same in the tanh approximation; 3: clamped swish.
    unsigned activation;
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
        if (p.activation == 1) {
            y = 0.5f * x * erfcf(-0.70710678f * x);
        } else if (p.activation == 2) {
            y = 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
        } else if (p.activation == 3) {
            x = fminf(x, 7.0f);
            y = x / (1.0f + expf(-1.702f * x));
        } else {
            y = x / (1.0f + expf(-x));
        }
        if (p.up != nullptr) {
            y *= p.activation == 3 ? fminf(fmaxf(p.up[at], -7.0f), 7.0f) + 1.0f : p.up[at];
        }
    }
    store_operand(p.out, blockIdx.y, column / 32, y);
}
