// The left side of a product, rows of whole groups of 32 columns, in up to two forms; a form that no weight reads is null.
struct Operand {
    // [n, groups, 32], for float weights.
    float* floats;
    // Signed bytes [n, groups, 32], for quantized weights. Word 2 j is columns 4 j.., word 2 j + 1 columns 16 + 4 j..: the two
    // that one lane of a matrix instruction takes are neighbours.
    signed char* codes;
    // [n, groups]: the scale of the bytes, then the sums of the first and the last 16 of them as 16-bit integers.
    uint2* scales;
    unsigned groups;
};

// Stores 32 values, one a lane of a full warp.
__device__ __forceinline__ void store_operand(const Operand& to, unsigned row, unsigned group, float value) {
    unsigned lane = threadIdx.x % 32;
    size_t at = (size_t)row * to.groups + group;
    if (to.floats != nullptr) {
        to.floats[at * 32 + lane] = value;
    }
    if (to.codes == nullptr) {
        return;
    }
    float largest = warp_max(fabsf(value));
    float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    int code = __float2int_rn(value * inverse);
    int sum = code;
    for (int other = 8; other > 0; other /= 2) {
        sum += __shfl_xor_sync(ALL_LANES, sum, other);
    }
    int second = __shfl_sync(ALL_LANES, sum, 16);
    unsigned word = lane < 16 ? lane / 4 * 2 : (lane / 4 - 4) * 2 + 1;
    to.codes[at * 32 + word * 4 + lane % 4] = (signed char)code;
    if (lane == 0) {
        to.scales[at] = make_uint2(__float_as_uint(largest / 127.0f), ((unsigned)sum & 0xffffu) | (unsigned)second << 16);
    }
}
