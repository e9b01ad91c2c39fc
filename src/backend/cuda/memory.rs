//! What lies in GPU memory.

use super::super::gpu::{CacheData, LayerData, Purpose, check_heads, check_rows, layer_words, repack};
use super::super::handles::{Scopes, Table};
use super::super::{Buf, Cache, CacheSpec, CellShape, Operand, Scope, Weight};
use super::device::{Address, Device};
use super::link::{MAX_HEAD_DIM, is_float};
use crate::error::Result;
use crate::quant::TensorType;
use crate::quant::panels::{GROUP_COLS, Layout, PANEL};

/// An f32 matrix.
pub(super) struct Matrix {
    pub(super) address: Address,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

/// An operand in the forms that its readers need; `Operand` of `shaders/cuda/operand.cuh`. 0 where a form is not needed.
#[derive(Default)]
pub(super) struct OperandData {
    pub(super) floats: Address,
    pub(super) codes: Address,
    pub(super) scales: Address,
    /// Groups of [`GROUP_COLS`] columns.
    pub(super) groups: usize,
}

impl OperandData {
    /// The operand from a row on.
    pub(super) fn at_row(&self, row: usize) -> OperandData {
        let behind =
            |form: Address, bytes: usize| if form == 0 { 0 } else { form + (row * self.groups * bytes) as u64 };
        let (floats, codes) = (behind(self.floats, 4 * GROUP_COLS), behind(self.codes, GROUP_COLS));
        OperandData { floats, codes, scales: behind(self.scales, 8), groups: self.groups }
    }
}

impl Matrix {
    /// Where a row starts.
    pub(super) fn row(&self, row: usize) -> Address {
        self.address + (row * self.cols * 4) as u64
    }
}

/// A weight matrix in panels.
pub(super) struct WeightData {
    pub(super) ty: TensorType,
    pub(super) layout: Layout,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) address: Address,
}

/// See the module text.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) scopes: Scopes,
    pub(super) bufs: Table<Buf, Matrix>,
    pub(super) operands: Table<Operand, OperandData>,
    pub(super) weights: Table<Weight, WeightData>,
    pub(super) caches: Table<Cache, CacheData<Address>>,
    panels: Vec<u32>,
}

impl Memory {
    /// Frees all that belongs to a scope.
    pub(super) fn release(&mut self, device: &mut Device, scope: Scope) -> Result<()> {
        self.bufs.release(scope);
        self.operands.release(scope);
        self.weights.release(scope);
        self.caches.release(scope);
        device.release(scope)
    }

    pub(super) fn new_buf(&mut self, device: &mut Device, rows: usize, cols: usize) -> Result<Buf> {
        let scope = self.scopes.current();
        let address = device.alloc(scope, Purpose::Work, rows.saturating_mul(cols).saturating_mul(4))?;
        Ok(self.bufs.insert(scope, Matrix { address, rows, cols }))
    }

    pub(super) fn new_operand(
        &mut self,
        device: &mut Device,
        rows: usize,
        cols: usize,
        readers: &[Weight],
    ) -> Result<Operand> {
        let (scope, groups) = (self.scopes.current(), cols.div_ceil(GROUP_COLS));
        let n = rows.saturating_mul(groups);
        let mut form = |wanted: bool, bytes: usize| -> Result<Address> {
            if !wanted {
                return Ok(0);
            }
            device.alloc(scope, Purpose::Work, n.saturating_mul(bytes))
        };
        let floats = |w: &Weight| is_float(self.weights[*w].layout);
        let (some_floats, some_codes) = (readers.iter().any(floats), readers.iter().any(|w| !floats(w)));
        let data = OperandData {
            floats: form(some_floats, 4 * GROUP_COLS)?,
            codes: form(some_codes, GROUP_COLS)?,
            scales: form(some_codes, 8)?,
            groups,
        };
        Ok(self.operands.insert(scope, data))
    }

