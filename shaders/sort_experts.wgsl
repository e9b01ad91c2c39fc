// Sorts pairs of a row and an expert by the expert, and cuts those of each into tiles; one workgroup for all.
struct Params {
    n_experts: u32,
    // Experts of a row.
    used: u32,
    // Pairs of a tile.
    tokens: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// Experts of the pairs.
@group(0) @binding(2) var<storage, read> chosen: array<u32>;
// The pairs, sorted; then of each tile the expert, the first of its pairs, and behind the last one of this expert.
@group(0) @binding(3) var<storage, read_write> tiles: array<u32>;

// `MAX_EXPERTS` of the host.
var<workgroup> counts: array<u32, 512>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) t: u32) {
    let n_pairs = step.n * params.used;
    for (var e = t; e < params.n_experts; e += 64u) {
        var count = 0u;
        for (var i = 0u; i < n_pairs; i++) {
            count += select(0u, 1u, chosen[i] == e);
        }
        counts[e] = count;
    }
    workgroupBarrier();
    for (var e = t; e < params.n_experts; e += 64u) {
        var first = 0u;
        for (var other = 0u; other < e; other++) {
            first += counts[other];
        }
        let end = first + counts[e];
        var at = first;
        for (var i = 0u; i < n_pairs; i++) {
            if chosen[i] == e {
                tiles[at] = i;
                at += 1u;
            }
        }
        for (var tile = tiles_before(e); first < end; tile++) {
            set_tile(n_pairs, tile, e, first, end);
            first += params.tokens;
        }
    }
    // As many as there are at most; these have nothing to do.
    let n_tiles = min(n_pairs, n_pairs / params.tokens + params.n_experts);
    for (var tile = tiles_before(params.n_experts) + t; tile < n_tiles; tile += 64u) {
        set_tile(n_pairs, tile, 0u, 0u, 0u);
    }
}

fn tiles_before(expert: u32) -> u32 {
    var n = 0u;
    for (var e = 0u; e < expert; e++) {
        n += (counts[e] + params.tokens - 1u) / params.tokens;
    }
    return n;
}

fn set_tile(n_pairs: u32, tile: u32, expert: u32, first: u32, end: u32) {
    tiles[n_pairs + 3u * tile] = expert;
    tiles[n_pairs + 3u * tile + 1u] = first;
    tiles[n_pairs + 3u * tile + 2u] = end;
}
