// F32. Words 64 q + 4 r..: columns 4 q.. of row r.
constexpr unsigned GROUP = 512;

__device__ __forceinline__ float4 quad_at(const unsigned* at, unsigned r, unsigned q) {
    uint4 w = *(const uint4*)(at + 64 * q + 4 * r);
    return make_float4(__uint_as_float(w.x), __uint_as_float(w.y), __uint_as_float(w.z), __uint_as_float(w.w));
}
