//! Addresses, and what is checked before any of them answers.

use super::app::App;
use super::refusal::{Refusal, shape};
use super::{anthropic, openai, responses, ui};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use subtle::{Choice, ConstantTimeEq};
use tower_http::cors::{Any, CorsLayer};

/// The addresses, in metrics; all others are one.
const ADDRESSES: [&str; 12] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/tokenize",
    "/metrics",
    "/health",
    "/ready",
];

pub(super) fn router(app: Arc<App>) -> Router {
    let router = Router::new()
        .route(ADDRESSES[0], post(openai::chat_completions))
        .route(ADDRESSES[1], post(openai::completions))
        .route(ADDRESSES[2], post(openai::embeddings))
        .route(ADDRESSES[3], post(openai::rerank))
        .route(ADDRESSES[4], post(responses::create))
        .route("/v1/responses/{id}", get(responses::get).delete(responses::delete))
        .route(ADDRESSES[5], post(anthropic::messages))
        .route(ADDRESSES[6], post(anthropic::count_tokens))
        .route(ADDRESSES[7], get(openai::models))
        .route("/v1/models/{id}", get(openai::model_named))
        .route(ADDRESSES[8], post(openai::tokenize))
        .route(ADDRESSES[9], get(metrics))
        .route(ADDRESSES[10], get(|| async { "ok\n" }))
        .route(ADDRESSES[11], get(ready))
        .fallback(elsewhere)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), account));
    // Around everything: pages read refusals, too.
    let router = if let Some(cors) = cors(&app.origins) { router.layer(cors) } else { router };
    router.with_state(app)
}

fn cors(origins: &[HeaderValue]) -> Option<CorsLayer> {
    let cors = CorsLayer::new().allow_methods([Method::GET, Method::POST, Method::DELETE]).allow_headers(Any);
    match origins {
        [] => None,
        all if all.iter().any(|origin| origin == "*") => Some(cors.allow_origin(Any)),
        some => Some(cors.allow_origin(some.to_vec())),
    }
}

/// Whether the first model is there.
async fn ready(State(app): State<Arc<App>>) -> Response {
    if app.ready.load(Ordering::Relaxed) {
        return "ready\n".into_response();
    }
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "loading", "the first model is being loaded").again(1).into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let places = app.places.into();
    let under_way = places - app.queue.available_permits();
    let text = app.metrics.text(under_way, places, &app.models.gauges());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// The page's files, and addresses that are none.
async fn elsewhere(State(app): State<Arc<App>>, request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    if let Some(file) = page(&app, method, path) {
        return file;
    }
    let message = format!("there is no {method} {path} here; there are {}", ADDRESSES.join(", "));
    Refusal::new(StatusCode::NOT_FOUND, "unknown_url", message).into_response()
}

/// A file of the page, where the server shows it.
fn page(app: &App, method: &Method, path: &str) -> Option<Response> {
    let shown = app.ui && matches!(*method, Method::GET | Method::HEAD);
    shown.then(|| ui::file(path)).flatten()
}

/// Counts a request, and gives a refusal the shape of the interface that was asked.
async fn account(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let path = request.uri().path().to_string();
    let method = request.method().clone();
    let mut response = next.run(request).await;
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let message = format!("{path} is not for {method}");
        let refusal = Refusal::new(response.status(), "method_not_allowed", message);
        response = refusal.allowing(response.headers().get(axum::http::header::ALLOW)).into_response();
    }
    let response = shape(response, path.starts_with("/v1/messages"));
    let status = response.status().as_u16();
    let address = ADDRESSES.into_iter().find(|address| *address == path).unwrap_or("other");
    app.metrics.request(address, status);
    tracing::info!(%method, path, status, seconds = started.elapsed().as_secs_f64());
    response
}

/// Lets in whom the server is for: probes, and who has a key, where there are any. Pages of other origins are kept out, as a
/// browser sends some requests of theirs without asking.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let named = |origin: &HeaderValue| app.origins.iter().any(|named| named == "*" || named == origin);
    let stranger = |origin: &&HeaderValue| !(named(origin) || app.ui && ui::is_own(origin, headers));
    if let Some(origin) = headers.get(ORIGIN).filter(stranger) {
        let message = format!("pages of {origin:?} are not let in; foreword serve --cors ORIGIN does");
        return Refusal::new(StatusCode::FORBIDDEN, "origin_not_allowed", message).into_response();
    }
    let path = request.uri().path();
    // The page tells nothing; what it asks for has the key that its user types.
    let open = matches!(path, "/health" | "/ready") || page(&app, request.method(), path).is_some();
    if !open && !app.keys.is_empty() && !has_key(&app.keys, headers) {
        let message = "the request has no key of this server: Authorization: Bearer KEY, or x-api-key: KEY";
        return Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message).into_response();
    }
    next.run(request).await
}

/// Whether headers have a key. All are compared, and the hashes as a whole, so that the time tells nothing.
fn has_key(keys: &[[u8; 32]], headers: &HeaderMap) -> bool {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let Some(given) = bearer.or(headers.get("x-api-key").map(HeaderValue::as_bytes)) else { return false };
    let given = hash(given);
    keys.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&given)).into()
}

/// What is kept of a key.
pub(super) fn hash(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}
