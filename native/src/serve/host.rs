//! A model's thread: it loads the model, answers all requests through one service, and leaves when it is told to.

use super::metrics::Gauges;
use super::models::{Models, Slot};
use crate::{load, store};
use foreword::Result;
use foreword::backend::BLOCK;
use foreword::engine::RequestId;
use foreword::engine::openai::{Prepared, Reply, Service, Stamp, makers_settings};
use foreword::sample::Params;
use serde_json::Value;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Instant, SystemTime};
use tokio::sync::{mpsc, oneshot};

/// Most choices that are written at once, of all requests.
const MOST_CHOICES: usize = 2048;

/// What a model's thread is asked.
pub(super) enum Job {
    Answer(Ask),
    /// To look something up, or why the model could not be loaded.
    Look(Box<Look>),
    /// To leave if there is nothing to do.
    Leave,
}

/// What looks at a service.
pub(super) type Look = dyn FnOnce(Result<&Service>) + Send;

/// A request for an answer.
pub(super) struct Ask {
    pub(super) question: Question,
    /// Whether the request will be answered.
    pub(super) accepted: oneshot::Sender<Result<()>>,
    pub(super) replies: Replies,
}

/// What is asked for.
pub(super) enum Question {
    /// Text.
    Answer(Box<Prepared>),
    /// Vectors or scores of texts.
    Texts(Value),
}

/// Where replies go, with whether each is the last one. A receiver that is gone cancels the request.
pub(super) type Replies = mpsc::UnboundedSender<(Result<Value>, bool)>;

const _: () = assert!(cfg!(panic = "unwind"), "a panic in one model's thread must not end the answers of others");

/// The life of a model's thread. One that panics ends its answers, and the next request loads the model anew.
pub(super) fn run(models: &Models, id: &str, jobs: &Receiver<Job>) {
    let Ok(slot) = models.named(Some(id)) else { return };
    // A panic leaves nothing behind: what it unwinds through is dropped, and the slot is set anew below.
    match catch_unwind(AssertUnwindSafe(|| Host::load(models, slot)?.work(jobs))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(model = id, "{error}");
            slot.fail(jobs, Some(&error));
        }
        Err(_) => {
            tracing::error!(model = id, "the model's thread panicked; it is loaded anew when it is asked");
            slot.fail(jobs, None);
        }
    }
    slot.freed();
}

struct Host<'a> {
    models: &'a Models,
    slot: &'a Slot,
    service: Service,
    bytes: u64,
    open: HashMap<RequestId, Replies>,
}

impl<'a> Host<'a> {
    fn load(models: &'a Models, slot: &'a Slot) -> Result<Self> {
        let settings = &models.settings;
        let started = Instant::now();
        let path = store::find(&slot.name)?;
        let file: u64 = store::sources(&path)?.iter().map(|source| source.len()).sum();
        // Weights, cache and work memory, before any is taken: as `foreword models` reckons.
        models.reserve(slot, file + file / 4 + (128 << 20))?;
        let mut engine = load::engine(&slot.name, &settings.load)?;
        load::prefill(&mut engine, &slot.name, &settings.early)?;
        load::speculate(&mut engine, &slot.name, &settings.guess, &settings.load)?;
        let listed = store::entry(&slot.name)?.and_then(|entry| entry.sampling.fields());
        let defaults = makers_settings(&engine, listed.as_ref(), &Params::default())?;
        let template = load::chat_template(&engine);
        let compiler = foreword_constrain::compiler(Arc::clone(engine.tokenizer()));
        let mut service = Service::new(engine, template, &slot.id);
        service.set_compiler(compiler);
        service.set_defaults(defaults);
        service.set_limit(MOST_CHOICES);
        let (memory, kv) = (service.engine().memory(), service.engine().model().kv().spec());
        // The cache as large as it may become.
        let cache = memory.cache.max(kv.bytes_per_token() * kv.n_blocks * BLOCK);
        let bytes = (memory.weights + cache + memory.buffers) as u64;
        tracing::info!(model = slot.id, seconds = started.elapsed().as_secs_f64(), bytes, "loaded");
        slot.loaded(service.preparer().clone());
        let host = Host { models, slot, service, bytes, open: HashMap::new() };
        host.show();
        Ok(host)
    }

