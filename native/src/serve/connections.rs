//! Connections: how many there are, how long a client may take to say what it wants, and how the server ends.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections at once; further ones wait to be taken.
const MOST: usize = 1024;

/// How long the head of a request may take, the next one of a connection included.
const HEAD_TIME: Duration = Duration::from_secs(30);

/// Serves until `stop`, and then finishes the answers under way.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MOST));
    let mut stop = std::pin::pin!(stop);
    let mut connections = JoinSet::new();
    let accept = async {
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Chunks are small, and nobody is to wait for the next one.
                    let _ = stream.set_nodelay(true);
                    let mut http = http1::Builder::new();
                    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
                    let service = TowerToHyperService::new(router.clone());
                    let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
                    connections.spawn(async move {
                        let _place = place;
                        if let Err(error) = connection.await {
                            tracing::debug!("a connection broke off: {error}");
                        }
                    });
                    while connections.try_join_next().is_some() {}
                }
                // Such as too many open files: others will end.
                Err(error) => {
                    tracing::error!("cannot take a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = &mut stop => {}
    }
    drop(listener);
    graceful.shutdown().await;
}
