//! Ops that work on one row at a time: norm, gate, rotary embedding, quantization.

use super::super::{Activation, RopePairs};
use super::operand::{Group, quantize};
use super::simd::{Kernel, Simd};

/// One over the root of the mean square of `x - mean`, summed in registers.
#[inline(always)]
fn scale<S: Simd>(s: S, x: &[f32], mean: f32, eps: f32) -> f32 {
    let mut sum = s.splat(0.0);
    let mut tail = 0.0;
    let chunks = x.chunks_exact(S::LANES);
    for &v in chunks.remainder() {
        tail += (v - mean) * (v - mean);
    }
    let mean = s.splat(mean);
    for v in chunks {
        let v = s.sub(s.load_f(v), mean);
        sum = s.mul_add(v, v, sum);
    }
    1.0 / ((s.sum(sum) + tail) / x.len() as f32 + eps).sqrt()
}

#[inline(always)]
fn mean<S: Simd>(s: S, x: &[f32]) -> f32 {
    let chunks = x.chunks_exact(S::LANES);
    let tail: f32 = chunks.remainder().iter().sum();
    let mut sum = s.splat(0.0);
    for v in chunks {
        sum = s.add(sum, s.load_f(v));
    }
    (s.sum(sum) + tail) / x.len() as f32
}

/// One row of [`super::super::Delta`].
pub(super) struct DeltaRow<'a> {
    pub(super) row: &'a [f32],
    pub(super) norm: Option<&'a [f32]>,
    /// On what is added, and on the sum.
    pub(super) factors: (f32, f32),
}

/// One row of [`super::super::Norm`].
pub(super) struct NormRow<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) delta: Option<DeltaRow<'a>>,
    /// None: what comes out is what there is.
    pub(super) weight: Option<&'a [f32]>,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) centered: bool,
    pub(super) replaces: bool,
    pub(super) eps: f32,
    /// `x` receives the result where it is empty.
    pub(super) out: &'a mut [f32],
    pub(super) groups: &'a mut [Group],
}

impl Kernel for NormRow<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.delta {
            Some(DeltaRow { row, norm: Some(weight), factors: (scale, gain) }) => {
                let scale = scale * self::scale(s, row, 0.0, self.eps);
                for ((x, d), w) in self.x.iter_mut().zip(row).zip(weight) {
                    *x = (*x + d * scale * w) * gain;
                }
            }
            Some(DeltaRow { row, norm: None, factors: (scale, gain) }) => {
                for (x, d) in self.x.iter_mut().zip(row) {
                    *x = (*x + d * scale) * gain;
                }
            }
            None => {}
        }
        let in_place = self.out.is_empty();
        match self.weight {
            Some(weight) => {
                let mean = if self.centered { mean(s, self.x) } else { 0.0 };
                let scale = scale(s, self.x, mean, self.eps);
                let normed = |x: f32, w: f32| (x - mean) * scale * w;
                if in_place {
                    self.x.iter_mut().zip(weight).for_each(|(x, w)| *x = normed(*x, *w));
                } else {
                    self.out.iter_mut().zip(&*self.x).zip(weight).for_each(|((y, x), w)| *y = normed(*x, *w));
                }
            }
            None if in_place => {}
            None => self.out.copy_from_slice(self.x),
        }
        let y = if in_place { &mut *self.x } else { &mut *self.out };
        if let Some(bias) = self.bias {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        if in_place {
            return;
        }
        if self.replaces {
            self.x.copy_from_slice(self.out);
        }
        quantize(s, self.out, self.groups);
    }
}

/// A head of values that is normed without weights.
pub(super) struct NormHead<'a> {
    pub(super) head: &'a mut [f32],
    pub(super) eps: f32,
}

impl Kernel for NormHead<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = scale(s, self.head, 0.0, self.eps);
        self.head.iter_mut().for_each(|v| *v *= scale);
    }
}

/// One row of [`super::super::Gate`].
pub(super) struct GateRow<'a> {
    pub(super) gate: &'a [f32],
    pub(super) up: Option<&'a [f32]>,
    pub(super) activation: Activation,
    pub(super) out: &'a mut [f32],
    pub(super) groups: &'a mut [Group],
}

/// `out = activation(gate)`.
#[inline(always)]
fn activate_row<S: Simd>(s: S, activation: Activation, gate: &[f32], out: &mut [f32]) {
    let n = out.len() / S::LANES * S::LANES;
    let (out, out_tail) = out.split_at_mut(n);
    for (o, g) in out.chunks_exact_mut(S::LANES).zip(gate.chunks_exact(S::LANES)) {
        s.store_f(activate(s, activation, s.load_f(g)), o);
    }
    if !out_tail.is_empty() {
        let mut lanes = [0.0; 16];
        lanes[..out_tail.len()].copy_from_slice(&gate[n..]);
        let y = activate(s, activation, s.load_f(&lanes));
        s.store_f(y, &mut lanes);
        out_tail.copy_from_slice(&lanes[..out_tail.len()]);
    }
}

