// Products of several rows on a processor that serves as a GPU: a thread makes eight rows of a panel for four tokens from all
// columns. There, a barrier switches contexts for every few threads, workgroup memory is as slow as any other, and what a
// load costs is its address: so there are no barriers, and a loaded value serves as many products as registers hold.
@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let panel = id.x / 2u;
    if panel >= params.products[2].end {
        return;
    }
    let r = id.x % 2u;
    let product = product_of(panel);
    let inside = panel_in(product, panel);
    var at = params.products[product].at + inside * params.groups * GROUP;
    // Tokens behind the last one repeat it and are not stored.
    let first = params.first + id.y * 4u;
    var from_x = min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(end_of_tokens() - 1u)) * params.groups * 8u;
    // Four tokens of row r + 2 i.
    var y0 = vec4<f32>(); var y1 = vec4<f32>(); var y2 = vec4<f32>(); var y3 = vec4<f32>();
    var y4 = vec4<f32>(); var y5 = vec4<f32>(); var y6 = vec4<f32>(); var y7 = vec4<f32>();
    for (var g = 0u; g < params.groups; g++) {
        let w0 = load(at, r);
        let w1 = load(at, r + 2u);
        let w2 = load(at, r + 4u);
        let w3 = load(at, r + 6u);
        let w4 = load(at, r + 8u);
        let w5 = load(at, r + 10u);
        let w6 = load(at, r + 12u);
        let w7 = load(at, r + 14u);
        // Not in a loop: the shifts become constants.
        var x = inputs(from_x);
        y0 += half_row(w0, 0u, x);
        y1 += half_row(w1, 0u, x);
        y2 += half_row(w2, 0u, x);
        y3 += half_row(w3, 0u, x);
        y4 += half_row(w4, 0u, x);
        y5 += half_row(w5, 0u, x);
        y6 += half_row(w6, 0u, x);
        y7 += half_row(w7, 0u, x);
        x = inputs(from_x + 4u);
        y0 += half_row(w0, 1u, x);
        y1 += half_row(w1, 1u, x);
        y2 += half_row(w2, 1u, x);
        y3 += half_row(w3, 1u, x);
        y4 += half_row(w4, 1u, x);
        y5 += half_row(w5, 1u, x);
        y6 += half_row(w6, 1u, x);
        y7 += half_row(w7, 1u, x);
        at += GROUP;
        from_x += vec4<u32>(8u);
    }
    let row = inside * 16u + r;
    finish_four(product, first, row, y0);
    finish_four(product, first, row + 2u, y1);
    finish_four(product, first, row + 4u, y2);
    finish_four(product, first, row + 6u, y3);
    finish_four(product, first, row + 8u, y4);
    finish_four(product, first, row + 10u, y5);
    finish_four(product, first, row + 12u, y6);
    finish_four(product, first, row + 14u, y7);
}

// 16 columns of four tokens, by column quads, and each token's sum.
struct Inputs {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
    c: mat4x4<f32>,
    d: mat4x4<f32>,
    all: vec4<f32>,
}

fn inputs(at: vec4<u32>) -> Inputs {
    let a = mat4x4<f32>(x[at.x], x[at.y], x[at.z], x[at.w]);
    let b = mat4x4<f32>(x[at.x + 1u], x[at.y + 1u], x[at.z + 1u], x[at.w + 1u]);
    let c = mat4x4<f32>(x[at.x + 2u], x[at.y + 2u], x[at.z + 2u], x[at.w + 2u]);
    let d = mat4x4<f32>(x[at.x + 3u], x[at.y + 3u], x[at.z + 3u], x[at.w + 3u]);
    return Inputs(a, b, c, d, vec4<f32>(1.0) * (a + b + c + d));
}

// 16 columns of one row for four tokens.
fn half_row(raw: Raw, h: u32, x: Inputs) -> vec4<f32> {
    let m = codes(raw, h);
    let s = scales(raw, h);
    return s.x * (m[0] * x.a + m[1] * x.b + m[2] * x.c + m[3] * x.d) + s.y * x.all;
}

fn finish_four(product: u32, first: u32, row: u32, y: vec4<f32>) {
    finish(product, first, row, y.x);
    finish(product, first + 1u, row, y.y);
    finish(product, first + 2u, row, y.z);
    finish(product, first + 3u, row, y.w);
}
