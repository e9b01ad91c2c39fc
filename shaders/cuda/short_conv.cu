// A causal convolution of each column with the few newest rows of its sequence, between two gates or in front of SiLU. A thread takes one column
// through the whole list of the step, so it carries the state of whatever sequence comes, and nobody has to wait.
struct Params {
    const unsigned* plan;
    const float* x;
    const float* weight;
    float* kept;
    float* states;
    float* out;
    const float* bias;
    unsigned dim;
    // Rows that a row reads, itself included.
    unsigned taps;
    // 0: between two gates, 1: in front of SiLU, 3: with a bias.
    unsigned form;
};

// MAX_TAPS of the host.
constexpr unsigned MAX_TAPS = 8;

extern "C" __global__ void short_conv_kernel(const Params p) {
    unsigned column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= p.dim) {
        return;
    }
    // The rows that a row reads, the oldest first; its own stands behind those of a state.
    float window[MAX_TAPS] = {};
    unsigned last = p.taps - 1;
    const unsigned* scan = p.plan + step_of(p.plan).scan;
    for (unsigned i = 0; i < scan[0]; i++) {
        // `Scan` of the host.
        unsigned code = scan[2 + i] >> 28, which = scan[2 + i] & 0x0fffffff;
        size_t row = (size_t)which * p.dim + column;
        if (code < 3) {
            float* state = p.states + (size_t)which * last * p.dim + column;
            for (unsigned tap = 0; tap < last; tap++) {
                if (code == 2) {
                    state[tap * p.dim] = window[tap];
                } else {
                    window[tap] = code == 1 ? state[tap * p.dim] : 0.0f;
                }
            }
            continue;
        }
        const float* x = p.x + row + (p.form == 0 ? 2 * (size_t)which * p.dim : 0);
        window[last] = code == 3 ? p.kept[row] : p.form == 0 ? x[0] * x[2 * p.dim] : x[0];
        if (code == 4) {
            p.kept[row] = window[last];
            float sum = 0.0f;
            for (unsigned tap = 0; tap <= last; tap++) {
                sum += p.weight[tap * p.dim + column] * window[tap];
            }
            sum += p.form == 3 ? p.bias[column] : 0.0f;
            p.out[row] = p.form == 0 ? x[p.dim] * sum : sum / (1.0f + expf(-sum));
        }
        for (unsigned tap = 0; tap < last; tap++) {
            window[tap] = window[tap + 1];
        }
    }
}
