//! Ops that work on one row at a time: norm, gate, rotary embedding, quantization.

use super::super::{Activation, RopePairs};
use super::operand::{Group, quantize};
use super::simd::{Kernel, Simd};

/// Mean of squares, summed in registers.
#[inline(always)]
fn rms_scale<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    let mut sum = s.splat(0.0);
    let mut tail = 0.0;
    let chunks = x.chunks_exact(S::LANES);
    for &v in chunks.remainder() {
        tail += v * v;
    }
    for v in chunks {
        let v = s.load_f(v);
        sum = s.mul_add(v, v, sum);
    }
    1.0 / ((s.sum(sum) + tail) / x.len() as f32 + eps).sqrt()
}

/// One row of [`super::super::Delta`].
pub(super) struct DeltaRow<'a> {
    pub(super) row: &'a [f32],
    pub(super) norm: Option<&'a [f32]>,
    pub(super) scale: f32,
}

/// One row of [`super::super::Norm`].
pub(super) struct NormRow<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) delta: Option<DeltaRow<'a>>,
    pub(super) weight: &'a [f32],
    pub(super) eps: f32,
    pub(super) out: &'a mut [f32],
    pub(super) groups: &'a mut [Group],
}

impl Kernel for NormRow<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.delta {
            Some(DeltaRow { row, norm: Some(weight), scale }) => {
                let scale = scale * rms_scale(s, row, self.eps);
                for ((x, d), w) in self.x.iter_mut().zip(row).zip(weight) {
                    *x += d * scale * w;
                }
            }
            Some(DeltaRow { row, norm: None, scale }) => {
                for (x, d) in self.x.iter_mut().zip(row) {
                    *x += d * scale;
                }
            }
            None => {}
        }
        let scale = rms_scale(s, self.x, self.eps);
        for ((o, x), w) in self.out.iter_mut().zip(self.x.iter()).zip(self.weight) {
            *o = x * scale * w;
        }
        quantize(s, self.out, self.groups);
    }
}

/// One row of [`super::super::Gate`].
pub(super) struct GateRow<'a> {
    pub(super) gate: &'a [f32],
    pub(super) up: &'a [f32],
    pub(super) activation: Activation,
    pub(super) out: &'a mut [f32],
    pub(super) groups: &'a mut [Group],
}

impl Kernel for GateRow<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.out.len() / S::LANES * S::LANES;
        let (out, out_tail) = self.out.split_at_mut(n);
        for ((o, g), u) in
            out.chunks_exact_mut(S::LANES).zip(self.gate.chunks_exact(S::LANES)).zip(self.up.chunks_exact(S::LANES))
        {
            s.store_f(s.mul(activate(s, self.activation, s.load_f(g)), s.load_f(u)), o);
        }
        if !out_tail.is_empty() {
            let (mut g, mut u) = ([0.0; 16], [0.0; 16]);
            g[..out_tail.len()].copy_from_slice(&self.gate[n..]);
            u[..out_tail.len()].copy_from_slice(&self.up[n..]);
            let mut y = [0.0; 16];
            s.store_f(s.mul(activate(s, self.activation, s.load_f(&g)), s.load_f(&u)), &mut y);
            out_tail.copy_from_slice(&y[..out_tail.len()]);
        }
        quantize(s, self.out, self.groups);
    }
}

#[inline(always)]
fn activate<S: Simd>(s: S, activation: Activation, x: S::F) -> S::F {
    let one = s.splat(1.0);
    // Both are x times a logistic function: tanh(z) = 2 σ(2z) - 1 turns GELU's ½(1 + tanh z) into σ(2z).
    let z = match activation {
        Activation::Silu => x,
        Activation::GeluTanh => {
            let cubic = s.mul_add(s.mul(s.mul(x, x), x), s.splat(0.044_715), x);
            s.mul(cubic, s.splat(2.0 * 0.797_884_6))
        }
    };
    s.div(x, s.add(one, s.exp(s.sub(s.splat(0.0), z))))
}

/// Quantizes a row whose floats are there.
pub(super) struct QuantizeRow<'a> {
    pub(super) floats: &'a [f32],
    pub(super) groups: &'a mut [Group],
}

impl Kernel for QuantizeRow<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        quantize(s, self.floats, self.groups);
    }
}

/// Norm and rotary embedding of the heads of one row, in place.
pub(super) struct RopeRow<'a> {
    pub(super) row: &'a mut [f32],
    pub(super) head_dim: usize,
    pub(super) norm: Option<&'a [f32]>,
    pub(super) eps: f32,
    /// `[rope_dim / 2]` of this row's position.
    pub(super) cos: &'a [f32],
    pub(super) sin: &'a [f32],
    pub(super) pairs: RopePairs,
}

impl Kernel for RopeRow<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let half = self.cos.len();
        for head in self.row.chunks_exact_mut(self.head_dim) {
            if let Some(weight) = self.norm {
                let scale = rms_scale(s, head, self.eps);
                for (v, w) in head.iter_mut().zip(weight) {
                    *v = *v * scale * w;
                }
            }
            match self.pairs {
                RopePairs::Adjacent => {
                    for ((pair, c), sn) in head.as_chunks_mut::<2>().0.iter_mut().zip(self.cos).zip(self.sin) {
                        let [a, b] = *pair;
                        *pair = [a * c - b * sn, a * sn + b * c];
                    }
                }
                RopePairs::Halves => {
                    let (lo, hi) = head.split_at_mut(half);
                    for (((a, b), c), sn) in lo.iter_mut().zip(hi).zip(self.cos).zip(self.sin) {
                        (*a, *b) = (*a * c - *b * sn, *a * sn + *b * c);
                    }
                }
            }
        }
    }
}

/// Sines and cosines of a step's positions for one set of frequencies; layers share them.
#[derive(Default)]
pub(super) struct RopeTable {
    pub(super) key: Option<(super::super::Buf, usize, u32)>,
    pub(super) cos: Vec<f32>,
    pub(super) sin: Vec<f32>,
}

impl RopeTable {
    /// Fills the table: angles `positions[i] * freqs[j]`, times `magnitude`.
    pub(super) fn fill(&mut self, positions: &[u32], freqs: &[f32], magnitude: f32) {
        self.cos.clear();
        self.sin.clear();
        for &p in positions {
            for &f in freqs {
                let (sin, cos) = (f64::from(p) * f64::from(f)).sin_cos();
                self.cos.push(cos as f32 * magnitude);
                self.sin.push(sin as f32 * magnitude);
            }
        }
    }
}
