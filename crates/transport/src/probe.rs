//! How fast a link is: round trips and throughput between two devices, over a connection of its own.
//!
//! Owns the bytes of a probe and its bounds: at most [`BULK_BYTES`] and [`BULK_TIME`] each way, and the whole within
//! [`DEADLINE`]. Who is probed must have been told to expect it, for one probe of one key; everybody else is refused.
//! Must never disturb answers: as soon as a frame leaves or reaches this device, every probe here ends.
//!
//! ```text
//! one bidirectional stream, records of 16 bytes, the dialling side first
//!   0: ping        1 kind = 0, 7 zero, 8 number, then a row of 8 KiB  -> the same record and a row back
//!   1: take        1 kind = 1, 15 zero, then bytes on a stream of their own
//!                                                      -> 8 bytes counted, 8 microseconds
//!   2: give        1 kind = 2, 15 zero                 -> bytes on a stream of their own
//! ```

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use proto::NodeId;
use proto::control::Peer;
use quinn::{Connection, ReadExactError, RecvStream, SendStream, VarInt};
use tokio::sync::watch;

use crate::endpoint::{Endpoint, Shared};
use crate::error::{CloseCode, ProbeError, describe};
use crate::tls::Plane;

/// Bytes that a probe sends each way.
const BULK_BYTES: u64 = 2 << 20;
/// Time after which the receiver has seen enough.
const BULK_TIME: Duration = Duration::from_millis(120);
/// Window of a probe's connection: all that it may bring.
const WINDOW: VarInt = VarInt::from_u32(4 << 20);
/// Round trips, and the time after which fewer are enough.
const ROUNDS: usize = 48;
const ROUNDS_LEAST: usize = 4;
const ROUNDS_TIME: Duration = Duration::from_millis(200);
/// What each round trip carries both ways: about what one token's row takes, so that a frame of several packets, their
/// jitter and the loss of one of them are in the time.
const ROW_BYTES: usize = 8 << 10;
/// Records that the answering side reads before it has had enough.
const RECORDS_MAX: usize = 64;
/// Time for a whole probe.
const DEADLINE: Duration = Duration::from_secs(3);
/// How long a device may be expected.
const EXPECTED: Duration = Duration::from_secs(10);
/// Devices that may be expected at once.
const EXPECTED_MAX: usize = 8;
/// How long one that is not expected yet is kept waiting: what allows it may be on its way.
const COURTESY: Duration = Duration::from_secs(1);
/// Probes here at once, waiting ones included.
const PROBES_MAX: u32 = 4;

const RECORD_BYTES: usize = 16;
const PING: u8 = 0;
const TAKE: u8 = 1;
const GIVE: u8 = 2;
type Record = [u8; RECORD_BYTES];
static BULK: [u8; 64 << 10] = [0; 64 << 10];

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkSpeed {
    /// From this program to the other and back with a row of 8 KiB each way, the software of both sides included: the mean
    /// of some without the longest.
    pub rtt: Duration,
    /// Bytes per second from here to there.
    pub out_bytes_per_s: f64,
    /// Bytes per second from there to here.
    pub in_bytes_per_s: f64,
}

/// Who may probe this device, and which probes run.
#[derive(Debug)]
pub(crate) struct Probes {
    expected: watch::Sender<Vec<(NodeId, Instant)>>,
    running: AtomicU32,
    frames: watch::Sender<()>,
}

/// Counts a probe as long as it lives.
struct Running<'p>(&'p Probes);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Probes {
    pub(crate) fn new() -> Self {
        Self {
            expected: watch::Sender::new(Vec::new()),
            running: AtomicU32::new(0),
            frames: watch::Sender::new(()),
        }
    }

    /// A frame travels: probes end. Costs one load where there are none.
    pub(crate) fn give_way(&self) {
        if self.running.load(Ordering::Acquire) > 0 {
            self.frames.send_replace(());
        }
    }

