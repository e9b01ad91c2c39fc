//! A step: dispatches are recorded, sent in one submit, and their result comes back in one map.
//!
//! A dispatch is a kernel, its constants and its buffers; what depends on the batch (row counts, the plan) lies in two
//! buffers that all kernels share. So bind groups are made once and found again at every step.

use super::super::{Activity, BLOCK, Plan};
use super::link::Kernel;
use super::memory::{BufferId, Memory};
use super::pipelines::Pipelines;
use crate::error::Result;
use arrayvec::ArrayVec;
use std::collections::HashMap;
use std::ops::Range;

/// Words of a kernel's constants.
const MAX_PARAMS: usize = 28;

/// What identifies a bind group.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    kernel: Kernel,
    params: ArrayVec<u32, MAX_PARAMS>,
    buffers: ArrayVec<BufferId, 8>,
}

/// A recorded dispatch.
struct Dispatch {
    kernel: Kernel,
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    grid: [u32; 3],
}

/// Space for kernels' constants; each takes a slot of 256 bytes, the coarsest alignment of a uniform binding.
struct Slots {
    buffer: wgpu::Buffer,
    used: u64,
}

const SLOT: u64 = 256;
const SLOTS: u64 = 256;

/// See the module text.
pub(super) struct Step {
    pub(super) pipelines: Pipelines,
    groups: HashMap<Key, wgpu::BindGroup>,
    slots: Option<Slots>,
    /// `Step` of `shaders/step.wgsl`.
    header: wgpu::Buffer,
    plan_buffer: BufferId,
    plan_len: usize,
    pub(super) plan: Plan,
    words: Vec<u32>,
    /// Offsets of `words`, in the order of `Step` in the shader.
    offsets: [u32; 9],
    /// Whether `words` must be written again, and the tokens a tile they hold.
    stale: bool,
    tile: usize,
    tiles: Vec<Range<usize>>,
    dispatches: Vec<Dispatch>,
    /// Bound in places that a kernel declares and does not use: one read, three written.
    pub(super) dummies: [BufferId; 4],
    /// Dispatches, submits and bytes so far.
    pub(super) activity: Activity,
    pub(super) profile: Option<super::profile::Profile>,
}

impl Step {
    pub(super) fn new(
        memory: &mut Memory,
        pipelines: Pipelines,
        profile: Option<super::profile::Profile>,
    ) -> Result<Self> {
        let header = memory.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("step"),
            size: 48,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let plan_len = 16 << 10;
        let plan_buffer = memory.storage("the plan", plan_len)?;
        let mut dummies = [0; 4];
        for dummy in &mut dummies {
            *dummy = memory.storage("nothing", 16)?;
        }
        Ok(Step {
            pipelines,
            groups: HashMap::new(),
            slots: None,
            header,
            plan_buffer,
            plan_len,
            plan: Plan::default(),
            words: Vec::new(),
            offsets: [0; 9],
            stale: false,
            tile: 0,
            tiles: Vec::new(),
            dispatches: Vec::new(),
            dummies,
            activity: Activity::default(),
            profile,
        })
    }

    pub(super) fn plan_buffer(&self) -> BufferId {
        self.plan_buffer
    }

    /// Takes a new plan; what was recorded for the one before is sent.
    pub(super) fn begin(&mut self, memory: &mut Memory, plan: &Plan) -> Result<()> {
        self.flush(memory);
        self.plan.clone_from(plan);
        self.tile = 0;
        self.lay_out(memory)
    }

    /// Cuts the rows into attention tiles of at most `n` tokens of one sequence; returns the number of tiles and the length
    /// of the longest.
    pub(super) fn cut_tiles(&mut self, memory: &mut Memory, n: usize) -> Result<(usize, usize)> {
        if self.tile != n {
            if self.tile != 0 {
                self.flush(memory);
            }
            self.tile = n;
            self.tiles.clear();
            for (i, span) in self.plan.spans.iter().enumerate() {
                match self.tiles.last_mut() {
                    Some(tile) if tile.len() < n && self.plan.spans[tile.start].table == span.table => tile.end = i + 1,
                    _ => self.tiles.push(i..i + 1),
                }
            }
            self.lay_out(memory)?;
        }
        Ok((self.tiles.len(), self.tiles.iter().map(Range::len).max().unwrap_or(1)))
    }

    /// Lays the plan out in words.
    fn lay_out(&mut self, memory: &mut Memory) -> Result<()> {
        let (plan, words) = (&self.plan, &mut self.words);
        words.clear();
        let mut offsets = ArrayVec::<u32, 9>::from_iter([plan.tokens.len() as u32, plan.outputs.len() as u32]);
        let spans = plan.spans.iter().flat_map(|s| [s.table, s.prefix, s.extra, s.n_extra]);
        let tiles = self.tiles.iter().filter(|_| self.tile > 0).flat_map(|t| [t.start as u32, t.len() as u32]);
        let parts: [&mut dyn Iterator<Item = u32>; 7] = [
            &mut plan.tokens.iter().copied(),
            &mut plan.cells.iter().copied(),
            &mut { spans },
            &mut plan.blocks.iter().copied(),
            &mut plan.extras.iter().copied(),
            &mut plan.outputs.iter().copied(),
            &mut { tiles },
        ];
        for part in parts {
            offsets.push(words.len() as u32);
            words.extend(part);
        }
        self.offsets = offsets.into_inner().unwrap_or_default();
        self.stale = true;
        // With room for as many tiles as rows: they come when dispatches that bind this buffer are recorded already.
        let tiles = if self.tile > 0 { self.tiles.len() } else { 0 };
        let needed = (words.len() + 2 * (plan.tokens.len() - tiles)) * 4;
        if needed > self.plan_len {
            self.plan_len = needed.next_power_of_two();
            self.plan_buffer = memory.storage("the plan", self.plan_len)?;
            self.groups.clear();
        }
        Ok(())
    }

