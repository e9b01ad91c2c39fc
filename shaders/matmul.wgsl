// Products of many rows (prefill). A workgroup makes a tile of 64 rows of the weight by TOKENS (32 or 64) tokens, 32 columns
// at a time from workgroup memory (exactly the 16 KiB that WebGPU guarantees); a thread makes 8 by TOKENS / 8 results.
// Both tiles lie as [column quad][row or token], so that neighbouring threads read neighbouring vectors.
var<workgroup> ws: array<vec4<f32>, 512>;
var<workgroup> xs: array<vec4<f32>, 8u * TOKENS>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let n = n_tokens();
    let first = id.y * TOKENS;
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
    for (var g = 0u; g < params.groups; g++) {
        if inside {
            let raw = load(start + g * GROUP, t % 16u);
            unpack_half(raw, 0u, t);
            unpack_half(raw, 1u, t);
        }
        for (var i = t; i < 8u * TOKENS; i += 64u) {
            let token = min(first + i / 8u, n - 1u);
            xs[i % 8u * TOKENS + i / 8u] = x[(token * params.groups + g) * 8u + i % 8u];
        }
        workgroupBarrier();
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
            let m = mat4x4<f32>(xs[at], xs[at + 8u], xs[at + 16u], xs[at + 24u]);
            a0 += w0 * m;
            a1 += w1 * m;
            a2 += w2 * m;
            a3 += w3 * m;
            a4 += w4 * m;
            a5 += w5 * m;
            a6 += w6 * m;
            a7 += w7 * m;
            if TOKENS == 64u {
                let m = mat4x4<f32>(xs[at + 32u], xs[at + 40u], xs[at + 48u], xs[at + 56u]);
                b0 += w0 * m;
                b1 += w1 * m;
                b2 += w2 * m;
                b3 += w3 * m;
                b4 += w4 * m;
                b5 += w5 * m;
                b6 += w6 * m;
                b7 += w7 * m;
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
            finish(product, first + tt + 8u * j, panel_in(product, owner) * 16u + row % 16u, all[j / 4u][i][j % 4u]);
        }
    }
}

// Called once for each half, not in a loop: the shifts become constants.
fn unpack_half(raw: Raw, h: u32, t: u32) {
    let m = codes(raw, h);
    let s = scales(raw, h);
    ws[h * 256u + t] = m[0] * s.x + s.y;
    ws[h * 256u + 64u + t] = m[1] * s.x + s.y;
    ws[h * 256u + 128u + t] = m[2] * s.x + s.y;
    ws[h * 256u + 192u + t] = m[3] * s.x + s.y;
}
