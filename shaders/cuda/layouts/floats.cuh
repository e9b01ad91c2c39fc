// Eight weights of row r: columns 4 j.. and 16 + 4 j... For the layouts of floats.
__device__ __forceinline__ void eight(const unsigned* at, unsigned r, unsigned j, float4& low, float4& high) {
    low = quad_at(at, r, j);
    high = quad_at(at, r, j + 4);
}
