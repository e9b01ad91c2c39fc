// In place of `epilogue`: a product of pairs of a row and an expert. A tile is one pair, or some that one expert has.
struct Params {
    // Groups of 32 columns.
    groups: u32,
    // Panels and rows of an expert.
    n_panels: u32,
    n_rows: u32,
    // Experts of a row, and how many pairs share a row of `x`.
    used: u32,
    share: u32,
    // Panels of all experts that lie in `w`, and where the first of them starts.
    first_panel: u32,
    end_panel: u32,
    at: u32,
    // 1: bias, 2: factors, 4: pairs are sorted.
    flags: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read> chosen: array<u32>;
// Of `sort_experts`.
@group(0) @binding(6) var<storage, read> tiles: array<u32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read> factors: array<f32>;

// Expert, first place, and behind the last one.
var<private> tile: vec3<u32>;

fn first_of(y: u32, tokens: u32) -> u32 {
    tile = vec3<u32>(chosen[y], y, y + 1u);
    if (params.flags & 4u) != 0u {
        let at = step.n * params.used + 3u * y;
        tile = vec3<u32>(tiles[at], tiles[at + 1u], min(tiles[at + 1u] + tokens, tiles[at + 2u]));
    }
    return tile.y;
}

fn end_of_tokens() -> u32 {
    return tile.z;
}

// The pair at a place.
fn pair_at(place: u32) -> u32 {
    if (params.flags & 4u) != 0u {
        return tiles[place];
    }
    return place;
}

fn input_of(token: u32) -> u32 {
    return pair_at(token) / params.share;
}

// Groups of a panel that are to be summed: none of panels that lie elsewhere.
fn groups_of(panel: u32) -> u32 {
    let all = tile.x * params.n_panels + panel;
    return select(0u, params.groups, all >= params.first_panel && all < params.end_panel && tile.y < tile.z);
}

fn start_of_panel(panel: u32) -> u32 {
    return params.at + (tile.x * params.n_panels + panel - params.first_panel) * params.groups * GROUP;
}

fn product_of(panel: u32) -> u32 {
    return 0u;
}

fn panel_in(product: u32, panel: u32) -> u32 {
    return panel;
}

fn finish(product: u32, token: u32, row: u32, sum: f32) {
    if row >= params.n_rows || token >= tile.z || groups_of(row / 16u) == 0u {
        return;
    }
    var y = sum;
    if (params.flags & 1u) != 0u {
        y += bias[tile.x * params.n_rows + row];
    }
    if (params.flags & 2u) != 0u {
        y *= factors[tile.x];
    }
    out[pair_at(token) * params.n_rows + row] = y;
}
