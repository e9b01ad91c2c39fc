// The largest logits of a row, sorted; one workgroup a row. They can only lie in the blocks with the largest maxima
// (`select_blocks`), so the same search runs twice: over the blocks, then over the columns of those that it found.
struct Params {
    // Columns of the logits, of a block, and blocks of a row.
    n: u32,
    block: u32,
    n_blocks: u32,
    // Logits wanted.
    k: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read> blocks: array<vec2<f32>>;
// [k logits, k columns, sum].
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

const THREADS: u32 = 256u;

// Entries found, in ascending order: of the blocks, then of the columns.
var<workgroup> found: array<array<u32, THREADS>, 2>;
// Keys of the columns found.
var<workgroup> keys: array<u32, THREADS>;
// Entries not below a trial, for each bit of each search.
var<workgroup> counts: array<atomic<u32>, 64>;
// Entries above the limit (upper half) and on it of each thread; later sums.
var<workgroup> shares: array<u32, THREADS>;
var<workgroup> sums: array<f32, THREADS>;
var<workgroup> largest: f32;

// A number that is larger when the float is; one for both zeros.
fn key_of(v: f32) -> u32 {
    let bits = bitcast<u32>(v);
    return select(bits | 0x80000000u, 0u - bits, bits >= 0x80000000u);
}

fn column_of(i: u32) -> u32 {
    return found[0][i / params.block] * params.block + i % params.block;
}

// Key of entry i of a search: a block's, or a column's of the blocks found; 0 behind the end of the row.
fn key_at(which: u32, row: u32, i: u32) -> u32 {
    if which == 0u {
        return key_of(blocks[row * params.n_blocks + i].x);
    }
    let column = column_of(i);
    if column >= params.n {
        return 0u;
    }
    return key_of(logits[row * params.n + column]);
}

// Finds the k entries with the largest keys among n, of equal ones the first; fewer than k only where n is.
fn search(which: u32, row: u32, n: u32, k: u32, t: u32) {
    // The k-th largest key, bit by bit.
    var limit = 0u;
    for (var bit = 0u; bit < 32u; bit++) {
        let trial = limit | (0x80000000u >> bit);
        var mine = 0u;
        for (var i = t; i < n; i += THREADS) {
            mine += select(0u, 1u, key_at(which, row, i) >= trial);
        }
        atomicAdd(&counts[which * 32u + bit], mine);
        workgroupBarrier();
        if atomicLoad(&counts[which * 32u + bit]) >= k {
            limit = trial;
        }
    }
    // Neighbouring entries for each thread, so that places are in order.
    let share = (n + THREADS - 1u) / THREADS;
    let end = min((t + 1u) * share, n);
    var mine = 0u;
    for (var i = t * share; i < end; i++) {
        let key = key_at(which, row, i);
        mine += select(0u, 65536u, key > limit) + select(0u, 1u, key == limit);
    }
    shares[t] = mine;
    workgroupBarrier();
    var before = 0u;
    var all = 0u;
    for (var i = 0u; i < THREADS; i++) {
        before += select(0u, shares[i], i < t);
        all += shares[i] >> 16u;
    }
    var above = before >> 16u;
    var equal = before & 65535u;
    // How many of the equal ones are taken.
    let room = k - all;
    for (var i = t * share; i < end; i++) {
        let key = key_at(which, row, i);
        if key > limit || (key == limit && equal < room) {
            let place = above + min(equal, room);
            found[which][place] = select(i, column_of(i), which == 1u);
            keys[place] = key;
        }
        above += select(0u, 1u, key > limit);
        equal += select(0u, 1u, key == limit);
    }
    workgroupBarrier();
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = id.x;
    if t < 64u {
        atomicStore(&counts[t], 0u);
    }
    workgroupBarrier();
    let k_blocks = min(params.k, params.n_blocks);
    search(0u, row, params.n_blocks, k_blocks, t);
    search(1u, row, k_blocks * params.block, params.k, t);
    let to = row * (2u * params.k + 1u);
    if t < params.k {
        var rank = 0u;
        for (var i = 0u; i < params.k; i++) {
            rank += select(0u, 1u, keys[i] > keys[t] || (keys[i] == keys[t] && i < t));
        }
        let column = found[1][t];
        let logit = logits[row * params.n + column];
        out[to + rank] = logit;
        out[to + params.k + rank] = f32(column);
        if rank == 0u {
            largest = logit;
        }
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = t; i < params.n_blocks; i += THREADS) {
        let block = blocks[row * params.n_blocks + i];
        sum += block.y * exp(block.x - largest);
    }
    sums[t] = sum;
    workgroupBarrier();
    if t == 0u {
        for (var i = 1u; i < THREADS; i++) {
            sum += sums[i];
        }
        out[to + 2u * params.k] = sum;
    }
}
