//! Why a request has no answer, in the shapes of both interfaces.

use axum::Json;
use axum::http::header::{ALLOW, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use foreword::{Error, Kind};
use serde_json::{Value, json};

/// Why a request has no answer. A response carries it until [`shape`] knows which interface was asked.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// For programs, in OpenAI's shape.
    code: &'static str,
    pub(super) message: String,
    /// The field that is wrong.
    param: Option<String>,
    /// Seconds after which another try may go well.
    retry_after: Option<u32>,
    /// The methods that an address has.
    allow: Option<HeaderValue>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Refusal { status, code, message: message.into(), param: None, retry_after: None, allow: None }
    }

    /// A field of the request is wrong.
    pub(super) fn field(at: impl Into<String>, what: &str) -> Self {
        let at = at.into();
        let message = format!("{at}: {what}");
        Refusal { param: Some(at), ..Refusal::new(StatusCode::BAD_REQUEST, "invalid_request", message) }
    }

    pub(super) fn no_model(name: &str, there: &str) -> Self {
        let message = format!("there is no model {name:?} here; there are {there}");
        let refusal = Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message);
        Refusal { param: Some("model".into()), ..refusal }
    }

    /// The model's thread panicked.
    pub(super) fn fault() -> Self {
        let message = "the model's thread ended by a fault of the program's; please report it, and try again";
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message).again(1)
    }

    /// An answer took too long.
    pub(super) fn late() -> Self {
        let message = "the answer took longer than --timeout allows; ask for fewer tokens";
        Refusal::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message)
    }

    /// As many requests are under way as may be.
    pub(super) fn full(queue: u16) -> Self {
        let message = format!("{queue} requests are under way or wait already; try again later");
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message).again(1)
    }

    pub(super) fn again(self, seconds: u32) -> Self {
        Refusal { retry_after: Some(seconds), ..self }
    }

    pub(super) fn allowing(self, methods: Option<&HeaderValue>) -> Self {
        Refusal { allow: methods.cloned(), ..self }
    }

    pub(super) fn param(&self) -> Option<&str> {
        self.param.as_deref()
    }

    /// The body that OpenAI's API has for it.
    pub(super) fn openai(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            429 => "rate_limit_error",
            ..500 => "invalid_request_error",
            _ => "server_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }

    /// The body that Anthropic's API has for it.
    pub(super) fn anthropic(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            ..500 => "invalid_request_error",
            _ => "api_error",
        };
        json!({"type": "error", "error": {"type": kind, "message": self.message}})
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let row = error.kind().row();
        let status = StatusCode::from_u16(row.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let again = matches!(error.kind(), Kind::Busy | Kind::DeviceLost).then_some(1);
        let refusal = Refusal::new(status, row.code, error.to_string());
        Refusal { param: error.param().map(str::to_owned), retry_after: again, ..refusal }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives a response that carries a refusal its body.
pub(super) fn shape(mut response: Response, anthropic: bool) -> Response {
    let Some(refusal) = response.extensions_mut().remove::<Refusal>() else { return response };
    let body = if anthropic { refusal.anthropic() } else { refusal.openai() };
    let mut shaped = (refusal.status, Json(body)).into_response();
    let headers = shaped.headers_mut();
    if let Some(seconds) = refusal.retry_after {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    if let Some(methods) = refusal.allow {
        headers.insert(ALLOW, methods);
    }
    // Clients of OpenAI's and Anthropic's try again by themselves unless they are told not to.
    let again = HeaderValue::from_static(if refusal.retry_after.is_some() { "true" } else { "false" });
    headers.insert("x-should-retry", again);
    shaped
}
