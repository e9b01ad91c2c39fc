// Tiles of `matmul` in half floats: half the workgroup memory. These end at 65504, and below 2^-14 they lose bits or are zero.
// So 32 columns of a weight row are divided by a unit, which leaves their codes, at most 128 with what is added to them, and
// a token's inputs are multiplied by a gain that makes the largest 64: four products are below 2^15 in sum, and what goes on
// from there is 32-bit floats.
alias Real4 = vec4<f16>;
alias Real4x4 = mat4x4<f16>;

// Largest magnitude of each token's inputs, as bits: those of positive floats are in order.
var<workgroup> peaks: array<atomic<u32>, TOKENS>;
var<workgroup> row_units: array<f32, 64>;

// Reads all inputs once before the tiles do: 32 columns are shared by eight threads, and for each group a barrier more costs
// more.
fn measure_tokens(first: u32, t: u32) {
    if t < TOKENS {
        atomicStore(&peaks[t], 0u);
    }
    workgroupBarrier();
    for (var i = t / 8u; i < TOKENS; i += 8u) {
        let at = min(first + i, end_of_tokens() - 1u) * params.groups * 8u + t % 8u;
        var largest = vec4<f32>();
        for (var g = 0u; g < params.groups; g++) {
            largest = max(largest, abs(x[at + 8u * g]));
        }
        atomicMax(&peaks[i], bitcast<u32>(max(max(largest.x, largest.y), max(largest.z, largest.w))));
    }
    workgroupBarrier();
}

fn token_gain(i: u32) -> f32 {
    return 64.0 / max(bitcast<f32>(atomicLoad(&peaks[i])), 1e-30);
}

// Keeps the unit of a row's next columns, and returns what to multiply by.
fn measure_row(raw: Raw, t: u32) -> f32 {
    let s = abs(vec4<f32>(scales(raw, 0u), scales(raw, 1u)));
    let unit = max(max(s.x, s.z), max(s.y, s.w) / 16.0);
    row_units[t] = unit;
    return 1.0 / max(unit, 1e-30);
}

fn row_unit(i: u32) -> f32 {
    return row_units[i];
}