    fn begin(&self) -> Option<Running<'_>> {
        let more = |running| (running < PROBES_MAX).then_some(running + 1);
        let counted = self
            .running
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        counted.ok().map(|_| Running(self))
    }

    fn expect(&self, node: NodeId) {
        let now = Instant::now();
        self.expected.send_modify(|expected| {
            expected
                .retain(|(known, since)| *known != node && now.duration_since(*since) < EXPECTED);
            if expected.len() >= EXPECTED_MAX {
                expected.remove(0);
            }
            expected.push((node, now));
        });
    }

    /// Uses up the expectation of `node`; waits a moment for one that may be on its way.
    async fn admitted(&self, node: &NodeId) -> bool {
        let mut expected = self.expected.subscribe();
        let waited = expected.wait_for(|expected| place(expected, node).is_some());
        // Nothing of it is kept: it would lock what is taken below.
        let came = tokio::time::timeout(COURTESY, waited)
            .await
            .is_ok_and(|found| found.is_ok());
        came && self.take(node)
    }

    fn take(&self, node: &NodeId) -> bool {
        self.expected.send_if_modified(|expected| {
            let place = place(expected, node);
            place.map(|place| expected.remove(place)).is_some()
        })
    }
}

/// Where `node` stands among those that are still expected.
fn place(expected: &[(NodeId, Instant)], node: &NodeId) -> Option<usize> {
    let fits = |(known, since): &(NodeId, Instant)| known == node && since.elapsed() < EXPECTED;
    expected.iter().position(fits)
}

impl Endpoint {
    /// Lets `node` measure its link to this device once, within the next ten seconds.
    pub fn expect_probe(&self, node: NodeId) {
        self.0.probes.expect(node);
    }

    /// Measures the link to `peer`, which has to expect us: some round trips and at most 2 MiB each way, all within
    /// three seconds, half a second on a usual link.
    ///
    /// # Errors
    /// When the peer is not reached or does not expect us, when the probe breaks or takes too long, and when a frame
    /// left or reached this device meanwhile: frames go first.
    pub async fn probe(&self, peer: &Peer) -> Result<LinkSpeed, ProbeError> {
        let probes = &self.0.probes;
        let _running = probes.begin().ok_or(ProbeError::Busy)?;
        let mut frames = probes.frames.subscribe();
        let work = async {
            let connection = self.0.dialler.dial(peer, Plane::Probe).await?;
            open_windows(&connection);
            let found = ask(&connection)
                .await
                .map_err(|broken| ProbeError::Broken {
                    node: peer.node.clone(),
                    text: match connection.close_reason() {
                        Some(reason) => describe(&reason),
                        None => broken.to_owned(),
                    },
                })?;
            CloseCode::Done.close(&connection, "");
            Ok(found)
        };
        tokio::select! {
            biased;
            _ = frames.changed() => Err(ProbeError::GaveWay),
            done = tokio::time::timeout(DEADLINE, work) => done.unwrap_or(Err(ProbeError::Late)),
        }
    }
}

/// Answers one probe of a device that is expected.
pub(crate) async fn answer(shared: &Shared, connection: Connection, node: NodeId) {
    let probes = &shared.probes;
    let Some(_running) = probes.begin() else {
        return CloseCode::Busy.close(&connection, "too many probes at once");
    };
    let mut frames = probes.frames.subscribe();
    let served = async {
        if !probes.admitted(&node).await {
            tracing::debug!(%node, "an unexpected probe was refused");
            return CloseCode::NotMember
                .close(&connection, "this device expects no probe of yours");
        }
        open_windows(&connection);
        match serve(&connection).await {
            Ok(()) => {
                // The last bytes are on their way; the other side closes.
                connection.closed().await;
            }
            Err(broken) => CloseCode::Malformed.close(&connection, broken),
        }
    };
    tokio::select! {
        biased;
        _ = frames.changed() => CloseCode::Busy.close(&connection, "frames go first"),
        done = tokio::time::timeout(DEADLINE, served) => if done.is_err() {
            CloseCode::TooSlow.close(&connection, "the probe took too long");
        },
    }
}

