// out[i] = scale * table[tokens[i]], the tokens by their numbers or as columns that `select` chose; a thread decodes 16 columns.
struct Params {
    // Rows of the table in this part, and its first row.
    first: u32,
    n_rows: u32,
    at: u32,
    groups: u32,
    cols: u32,
    scale: f32,
    // Columns of `chosen`; 0 where tokens are numbers.
    chosen_cols: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> plan: array<u32>;
@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> chosen: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.y;
    let group = id.x / 2u;
    let h = id.x % 2u;
    var token = plan[step.tokens + i];
    if params.chosen_cols > 0u {
        token = u32(chosen[token * params.chosen_cols + 1u]);
    }
    // Wraps round for rows before this part.
    let row = token - params.first;
    if group >= params.groups || row >= params.n_rows {
        return;
    }
    let raw = load(params.at + (row / 16u * params.groups + group) * GROUP, row % 16u);
    let m = codes(raw, h);
    let s = scales(raw, h);
    let column = group * 32u + h * 16u;
    for (var q = 0u; q < 4u; q++) {
        let values = (m[q] * s.x + s.y) * params.scale;
        for (var c = 0u; c < 4u; c++) {
            if column + q * 4u + c < params.cols {
                out[i * params.cols + column + q * 4u + c] = values[c];
            }
        }
    }
}
