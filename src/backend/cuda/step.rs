//! A step: launches are recorded and sent together when something is read or the next step begins.
//!
//! All that depends on the batch lies in one buffer, the plan. So decode steps of one shape are the same launches again, and
//! from the third on the driver replays them as a graph.

use super::super::{BLOCK, KernelTime, Plan, Rows};
use super::device::{Address, Device, Graph, Launch};
use super::link::Kernel;
use crate::error::Result;
use std::ops::Range;

/// Graphs that are kept: decode steps of a few widths.
const MAX_GRAPHS: usize = 8;

/// Words of `Step` in `shaders/cuda/step.cuh`.
const HEADER: usize = 9;

/// The bytes of a kernel's `Params`.
#[derive(Default)]
pub(super) struct Params(Vec<u32>);

impl Params {
    /// Addresses lie on multiples of eight bytes.
    pub(super) fn address(mut self, address: Address) -> Self {
        if self.0.len() % 2 == 1 {
            self.0.push(0);
        }
        self.0.extend([address as u32, (address >> 32) as u32]);
        self
    }

    pub(super) fn addresses<const N: usize>(self, addresses: [Address; N]) -> Self {
        addresses.into_iter().fold(self, Params::address)
    }

    pub(super) fn words<const N: usize>(mut self, words: [u32; N]) -> Self {
        self.0.extend(words);
        self
    }

    pub(super) fn floats<const N: usize>(self, values: [f32; N]) -> Self {
        self.words(values.map(f32::to_bits))
    }

    /// `Operand` of `shaders/cuda/operand.cuh`.
    pub(super) fn operand(self, operand: &super::memory::OperandData) -> Self {
        let [floats, codes, scales] = [operand.floats, operand.codes, operand.scales];
        self.addresses([floats, codes, scales]).words([operand.groups as u32, 0])
    }
}

/// See the module text.
#[derive(Default)]
pub(super) struct Step {
    pub(super) plan: Plan,
    /// The plan on the device, and its bytes there.
    address: Address,
    capacity: usize,
    words: Vec<u32>,
    /// Whether `words` must be sent.
    stale: bool,
    /// Tokens that an attention tile may hold; 0 while there are no tiles.
    tile: usize,
    tiles: Vec<Range<usize>>,
    launches: Vec<Launch>,
    /// Those of the step before.
    previous: Vec<Launch>,
    graphs: Vec<(Vec<Launch>, Graph)>,
    times: Vec<KernelTime>,
}

impl Step {
    /// Takes a new plan; what was recorded for the one before is sent.
    pub(super) fn begin(&mut self, device: &mut Device, plan: &Plan) -> Result<()> {
        self.flush(device)?;
        self.plan.clone_from(plan);
        self.tile = 0;
        self.tiles.clear();
        self.lay_out(device)
    }

    /// Where the plan lies.
    pub(super) fn address(&self) -> Address {
        self.address
    }

