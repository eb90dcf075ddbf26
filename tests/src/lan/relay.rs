//! The thread that moves frames: reads what machines send, and gives out what is due, when it is due.
//!
//! Async timers are a millisecond coarse and `poll` wakes late by the timer slack of 50 µs; a gigabit wire has a round trip
//! of 250 µs. So the thread sets its slack to a nanosecond and, as root, its priority to the highest, sleeps until `SPIN` before the next frame is due, and looks
//! without sleeping from there on. It takes a core while frames fly, and none while none do.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Counts, Switch};

/// Before a frame is due, the thread looks for so long without sleeping: about what a wake-up takes.
const SPIN: Duration = Duration::from_micros(60);
/// Frames read from one port before those that are due are given out.
const BURST: usize = 16;
/// Bytes of the longest frame or datagram.
const FRAME_BYTES_MAX: usize = 65_536;

/// What reading from a port gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// So many bytes of one frame.
    Frame(usize),
    /// Nothing just now.
    Nothing,
    /// Nothing ever again.
    Closed,
}

/// Where a machine's frames come from and go to. Never blocks.
pub trait Port: Send {
    /// What to wait on.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Reads one frame.
    fn recv(&self, buffer: &mut [u8]) -> Got;
    /// Writes one frame, or loses it as a full or pulled cable would.
    fn send(&self, frame: &[u8]);
}

/// How late frames were given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lateness {
    /// Frames late by less than 10, 30, 100, 300, 1000 µs, and by more.
    pub frames: [u64; 6],
    /// The largest.
    pub worst: Duration,
}

impl Lateness {
    /// The upper ends of [`Lateness::frames`] in microseconds; the last is open.
    pub const ENDS_US: [u64; 5] = [10, 30, 100, 300, 1000];

    fn add(&mut self, late: Duration) {
        self.worst = self.worst.max(late);
        let us = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        let at = Self::ENDS_US.iter().position(|end| us < *end);
        if let Some(count) = self.frames.get_mut(at.unwrap_or(Self::ENDS_US.len())) {
            *count += 1;
        }
    }
}

/// What the relay has done.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// By port.
    pub counts: Vec<Counts>,
    /// Of all frames together.
    pub lateness: Lateness,
}

/// A running relay. Dropping it ends the thread and closes its ports.
#[derive(Debug)]
pub struct Relay {
    stop: UnixStream,
    report: Arc<Mutex<Report>>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts a thread for `switch`, whose ports are `ports` in this order.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(switch: Switch, ports: Vec<Box<dyn Port>>) -> std::io::Result<Self> {
        let (stop, stopped) = UnixStream::pair()?;
        let report = Arc::new(Mutex::new(Report {
            counts: switch.counts(),
            lateness: Lateness::default(),
        }));
        let theirs = Arc::clone(&report);
        let thread = std::thread::Builder::new()
            .name("lan".to_owned())
            .spawn(move || {
                #[cfg(target_os = "linux")]
                hasten();
                let open = vec![true; ports.len()];
                Mover {
                    switch,
                    ports,
                    open,
                    begun: Instant::now(),
                    lateness: Lateness::default(),
                    report: theirs,
                }
                .run(&stopped);
            })?;
        Ok(Self {
            stop,
            report,
            thread: Some(thread),
        })
    }

    /// What it had done when it last had nothing due.
    #[must_use]
    pub fn report(&self) -> Report {
        let report = self.report.lock();
        report.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // If nobody reads it the thread has ended already.
        let _ended = self.stop.write_all(&[0]);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Makes this thread wake when it asked to, and before others: a frame that is late delays whoever waits for it.
#[cfg(target_os = "linux")]
fn hasten() {
    if let Err(error) = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)) {
        eprintln!("lan: frames will be late by the system's timer slack: {error}");
    }
    // Who is not root waits as everybody does; the lateness is counted.
    let _refused = rustix::process::setpriority_process(Some(rustix::thread::gettid()), -20);
}

struct Mover {
    switch: Switch,
    ports: Vec<Box<dyn Port>>,
    open: Vec<bool>,
    begun: Instant,
    lateness: Lateness,
    report: Arc<Mutex<Report>>,
}

impl Mover {
    fn run(mut self, stopped: &UnixStream) {
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        loop {
            self.give_out();
            let wait = self.switch.poll_timeout().map(|due| {
                let left = due.saturating_sub(self.begun.elapsed());
                left.saturating_sub(SPIN)
            });
            if wait != Some(Duration::ZERO) {
                self.publish();
            }
            match self.ready(stopped, wait) {
                None => break,
                Some(ready) => ready
                    .into_iter()
                    .for_each(|port| self.take_in(port, &mut buffer)),
            }
        }
        self.publish();
    }

    fn give_out(&mut self) {
        while let Some((port, due, frame)) = self.switch.poll_output(self.begun.elapsed()) {
            if let Some(port) = self.ports.get(port) {
                port.send(&frame);
            }
            self.lateness.add(self.begun.elapsed().saturating_sub(due));
        }
    }

    /// Waits; gives the ports that have something, or nothing if it shall end.
    fn ready(&self, stopped: &UnixStream, wait: Option<Duration>) -> Option<Vec<usize>> {
        let open = (0..).zip(&self.ports).zip(&self.open);
        let open = open.filter(|(_, open)| **open).map(|(port, _)| port);
        let (numbers, mut fds): (Vec<usize>, Vec<PollFd<'_>>) = open
            .map(|(number, port)| (number, PollFd::from_borrowed_fd(port.fd(), PollFlags::IN)))
            .unzip();
        fds.push(PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN));
        let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
        if poll(&mut fds, wait.as_ref()).is_err() {
            // A signal; nothing is known of the ports.
            return Some(Vec::new());
        }
        let said = fds.pop().is_none_or(|fd| !fd.revents().is_empty());
        if said && (&*stopped).read(&mut [0]).is_ok() {
            return None;
        }
        let ready = numbers.into_iter().zip(&fds);
        let ready = ready.filter(|(_, fd)| !fd.revents().is_empty());
        Some(ready.map(|(number, _)| number).collect())
    }

    fn take_in(&mut self, port: usize, buffer: &mut [u8]) {
        for _ in 0..BURST {
            let got = self.ports.get(port).map(|port| port.recv(buffer));
            match got {
                Some(Got::Frame(bytes)) => {
                    let frame = buffer.get(..bytes).unwrap_or_default().to_vec();
                    self.switch.handle_input(self.begun.elapsed(), port, frame);
                }
                Some(Got::Closed) => {
                    if let Some(open) = self.open.get_mut(port) {
                        *open = false;
                    }
                    return;
                }
                Some(Got::Nothing) | None => return,
            }
        }
    }

    fn publish(&self) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.counts = self.switch.counts();
        report.lateness = self.lateness;
    }
}
