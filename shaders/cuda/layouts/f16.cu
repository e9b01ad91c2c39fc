// F16. Words 64 o + 4 r..: columns 8 o.. of row r, two a word.
constexpr unsigned GROUP = 256;

__device__ __forceinline__ float4 quad_at(const unsigned* at, unsigned r, unsigned q) {
    uint2 w = *(const uint2*)(at + 64 * (q / 2) + 4 * r + q % 2 * 2);
    return make_float4(half_to_float(w.x & 0xffffu), half_to_float(w.x >> 16), half_to_float(w.y & 0xffffu),
        half_to_float(w.y >> 16));
}
