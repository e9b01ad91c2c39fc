//! What all requests share, and an answer under way.

use super::host::{Ask, Job, Question, stamped};
use super::metrics::Metrics;
use super::models::{Models, Slot};
use super::refusal::Refusal;
use super::responses::Stored;
use axum::body::{HttpBody, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, StatusCode};
use foreword::engine::openai::{Preparer, Service, whole_characters};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// Largest body of a request, in bytes: some million tokens. The model's thread makes tokens of texts for embeddings and scores, and
/// other requests wait meanwhile: six seconds at the worst, for text without spaces.
const MOST_BYTES: usize = 4 << 20;

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);

/// What all requests share.
pub(super) struct App {
    pub(super) models: Arc<Models>,
    pub(super) metrics: Arc<Metrics>,
    /// Places for requests.
    pub(super) queue: Arc<Semaphore>,
    pub(super) places: u16,
    pub(super) timeout: Duration,
    /// SHA-256 of the keys that let in; everyone is let in where there are none.
    pub(super) keys: Vec<[u8; 32]>,
    /// Origins of pages that are let in.
    pub(super) origins: Vec<HeaderValue>,
    /// Whether the first model was loaded.
    pub(super) ready: AtomicBool,
    pub(super) stored: Stored,
    /// Whether there is a page at `/`.
    pub(super) ui: bool,
}

/// An answer under way. Dropped, it is cancelled.
pub(super) struct Answer {
    replies: mpsc::UnboundedReceiver<(foreword::Result<Value>, bool)>,
    deadline: Instant,
    over: bool,
    _place: OwnedSemaphorePermit,
}

impl App {
    /// Asks the model that the body names.
    pub(super) async fn ask(&self, body: Value, texts: bool) -> Result<Answer, Refusal> {
        let place = Arc::clone(&self.queue).try_acquire_owned().map_err(|_| Refusal::full(self.places))?;
        let slot = self.models.named(model_of(&body)?)?;
        let deadline = Instant::now() + self.timeout;
        let question = match texts {
            true => Question::Texts(body),
            false => {
                let prepare = move |preparer: &Preparer| stamped(|stamp| preparer.prepare_json(&body, stamp));
                Question::Answer(Box::new(self.beside(slot, deadline, prepare).await?))
            }
        };
        let (accepted, outcome) = oneshot::channel();
        let (sender, replies) = mpsc::unbounded_channel();
        self.models.send(&slot.id, Job::Answer(Ask { question, accepted, replies: sender }))?;
        loaded(&slot.id, timeout_at(deadline, outcome).await)??;
        Ok(Answer { replies, deadline, over: false, _place: place })
    }

    /// Does what needs no more of a model than what prepares its requests.
    pub(super) async fn prepare<T: Send + 'static>(
        &self,
        model: Option<&str>,
        work: impl FnOnce(&Preparer) -> foreword::Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let _place = self.queue.try_acquire().map_err(|_| Refusal::full(self.places))?;
        self.beside(self.models.named(model)?, Instant::now() + self.timeout, work).await
    }

    /// The same on a thread beside the model's: a grammar, and text of megabytes, may take seconds, for which answers under way are not
    /// to wait.
    async fn beside<T: Send + 'static>(
        &self,
        slot: &Slot,
        deadline: Instant,
        work: impl FnOnce(&Preparer) -> foreword::Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let preparer = match slot.preparer() {
            Some(preparer) => preparer,
            None => self.look(slot, deadline, |service| Ok(service.preparer().clone())).await?,
        };
        let done = tokio::task::spawn_blocking(move || work(&preparer));
        let done = timeout_at(deadline, done).await.map_err(|_| Refusal::late())?;
        Ok(done.map_err(|_| Refusal::fault())??)
    }

    /// Looks at the service of a model, on the model's thread.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        slot: &Slot,
        deadline: Instant,
        look: impl FnOnce(&Service) -> foreword::Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (sender, outcome) = oneshot::channel();
        let job = Job::Look(Box::new(move |service| _ = sender.send(service.and_then(look))));
        self.models.send(&slot.id, job)?;
        Ok(loaded(&slot.id, timeout_at(deadline, outcome).await)??)
    }
}

/// What a model's thread said, if it did in time.
fn loaded<T>(
    model: &str,
    outcome: Result<Result<T, oneshot::error::RecvError>, tokio::time::error::Elapsed>,
) -> Result<T, Refusal> {
    let late = |_| {
        let message = format!("{model} is still being loaded; try again later");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "loading", message).again(5)
    };
    outcome.map_err(late)?.map_err(|_| Refusal::fault())
}

/// The model that a body names.
pub(super) fn model_of(body: &Value) -> Result<Option<&str>, Refusal> {
    match &body["model"] {
        Value::Null => Ok(None),
        Value::String(name) => Ok(Some(name)),
        _ => Err(Refusal::field("model", "must be text")),
    }
}

impl Answer {
    /// The next reply; none behind the last one.
    pub(super) async fn next(&mut self) -> Option<Result<Value, Refusal>> {
        if self.over {
            return None;
        }
        let (reply, over) = match timeout_at(self.deadline, self.replies.recv()).await {
            Ok(Some((reply, over))) => (reply.map_err(Refusal::from), over),
            Ok(None) => (Err(Refusal::fault()), true),
            Err(_) => (Err(Refusal::late()), true),
        };
        self.over = over || reply.is_err();
        Some(reply)
    }

    /// The reply of a request that has one.
    pub(super) async fn whole(mut self) -> Result<Value, Refusal> {
        self.next().await.unwrap_or_else(|| Err(Refusal::fault()))
    }
}

/// The JSON object in a request's body.
pub(super) struct Fields(pub(super) Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let wrong = |message: String| Refusal::new(StatusCode::BAD_REQUEST, "invalid_request", message);
        let late = |_| {
            let message = format!("the body did not arrive within {} seconds", BODY_TIME.as_secs());
            Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
        };
        let large = || {
            let message = format!("the body has more than {} MB", MOST_BYTES >> 20);
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
        };
        let broken = |e: axum::Error| match std::error::Error::source(&e) {
            Some(cause) if cause.is::<http_body_util::LengthLimitError>() => large(),
            _ => wrong(format!("the body broke off: {e}")),
        };
        // What is said to be too large is not waited for.
        if request.body().size_hint().lower() > MOST_BYTES as u64 {
            return Err(large());
        }
        let body = timeout(BODY_TIME, to_bytes(request.into_body(), MOST_BYTES)).await.map_err(late)?;
        let body = body.map_err(broken)?;
        let text = std::str::from_utf8(&body).map_err(|e| wrong(format!("the body is no UTF-8 text: {e}")))?;
        match serde_json::from_str(&whole_characters(text)) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(_) => Err(wrong("the body is no JSON object".into())),
            Err(e) => Err(wrong(format!("the body is no JSON: {e}"))),
        }
    }
}
