//! Connections: accepted up to a bound, each with deadlines, ended in order.
//!
//! Knows nothing of routes. A client that sends its head slowly is cut off; a client that comes when all places, or those
//! of its address, are taken is told so; when the service ends, running answers get a grace and idle connections none.

use std::net::IpAddr;
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
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::config::HttpLimits;
use super::guard::{Dialled, Peer};
use super::metrics;
use super::sources::{SourcePlace, Sources};
use super::stall::StallGuard;
use super::tls::Tls;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Pause after an accept that failed for want of descriptors, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// Clients that are being told that all places are taken, at once.
const TURNED_AWAY_MAX: usize = 64;
/// Time that such a client has to read why.
const TURNED_AWAY_DEADLINE: Duration = Duration::from_secs(2);
/// Why a connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    /// All places are taken.
    Everything,
    /// The places of its address are.
    Source,
}

/// What a listener is served with.
pub(super) struct Serving {
    pub(super) router: Router,
    pub(super) limits: HttpLimits,
    pub(super) tls: Option<Tls>,
}

/// Places of connections.
struct Places {
    all: Arc<Semaphore>,
    sources: Arc<Sources>,
    porches: Arc<Semaphore>,
}

impl Places {
    fn new(limits: &HttpLimits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.connections_max)),
            sources: Arc::new(Sources::default()),
            porches: Arc::new(Semaphore::new(TURNED_AWAY_MAX)),
        }
    }

    fn take(
        &self,
        from: IpAddr,
        limits: &HttpLimits,
    ) -> Result<(OwnedSemaphorePermit, SourcePlace), Full> {
        let of_source = self.sources.enter(from, limits).ok_or(Full::Source)?;
        let of_all = Arc::clone(&self.all).try_acquire_owned();
        Ok((of_all.map_err(|_| Full::Everything)?, of_source))
    }
}

/// Accepts and serves until `shutdown`, then lets running answers finish within their grace.
pub(super) async fn run(
    listener: TcpListener,
    serving: Serving,
    shutdown: impl Future<Output = ()>,
) {
    let limits = serving.limits;
    let acceptor = serving.tls.as_ref().map(Tls::acceptor);
    let places = Places::new(&limits);
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
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match places.take(from.ip(), &limits) {
            Ok(place) => {
                let connection = Connection {
                    peer: Peer(from.ip().to_canonical()),
                    router: serving.router.clone(),
                    limits,
                    ended: ended.clone(),
                };
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    connection.serve(stream, acceptor).await;
                    drop(place);
                });
            }
            // Who speaks TLS could not read why.
            Err(full) if acceptor.is_none() => {
                if let Ok(porch) = Arc::clone(&places.porches).try_acquire_owned() {
                    connections.spawn(async move {
                        // Out of time or gone: the client has been told as well as can be.
                        let _ = tokio::time::timeout(TURNED_AWAY_DEADLINE, turn_away(stream, full))
                            .await;
                        drop(porch);
                    });
                }
            }
            Err(_) => {}
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

/// What one connection is served with.
struct Connection {
    peer: Peer,
    router: Router,
    limits: HttpLimits,
    ended: watch::Receiver<()>,
}

impl Connection {
    /// Agrees on TLS where that is spoken, in the time that a head may take, and serves.
    async fn serve(self, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
        // Events must leave at once; without this option they merely leave later.
        let _ = stream.set_nodelay(true);
        let Ok(dialled) = stream.local_addr().map(|address| address.ip()) else {
            return;
        };
        let Some(acceptor) = acceptor else {
            return self.serve_one(stream, dialled).await;
        };
        match tokio::time::timeout(self.limits.header_deadline, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.serve_one(stream, dialled).await,
            Ok(Err(error)) => tracing::debug!(%error, "a client does not agree on TLS"),
            Err(_) => tracing::debug!("a client was too slow to agree on TLS"),
        }
    }

    /// Serves one connection to its end.
    async fn serve_one<S>(self, stream: S, dialled: IpAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self {
            peer,
            router,
            limits,
            mut ended,
        } = self;
        let routes = TowerToHyperService::new(router);
        let service = service_fn(move |mut request: Request<Incoming>| {
            request
                .extensions_mut()
                .insert(Dialled(dialled.to_canonical()));
            request.extensions_mut().insert(peer);
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
}

/// Tells a client that there is no place for it.
async fn turn_away(mut stream: TcpStream, full: Full) -> std::io::Result<()> {
    stream.write_all(&refusal(full)).await?;
    stream.shutdown().await?;
    // Reading what the client sends keeps the system from resetting the connection under our answer.
    let mut scratch = [0_u8; 1024];
    while stream.read(&mut scratch).await? > 0 {}
    Ok(())
}

/// The whole answer to a client without a place.
fn refusal(full: Full) -> Vec<u8> {
    let (status, kind, message) = match full {
        Full::Everything => (
            "503 Service Unavailable",
            "server_error",
            "too many connections are open; try again in 5 s",
        ),
        Full::Source => (
            "429 Too Many Requests",
            "rate_limit_error",
            "too many connections are open from this address; use those that are open, or try again in 5 s",
        ),
    };
    let body = serde_json::json!({"error": {"message": message, "type": kind, "param": null, "code": "too_many_connections"}})
        .to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}
