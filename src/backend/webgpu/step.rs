//! A step: dispatches are recorded, sent in one submit, and their result comes back in one map.
//!
//! A dispatch is a kernel, its constants and its buffers; what depends on the batch (row counts, the plan) lies in two
//! buffers that all kernels share. So bind groups are made once and found again at every step.

use super::super::gpu::{Scratch, StepPlan};
use super::super::{Activity, Plan};
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

/// Where a kernel's constants lie: a buffer and the first of [`SLOT`] bytes.
type Slot = (wgpu::Buffer, u64);

/// Bytes of a slot: the coarsest alignment of a uniform binding.
const SLOT: u64 = 256;

/// Slots of a buffer.
const SLOTS: u64 = 256;

/// Bind groups that are kept: more than any model has for all numbers of rows. Runs of rows may be any, and each has its own.
const MAX_GROUPS: usize = 1 << 14;

/// A bind group, and where its constants lie.
struct Bound {
    group: wgpu::BindGroup,
    slot: Slot,
}

/// See the module text.
pub(super) struct Step {
    pub(super) pipelines: Pipelines,
    groups: HashMap<Key, Bound>,
    /// Slots that no bind group has.
    free_slots: Vec<Slot>,
    /// `Step` of `shaders/step.wgsl`.
    header: wgpu::Buffer,
    pub(super) plan: StepPlan,
    /// Its words on the device.
    words: Scratch<BufferId>,
    plan_buffer: BufferId,
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
        let mut words = Scratch::default();
        let (plan_buffer, _) = words.at_least(16 << 10, |bytes| memory.work(bytes))?;
        let mut dummies = [plan_buffer; 4];
        for dummy in &mut dummies {
            *dummy = memory.work(16)?;
        }
        Ok(Step {
            pipelines,
            groups: HashMap::new(),
            free_slots: Vec::new(),
            header,
            plan: StepPlan::default(),
            words,
            plan_buffer,
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
        self.plan.begin(plan);
        self.make_room(memory)
    }

    /// Cuts the rows into attention tiles of at most `n` tokens of one sequence; returns the number of tiles and the length
    /// of the longest.
    pub(super) fn cut_tiles(&mut self, memory: &mut Memory, n: usize) -> Result<(usize, usize)> {
        if let Some(tiles) = self.plan.tiles(n) {
            return Ok(tiles);
        }
        if self.plan.has_tiles() {
            self.flush(memory);
        }
        let tiles = self.plan.cut(n);
        self.make_room(memory)?;
        Ok(tiles)
    }

    /// Makes the plan's buffer large enough.
    fn make_room(&mut self, memory: &mut Memory) -> Result<()> {
        let mut words = self.words;
        self.plan_buffer = self.scratch(memory, &mut words, self.plan.bytes())?;
        self.words = words;
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
        if self.groups.len() == MAX_GROUPS {
            self.flush(memory);
            self.free_slots.extend(self.groups.drain().map(|(_, bound)| bound.slot));
        }
        let pipeline = self.pipelines.get(&memory.device, kernel).clone();
        let key = Key { kernel, params: params.iter().copied().collect(), buffers: buffers.iter().copied().collect() };
        let group = match self.groups.get(&key) {
            Some(bound) => bound.group.clone(),
            None => {
                let bound = self.bind(memory, &pipeline, &key);
                let group = bound.group.clone();
                self.groups.insert(key, bound);
                group
            }
        };
        self.dispatches.push(Dispatch { kernel, pipeline, group, grid });
    }

    fn bind(&mut self, memory: &Memory, pipeline: &wgpu::ComputePipeline, key: &Key) -> Bound {
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            let buffer = memory.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("constants"),
                size: SLOT * SLOTS,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            self.free_slots.extend((1..SLOTS).rev().map(|i| (buffer.clone(), i * SLOT)));
            (buffer, 0)
        });
        memory.queue.write_buffer(&slot.0, slot.1, &bytes(&key.params));
        let mut entries = ArrayVec::<wgpu::BindGroupEntry<'_>, 10>::new();
        let size = std::num::NonZeroU64::new(SLOT);
        let params = wgpu::BufferBinding { buffer: &slot.0, offset: slot.1, size };
        entries.push(wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(params) });
        if key.kernel.reads_step() {
            entries.push(wgpu::BindGroupEntry { binding: 1, resource: self.header.as_entire_binding() });
        }
        for (&id, binding) in key.buffers.iter().zip(2..) {
            entries.push(wgpu::BindGroupEntry { binding, resource: memory.buffer(id).as_entire_binding() });
        }
        let group = memory.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(key.kernel.name()),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        drop(entries);
        Bound { group, slot }
    }

    /// The buffer of `scratch`, at least `bytes` long.
    pub(super) fn scratch(
        &mut self,
        memory: &mut Memory,
        scratch: &mut Scratch<BufferId>,
        bytes: usize,
    ) -> Result<BufferId> {
        let (buffer, old) = scratch.at_least(bytes, |bytes| memory.work(bytes))?;
        if let Some(old) = old {
            self.flush(memory);
            memory.free(old);
            self.forget_freed(memory);
        }
        Ok(buffer)
    }

    /// Drops the bind groups that name a buffer which is freed.
    pub(super) fn forget_freed(&mut self, memory: &Memory) {
        let freed = self.groups.extract_if(|key, _| !key.buffers.iter().all(|id| memory.holds(*id)));
        self.free_slots.extend(freed.map(|(_, bound)| bound.slot));
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
        if let Some(words) = self.plan.take_stale() {
            let words = bytes(words);
            memory.queue.write_buffer(memory.buffer(self.plan_buffer), 0, &words);
            memory.queue.write_buffer(&self.header, 0, &words[..StepPlan::HEADER_BYTES]);
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
