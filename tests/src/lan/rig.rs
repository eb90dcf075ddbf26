//! Machines as network namespaces on one emulated switch.
//!
//! A namespace has no name and no file: it lives as long as the `cat` that waits in it for our end of a pipe, and as what
//! was started in it. So nothing is left behind, whatever becomes of the test process, a SIGKILL included: the pipe
//! closes, `cat` ends, the TAP devices go with their file descriptors, and the kernel removes the rest.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::task::JoinHandle;

use super::relay::{Port, Relay, Report};
use super::switch::address_of;
use super::tap::Tap;
use super::{Link, Route, Switch, WIRE_BYTES};

/// Name of the interface in every machine.
const INTERFACE: &str = "lan0";
/// Machines on one switch.
const MACHINES_MAX: usize = 64;

/// Why there is no emulated LAN here.
#[derive(Debug)]
pub struct RigError(String);

impl std::fmt::Display for RigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "no emulated LAN on this host: {}; it takes Linux with /dev/net/tun, the commands unshare, nsenter and ip, and \
             root or `unshare --user --map-root-user --net` around the command",
            self.0
        )
    }
}

impl std::error::Error for RigError {}

fn failed(what: &str) -> impl Fn(std::io::Error) -> RigError {
    move |error| RigError(format!("{what}: {error}"))
}

/// One namespace.
#[derive(Debug)]
struct Machine {
    /// Waits for the end of its standard input.
    holder: Child,
}

/// A switch with a machine at each port.
#[derive(Debug)]
pub struct Rig {
    machines: Vec<Machine>,
    relay: Relay,
    forwards: Mutex<Vec<JoinHandle<()>>>,
}

impl Rig {
    /// Starts one machine for each link. `seed` decides which frames are lost and how much each is late.
    ///
    /// # Errors
    /// When namespaces or TAP devices cannot be made here.
    pub fn new(links: &[Link], seed: u64) -> Result<Self, RigError> {
        if links.is_empty() || links.len() > MACHINES_MAX {
            let count = links.len();
            return Err(RigError(format!(
                "{count} machines were asked for, 1 to {MACHINES_MAX} were expected"
            )));
        }
        let mut machines = Vec::new();
        let mut ports: Vec<Box<dyn Port>> = Vec::new();
        for at in 0..links.len() {
            let machine = Machine::start()?;
            ports.push(Box::new(machine.connect(at)?));
            machines.push(machine);
        }
        let switch = Switch::new(Route::Ethernet, links, seed, WIRE_BYTES);
        let relay = Relay::start(switch, ports).map_err(failed("a thread"))?;
        Ok(Self {
            machines,
            relay,
            forwards: Mutex::default(),
        })
    }

    /// The same for a test: where it cannot be, the test says so and ends well.
    #[must_use]
    pub fn or_skip(links: &[Link], seed: u64) -> Option<Self> {
        match Self::new(links, seed) {
            Ok(rig) => Some(rig),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    /// How many machines there are.
    #[must_use]
    pub fn machines(&self) -> usize {
        self.machines.len()
    }

    /// Ids of the processes that keep the machines' namespaces.
    #[must_use]
    pub fn holders(&self) -> Vec<u32> {
        self.machines
            .iter()
            .map(|machine| machine.holder.id())
            .collect()
    }

    /// A machine's address on the LAN: 10.77.0.1 for the first.
    #[must_use]
    pub fn address(&self, machine: usize) -> Ipv4Addr {
        address(machine)
    }

    /// A command that runs `program` on a machine. Its process is the program's own: signals reach it.
    #[must_use]
    pub fn command(&self, machine: usize, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.machines[machine].namespace()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs `act` on a thread that is inside a machine: sockets that it opens belong to the machine, wherever they are
    /// used afterwards, and so do processes that it starts.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn within<T: Send>(
        &self,
        machine: usize,
        act: impl FnOnce() -> T + Send,
    ) -> Result<T, RigError> {
        within(&self.machines[machine].namespace(), act)
    }

    /// Makes a TCP address of a machine reachable from here: gives an address on this host's loopback. The bytes take no
    /// part of the emulated LAN. Must be called inside an async runtime.
    ///
    /// # Errors
    /// When no socket can be opened.
    pub fn forward(&self, machine: usize, to: SocketAddr) -> Result<SocketAddr, RigError> {
        let error = failed("forwarding");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(&error)?;
        listener.set_nonblocking(true).map_err(&error)?;
        let here = listener.local_addr().map_err(&error)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(&error)?;
        let namespace = self.machines[machine].namespace();
        let task = tokio::spawn(async move {
            let mut pairs = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                pairs.spawn(carry(near, namespace.clone(), to));
                while pairs.try_join_next().is_some() {}
            }
        });
        let mut forwards = self.forwards.lock().expect("no panic under the lock");
        forwards.push(task);
        Ok(here)
    }

    /// What has crossed the LAN, by machine, and how late it was.
    #[must_use]
    pub fn report(&self) -> Report {
        self.relay.report()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let forwards = self.forwards.get_mut();
        for task in forwards.into_iter().flat_map(|tasks| tasks.drain(..)) {
            task.abort();
        }
    }
}

/// Carries one connection until both sides have ended it.
async fn carry(mut near: tokio::net::TcpStream, namespace: String, to: SocketAddr) {
    let connect = move || within(&namespace, || TcpStream::connect(to));
    let Ok(Ok(Ok(far))) = tokio::task::spawn_blocking(connect).await else {
        // As a refused connection looks: closed.
        return;
    };
    let far = far
        .set_nonblocking(true)
        .and_then(|()| tokio::net::TcpStream::from_std(far));
    if let Ok(mut far) = far {
        // Either side may break off; the other sees the end.
        let _broken = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    }
}

fn address(machine: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(machine + 1).unwrap_or(u8::MAX))
}

