// Reductions over a workgroup of 64 through workgroup memory.
const THREADS: u32 = 64u;

var<workgroup> partial: array<f32, THREADS>;

fn total(v: f32, t: u32) -> f32 {
    partial[t] = v;
    workgroupBarrier();
    for (var stride = THREADS / 2u; stride > 0u; stride /= 2u) {
        if t < stride {
            partial[t] += partial[t + stride];
        }
        workgroupBarrier();
    }
    let sum = partial[0];
    workgroupBarrier();
    return sum;
}
