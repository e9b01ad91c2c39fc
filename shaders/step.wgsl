// What every kernel knows of the step: row counts, and where the parts of the plan start in `plan`.
struct Step {
    n: u32,
    n_outputs: u32,
    tokens: u32,
    positions: u32,
    cells: u32,
    spans: u32,
    blocks: u32,
    extras: u32,
    outputs: u32,
    tiles: u32,
    // The number of steps that are done to states, how many of them come before the rows, then each.
    scan: u32,
}

@group(0) @binding(1) var<uniform> step: Step;