    /// Rows that an op covers.
    pub(super) fn n_rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::All => self.plan.tokens.len(),
            Rows::Outputs => self.plan.outputs.len(),
        }
    }

    /// Cuts the rows into attention tiles of at most `n` tokens of one sequence; returns the number of tiles and the length
    /// of the longest.
    pub(super) fn cut_tiles(&mut self, device: &mut Device, n: usize) -> Result<(usize, usize)> {
        if self.tile != n {
            if self.tile != 0 {
                self.flush(device)?;
            }
            self.tile = n;
            self.tiles.clear();
            for (i, span) in self.plan.spans.iter().enumerate() {
                match self.tiles.last_mut() {
                    Some(tile) if tile.len() < n && self.plan.spans[tile.start].table == span.table => tile.end = i + 1,
                    _ => self.tiles.push(i..i + 1),
                }
            }
            self.lay_out(device)?;
        }
        Ok((self.tiles.len(), self.tiles.iter().map(Range::len).max().unwrap_or(1)))
    }

    /// Lays the plan out in words.
    fn lay_out(&mut self, device: &mut Device) -> Result<()> {
        let (plan, words) = (&self.plan, &mut self.words);
        words.clear();
        words.extend([plan.tokens.len() as u32, plan.outputs.len() as u32]);
        words.resize(HEADER, 0);
        let spans = plan.spans.iter().flat_map(|s| [s.table, s.prefix, s.extra, s.n_extra]);
        let tiles = self.tiles.iter().flat_map(|t| [t.start as u32, t.len() as u32]);
        let parts: [&mut dyn Iterator<Item = u32>; HEADER - 2] = [
            &mut plan.tokens.iter().copied(),
            &mut plan.cells.iter().copied(),
            &mut { spans },
            &mut plan.blocks.iter().copied(),
            &mut plan.extras.iter().copied(),
            &mut plan.outputs.iter().copied(),
            &mut { tiles },
        ];
        for (part, place) in parts.into_iter().zip(2..) {
            words[place] = words.len() as u32;
            words.extend(part);
        }
        self.stale = true;
        // With room for as many tiles as rows: they come when launches that read this buffer are recorded already.
        let needed = (words.len() + 2 * plan.tokens.len()) * 4;
        if needed > self.capacity {
            if self.capacity > 0 {
                device.free(self.address)?;
            }
            self.capacity = needed.next_power_of_two().max(16 << 10);
            self.address = device.alloc(self.capacity)?;
        }
        Ok(())
    }

    /// Records a launch.
    pub(super) fn record(&mut self, kernel: Kernel, grid: [usize; 3], params: Params) {
        if grid.contains(&0) {
            return;
        }
        let mut params = params.0;
        params.resize(params.len().next_multiple_of(2), 0);
        self.launches.push(Launch { kernel, grid: grid.map(|n| n as u32), params });
    }

    /// Sends what was recorded.
    pub(super) fn flush(&mut self, device: &mut Device) -> Result<()> {
        if self.launches.is_empty() {
            return Ok(());
        }
        if self.stale {
            device.upload(self.address, &self.words)?;
            self.stale = false;
        }
        let launches = std::mem::take(&mut self.launches);
        device.enter()?;
        if device.measures() {
            for launch in &launches {
                device.prepare(launch.kernel)?;
                if let Some(nanoseconds) = device.launch(launch)? {
                    self.count(launch.kernel.name(), nanoseconds);
                }
            }
        } else if let Some((_, graph)) = self.graphs.iter().find(|(known, _)| *known == launches) {
            device.replay(graph)?;
        } else if launches == self.previous {
            let graph = device.capture(&launches)?;
            device.replay(&graph)?;
            if self.graphs.len() == MAX_GRAPHS {
                device.discard(self.graphs.remove(0).1)?;
            }
            self.graphs.push((launches.clone(), graph));
        } else {
            for launch in &launches {
                device.prepare(launch.kernel)?;
                device.launch(launch)?;
            }
        }
        self.previous = launches;
        Ok(())
    }

    fn count(&mut self, kernel: &'static str, nanoseconds: f64) {
        match self.times.iter_mut().find(|t| t.kernel == kernel) {
            Some(time) => {
                time.nanoseconds += nanoseconds;
                time.runs += 1;
            }
            None => self.times.push(KernelTime { kernel, nanoseconds, runs: 1 }),
        }
    }

    /// Time a kernel, where launches are measured.
    pub(super) fn times(&self) -> Vec<KernelTime> {
        self.times.clone()
    }

    /// Graphs that the driver keeps.
    pub(super) fn n_graphs(&self) -> usize {
        self.graphs.len()
    }

    /// Gives the graphs back, before the device goes.
    pub(super) fn clear(&mut self, device: &Device) {
        for (_, graph) in self.graphs.drain(..) {
            // The device is going away in any case.
            _ = device.discard(graph);
        }
    }
}

const _: () = assert!(BLOCK == 32, "shaders/cuda/attend.cu has the block length as a number");
