//! What a model's matrices are multiplied by while it reads a text.

use crate::args::{CacheArg, ModelArg, WindowArgs};
use crate::load;
use crate::windows::measure;
use foreword::backend::Choice;
use foreword::engine::Engine;
use foreword::quant::encode::gptq::{Factors, Hessian};
use foreword::{Error, Result};
use indicatif::ProgressBar;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// A model, and a text in windows.
pub(crate) struct Calibration {
    engine: Engine,
    tokens: Vec<u32>,
    context: usize,
}

impl Calibration {
    pub(crate) fn open(model: &ModelArg, file: &Path, args: &WindowArgs, threads: usize) -> Result<Calibration> {
        let (engine, tokens) = load::windows(model, file, args, (Some(threads), CacheArg::F32, Choice::Cpu))?;
        Ok(Calibration { engine, tokens, context: args.context })
    }

    /// Windows of the text.
    pub(crate) fn windows(&self) -> usize {
        self.tokens.len() / self.context
    }

    /// Reads the text. `watch` is told which tensors read which rows, of so many values each; then what it made is returned.
    pub(crate) fn run<T: Send + 'static>(
        &mut self,
        state: T,
        watch: impl Fn(&mut T, &[&str], &[f32], usize) + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::new(Mutex::new(Some(state)));
        let watched = shared.clone();
        let model = self.engine.model_mut();
        model.watch(move |tensors, x, cols| {
            if let Ok(mut state) = watched.lock()
                && let Some(state) = &mut *state
            {
                watch(state, tensors, x, cols);
            }
        })?;
        let bos = self.engine.tokenizer().add_bos();
        let bar = ProgressBar::new((self.tokens.len() / self.context) as u64);
        let windows = self.tokens.chunks_exact(self.context);
        let model = self.engine.model_mut();
        pollster::block_on(measure(model, windows, bos, &mut |_| Ok(()), &mut || bar.inc(1)))?;
        bar.finish_and_clear();
        let state = shared.lock().ok().and_then(|mut state| state.take());
        state.ok_or_else(|| Error::invalid_request("reading the text was given up"))
    }
}

/// Bytes of sums that are held at a time; the text is read once more for the next ones.
const HELD: usize = 1 << 30;

/// Factors for rounding the tensors of a file, in its order.
pub(super) struct Rounding {
    calibration: Calibration,
    threads: usize,
    /// Tensors and their columns.
    tensors: Vec<(String, usize)>,
    held: Sums,
    /// Which of `held` the last factors were of.
    last: Option<(usize, Rc<Factors>)>,
}

/// Sums of products of inputs; several tensors may have the same inputs.
#[derive(Default)]
struct Sums {
    wanted: HashSet<String>,
    of: HashMap<String, usize>,
    sums: Vec<Hessian>,
}

impl Sums {
    fn add(&mut self, tensors: &[&str], x: &[f32], cols: usize, threads: usize) {
        let wanted: Vec<&str> = tensors.iter().copied().filter(|t| self.wanted.contains(*t)).collect();
        let Some(first) = wanted.first() else { return };
        let at = self.of.get(*first).copied().unwrap_or_else(|| {
            self.sums.push(Hessian::new(cols));
            self.sums.len() - 1
        });
        self.sums[at].add(x, threads);
        for tensor in wanted {
            self.of.insert(tensor.to_string(), at);
        }
    }
}

impl Rounding {
    pub(super) fn new(calibration: Calibration, tensors: Vec<(String, usize)>, threads: usize) -> Rounding {
        Rounding { calibration, threads, tensors, held: Sums::default(), last: None }
    }

    /// Factors for a tensor; nothing where it is none that the model multiplies rows of tokens by.
    pub(super) fn factors(&mut self, tensor: &str) -> Result<Option<Rc<Factors>>> {
        if !self.held.wanted.contains(tensor) {
            self.read_for(tensor)?;
        }
        let Some(&at) = self.held.of.get(tensor) else { return Ok(None) };
        if let Some((last, factors)) = &self.last
            && *last == at
        {
            return Ok(Some(factors.clone()));
        }
        let factors = Rc::new(self.held.sums[at].factors(0.01)?);
        self.last = Some((at, factors.clone()));
        Ok(Some(factors))
    }

    /// Reads the text for this tensor, and for as many behind it as there is room.
    fn read_for(&mut self, tensor: &str) -> Result<()> {
        (self.held, self.last) = (Sums::default(), None);
        let mut room = HELD;
        let from = self.tensors.iter().skip_while(|(name, _)| name != tensor);
        for (i, (name, cols)) in from.enumerate() {
            let bytes = cols * cols * 4;
            if i > 0 && bytes > room {
                break;
            }
            room = room.saturating_sub(bytes);
            self.held.wanted.insert(name.clone());
        }
        let threads = self.threads;
        let sums = std::mem::take(&mut self.held);
        self.held = self.calibration.run(sums, move |sums, tensors, x, cols| sums.add(tensors, x, cols, threads))?;
        Ok(())
    }
}
