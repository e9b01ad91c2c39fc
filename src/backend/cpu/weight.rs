//! Weight matrices in memory: panels in a kernel layout.

use super::layouts::{Codes, Floats, with_layout};
use super::memory::AlignedBytes;
use super::pool::{Pool, none};
use super::simd::{Scalar, Simd};
use crate::error::{Error, Result};
use crate::quant::TensorType;
use crate::quant::layout::{Layout, PANEL, repack_panel};

/// A weight `[rows, cols]`.
pub(super) struct WeightData {
    ty: TensorType,
    layout: Layout,
    rows: usize,
    cols: usize,
    panel_bytes: usize,
    bytes: AlignedBytes,
}

impl WeightData {
    pub(super) fn new(ty: TensorType, rows: usize, cols: usize) -> Result<Self> {
        let layout = Layout::of(ty);
        let panel_bytes = layout.panel_bytes(cols);
        let len = rows.div_ceil(PANEL).saturating_mul(panel_bytes);
        let bytes = AlignedBytes::new(len).ok_or_else(|| {
            Error::out_of_memory(format!("no memory for a weight of {len} bytes; try a smaller model"))
        })?;
        Ok(WeightData { ty, layout, rows, cols, panel_bytes, bytes })
    }

    #[inline]
    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn ty(&self) -> TensorType {
        self.ty
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.get().len()
    }

    pub(super) fn n_panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    #[inline(always)]
    pub(super) fn panel(&self, panel: usize) -> &[u8] {
        &self.bytes.get()[panel * self.panel_bytes..][..self.panel_bytes]
    }

    /// Repacks whole rows in file form; see [`super::super::Backend::load_rows`].
    pub(super) fn load_rows(&mut self, pool: &Pool, first_row: usize, bytes: &[u8]) -> Result<()> {
        let row_bytes = self.ty.row_bytes(self.cols).unwrap_or(0);
        let n_rows = bytes.len().checked_div(row_bytes).unwrap_or(0);
        if !first_row.is_multiple_of(PANEL) || n_rows * row_bytes != bytes.len() || first_row + n_rows > self.rows {
            return Err(Error::invalid_request(format!(
                "rows {first_row}.. of {} bytes do not fit into a weight [{}, {}] of {}",
                bytes.len(),
                self.rows,
                self.cols,
                self.ty.name()
            )));
        }
        let (ty, cols, panel_bytes) = (self.ty, self.cols, self.panel_bytes);
        let end = (first_row + n_rows).div_ceil(PANEL);
        let panels = &mut self.bytes.get_mut()[first_row / PANEL * panel_bytes..end * panel_bytes];
        pool.rows(end - first_row / PANEL, (panels, panel_bytes, None), none(), none(), &|i, panel, _, _| {
            let rows = &bytes[i * PANEL * row_bytes..((i + 1) * PANEL).min(n_rows) * row_bytes];
            repack_panel(ty, cols, rows, panel);
        });
        Ok(())
    }

    /// Decodes one row.
    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let (panel, h) = (self.panel(row / PANEL), row % PANEL);
        with_layout!(self.layout, codes l => decode_codes(l, panel, h, out), floats l => decode_floats(l, panel, h, out));
    }
}

fn decode_codes<L: Codes>(l: L, panel: &[u8], h: usize, out: &mut [f32]) {
    let s = Scalar;
    for (group, out) in panel.chunks_exact(L::BYTES).zip(out.chunks_exact_mut(L::COLS)) {
        for (part, out) in out.chunks_exact_mut(32).enumerate() {
            let codes = l.codes(s, group, part, h);
            for (sub, out) in out.chunks_exact_mut(32 / L::SUBS).enumerate() {
                let scale = l.scale(s, group, part, sub, h);
                let min = l.min(s, group, part, sub, h, scale);
                for (i, out) in out.iter_mut().enumerate() {
                    let quad = codes[sub * (8 / L::SUBS) + i / 4].to_le_bytes();
                    let code = if L::SIGNED { f32::from(quad[i % 4] as i8) } else { f32::from(quad[i % 4]) };
                    *out = s.mul_add(scale, code, min);
                }
            }
        }
    }
}

fn decode_floats<L: Floats>(l: L, panel: &[u8], h: usize, out: &mut [f32]) {
    for (column, out) in panel.chunks_exact(L::BYTES).zip(out) {
        *out = l.load(Scalar, column, h);
    }
}
