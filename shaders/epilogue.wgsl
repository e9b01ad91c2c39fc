// Up to three products of one operand whose weights lie in one buffer, and what happens to their results.
struct Product {
    // Panels of this product and those before it.
    end: u32,
    // Where the first panel starts in `w`.
    at: u32,
    n_rows: u32,
    // Column of `out` for row 0, and columns of `out`.
    first: u32,
    stride: u32,
    // 1: bias, 2: accumulate.
    flags: u32,
    scale: f32,
    softcap: f32,
}

struct Params {
    products: array<Product, 3>,
    // Groups of 32 columns.
    groups: u32,
    // 1: rows are those of the plan's outputs.
    outputs: u32,
    // The first row, and behind the last one, where rows are a run of the plan's; else 0.
    first: u32,
    end: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> out0: array<f32>;
@group(0) @binding(5) var<storage, read_write> out1: array<f32>;
@group(0) @binding(6) var<storage, read_write> out2: array<f32>;
@group(0) @binding(7) var<storage, read> bias0: array<f32>;
@group(0) @binding(8) var<storage, read> bias1: array<f32>;
@group(0) @binding(9) var<storage, read> bias2: array<f32>;

// Behind the last row.
fn end_of_tokens() -> u32 {
    return select(select(step.n, step.n_outputs, params.outputs == 1u), params.end, params.end > 0u);
}

// The first row of a tile.
fn first_of(y: u32, tokens: u32) -> u32 {
    return params.first + y * tokens;
}

// The row of `x` that a token has.
fn input_of(token: u32) -> u32 {
    return token;
}

// Groups of a panel that are to be summed, and where it starts in `w`.
fn groups_of(panel: u32) -> u32 {
    return params.groups;
}

fn start_of_panel(panel: u32) -> u32 {
    let product = product_of(panel);
    return params.products[product].at + panel_in(product, panel) * params.groups * GROUP;
}

// The product that a panel belongs to.
fn product_of(panel: u32) -> u32 {
    return select(0u, 1u, panel >= params.products[0].end) + select(0u, 1u, panel >= params.products[1].end);
}

// Number of a panel inside its product.
fn panel_in(product: u32, panel: u32) -> u32 {
    if product == 0u {
        return panel;
    }
    return panel - params.products[product - 1u].end;
}

// Stores the result for one row of a weight and one token.
fn finish(product: u32, token: u32, row: u32, sum: f32) {
    let p = params.products[product];
    if row >= p.n_rows || token >= end_of_tokens() {
        return;
    }
    var y = sum;
    let column = p.first + row;
    if (p.flags & 1u) != 0u {
        switch product {
            case 0u: { y += bias0[column]; }
            case 1u: { y += bias1[column]; }
            default: { y += bias2[column]; }
        }
    }
    y *= p.scale;
    if p.softcap != 0.0 {
        y = p.softcap * tanh(clamp(y / p.softcap, -15.0, 15.0));
    }
    let at = token * p.stride + column;
    let add = (p.flags & 2u) != 0u;
    switch product {
        case 0u: { out0[at] = select(y, out0[at] + y, add); }
        case 1u: { out1[at] = select(y, out1[at] + y, add); }
        default: { out2[at] = select(y, out2[at] + y, add); }
    }
}