    /// Answers until nobody asks any more.
    ///
    /// # Errors
    /// A lost device, which ends all answers.
    fn work(&mut self, jobs: &Receiver<Job>) -> Result<()> {
        loop {
            let mut next = if self.service.is_idle() { self.wait(jobs) } else { jobs.try_recv().ok() };
            if next.is_none() && self.service.is_idle() {
                match self.slot.leave(jobs) {
                    None => return Ok(()),
                    job => next = job,
                }
            }
            while let Some(job) = next {
                self.take(job);
                next = jobs.try_recv().ok();
            }
            if let Err(error) = self.step() {
                self.open.drain().for_each(|(_, replies)| _ = replies.send((Err(error.clone()), true)));
                return Err(error);
            }
            self.show();
        }
    }

    /// The next job; none when the model is to leave.
    fn wait(&self, jobs: &Receiver<Job>) -> Option<Job> {
        let job = match self.models.settings.idle {
            Some(idle) => jobs.recv_timeout(idle),
            None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        job.ok().filter(|job| !matches!(job, Job::Leave))
    }

    fn take(&mut self, job: Job) {
        match job {
            // Who went away while the model was being loaded wants nothing any more.
            Job::Answer(ask) if ask.replies.is_closed() => {}
            Job::Answer(Ask { question, accepted, replies }) => {
                let outcome = match question {
                    Question::Answer(prepared) => self.service.submit_prepared(*prepared),
                    Question::Texts(body) => self.service.submit_texts(&body),
                };
                let _ = accepted.send(outcome.map(|id| _ = self.open.insert(id, replies)));
            }
            Job::Look(look) => look(Ok(&self.service)),
            Job::Leave => {}
        }
    }

    /// One step for all requests; those whose client went away are ended before it.
    fn step(&mut self) -> Result<()> {
        let gone: Vec<RequestId> = self.open.iter().filter(|(_, r)| r.is_closed()).map(|(&id, _)| id).collect();
        for id in gone {
            self.service.cancel(id);
            self.open.remove(&id);
            self.models.metrics.cancelled();
        }
        let started = Instant::now();
        let replies = pollster::block_on(self.service.step())?;
        self.models.metrics.step(started.elapsed());
        for Reply { id, value, done } in replies {
            if let Ok(usage) = value.as_ref().map(|value| &value["usage"])
                && done
            {
                self.models.metrics.usage(usage);
            }
            if let Some(replies) = self.open.get(&id) {
                // Its end is seen before the next step.
                let _ = replies.send((value, done));
            }
            if done {
                self.open.remove(&id);
            }
        }
        Ok(())
    }

    fn show(&self) {
        let kv = self.service.engine().model().kv();
        let kv_total = kv.spec().n_blocks;
        let kv_used = kv_total - kv.free_blocks();
        self.slot.show(Gauges { loaded: true, bytes: self.bytes, open: self.open.len(), kv_used, kv_total });
    }
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Makes something of the stamp of a new request.
pub(super) fn stamped<T>(make: impl FnOnce(&Stamp<'_>) -> T) -> T {
    let created = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    make(&Stamp { id: &new_id(), created, seed: random() })
}

/// A name that nobody else has.
pub(super) fn new_id() -> String {
    format!("{:016x}{:08x}", random(), random() as u32)
}

#[cfg(test)]
mod tests {
    use super::super::args::ServeArgs;
    use super::super::refusal::Refusal;
    use axum::http::StatusCode;
    use clap::Parser;
    use foreword::sample::{Compiler, Constraint, Rule};
    use foreword::{Error, Result};
    use serde_json::{Value, json};
    use std::sync::Mutex;
    use std::time::Duration;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ServeArgs,
    }

    /// Says when it begins, and compiles nothing until it is told to end.
    struct Slow {
        begun: UnboundedSender<()>,
        end: Mutex<std::sync::mpsc::Receiver<()>>,
    }

    impl Compiler for Slow {
        fn compile(&self, _: &Constraint) -> Result<Box<dyn Rule>> {
            self.begun.send(()).expect("somebody waits");
            let told = self.end.lock().expect("no panic").recv_timeout(Duration::from_secs(20));
            Err(Error::invalid_request(if told.is_ok() { "told to end" } else { "nobody went on" }))
        }
    }

    #[test]
    fn a_grammar_that_is_being_compiled_keeps_no_answer_waiting() {
        let words = ["serve", "../tests/data/models/llama.gguf", "--threads", "1"];
        let app = super::super::app(&Line::parse_from(words).args).expect("a model");
        let short = || app.ask(json!({"prompt": "Hi", "max_tokens": 1}), false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            short().await.expect("an answer").whole().await.expect("a reply");
            let slot = app.models.named(None).expect("the model");
            let mut preparer = slot.preparer().expect("it is loaded");
            let (begun, mut begins) = unbounded_channel();
            let (end, ends) = std::sync::mpsc::channel();
            preparer.set_compiler(Box::new(Slow { begun, end: Mutex::new(ends) }));
            slot.loaded(preparer);
            let meanwhile = async {
                begins.recv().await.expect("it is being compiled");
                short().await.expect("an answer").whole().await.expect("a reply");
                end.send(()).expect("it is still being compiled");
            };
            let (outcome, ()) = tokio::join!(app.ask(json!({"prompt": "Hi", "regex": "a+"}), false), meanwhile);
            let refusal = outcome.err().expect("no rule was made");
            assert_eq!((refusal.param(), refusal.status), (Some("regex"), StatusCode::BAD_REQUEST));
            assert!(refusal.message.ends_with("told to end"), "{}", refusal.message);
        });
    }

    #[test]
    fn a_model_whose_thread_panics_ends_its_own_answers_only_and_is_loaded_anew() {
        let models = ["llama", "qwen2"].map(|name| format!("../tests/data/models/{name}.gguf"));
        let words = ["serve", &models[0], &models[1], "--threads", "1", "--context", "250000"];
        let app = super::super::app(&Line::parse_from(words).args).expect("models");
        let long = |model: &str| -> Value {
            json!({
                "model": model, "prompt": "Hi", "max_tokens": 200_000, "ignore_eos": true, "stream": true,
                "stop_at_repetition": false,
            })
        };
        let is_fault = |refusal: Refusal| assert_eq!(refusal.status, StatusCode::INTERNAL_SERVER_ERROR, "{refusal:?}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut broken = app.ask(long("llama"), false).await.expect("an answer");
            let mut other = app.ask(long("qwen2"), false).await.expect("an answer");
            broken.next().await.expect("a reply").expect("a chunk");
            let panics = |_: &_| -> foreword::Result<()> { panic!("on purpose, by a test") };
            let slot = app.models.named(Some("llama")).expect("the model");
            let soon = || tokio::time::Instant::now() + Duration::from_secs(60);
            is_fault(app.look(slot, soon(), panics).await.expect_err("no answer"));
            let end = loop {
                if let Err(end) = broken.next().await.expect("a reply") {
                    break end;
                }
            };
            is_fault(end);
            other.next().await.expect("a reply").expect("a chunk");
            // What comes before the thread has taken note of its panic is refused, too; clients ask again then.
            let mut again = app.look(slot, soon(), |_| Ok(())).await;
            for _ in 0..1000 {
                let Err(refusal) = again else { break };
                is_fault(refusal);
                tokio::time::sleep(Duration::from_millis(5)).await;
                again = app.look(slot, soon(), |_| Ok(())).await;
            }
            again.expect("it is there again");
            let (_, gauges) = app.models.gauges()[0];
            assert!(gauges.loaded && gauges.open == 0, "{gauges:?}");
            app.ask(json!({"model": "llama", "prompt": "Hi", "max_tokens": 1}), false).await.expect("an answer");
        });
    }
}