/// Whether an address is one of a rig's.
#[must_use]
pub fn is_machine(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[..3] == [10, 77, 0])
}

fn within<T: Send>(namespace: &str, act: impl FnOnce() -> T + Send) -> Result<T, RigError> {
    let file = File::open(namespace).map_err(failed(namespace))?;
    let entered = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|error| failed("entering a namespace")(error.into()))?;
            Ok(act())
        });
        thread.join()
    });
    entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Machine {
    /// Makes a namespace.
    fn start() -> Result<Self, RigError> {
        let mut holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed("unshare"))?;
        // What comes back has been read by `cat`: by then the process is in its namespace.
        let asked = holder.stdin.as_mut().map(|pipe| pipe.write_all(b"ready\n"));
        let mut line = String::new();
        if let Some(out) = holder.stdout.as_mut() {
            // Nothing comes from one that has failed.
            let _read = BufReader::new(out).read_line(&mut line);
        }
        let machine = Self { holder };
        if line == "ready\n" && matches!(asked, Some(Ok(()))) {
            return Ok(machine);
        }
        Err(RigError(format!("unshare --net: {}", machine.last_words())))
    }

    fn last_words(mut self) -> String {
        drop(self.holder.stdin.take());
        let said = self.holder.stderr.take().map(BufReader::new);
        let line = said.and_then(|said| said.lines().next()?.ok());
        line.unwrap_or_else(|| "it ended without a word".to_owned())
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// Gives the machine its interface and addresses; the other end of the cable comes back.
    fn connect(&self, at: usize) -> Result<Tap, RigError> {
        let tap = within(&self.namespace(), || {
            for setting in ["accept_dad", "dad_transmits", "router_solicitations"] {
                // Where the system has no IPv6 there is nothing to hasten.
                let _absent = fs::write(format!("/proc/sys/net/ipv6/conf/default/{setting}"), "0");
            }
            let tap = Tap::open(INTERFACE).map_err(failed("/dev/net/tun"))?;
            configure(at)?;
            Ok(tap)
        });
        tap?
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ended = self.holder.kill();
        let _reaped = self.holder.wait();
    }
}

/// Sets up the interfaces of the namespace that this thread is in.
fn configure(at: usize) -> Result<(), RigError> {
    let [a, b, c, d, e, f] = address_of(at);
    let words = format!(
        "link set lo up\n\
         link set {INTERFACE} address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}\n\
         link set {INTERFACE} up\n\
         address add {}/24 dev {INTERFACE}\n\
         route add 224.0.0.0/4 dev {INTERFACE}\n",
        address(at)
    );
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed("ip"))?;
    if let Some(mut pipe) = ip.stdin.take() {
        pipe.write_all(words.as_bytes()).map_err(failed("ip"))?;
    }
    let ended = ip.wait_with_output().map_err(failed("ip"))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    Err(RigError(format!("ip: {said}")))
}
