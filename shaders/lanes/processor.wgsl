// Reductions over a workgroup of few threads: a processor that serves as a GPU runs these as the lanes of one register, and
// switches contexts at the barriers of larger ones.
const THREADS: u32 = 4u;

var<workgroup> partial: array<f32, THREADS>;

fn total(v: f32, t: u32) -> f32 {
    partial[t] = v;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < THREADS; i++) {
        sum += partial[i];
    }
    workgroupBarrier();
    return sum;
}