fn open_windows(connection: &Connection) {
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(1));
    connection.set_receive_window(WINDOW);
}

const TORN: &str = "the probe's stream ended early";
const ODD: &str = "the probe's bytes are not those of this version";

type Broken = &'static str;

async fn write(stream: &mut SendStream, record: &Record) -> Result<(), Broken> {
    stream.write_all(record).await.map_err(|_| TORN)
}

async fn read(stream: &mut RecvStream) -> Result<Record, Broken> {
    let mut record = [0; RECORD_BYTES];
    stream.read_exact(&mut record).await.map_err(|_| TORN)?;
    Ok(record)
}

fn record(kind: u8, number: u64) -> Record {
    let mut record = [0; RECORD_BYTES];
    let (head, tail) = record.split_at_mut(8);
    head.copy_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
    tail.copy_from_slice(&number.to_le_bytes());
    record
}

/// The dialling side.
async fn ask(connection: &Connection) -> Result<LinkSpeed, Broken> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(|_| TORN)?;
    let rtt = round_trips(&mut send, &mut recv).await?;
    write(&mut send, &record(TAKE, 0)).await?;
    let (sent, report) = tokio::join!(send_bulk(connection), read(&mut recv));
    sent?;
    let out_bytes_per_s = parse_report(&report?)?;
    write(&mut send, &record(GIVE, 0)).await?;
    let (bytes, time) = take_bulk(connection).await?;
    Ok(LinkSpeed {
        rtt,
        out_bytes_per_s,
        in_bytes_per_s: per_second(bytes, time),
    })
}

/// The mean of the round trips without the longest; the first warms up.
async fn round_trips(send: &mut SendStream, recv: &mut RecvStream) -> Result<Duration, Broken> {
    let begun = Instant::now();
    let mut times = Vec::with_capacity(ROUNDS);
    for (round, number) in (0..=ROUNDS).zip(0u64..) {
        if times.len() >= ROUNDS_LEAST && begun.elapsed() > ROUNDS_TIME {
            break;
        }
        let ping = record(PING, number);
        let start = Instant::now();
        write(send, &ping).await?;
        write_row(send).await?;
        if read(recv).await? != ping {
            return Err(ODD);
        }
        read_row(recv).await?;
        if round > 0 {
            times.push(start.elapsed());
        }
    }
    times.sort_unstable();
    times.pop();
    let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
    let sum: Duration = times.iter().sum();
    sum.checked_div(count).ok_or(TORN)
}

async fn write_row(stream: &mut SendStream) -> Result<(), Broken> {
    let row = BULK.get(..ROW_BYTES).unwrap_or_default();
    stream.write_all(row).await.map_err(|_| TORN)
}

async fn read_row(stream: &mut RecvStream) -> Result<(), Broken> {
    let mut row = [0; ROW_BYTES];
    stream.read_exact(&mut row).await.map_err(|_| TORN)
}

/// Sends until all is sent or the other side has seen enough.
async fn send_bulk(connection: &Connection) -> Result<(), Broken> {
    let mut stream = connection.open_uni().await.map_err(|_| TORN)?;
    let mut left = BULK_BYTES;
    while left > 0 {
        match stream.write_all(&BULK).await {
            Ok(()) => left = left.saturating_sub(BULK.len() as u64),
            Err(quinn::WriteError::Stopped(_)) => return Ok(()),
            Err(_) => return Err(TORN),
        }
    }
    // A stream that was stopped meanwhile needs no end.
    let _stopped = stream.finish();
    Ok(())
}

