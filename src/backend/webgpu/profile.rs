//! Time a kernel, by timestamps around every dispatch.
//!
//! Dispatches with timestamps need a pass each, and their times come later. So natively, where profiles are asked for, every
//! step is measured and waited for; in a browser some are, always, and nobody waits.

use super::link::Kernel;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Dispatches that are measured before timestamps are collected; what comes beyond is not. Each takes two timestamps, and a query
/// set of WebGPU holds no more.
const MAX: u32 = 2048;

/// Reads between two steps that are measured.
const PAUSE: u32 = if cfg!(target_arch = "wasm32") { 16 } else { 0 };

/// Times of kernels; see the module text.
pub(super) struct Profile {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    mapped: wgpu::Buffer,
    /// Nanoseconds a tick.
    period: f32,
    kernels: Vec<Kernel>,
    /// Reads until the next step is measured.
    pause: u32,
    /// Set while timestamps are on their way; becomes true when they are here.
    arriving: Option<Arc<AtomicBool>>,
    /// `(nanoseconds, dispatches)`.
    totals: BTreeMap<&'static str, (f64, u64)>,
}

impl Profile {
    pub(super) fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        let buffer = |usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: u64::from(MAX) * 16,
                usage,
                mapped_at_creation: false,
            })
        };
        Profile {
            set: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: MAX * 2,
            }),
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            mapped: buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST),
            period: queue.get_timestamp_period(),
            kernels: Vec::new(),
            pause: PAUSE,
            arriving: None,
            totals: BTreeMap::new(),
        }
    }

    /// Whether dispatches are to be measured now.
    pub(super) fn is_due(&self) -> bool {
        self.pause == 0 && self.arriving.is_none()
    }

    /// Timestamps for the next dispatch.
    pub(super) fn stamp(&mut self, kernel: Kernel) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        let at = self.kernels.len() as u32 * 2;
        if at >= MAX * 2 {
            return None;
        }
        self.kernels.push(kernel);
        Some(wgpu::ComputePassTimestampWrites {
            query_set: &self.set,
            beginning_of_pass_write_index: Some(at),
            end_of_pass_write_index: Some(at + 1),
        })
    }

    /// Records the copy of the timestamps, behind the passes.
    pub(super) fn resolve(&mut self, encoder: &mut wgpu::CommandEncoder) {
        let n = self.kernels.len() as u32 * 2;
        if n > 0 {
            encoder.resolve_query_set(&self.set, 0..n, &self.resolved, 0);
            encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.mapped, 0, u64::from(n) * 8);
        }
    }

    /// After each read: asks for the timestamps of a measured step, and adds up those that are here.
    pub(super) fn collect(&mut self, device: &wgpu::Device) {
        if self.arriving.is_none() && self.kernels.is_empty() {
            self.pause = self.pause.saturating_sub(1);
            return;
        }
        let n = self.kernels.len() as u64 * 16;
        let here = self.arriving.get_or_insert_with(|| {
            let here = Arc::new(AtomicBool::new(false));
            let set = here.clone();
            // After an error nothing is measured any more.
            self.mapped.map_async(wgpu::MapMode::Read, ..n, move |result| set.store(result.is_ok(), Ordering::Release));
            here
        });
        // Natively this waits; in a browser it does nothing.
        if device.poll(wgpu::PollType::wait_indefinitely()).is_err() || !here.load(Ordering::Acquire) {
            return;
        }
        if let Ok(view) = self.mapped.get_mapped_range(..n) {
            let stamps: Vec<u64> = view.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
            for (kernel, stamp) in self.kernels.iter().zip(stamps.as_chunks::<2>().0) {
                let total = self.totals.entry(kernel.name()).or_default();
                total.0 += stamp[1].saturating_sub(stamp[0]) as f64 * f64::from(self.period);
                total.1 += 1;
            }
        }
        self.mapped.unmap();
        self.kernels.clear();
        (self.arriving, self.pause) = (None, PAUSE);
    }

    /// `(kernel, nanoseconds, dispatches)` since the beginning.
    pub(super) fn totals(&self) -> Vec<(&'static str, f64, u64)> {
        self.totals.iter().map(|(name, (ns, n))| (*name, *ns, *n)).collect()
    }
}
