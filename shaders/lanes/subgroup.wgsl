// Reductions over a workgroup of 64 with subgroup operations: every subgroup leaves its sum in the place of its first
// thread, whatever the size of a subgroup.
const THREADS: u32 = 64u;

var<workgroup> partial: array<f32, THREADS>;

fn total(v: f32, t: u32) -> f32 {
    let sum = subgroupAdd(v);
    partial[t] = select(0.0, sum, t == subgroupBroadcastFirst(t));
    workgroupBarrier();
    // 64 places are added by each subgroup for itself: as many rounds as there are subgroups' worth of threads.
    var all = partial[t % 16u] + partial[t % 16u + 16u] + partial[t % 16u + 32u] + partial[t % 16u + 48u];
    workgroupBarrier();
    partial[t] = all;
    workgroupBarrier();
    all = 0.0;
    for (var i = 0u; i < 16u; i++) {
        all += partial[i];
    }
    workgroupBarrier();
    return all;
}
