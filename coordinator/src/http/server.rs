//! Connections: accepted up to a bound, each with deadlines, ended in order.
//!
//! Knows nothing of routes. A client that sends its head slowly is cut off; a client that comes when all places are
//! taken is told so; when the service ends, running answers get a grace and idle connections none.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::config::HttpLimits;
use super::guard::Dialled;
use super::metrics;
use super::stall::StallGuard;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Pause after an accept that failed for want of descriptors, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// Clients that are being told that all places are taken, at once.
const TURNED_AWAY_MAX: usize = 64;
/// Time that such a client has to read why.
const TURNED_AWAY_DEADLINE: Duration = Duration::from_secs(2);
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 138\r\n\r\n{\"error\":{\"message\":\"too many connections are open; try again in 5 s\",\"type\":\"server_error\",\"param\":null,\"code\":\"too_many_connections\"}}\r\n";

/// Accepts and serves until `shutdown`, then lets running answers finish within their grace.
pub(super) async fn run(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    shutdown: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let porches = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
    let (ending, ended) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut upkeep = tokio::time::interval(UPKEEP_EVERY);
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            _ = upkeep.tick() => {
                metrics::upkeep();
                continue;
            }
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let serving = serve_one(stream, router.clone(), limits, ended.clone());
            connections.spawn(async move {
                serving.await;
                drop(place);
            });
        } else if let Ok(porch) = Arc::clone(&porches).try_acquire_owned() {
            connections.spawn(async move {
                // Out of time or gone: the client has been told as well as can be.
                let _ = tokio::time::timeout(TURNED_AWAY_DEADLINE, turn_away(stream)).await;
                drop(porch);
            });
        }
    }
    drop(listener);
    drop(ending);
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.shutdown_grace, finish)
        .await
        .is_err()
    {
        tracing::warn!("connections were cut at the end of their grace");
        connections.shutdown().await;
    }
}

/// Serves one connection to its end.
async fn serve_one(
    stream: TcpStream,
    router: Router,
    limits: HttpLimits,
    mut ended: watch::Receiver<()>,
) {
    // Events must leave at once; without this option they merely leave later.
    let _ = stream.set_nodelay(true);
    let Ok(dialled) = stream.local_addr().map(|address: SocketAddr| address.ip()) else {
        return;
    };
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request
            .extensions_mut()
            .insert(Dialled(dialled.to_canonical()));
        hyper::service::Service::call(&routes, request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_deadline)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(
            TokioIo::new(StallGuard::new(stream, limits.write_deadline)),
            service,
        );
    let mut connection = pin!(connection);
    // Errors of one connection (a client that went away, broken HTTP) are that client's alone.
    let early = tokio::select! {
        result = connection.as_mut() => Some(result),
        _ = ended.changed() => None,
    };
    let result = match early {
        Some(result) => result,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Tells a client that all places are taken.
async fn turn_away(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(FULL).await?;
    stream.shutdown().await?;
    // Reading what the client sends keeps the system from resetting the connection under our answer.
    let mut scratch = [0_u8; 1024];
    while stream.read(&mut scratch).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_answer_has_the_length_it_says() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
