// The largest logits of a row, sorted; one block a row. They can only lie in the blocks of columns with the largest maxima
// (`select_blocks`), so the same search runs twice: over the blocks, then over the columns of those that it found.
constexpr unsigned WARPS = 8;
constexpr unsigned THREADS = WARPS * 32;

struct Params {
    const float* logits;
    const float2* blocks;
    // [k logits, k columns, sum].
    float* out;
    // Columns of the logits, of a block, and blocks of a row.
    unsigned n;
    unsigned block;
    unsigned n_blocks;
    // Logits wanted, at most THREADS.
    unsigned k;
};

// A number that is larger when the float is; one for both zeros.
__device__ unsigned key_of(float v) {
    unsigned bits = __float_as_uint(v);
    return bits >> 31 ? 0u - bits : bits | 0x80000000u;
}

// Entries of a search.
struct Entries {
    const Params& p;
    // Blocks to search in; null: the blocks themselves are searched.
    const unsigned* blocks;
    unsigned n;

    __device__ unsigned id(unsigned i) const {
        return blocks == nullptr ? i : blocks[i / p.block] * p.block + i % p.block;
    }

    // 0 behind the end of the row.
    __device__ unsigned key(unsigned i) const {
        unsigned at = id(i);
        if (blocks == nullptr) {
            return key_of(p.blocks[(size_t)blockIdx.x * p.n_blocks + at].x);
        }
        return at < p.n ? key_of(p.logits[(size_t)blockIdx.x * p.n + at]) : 0;
    }
};

// Finds the k entries with the largest keys, of equal ones the first, in ascending order.
__device__ void search(const Entries& entries, unsigned k, unsigned* found, unsigned* keys) {
    __shared__ unsigned shares[THREADS];
    // The k-th largest key, bit by bit.
    unsigned limit = 0;
    for (unsigned bit = 0; bit < 32; bit++) {
        unsigned trial = limit | 0x80000000u >> bit;
        unsigned mine = 0;
        for (unsigned i = threadIdx.x; i < entries.n; i += THREADS) {
            mine += entries.key(i) >= trial;
        }
        // At most 2^16 entries: exact in floats.
        if (block_sum<WARPS>((float)mine) >= (float)k) {
            limit = trial;
        }
    }
    // Neighbouring entries for each thread, so that places are in order. Upper half: above the limit, lower half: on it.
    unsigned share = (entries.n + THREADS - 1) / THREADS;
    unsigned end = min((threadIdx.x + 1) * share, entries.n);
    unsigned mine = 0;
    for (unsigned i = threadIdx.x * share; i < end; i++) {
        unsigned key = entries.key(i);
        mine += key > limit ? 65536u : key == limit;
    }
    shares[threadIdx.x] = mine;
    __syncthreads();
    unsigned before = 0, all = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        before += i < threadIdx.x ? shares[i] : 0;
        all += shares[i] >> 16;
    }
    unsigned above = before >> 16, equal = before & 65535;
    // How many of the equal ones are taken.
    unsigned room = k - all;
    for (unsigned i = threadIdx.x * share; i < end; i++) {
        unsigned key = entries.key(i);
        if (key > limit || (key == limit && equal < room)) {
            unsigned place = above + min(equal, room);
            found[place] = entries.id(i);
            keys[place] = key;
        }
        above += key > limit;
        equal += key == limit;
    }
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS) select_kernel(const Params p) {
    __shared__ unsigned blocks[THREADS];
    __shared__ unsigned columns[THREADS];
    __shared__ unsigned keys[THREADS];
    __shared__ float largest;
    unsigned k_blocks = min(p.k, p.n_blocks);
    search(Entries{p, nullptr, p.n_blocks}, k_blocks, blocks, keys);
    search(Entries{p, blocks, k_blocks * p.block}, p.k, columns, keys);
    float* out = p.out + (size_t)blockIdx.x * (2 * p.k + 1);
    unsigned t = threadIdx.x;
    if (t < p.k) {
        unsigned rank = 0;
        for (unsigned i = 0; i < p.k; i++) {
            rank += keys[i] > keys[t] || (keys[i] == keys[t] && i < t);
        }
        float logit = p.logits[(size_t)blockIdx.x * p.n + columns[t]];
        out[rank] = logit;
        out[p.k + rank] = (float)columns[t];
        if (rank == 0) {
            largest = logit;
        }
    }
    __syncthreads();
    float sum = 0.0f;
    for (unsigned i = t; i < p.n_blocks; i += THREADS) {
        float2 block = p.blocks[(size_t)blockIdx.x * p.n_blocks + i];
        sum += block.y * expf(block.x - largest);
    }
    sum = block_sum<WARPS>(sum);
    if (t == 0) {
        out[2 * p.k] = sum;
    }
}
