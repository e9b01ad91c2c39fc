//! The models that are served: each has a thread while it is loaded, and is loaded when it is first asked.

use super::host::{self, Ask, Job};
use super::metrics::{Gauges, Metrics};
use super::refusal::Refusal;
use crate::args::{GuessArgs, LoadArgs, PrefillModeArgs};
use foreword::engine::openai::Preparer;
use foreword::{Error, Kind, Result};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How models are loaded, and when they leave.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) load: LoadArgs,
    pub(super) guess: GuessArgs,
    pub(super) early: PrefillModeArgs,
    pub(super) idle: Option<Duration>,
    /// Bytes for all models together.
    pub(super) memory: Option<u64>,
}

/// All models.
pub(super) struct Models {
    slots: Vec<Slot>,
    pub(super) settings: Settings,
    pub(super) metrics: Arc<Metrics>,
    /// Held while room is made for a model.
    loading: Mutex<()>,
}

/// A model that may be loaded.
pub(super) struct Slot {
    /// What requests call it.
    pub(super) id: String,
    pub(super) name: OsString,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// To the thread that has the model.
    jobs: Option<Sender<Job>>,
    /// What prepares requests, while the model is loaded.
    preparer: Option<Preparer>,
    gauges: Gauges,
    /// When it was last asked.
    used: Option<Instant>,
}

impl Models {
    /// # Errors
    /// [`Kind::InvalidRequest`] where two models have the same name.
    pub(super) fn new(names: &[OsString], settings: Settings, metrics: Arc<Metrics>) -> Result<Self> {
        let mut slots: Vec<Slot> = Vec::new();
        for name in names {
            let id = id_of(name);
            if slots.iter().any(|slot| slot.id == id) {
                return Err(Error::invalid_request(format!("two models are called {id}; rename one of the files")));
            }
            slots.push(Slot { id, name: name.clone(), state: Mutex::default() });
        }
        Ok(Models { slots, settings, metrics, loading: Mutex::default() })
    }

    /// The model of that name; the first one where a request names none.
    pub(super) fn named(&self, id: Option<&str>) -> Result<&Slot, Refusal> {
        let found = match id {
            Some(id) => self.slots.iter().find(|slot| slot.id == id),
            None => self.slots.first(),
        };
        found.ok_or_else(|| Refusal::no_model(id.unwrap_or_default(), &self.ids().collect::<Vec<_>>().join(", ")))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().map(|slot| slot.id.as_str())
    }

    pub(super) fn gauges(&self) -> Vec<(&str, Gauges)> {
        self.slots.iter().map(|slot| (slot.id.as_str(), slot.state().gauges)).collect()
    }

    /// Hands a job to a model's thread; begins one where there is none.
    ///
    /// # Errors
    /// Where the system has no further thread.
    pub(super) fn send(self: &Arc<Self>, id: &str, job: Job) -> Result<(), Refusal> {
        let slot = self.named(Some(id))?;
        let mut state = slot.state();
        state.used = Some(Instant::now());
        let job = match &state.jobs {
            None => job,
            Some(jobs) => match jobs.send(job) {
                Ok(()) => return Ok(()),
                // A thread that ended by a panic has left its sender behind.
                Err(back) => back.0,
            },
        };
        let (sender, jobs) = channel();
        let (models, id) = (Arc::clone(self), slot.id.clone());
        let thread = std::thread::Builder::new().name(format!("model {id}"));
        let failed = |e| Error::out_of_memory(format!("there is no thread for {}", slot.id)).caused_by(e);
        thread.spawn(move || host::run(&models, &id, &jobs)).map_err(failed)?;
        let _ = sender.send(job);
        state.jobs = Some(sender);
        Ok(())
    }

    /// Waits until others have left room for a model of so many bytes, and reserves it. Those that are idle leave, the one that
    /// nobody asked for longest first.
    ///
    /// # Errors
    /// [`Kind::OutOfMemory`] for a model that never fits, [`Kind::Busy`] where all others are answering.
    pub(super) fn reserve(&self, own: &Slot, bytes: u64) -> Result<()> {
        let _one_at_a_time = self.loading.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while let Some(limit) = self.settings.memory {
            let others = || self.slots.iter().filter(|slot| slot.id != own.id);
            let held: u64 = others().map(|slot| slot.state().gauges.bytes).sum();
            if bytes > limit {
                let message = format!("{} needs about {} MB; --memory has {}", own.id, bytes >> 20, limit >> 20);
                return Err(Error::out_of_memory(message));
            }
            if held + bytes <= limit {
                break;
            }
            let idle = others().filter(|slot| slot.state().gauges.loaded && slot.state().gauges.open == 0);
            let Some(oldest) = idle.min_by_key(|slot| slot.state().used) else {
                let message = format!("the other models have the memory that {} needs, and are answering", own.id);
                return Err(Error::new(Kind::Busy, message));
            };
            oldest.state().jobs.iter().for_each(|jobs| _ = jobs.send(Job::Leave));
            std::thread::sleep(Duration::from_millis(5));
        }
        own.state().gauges.bytes = bytes;
        Ok(())
    }
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Says what the model does.
    pub(super) fn show(&self, gauges: Gauges) {
        self.state().gauges = gauges;
    }

    /// Says that the model is loaded.
    pub(super) fn loaded(&self, preparer: Preparer) {
        self.state().preparer = Some(preparer);
    }

    /// What prepares requests for the model, if it is loaded.
    pub(super) fn preparer(&self) -> Option<Preparer> {
        self.state().preparer.clone()
    }

    /// Ends the use of a thread that has nothing to do; whether nothing came meanwhile. What comes later begins another one.
    pub(super) fn leave(&self, jobs: &Receiver<Job>) -> Option<Job> {
        let mut state = self.state();
        // Jobs are sent under the same lock.
        let next = jobs.try_iter().find(|job| !matches!(job, Job::Leave));
        if next.is_none() {
            (state.jobs, state.preparer) = (None, None);
        }
        next
    }

    /// Says that a thread has freed what it held, unless another one has begun.
    pub(super) fn freed(&self) {
        let mut state = self.state();
        if state.jobs.is_none() {
            state.gauges = Gauges::default();
        }
    }

    /// Ends the use of a thread that failed. Jobs that wait for it are told the error; where there is none, they are dropped, and
    /// whoever waits for an answer sees that.
    pub(super) fn fail(&self, jobs: &Receiver<Job>, error: Option<&Error>) {
        let mut state = self.state();
        (state.jobs, state.preparer) = (None, None);
        for job in jobs.try_iter() {
            match (job, error) {
                (Job::Answer(Ask { accepted, .. }), Some(error)) => _ = accepted.send(Err(error.clone())),
                (Job::Look(look), Some(error)) => look(Err(error.clone())),
                _ => {}
            }
        }
    }
}

/// What requests call a model: its name, or that of its file.
fn id_of(name: &OsStr) -> String {
    let file = Path::new(name).file_name().unwrap_or(name).to_string_lossy();
    file.strip_suffix(".gguf").unwrap_or(&file).to_string()
}
