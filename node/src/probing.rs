//! Links to other machines, measured when the coordinator asks.
//!
//! Owns the one probe that may run. Must never choose whom to probe: the coordinator names both ends of a link and tells
//! the other end to expect us.

use proto::control::{LinkRates, Measure, Measured};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use transport::Endpoint;

/// The probe that runs, and where its result comes out.
#[derive(Debug)]
pub(crate) struct Probing {
    out: mpsc::Sender<Measured>,
    done: mpsc::Receiver<Measured>,
    running: Option<JoinHandle<()>>,
}

impl Probing {
    pub fn new() -> Self {
        let (out, done) = mpsc::channel(1);
        Self {
            out,
            done,
            running: None,
        }
    }

    /// Does what the coordinator asks. A newer request takes the place of one that still runs: its sender has given the
    /// older one up.
    pub fn asked(&mut self, endpoint: &Endpoint, asked: Measure) {
        let Measure { ticket, peer, dial } = asked;
        if !dial {
            return endpoint.expect_probe(peer.node);
        }
        if let Some(older) = self.running.take() {
            older.abort();
        }
        let (endpoint, out) = (endpoint.clone(), self.out.clone());
        self.running = Some(tokio::spawn(async move {
            let link = match endpoint.probe(&peer).await {
                Ok(link) => Ok(LinkRates {
                    rtt_s: link.rtt.as_secs_f64(),
                    out_bytes_per_s: link.out_bytes_per_s,
                    in_bytes_per_s: link.in_bytes_per_s,
                }),
                Err(error) => Err(error.to_string()),
            };
            let node = peer.node;
            // The loop is gone only when the process ends.
            let _gone = out.send(Measured { ticket, node, link }).await;
        }));
    }

    /// The next result. Cancel-safe.
    pub async fn next(&mut self) -> Option<Measured> {
        self.done.recv().await
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }
}
