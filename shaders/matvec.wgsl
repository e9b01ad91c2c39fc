// Products of few rows on a processor that serves as a GPU: a thread makes four rows of each of four panels for one token from
// all columns. There, a barrier switches contexts for every four threads and costs more than the sums of a whole panel, and a
// load costs as much as a dozen multiplications: each value of `x` serves sixteen rows. Real GPUs take `matmul_few`, which has
// sixteen times the threads.
@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let first = id.x / 4u * 4u;
    if first >= params.products[2].end {
        return;
    }
    let r = id.x % 4u;
    let token = params.first + id.y;
    var a = start_of(first);
    var b = start_of(first + 1u);
    var c = start_of(first + 2u);
    var d = start_of(first + 3u);
    var sum_a = vec4<f32>();
    var sum_b = vec4<f32>();
    var sum_c = vec4<f32>();
    var sum_d = vec4<f32>();
    var from_x = token * params.groups * 8u;
    for (var g = 0u; g < params.groups; g++) {
        let low = mat4x4<f32>(x[from_x], x[from_x + 1u], x[from_x + 2u], x[from_x + 3u]);
        let high = mat4x4<f32>(x[from_x + 4u], x[from_x + 5u], x[from_x + 6u], x[from_x + 7u]);
        let all = vec2<f32>(total(low), total(high));
        sum_a += four_rows(a, r, low, high, all);
        sum_b += four_rows(b, r, low, high, all);
        sum_c += four_rows(c, r, low, high, all);
        sum_d += four_rows(d, r, low, high, all);
        a += GROUP;
        b += GROUP;
        c += GROUP;
        d += GROUP;
        from_x += 8u;
    }
    finish_four(first, token, r, sum_a);
    finish_four(first + 1u, token, r, sum_b);
    finish_four(first + 2u, token, r, sum_c);
    finish_four(first + 3u, token, r, sum_d);
}

// Where a panel lies; behind the last one that one again.
fn start_of(wanted: u32) -> u32 {
    let panel = min(wanted, params.products[2].end - 1u);
    let product = product_of(panel);
    return params.products[product].at + panel_in(product, panel) * params.groups * GROUP;
}

fn total(v: mat4x4<f32>) -> f32 {
    let sum = v[0] + v[1] + v[2] + v[3];
    return sum.x + sum.y + sum.z + sum.w;
}

// 32 columns of the rows r, r + 4, r + 8 and r + 12 of the panel at `at`; `all` are the sums of `low` and `high`.
fn four_rows(at: u32, r: u32, low: mat4x4<f32>, high: mat4x4<f32>, all: vec2<f32>) -> vec4<f32> {
    return vec4<f32>(
        one_row(load(at, r), low, high, all),
        one_row(load(at, r + 4u), low, high, all),
        one_row(load(at, r + 8u), low, high, all),
        one_row(load(at, r + 12u), low, high, all),
    );
}

fn one_row(raw: Raw, low: mat4x4<f32>, high: mat4x4<f32>, all: vec2<f32>) -> f32 {
    return half_row(codes(raw, 0u), scales(raw, 0u), low, all.x) + half_row(codes(raw, 1u), scales(raw, 1u), high, all.y);
}

// 16 columns.
fn half_row(m: mat4x4<f32>, s: vec2<f32>, v: mat4x4<f32>, all: f32) -> f32 {
    return s.x * (dot(m[0], v[0]) + dot(m[1], v[1]) + dot(m[2], v[2]) + dot(m[3], v[3])) + s.y * all;
}

fn finish_four(panel: u32, token: u32, r: u32, sum: vec4<f32>) {
    if panel >= params.products[2].end {
        return;
    }
    let product = product_of(panel);
    let row = panel_in(product, panel) * 16u + r;
    finish(product, token, row, sum.x);
    finish(product, token, row + 4u, sum.y);
    finish(product, token, row + 8u, sum.z);
    finish(product, token, row + 12u, sum.w);
}