impl Kernel for GateRow<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        activate_row(s, self.activation, self.gate, self.out);
        let clamps = self.activation == Activation::ClampedSwish;
        if let Some(up) = self.up {
            self.out.iter_mut().zip(up).for_each(|(o, &u)| *o *= if clamps { u.clamp(-7.0, 7.0) + 1.0 } else { u });
        }
        quantize(s, self.out, self.groups);
    }
}

/// One row of [`super::super::GatedNorm`].
pub(super) struct GatedNormRow<'a> {
    pub(super) x: &'a [f32],
    pub(super) gate: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) group: usize,
    pub(super) gate_first: bool,
    pub(super) eps: f32,
    pub(super) out: &'a mut [f32],
    pub(super) groups: &'a mut [Group],
}

impl Kernel for GatedNormRow<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        activate_row(s, Activation::Silu, self.gate, self.out);
        let rows = self.out.chunks_exact_mut(self.group).zip(self.x.chunks_exact(self.group));
        for ((out, x), weight) in rows.zip(self.weight.chunks_exact(self.group)) {
            if self.gate_first {
                out.iter_mut().zip(x).for_each(|(o, x)| *o *= x);
                let scale = scale(s, out, 0.0, self.eps);
                out.iter_mut().zip(weight).for_each(|(o, w)| *o *= scale * w);
            } else {
                let scale = scale(s, x, 0.0, self.eps);
                out.iter_mut().zip(x).zip(weight).for_each(|((o, x), w)| *o *= x * scale * w);
            }
        }
        quantize(s, self.out, self.groups);
    }
}

#[inline(always)]
fn activate<S: Simd>(s: S, activation: Activation, mut x: S::F) -> S::F {
    let one = s.splat(1.0);
    // The others are x times a logistic function: tanh(z) = 2 σ(2z) - 1 turns GELU's ½(1 + tanh z) into σ(2z).
    let z = match activation {
        Activation::Silu => x,
        Activation::Gelu => return gelu(s, x),
        Activation::ClampedSwish => {
            // The smaller of both.
            x = s.sub(s.splat(0.0), s.max(s.sub(s.splat(0.0), x), s.splat(-7.0)));
            s.mul(x, s.splat(1.702))
        }
        Activation::GeluTanh => {
            let cubic = s.mul_add(s.mul(s.mul(x, x), x), s.splat(0.044_715), x);
            s.mul(cubic, s.splat(2.0 * 0.797_884_6))
        }
    };
    s.div(x, s.add(one, s.exp(s.sub(s.splat(0.0), z))))
}

/// `x Φ(x) = max(x, 0) - ½ |x| erfc(|x| / √2)`, with erfc by Abramowitz and Stegun's formula 7.1.26, which is off by at most
/// 1.5e-7.
#[inline(always)]
fn gelu<S: Simd>(s: S, x: S::F) -> S::F {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    let size = s.abs(x);
    let z = s.mul(size, s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = s.div(one, s.mul_add(z, s.splat(0.327_591_1), one));
    let mut p = s.splat(1.061_405_4);
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6, 0.0] {
        p = s.mul_add(p, t, s.splat(c));
    }
    let erfc = s.mul(p, s.exp(s.sub(zero, s.mul(z, z))));
    s.sub(s.max(x, zero), s.mul(s.mul(size, s.splat(0.5)), erfc))
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

#[inline(always)]
fn rms_norm<S: Simd>(s: S, head: &mut [f32], weight: &[f32], eps: f32) {
    let scale = scale(s, head, 0.0, eps);
    for (v, w) in head.iter_mut().zip(weight) {
        *v = *v * scale * w;
    }
}

/// Norm and rotary embedding of the heads of one row, in place.
pub(super) struct RopeRow<'a> {
    pub(super) row: &'a mut [f32],
    pub(super) head_dim: usize,
    pub(super) norm: Option<&'a [f32]>,
    pub(super) norm_last: bool,
    pub(super) eps: f32,
    /// Factor on what comes out.
    pub(super) growth: f32,
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
            if let (Some(weight), false) = (self.norm, self.norm_last) {
                rms_norm(s, head, weight, self.eps);
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
            if let (Some(weight), true) = (self.norm, self.norm_last) {
                rms_norm(s, head, weight, self.eps);
            }
            if self.growth != 1.0 {
                head.iter_mut().for_each(|v| *v *= self.growth);
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
    pub(super) fn bytes(&self) -> usize {
        (self.cos.capacity() + self.sin.capacity()) * size_of::<f32>()
    }

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
