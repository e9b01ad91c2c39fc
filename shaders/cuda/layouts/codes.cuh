// Eight weights of row r: columns 4 j.. and 16 + 4 j... For the layouts of codes; float layouts have their own.
__device__ __forceinline__ float4 quad_of(int codes, float2 f) {
    return make_float4(f.x * (signed char)codes + f.y, f.x * (signed char)(codes >> 8) + f.y,
        f.x * (signed char)(codes >> 16) + f.y, f.x * (signed char)(codes >> 24) + f.y);
}

__device__ __forceinline__ void eight(const unsigned* at, unsigned r, unsigned j, float4& low, float4& high) {
    int2 c = codes(at, r, j);
    low = quad_of(c.x, factors(at, r, 0));
    high = quad_of(c.y, factors(at, r, 1));
}
