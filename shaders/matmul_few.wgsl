// Products of a few rows (decode, small trees). A workgroup takes one panel of 16 rows: a thread adds four rows over every
// 16th group of 32 columns, so that weights are read once, in whole cache lines, and each value of `x` serves four rows.
const SLICES: u32 = 16u;

var<workgroup> sums: array<f32, SLICES * 16u * TOKENS>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let product = product_of(id.x);
    let first = first_of(id.y, TOKENS);
    let panel = start_of_panel(id.x);
    let end = groups_of(id.x);
    // Tokens behind the last one repeat it and are not stored.
    let last = end_of_tokens() - 1u;
    var rows: array<u32, TOKENS>;
    for (var i = 0u; i < TOKENS; i++) {
        rows[i] = input_of(min(first + i, last)) * params.groups;
    }
    let r = t % 4u;
    let slice = t / 4u;
    var acc: array<vec4<f32>, TOKENS>;
    for (var g = slice; g < end; g += SLICES) {
        let at = panel + g * GROUP;
        let a = load(at, r);
        let b = load(at, r + 4u);
        let c = load(at, r + 8u);
        let d = load(at, r + 12u);
        add_half(&acc, a, b, c, d, 0u, &rows, g);
        add_half(&acc, a, b, c, d, 1u, &rows, g);
    }
    for (var i = 0u; i < TOKENS; i++) {
        let at = (slice * TOKENS + i) * 16u + r;
        sums[at] = acc[i].x;
        sums[at + 4u] = acc[i].y;
        sums[at + 8u] = acc[i].z;
        sums[at + 12u] = acc[i].w;
    }
    workgroupBarrier();
    for (var i = t; i < 16u * TOKENS; i += 64u) {
        var sum = 0.0;
        for (var slice = 0u; slice < SLICES; slice++) {
            sum += sums[slice * 16u * TOKENS + i];
        }
        finish(product, first + i / 16u, panel_in(product, id.x) * 16u + i % 16u, sum);
    }
}

// Adds 16 columns of four rows for every token. Called once for each half, not in a loop: the shifts become constants.
fn add_half(acc: ptr<function, array<vec4<f32>, TOKENS>>, a: Raw, b: Raw, c: Raw, d: Raw, h: u32,
    rows: ptr<function, array<u32, TOKENS>>, g: u32) {
    let ma = codes(a, h);
    let mb = codes(b, h);
    let mc = codes(c, h);
    let md = codes(d, h);
    let sa = scales(a, h);
    let sb = scales(b, h);
    let sc = scales(c, h);
    let sd = scales(d, h);
    for (var i = 0u; i < TOKENS; i++) {
        let at = ((*rows)[i] + g) * 8u + h * 4u;
        let x0 = x[at];
        let x1 = x[at + 1u];
        let x2 = x[at + 2u];
        let x3 = x[at + 3u];
        let all = dot(x0 + x1 + x2 + x3, vec4<f32>(1.0));
        let dots = vec4<f32>(
            dot(ma[0], x0) + dot(ma[1], x1) + dot(ma[2], x2) + dot(ma[3], x3),
            dot(mb[0], x0) + dot(mb[1], x1) + dot(mb[2], x2) + dot(mb[3], x3),
            dot(mc[0], x0) + dot(mc[1], x1) + dot(mc[2], x2) + dot(mc[3], x3),
            dot(md[0], x0) + dot(md[1], x1) + dot(md[2], x2) + dot(md[3], x3),
        );
        (*acc)[i] += vec4<f32>(sa.x, sb.x, sc.x, sd.x) * dots + vec4<f32>(sa.y, sb.y, sc.y, sd.y) * all;
    }
}
