// Products of few rows on a processor that serves as a GPU: a thread makes four rows of a panel for one token from all
// columns. There, a barrier switches contexts for every four threads and costs more than the sums of a whole panel; real
// GPUs take `matmul_few`, which has four times the threads.
@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let panel = id.x / 4u;
    if panel >= params.products[2].end {
        return;
    }
    let r = id.x % 4u;
    let product = product_of(panel);
    let inside = panel_in(product, panel);
    var at = params.products[product].at + inside * params.groups * GROUP;
    var from_x = id.y * params.groups * 8u;
    var sum = vec4<f32>();
    for (var g = 0u; g < params.groups; g++) {
        let a = load(at, r);
        let b = load(at, r + 4u);
        let c = load(at, r + 8u);
        let d = load(at, r + 12u);
        sum += half_sum(a, b, c, d, 0u, from_x) + half_sum(a, b, c, d, 1u, from_x + 4u);
        at += GROUP;
        from_x += 8u;
    }
    let row = inside * 16u + r;
    finish(product, id.y, row, sum.x);
    finish(product, id.y, row + 4u, sum.y);
    finish(product, id.y, row + 8u, sum.z);
    finish(product, id.y, row + 12u, sum.w);
}

// 16 columns of four rows.
fn half_sum(a: Raw, b: Raw, c: Raw, d: Raw, h: u32, at: u32) -> vec4<f32> {
    let x0 = x[at];
    let x1 = x[at + 1u];
    let x2 = x[at + 2u];
    let x3 = x[at + 3u];
    let all = dot(x0 + x1 + x2 + x3, vec4<f32>(1.0));
    return vec4<f32>(
        one_row(codes(a, h), scales(a, h), x0, x1, x2, x3, all),
        one_row(codes(b, h), scales(b, h), x0, x1, x2, x3, all),
        one_row(codes(c, h), scales(c, h), x0, x1, x2, x3, all),
        one_row(codes(d, h), scales(d, h), x0, x1, x2, x3, all),
    );
}

fn one_row(m: mat4x4<f32>, s: vec2<f32>, x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, all: f32) -> f32 {
    return s.x * (dot(m[0], x0) + dot(m[1], x1) + dot(m[2], x2) + dot(m[3], x3)) + s.y * all;
}
