//! A step: launches are recorded and sent together when something is read or the next step begins.
//!
//! All that depends on the batch lies in one buffer, the plan. So decode steps of one shape are the same launches again, and
//! from the third on the driver replays them as a graph.

use super::super::gpu::{Scratch, StepPlan};
use super::super::{KernelTime, Plan};
use super::device::{Address, Device, Graph, Launch};
use super::link::Kernel;
use crate::error::Result;

/// Graphs that are kept: decode steps of a few widths.
const MAX_GRAPHS: usize = 8;

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
    pub(super) plan: StepPlan,
    /// Its words on the device.
    words: Scratch<Address>,
    address: Address,
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
        self.plan.begin(plan);
        self.make_room(device)
    }

    /// Where the plan lies.
    pub(super) fn address(&self) -> Address {
        self.address
    }

    /// Cuts the rows into attention tiles of at most `n` tokens of one sequence; returns the number of tiles and the length
    /// of the longest.
    pub(super) fn cut_tiles(&mut self, device: &mut Device, n: usize) -> Result<(usize, usize)> {
        if let Some(tiles) = self.plan.tiles(n) {
            return Ok(tiles);
        }
        if self.plan.has_tiles() {
            self.flush(device)?;
        }
        let tiles = self.plan.cut(n);
        self.make_room(device)?;
        Ok(tiles)
    }

    /// Makes the plan's memory large enough; not small ones at first, so that launches stay the same.
    fn make_room(&mut self, device: &mut Device) -> Result<()> {
        let mut words = self.words;
        self.address = self.scratch(device, &mut words, self.plan.bytes().max(16 << 10))?;
        self.words = words;
        Ok(())
    }

    /// The memory of `scratch`, at least `bytes` long.
    pub(super) fn scratch(
        &mut self,
        device: &mut Device,
        scratch: &mut Scratch<Address>,
        bytes: usize,
    ) -> Result<Address> {
        let (address, old) = scratch.at_least(bytes, |bytes| device.work(bytes))?;
        if let Some(old) = old {
            self.flush(device)?;
            device.free(old)?;
        }
        Ok(address)
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
        if let Some(words) = self.plan.take_stale() {
            device.upload(self.address, words)?;
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

    /// Gives the graphs back: memory that they name is about to go.
    pub(super) fn forget(&mut self, device: &Device) -> Result<()> {
        self.previous.clear();
        self.graphs.drain(..).try_for_each(|(_, graph)| device.discard(graph))
    }
}