/// Bytes that came after the first ones, and the time that they took.
async fn take_bulk(connection: &Connection) -> Result<(u64, Duration), Broken> {
    let mut stream = connection.accept_uni().await.map_err(|_| TORN)?;
    let mut begun: Option<Instant> = None;
    let (mut bytes, mut last) = (0u64, Duration::ZERO);
    while bytes < BULK_BYTES && last < BULK_TIME {
        let chunk = stream.read_chunk(BULK.len(), true).await;
        let Some(chunk) = chunk.map_err(|_| TORN)? else {
            break;
        };
        match begun {
            None => begun = Some(Instant::now()),
            Some(begun) => {
                bytes = bytes.saturating_add(chunk.bytes.len() as u64);
                last = begun.elapsed();
            }
        }
    }
    // What is still under way is not needed.
    let _ended = stream.stop(VarInt::from_u32(0));
    if bytes == 0 {
        Err(TORN)
    } else {
        Ok((bytes, last))
    }
}

fn per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64().max(1e-6)
}

fn parse_report(report: &Record) -> Result<f64, Broken> {
    let [a, b, c, d, e, f, g, h, micros @ ..] = *report;
    let bytes = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let micros = u64::from_le_bytes(micros);
    let most = BULK_BYTES.saturating_add(BULK.len() as u64);
    if bytes == 0 || bytes > most || micros > 60_000_000 {
        return Err(ODD);
    }
    Ok(per_second(bytes, Duration::from_micros(micros)))
}

/// The answering side, until the dialling side has what it wants.
async fn serve(connection: &Connection) -> Result<(), Broken> {
    let (mut send, mut recv) = connection.accept_bi().await.map_err(|_| TORN)?;
    for _ in 0..RECORDS_MAX {
        let mut got = [0; RECORD_BYTES];
        match recv.read_exact(&mut got).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(0)) => return Ok(()),
            Err(_) => return Err(TORN),
        }
        match got {
            [PING, ..] => {
                read_row(&mut recv).await?;
                write(&mut send, &got).await?;
                write_row(&mut send).await?;
            }
            [TAKE, ..] => {
                let (bytes, time) = take_bulk(connection).await?;
                let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                let mut report = record(0, micros);
                if let Some(head) = report.get_mut(..8) {
                    head.copy_from_slice(&bytes.to_le_bytes());
                }
                write(&mut send, &report).await?;
            }
            [GIVE, ..] => {
                send_bulk(connection).await?;
                return Ok(());
            }
            _ => return Err(ODD),
        }
    }
    Err(ODD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_fixed_bytes_and_reports_are_checked() {
        assert_eq!(
            record(2, 0x0102),
            [2, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]
        );
        let report = |bytes: u64, micros: u64| {
            let mut report = record(0, micros);
            report[..8].copy_from_slice(&bytes.to_le_bytes());
            parse_report(&report)
        };
        assert_eq!(report(1_000_000, 10_000), Ok(1e8));
        assert!(report(1_000, 0).unwrap() <= 1e9, "no division by nothing");
        for (bytes, micros) in [(0, 5), (u64::MAX, 5), (5, u64::MAX)] {
            assert_eq!(report(bytes, micros), Err(ODD), "{bytes} in {micros}");
        }
    }

    #[tokio::test]
    async fn an_expectation_holds_for_one_probe_of_one_key() {
        let (a, b) = (NodeId::new("a").unwrap(), NodeId::new("b").unwrap());
        let probes = Probes::new();
        probes.expect(a.clone());
        probes.expect(a.clone());
        assert!(probes.admitted(&a).await);
        assert!(!probes.take(&a), "used up");
        probes.expect(a.clone());
        assert!(!probes.take(&b), "another key");
        assert!(probes.take(&a));
        for n in 0..20 {
            probes.expect(NodeId::new(format!("n{n}")).unwrap());
        }
        assert_eq!(probes.expected.borrow().len(), EXPECTED_MAX);
    }

    #[test]
    fn so_many_probes_and_no_more_run_at_once() {
        let probes = Probes::new();
        let running: Vec<_> = (0..PROBES_MAX).filter_map(|_| probes.begin()).collect();
        assert_eq!(running.len(), PROBES_MAX as usize);
        assert!(probes.begin().is_none());
        drop(running);
        assert!(probes.begin().is_some());
    }
}
