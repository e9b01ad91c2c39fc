//! The page at `/`: the demo page of `www/`, which chats with this server and needs no WASM.
//!
//! The feature `ui` embeds what `npm --prefix www run build` has made. It is a feature because no build of the program may need
//! Node, and what is built is not committed.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;

/// The files of the page. What only models in the page need, and the page's worker for offline use, stay away.
#[cfg(feature = "ui")]
#[derive(rust_embed::Embed)]
#[folder = "../www/dist"]
#[exclude = "*.wasm"]
#[exclude = "index.html"]
#[exclude = "worker.js"]
#[exclude = "thread.js"]
#[exclude = "sw.js"]
#[exclude = "site/*"]
struct Files;

/// The page itself, by the name that the build of the page gives it.
#[cfg(feature = "ui")]
const INDEX: &str = "served.html";

#[cfg(not(feature = "ui"))]
const WITHOUT: &str =
    "This is the server of Foreword; it answers at /v1/chat/completions and the addresses of docs/server.md.

Its page is not in this program, which was built without it. In the sources:

    npm --prefix pkg ci && npm --prefix pkg run build
    npm --prefix www ci && npm --prefix www run build
    cargo install --path native --features ui
";

/// The demo page, which may have been served at this very address, stays in browsers by its worker; this one takes its place and goes.
const NO_WORKER: &str = "addEventListener('install', () => skipWaiting());
addEventListener('activate', () => registration.unregister());
";

/// A file of the page.
pub(super) fn file(path: &str) -> Option<Response> {
    let (mime, body) = match path.strip_prefix('/')? {
        "sw.js" => ("text/javascript".into(), Body::from(NO_WORKER)),
        name => content(name)?,
    };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_str(&mime).ok()?),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        // The page has a policy of its own, in which this cannot be said: nobody puts it into theirs.
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static("frame-ancestors 'none'")),
    ];
    Some((headers, body).into_response())
}

#[cfg(feature = "ui")]
fn content(name: &str) -> Option<(String, Body)> {
    let file = Files::get(if name.is_empty() { INDEX } else { name })?;
    let mime = file.metadata.mimetype().to_string();
    let body = match file.data {
        std::borrow::Cow::Borrowed(bytes) => Body::from(bytes),
        std::borrow::Cow::Owned(bytes) => Body::from(bytes),
    };
    Some((mime, body))
}

#[cfg(not(feature = "ui"))]
fn content(name: &str) -> Option<(String, Body)> {
    name.is_empty().then(|| ("text/plain; charset=utf-8".into(), Body::from(WITHOUT)))
}

/// Whether `origin` is that of the page which the server itself shows. Names are not believed: anybody can have one that leads to
/// this machine, and a page from there would send it as host, too.
pub(super) fn is_own(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else { return false };
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    (name == "localhost" || name.parse::<IpAddr>().is_ok()) && *origin == format!("http://{host}").as_str()
}
