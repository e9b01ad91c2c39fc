// Products of many rows (prefill). A workgroup makes a tile of 64 rows of the weight by TOKENS (32 or 64) tokens, 32 columns
// at a time from workgroup memory (in 32-bit floats exactly the 16 KiB that WebGPU guarantees); a thread makes 8 by TOKENS / 8
// results. Both tiles lie as [column quad][row or token], so that neighbouring threads read neighbouring vectors.
var<workgroup> ws: array<Real4, 512>;
var<workgroup> xs: array<Real4, 8u * TOKENS>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let end = end_of_tokens();
    let first = params.first + id.y * TOKENS;
    // A tile is four panels, which may belong to different products.
    let panel = id.x * 4u + t / 16u;
    let product = product_of(panel);
    let inside = panel < params.products[2].end;
    let start = params.products[product].at + panel_in(product, panel) * params.groups * GROUP;
    let tr = t % 8u;
    let tt = t / 8u;
    // acc of row i is a_i for tokens tt + 8 {0, 1, 2, 3} and b_i for tokens tt + 8 {4, 5, 6, 7}.
    var a0 = vec4<f32>(); var a1 = vec4<f32>(); var a2 = vec4<f32>(); var a3 = vec4<f32>();
    var a4 = vec4<f32>(); var a5 = vec4<f32>(); var a6 = vec4<f32>(); var a7 = vec4<f32>();
    var b0 = vec4<f32>(); var b1 = vec4<f32>(); var b2 = vec4<f32>(); var b3 = vec4<f32>();
    var b4 = vec4<f32>(); var b5 = vec4<f32>(); var b6 = vec4<f32>(); var b7 = vec4<f32>();
    measure_tokens(first, t);
    for (var g = 0u; g < params.groups; g++) {
        if inside {
            let raw = load(start + g * GROUP, t % 16u);
            let gain = measure_row(raw, t);
            unpack_half(raw, 0u, gain, t);
            unpack_half(raw, 1u, gain, t);
        }
        for (var i = t; i < 8u * TOKENS; i += 64u) {
            let token = min(first + i / 8u, end - 1u);
            xs[i % 8u * TOKENS + i / 8u] = Real4(x[(token * params.groups + g) * 8u + i % 8u] * token_gain(i / 8u));
        }
        workgroupBarrier();
        let u0 = row_unit(tr);
        let u1 = row_unit(tr + 8u);
        let u2 = row_unit(tr + 16u);
        let u3 = row_unit(tr + 24u);
        let u4 = row_unit(tr + 32u);
        let u5 = row_unit(tr + 40u);
        let u6 = row_unit(tr + 48u);
        let u7 = row_unit(tr + 56u);
        for (var q = 0u; q < 8u; q++) {
            let rows = q * 64u + tr;
            let w0 = ws[rows];
            let w1 = ws[rows + 8u];
            let w2 = ws[rows + 16u];
            let w3 = ws[rows + 24u];
            let w4 = ws[rows + 32u];
            let w5 = ws[rows + 40u];
            let w6 = ws[rows + 48u];
            let w7 = ws[rows + 56u];
            let at = q * TOKENS + tt;
            let m = Real4x4(xs[at], xs[at + 8u], xs[at + 16u], xs[at + 24u]);
            a0 += u0 * vec4<f32>(w0 * m);
            a1 += u1 * vec4<f32>(w1 * m);
            a2 += u2 * vec4<f32>(w2 * m);
            a3 += u3 * vec4<f32>(w3 * m);
            a4 += u4 * vec4<f32>(w4 * m);
            a5 += u5 * vec4<f32>(w5 * m);
            a6 += u6 * vec4<f32>(w6 * m);
            a7 += u7 * vec4<f32>(w7 * m);
            if TOKENS == 64u {
                let m = Real4x4(xs[at + 32u], xs[at + 40u], xs[at + 48u], xs[at + 56u]);
                b0 += u0 * vec4<f32>(w0 * m);
                b1 += u1 * vec4<f32>(w1 * m);
                b2 += u2 * vec4<f32>(w2 * m);
                b3 += u3 * vec4<f32>(w3 * m);
                b4 += u4 * vec4<f32>(w4 * m);
                b5 += u5 * vec4<f32>(w5 * m);
                b6 += u6 * vec4<f32>(w6 * m);
                b7 += u7 * vec4<f32>(w7 * m);
            }
        }
        workgroupBarrier();
    }
    let a = array<vec4<f32>, 8>(a0, a1, a2, a3, a4, a5, a6, a7);
    let b = array<vec4<f32>, 8>(b0, b1, b2, b3, b4, b5, b6, b7);
    var all = array<array<vec4<f32>, 8>, 2>(a, b);
    for (var i = 0u; i < 8u; i++) {
        let row = tr + 8u * i;
        let owner = id.x * 4u + row / 16u;
        if owner >= params.products[2].end {
            continue;
        }
        let product = product_of(owner);
        for (var j = 0u; j < TOKENS / 8u; j++) {
            let token = tt + 8u * j;
            let sum = all[j / 4u][i][j % 4u] / token_gain(token);
            finish(product, first + token, panel_in(product, owner) * 16u + row % 16u, sum);
        }
    }
}

// Called once for each half, not in a loop: the shifts become constants.
fn unpack_half(raw: Raw, h: u32, gain: f32, t: u32) {
    let m = codes(raw, h);
    let s = scales(raw, h) * gain;
    ws[h * 256u + t] = Real4(m[0] * s.x + s.y);
    ws[h * 256u + 64u + t] = Real4(m[1] * s.x + s.y);
    ws[h * 256u + 128u + t] = Real4(m[2] * s.x + s.y);
    ws[h * 256u + 192u + t] = Real4(m[3] * s.x + s.y);
}
