// Cosines and sines [n, half] of a step's positions, once for all layers; in 64 bits, because positions are large angles.
struct Params {
    const unsigned* plan;
    const float* freqs;
    float2* angles;
    unsigned half;
    float magnitude;
};

extern "C" __global__ void angles_kernel(const Params p) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.plan[0] * p.half) {
        return;
    }
    double position = p.plan[step_of(p.plan).positions + i / p.half];
    double angle = position * (double)p.freqs[i % p.half];
    p.angles[i] = make_float2((float)cos(angle) * p.magnitude, (float)sin(angle) * p.magnitude);
}
