// Sums and maxima over the 32 lanes of a warp; every lane must call and gets the result.
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ __forceinline__ float warp_sum(float v) {
    for (int lane = 16; lane > 0; lane /= 2) {
        v += __shfl_xor_sync(ALL_LANES, v, lane);
    }
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
    for (int lane = 16; lane > 0; lane /= 2) {
        v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, lane));
    }
    return v;
}

// The sum over a block of WARPS warps.
template <int WARPS>
__device__ float block_sum(float v) {
    __shared__ float partial[WARPS];
    v = warp_sum(v);
    // Nobody still reads the sums of the call before.
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        partial[threadIdx.x / 32] = v;
    }
    __syncthreads();
    float total = 0.0f;
    for (int i = 0; i < WARPS; i++) {
        total += partial[i];
    }
    return total;
}
