// A causal convolution of each column with the few newest rows of its sequence, between two gates or in front of SiLU. A thread takes one column
// through the whole list of the step, so it carries the state of whatever sequence comes, and nobody has to wait.
struct Params {
    dim: u32,
    // Rows that a row reads, itself included.
    taps: u32,
    // 0: between two gates, 1: in front of SiLU, 3: with a bias.
    form: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> plan: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read_write> kept: array<f32>;
@group(0) @binding(6) var<storage, read_write> states: array<f32>;
@group(0) @binding(7) var<storage, read_write> out: array<f32>;
@group(0) @binding(8) var<storage, read> bias: array<f32>;

// The rows that a row reads, the oldest first; its own stands behind those of a state. MAX_TAPS of the host.
var<private> window: array<f32, 8>;

fn move_on() {
    for (var i = 1u; i < params.taps; i++) {
        window[i - 1u] = window[i];
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let column = id.x;
    let dim = params.dim;
    if column >= dim {
        return;
    }
    let last = params.taps - 1u;
    for (var i = 0u; i < plan[step.scan]; i++) {
        // `Scan` of the host.
        let word = plan[step.scan + 2u + i];
        let which = word & 0x0fffffffu;
        switch word >> 28u {
            case 0u: {
                for (var tap = 0u; tap < last; tap++) {
                    window[tap] = 0.0;
                }
            }
            case 1u: {
                for (var tap = 0u; tap < last; tap++) {
                    window[tap] = states[(which * last + tap) * dim + column];
                }
            }
            case 2u: {
                for (var tap = 0u; tap < last; tap++) {
                    states[(which * last + tap) * dim + column] = window[tap];
                }
            }
            case 3u: {
                window[last] = kept[which * dim + column];
                move_on();
            }
            default: {
                let at = which * select(3u, 1u, params.form != 0u) * dim + column;
                var z = x[at];
                if params.form == 0u {
                    z *= x[at + 2u * dim];
                }
                kept[which * dim + column] = z;
                window[last] = z;
                var sum = 0.0;
                for (var tap = 0u; tap <= last; tap++) {
                    sum += weight[tap * dim + column] * window[tap];
                }
                if params.form == 3u {
                    sum += bias[column];
                }
                if params.form == 0u {
                    sum *= x[at + dim];
                } else {
                    sum /= 1.0 + exp(min(-sum, 87.0));
                }
                out[which * dim + column] = sum;
                move_on();
            }
        }
    }
}
