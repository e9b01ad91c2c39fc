//! `foreword serve`: OpenAI's and Anthropic's addresses over HTTP.
//!
//! HTTP is one thread's work; each model has a thread of its own (`host.rs`) that answers all its requests together. Between
//! them go channels only: a reply's receiver that is dropped, because its client went away, cancels the answer before the next
//! step. Interfaces other than the engine's own are translations of chat completions and their chunks (`dialect.rs`).

mod anthropic;
mod app;
mod args;
mod connections;
mod dialect;
mod host;
mod metrics;
mod models;
mod openai;
mod refusal;
mod responses;
mod router;
mod ui;

pub(crate) use args::ServeArgs;

use crate::term;
use app::App;
use axum::http::HeaderValue;
use foreword::{Error, Result};
use metrics::Metrics;
use models::{Models, Settings};
use refusal::Refusal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub(crate) fn serve(args: &ServeArgs) -> Result<()> {
    tracing_subscriber::fmt().with_ansi(false).with_max_level(args.log).with_writer(std::io::stderr).init();
    let app = Arc::new(app(args)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::unsupported(format!("cannot listen to the network: {e}")).caused_by(e))?;
    let outcome = runtime.block_on(listen(args, &app));
    // Models may still be loading.
    runtime.shutdown_timeout(Duration::ZERO);
    outcome
}

fn app(args: &ServeArgs) -> Result<App> {
    let metrics = Arc::new(Metrics::default());
    let mut load = args.load.clone();
    load.cache_tokens = args.cache_tokens;
    let settings =
        Settings { load, guess: args.guess.clone(), early: args.early.clone(), idle: args.idle, memory: args.memory };
    let key_of_environment = std::env::var("FOREWORD_API_KEY").ok().filter(|key| !key.is_empty());
    let origin = |origin: &String| {
        let wrong = |e| Error::invalid_request(format!("--cors {origin} is no origin")).caused_by(e);
        HeaderValue::from_str(origin).map_err(wrong)
    };
    Ok(App {
        models: Arc::new(Models::new(&args.models, settings, Arc::clone(&metrics))?),
        metrics,
        queue: Arc::new(Semaphore::new(args.queue.into())),
        places: args.queue,
        timeout: args.timeout,
        keys: args.api_key.iter().chain(&key_of_environment).map(|key| router::hash(key.as_bytes())).collect(),
        origins: args.cors.iter().map(origin).collect::<Result<_>>()?,
        ready: AtomicBool::new(false),
        stored: responses::Stored::default(),
        ui: args.ui,
    })
}

async fn listen(args: &ServeArgs, app: &Arc<App>) -> Result<()> {
    let at = SocketAddr::new(args.host, args.port);
    let failed =
        |e: std::io::Error| Error::storage(format!("cannot listen at {at}: {e}; try another --port")).caused_by(e);
    let listener = TcpListener::bind(at).await.map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    term::note(&who_can_reach(args));
    let first = load_first(app, at);
    let server = connections::serve(listener, router::router(Arc::clone(app)), stop());
    tokio::pin!(server);
    tokio::select! {
        outcome = first => outcome?,
        () = &mut server => return Ok(()),
    }
    server.await;
    Ok(())
}

fn who_can_reach(args: &ServeArgs) -> String {
    let key = !args.api_key.is_empty() || std::env::var_os("FOREWORD_API_KEY").is_some();
    match (args.host.is_loopback(), key) {
        (true, _) => "only this machine can reach the server; --host 0.0.0.0 lets others in".into(),
        (false, true) => format!("whoever reaches {} and has a key can use the server", args.host),
        (false, false) => format!("whoever reaches {} can use the server; --api-key KEY lets only some in", args.host),
    }
}

/// Loads the first model, and says that the server can answer.
async fn load_first(app: &App, at: SocketAddr) -> Result<()> {
    let (sender, loaded) = tokio::sync::oneshot::channel();
    let job = host::Job::Look(Box::new(move |service| _ = sender.send(service.map(|_| ()))));
    let first = app.models.ids().next().unwrap_or_default();
    let refused = |refusal: Refusal| Error::unsupported(refusal.message);
    app.models.send(first, job).map_err(refused)?;
    loaded.await.map_err(|_| refused(Refusal::fault()))??;
    app.ready.store(true, Ordering::Relaxed);
    term::print(&format!("listening on http://{at}\n"))
}

/// Until the program is told to end. A second time it ends at once.
async fn stop() {
    asked_to_stop().await;
    term::note("finishing the answers under way; once more ends them");
    tokio::spawn(async {
        asked_to_stop().await;
        std::process::exit(130);
    });
}

#[cfg(unix)]
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminated) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
}

#[cfg(not(unix))]
async fn asked_to_stop() {
    let _ = tokio::signal::ctrl_c().await;
}