    pub(super) fn new_cache(&mut self, device: &mut Device, spec: &CacheSpec) -> Result<Cache> {
        let (shapes, index) = spec.paged_layers()?;
        shapes.iter().try_for_each(|shape| check_heads(shape, MAX_HEAD_DIM))?;
        let scope = self.scopes.current();
        let layers = paged_layers(device, scope, &shapes, spec.n_blocks)?;
        let one = CacheSpec { n_slots: 1, ..spec.clone() };
        let mut state = |floats: usize| match floats {
            0 => Ok(None),
            n => {
                let place = device.alloc(scope, Purpose::Cache, spec.n_slots.saturating_mul(n * 4));
                place.map(|place| Some((place, n * 4)))
            }
        };
        let states = one.state_floats().map(&mut state).collect::<Result<Vec<_>>>()?;
        Ok(self.caches.insert(scope, CacheData { layers, index, states }))
    }

    /// Gives each paged layer so many blocks; what was recorded with the cache has run.
    pub(super) fn resize_cache(&mut self, device: &mut Device, cache: Cache, n_blocks: usize) -> Result<()> {
        let old = &self.caches[cache].layers;
        let Some(first) = old.first().map(|layer| layer.place) else { return Ok(()) };
        let shapes: Vec<_> = old.iter().map(|layer| layer.shape).collect();
        let (scope, held) = device.held(first);
        let words: usize = shapes.iter().map(|shape| layer_words(1, shape)).sum();
        let kept = n_blocks.min(held / (4 * words));
        let new = paged_layers(device, scope, &shapes, n_blocks)?;
        for (from, to) in old.iter().zip(&new) {
            device.copy(from.place, to.place, layer_words(kept, &to.shape) * 4)?;
        }
        self.caches[cache].layers = new;
        device.free(first)
    }

    /// The same for slots of the layers that keep states, one layer after the other.
    pub(super) fn resize_states(&mut self, device: &mut Device, cache: Cache, n_slots: usize) -> Result<()> {
        for state in self.caches[cache].states.iter_mut().flatten() {
            let (old, (scope, held)) = (state.0, device.held(state.0));
            let bytes = n_slots.saturating_mul(state.1);
            state.0 = device.alloc(scope, Purpose::Cache, bytes)?;
            device.copy(old, state.0, bytes.min(held))?;
            device.free(old)?;
        }
        Ok(())
    }

    pub(super) fn new_weight(
        &mut self,
        device: &mut Device,
        ty: TensorType,
        rows: usize,
        cols: usize,
    ) -> Result<Weight> {
        let (scope, layout) = (self.scopes.current(), Layout::of(ty));
        let bytes = rows.div_ceil(PANEL).saturating_mul(layout.panel_words(cols)).saturating_mul(4);
        let address = device.alloc(scope, Purpose::Weights, bytes)?;
        Ok(self.weights.insert(scope, WeightData { ty, layout, rows, cols, address }))
    }

    /// Repacks rows and sends them.
    pub(super) fn load_rows(&mut self, device: &Device, weight: Weight, first_row: usize, bytes: &[u8]) -> Result<()> {
        let weight = &self.weights[weight];
        let (ty, cols) = (weight.ty, weight.cols);
        check_rows(ty, (weight.rows, cols), first_row, bytes)?;
        repack(ty, cols, bytes, &mut self.panels);
        let words = weight.layout.panel_words(cols);
        device.upload(weight.address + (first_row / PANEL * words * 4) as u64, &self.panels)
    }
}

/// Memory of paged layers, one behind the other, so that a launch can go through all that are alike.
fn paged_layers(
    device: &mut Device,
    scope: Scope,
    shapes: &[CellShape],
    n_blocks: usize,
) -> Result<Vec<LayerData<Address>>> {
    let bytes = |shape: &CellShape| layer_words(n_blocks, shape).saturating_mul(4);
    let mut place = device.alloc(scope, Purpose::Cache, shapes.iter().map(bytes).fold(0, usize::saturating_add))?;
    let layers = shapes.iter().map(|&shape| {
        let layer = LayerData { shape, place };
        place += bytes(&shape) as u64;
        layer
    });
    Ok(layers.collect())
}