    /// Records a dispatch. `params` are the words of the kernel's `Params`; `buffers` its bindings from 2 on.
    pub(super) fn record(
        &mut self,
        memory: &Memory,
        kernel: Kernel,
        params: &[u32],
        buffers: &[BufferId],
        grid: [u32; 3],
    ) {
        if grid.contains(&0) {
            return;
        }
        let pipeline = self.pipelines.get(&memory.device, kernel).clone();
        let key = Key { kernel, params: params.iter().copied().collect(), buffers: buffers.iter().copied().collect() };
        let group = match self.groups.get(&key) {
            Some(group) => group.clone(),
            None => {
                let group = self.bind(memory, &pipeline, &key);
                self.groups.insert(key, group.clone());
                group
            }
        };
        self.dispatches.push(Dispatch { kernel, pipeline, group, grid });
    }

    fn bind(&mut self, memory: &Memory, pipeline: &wgpu::ComputePipeline, key: &Key) -> wgpu::BindGroup {
        let slots = match &mut self.slots {
            Some(slots) if slots.used < SLOTS => slots,
            slots => slots.insert(Slots {
                buffer: memory.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("constants"),
                    size: SLOT * SLOTS,
                    usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                }),
                used: 0,
            }),
        };
        let offset = slots.used * SLOT;
        slots.used += 1;
        memory.queue.write_buffer(&slots.buffer, offset, &bytes(&key.params));
        let mut entries = ArrayVec::<wgpu::BindGroupEntry<'_>, 10>::new();
        let params = wgpu::BufferBinding { buffer: &slots.buffer, offset, size: std::num::NonZeroU64::new(SLOT) };
        entries.push(wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(params) });
        if key.kernel.reads_step() {
            entries.push(wgpu::BindGroupEntry { binding: 1, resource: self.header.as_entire_binding() });
        }
        for (&id, binding) in key.buffers.iter().zip(2..) {
            entries.push(wgpu::BindGroupEntry { binding, resource: memory.buffer(id).as_entire_binding() });
        }
        memory.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(key.kernel.name()),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        })
    }

    /// Whether something is recorded that has not been sent.
    pub(super) fn is_pending(&self) -> bool {
        !self.dispatches.is_empty()
    }

    /// Sends what was recorded.
    pub(super) fn flush(&mut self, memory: &Memory) {
        if !self.dispatches.is_empty() {
            let encoder = self.encode(memory);
            memory.queue.submit([encoder.finish()]);
        }
    }

    /// Sends what was recorded, and behind it a copy of bytes of `source` to `target`.
    pub(super) fn flush_and_copy(
        &mut self,
        memory: &Memory,
        (source, bytes): (BufferId, Range<u64>),
        target: &wgpu::Buffer,
    ) -> wgpu::SubmissionIndex {
        let mut encoder = self.encode(memory);
        encoder.copy_buffer_to_buffer(memory.buffer(source), bytes.start, target, 0, bytes.end - bytes.start);
        memory.queue.submit([encoder.finish()])
    }

    /// A command buffer of what was recorded.
    fn encode(&mut self, memory: &Memory) -> wgpu::CommandEncoder {
        if self.stale {
            memory.queue.write_buffer(memory.buffer(self.plan_buffer), 0, &bytes(&self.words));
            memory.queue.write_buffer(&self.header, 0, &bytes(&self.offsets));
            self.stale = false;
        }
        let mut encoder = memory.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("step") });
        self.activity.dispatches += self.dispatches.len() as u64;
        self.activity.submits += 1;
        match self.profile.as_mut().filter(|profile| profile.is_due()) {
            Some(profile) => {
                for d in self.dispatches.drain(..) {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                        label: Some(d.kernel.name()),
                        timestamp_writes: profile.stamp(d.kernel),
                    });
                    dispatch(&mut pass, &d);
                }
                profile.resolve(&mut encoder);
            }
            None => {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                self.dispatches.drain(..).for_each(|d| dispatch(&mut pass, &d));
            }
        }
        encoder
    }

    /// Tokens of the step.
    pub(super) fn n_rows(&self, rows: super::super::Rows) -> usize {
        match rows {
            super::super::Rows::All => self.plan.tokens.len(),
            super::super::Rows::Outputs => self.plan.outputs.len(),
        }
    }
}

fn dispatch(pass: &mut wgpu::ComputePass<'_>, d: &Dispatch) {
    pass.set_pipeline(&d.pipeline);
    pass.set_bind_group(0, &d.group, &[]);
    pass.dispatch_workgroups(d.grid[0], d.grid[1], d.grid[2]);
}

/// Words as bytes.
pub(super) fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

const _: () = assert!(BLOCK == 32, "shaders/attend.wgsl has the block length as a number");
