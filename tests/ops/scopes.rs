//! What is released is free again, and is no longer used.

use super::common::random::{Random, rows};
use super::{Topic, backends, buf, get};
use foreword::backend::{
    Attend, Backend, Buf, CacheSpec, CacheType, CellShape, Epilogue, MemoryUse, Norm, NormWeights, Plan, Product,
    RopeAppend, RopePairs, Rows, Select,
};
use foreword::quant::TensorType;

const DIM: usize = 64;
const N: usize = 3;

/// Makes one of everything, runs all ops that keep something for the next step, and returns what came of it.
async fn use_everything(b: &mut dyn Backend, random: &mut Random) -> (Vec<f32>, Buf) {
    let weight = b.new_weight(TensorType::Q8_0, DIM, DIM).unwrap();
    b.load_rows(weight, 0, &random.weights(TensorType::Q8_0, DIM * DIM)).unwrap();
    let shape = CellShape { n_kv_heads: 1, head_dim: DIM, ty: CacheType::F16 };
    let cache = b.new_cache(&CacheSpec::paged(2, shape, 2)).unwrap();
    let (x, ones) = (buf(b, DIM, &random.floats(N * DIM)), buf(b, DIM, &[1.0; DIM]));
    let freqs = buf(b, DIM / 2, &random.floats(DIM / 2));
    let [q, k, v] = [(); 3].map(|()| b.new_buf(N, DIM).unwrap());
    let (chosen, operand) = (b.new_buf(N, 3).unwrap(), b.new_operand(N, DIM, &[weight]).unwrap());
    let cells = (0..N as u32).collect();
    b.begin(&Plan { cells, outputs: (0..N as u32).collect(), ..rows(N) }).unwrap();
    b.norm(&Norm {
        x,
        delta: None,
        norm: Some(NormWeights::rms(ones)),
        eps: 1e-5,
        out: Some(operand),
        rows: Rows::All,
    });
    b.matmul(operand, Rows::All, &[q, k, v].map(|out| Product { weight, out, epilogue: Epilogue::STORE }));
    let (pairs, rope_dim) = (RopePairs::Halves, DIM);
    let (n_heads, q_norm, k_norm, eps, magnitude, layer) = (1, None, None, 0.0, 1.0, 1);
    let (q, rope) = (Some(q), q);
    b.rope_append(&RopeAppend {
        q,
        kv: Some([k, v]),
        n_heads,
        norm_values: false,
        q_norm,
        k_norm,
        eps,
        norm_last: false,
        temperature: None,
        freqs,
        rope_dim,
        pairs,
        magnitude,
        cache,
        layer,
    });
    b.attend(&Attend {
        q: rope,
        cache,
        layer,
        n_heads,
        scale: 0.1,
        softcap: 0.0,
        window: None,
        centered: false,
        sinks: None,
        gate: None,
        out: operand,
    });
    b.matmul(operand, Rows::All, &[Product { weight, out: x, epilogue: Epilogue::STORE }]);
    b.select(&Select { logits: x, out: chosen, sum: true });
    b.move_cells(cache, &[(0, 40)]);
    let mut got = get(b, x, N, DIM).await;
    got.extend(get(b, chosen, N, 3).await);
    (got, x)
}

async fn what_is_released_is_free_again() {
    for (name, backend) in &mut *backends(Topic::Other).await {
        let b = &mut **backend;
        // What belongs to no scope stays, and so do its numbers.
        let kept = buf(b, DIM, &[2.5; DIM]);
        let (mut memory, mut wanted, mut slot) = (MemoryUse::default(), Vec::new(), String::new());
        for round in 0..100 {
            // Scratch memory has its size after the first round.
            if round == 1 {
                memory = b.memory();
            }
            let scope = b.begin_scope();
            let (got, x) = use_everything(b, &mut Random::new(5)).await;
            b.end_scope();
            let other = b.begin_scope();
            assert_ne!(scope, other, "{name}");
            // As if loading had failed half way.
            b.new_weight(TensorType::Q4_0, 16, 32).unwrap();
            b.end_scope();
            let used = b.memory();
            b.release(scope);
            b.release(other);
            if round == 0 {
                wanted = got.clone();
            } else {
                assert!(used.weights > memory.weights && used.cache > memory.cache, "{name}: {used:?}");
                let now = b.memory();
                assert_eq!((now.weights, now.cache), (memory.weights, memory.cache), "{name}, round {round}");
                // A thread of the CPU may have its first task, and get its scratch memory, in any round.
                let of_a_round = used.buffers - memory.buffers;
                assert!(now.buffers < memory.buffers + 20 * of_a_round, "{name}: {now:?} in round {round}");
            }
            assert_eq!(got, wanted, "{name}, round {round}");
            // A handle is `Buf(4v7)`, the seventh owner of place 4.
            let place = format!("{x:?}").split('v').next().map(str::to_string).unwrap_or_default();
            if round > 1 {
                assert_eq!(place, slot, "{name}: places are used again");
            }
            slot = place;
        }
        assert_eq!(get(b, kept, 1, DIM).await, [2.5; DIM], "{name}");
    }
}

/// A browser cannot catch a panic.
#[cfg(not(target_arch = "wasm32"))]
async fn what_is_released_cannot_be_used() {
    for (name, mut b) in std::mem::take(&mut backends(Topic::Other).await.all) {
        let scope = b.begin_scope();
        let old = buf(&mut *b, DIM, &[1.0; DIM]);
        b.end_scope();
        b.release(scope);
        // In its place.
        let new = buf(&mut *b, DIM, &[2.0; DIM]);
        assert_eq!(get(&mut *b, new, 1, DIM).await, [2.0; DIM], "{name}");
        let used = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| b.write(old, 0, &[3.0; DIM])));
        let panic = used.expect_err("the buffer is gone");
        let text = panic.downcast_ref::<String>().map(String::as_str).unwrap_or_default();
        assert!(text.contains("is used after its scope was released"), "{name}: {text}");
    }
}

#[cfg(target_arch = "wasm32")]
async fn what_is_released_cannot_be_used() {}

tests![what_is_released_is_free_again, what_is_released_cannot_be_used];
