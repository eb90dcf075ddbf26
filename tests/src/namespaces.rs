//! A LAN of network namespaces on this machine: hosts with an address each, one switch between them, and an ear on it.
//!
//! Needs Linux, the `ip` command and the right to make namespaces; [`Lan::new`] says so where the host lacks them. Nothing
//! of it touches the machine's own network: the switch is a bridge in a namespace of its own. Dropping the LAN removes it.

use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::process::Process;

/// The address family of whole packets, and the protocol that means all of them, as the kernel numbers them.
const AF_PACKET: i32 = 17;
const ALL_PROTOCOLS: u16 = 3;
/// How often the ear looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// The interface of every host.
const PORT: &str = "lan0";

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// The switch and its hosts.
#[derive(Debug)]
pub struct Lan {
    name: String,
    hosts: Vec<Host>,
}

/// A machine on the LAN.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let ran = Command::new("ip").args(arguments).output();
    let ran = ran.map_err(|error| format!("ip: {error}"))?;
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    Err(format!("ip {}: {said}", arguments.join(" ")))
}

fn must(arguments: &[&str]) {
    ip(arguments).unwrap_or_else(|error| panic!("{error}"));
}

impl Lan {
    /// A switch without hosts; an explanation where this machine cannot have one.
    ///
    /// # Errors
    /// No `ip` command, no right to make namespaces, or no bridge in the kernel.
    pub fn new() -> Result<Self, String> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("hns{}x{serial}", std::process::id());
        ip(&["netns", "add", &name])?;
        let lan = Self {
            name,
            hosts: Vec::new(),
        };
        // Every packet to a group goes to every host, as on a simple switch.
        let bridge = [
            "link",
            "add",
            "lan",
            "type",
            "bridge",
            "mcast_snooping",
            "0",
        ];
        ip(&[["-n", &lan.name].as_slice(), &bridge].concat())?;
        ip(&["-n", &lan.name, "link", "set", "lan", "up"])?;
        Ok(lan)
    }

    /// Connects a host with this address, `10.77.0.1/24` for example.
    pub fn host(&mut self, address: &str) -> Host {
        let number = self.hosts.len();
        let (namespace, port) = (format!("{}h{number}", self.name), format!("p{number}"));
        must(&["netns", "add", &namespace]);
        let host = Host { namespace };
        self.hosts.push(host.clone());
        must(&[
            "link",
            "add",
            "name",
            PORT,
            "netns",
            &host.namespace,
            "type",
            "veth",
            "peer",
            "name",
            &port,
            "netns",
            &self.name,
        ]);
        must(&[
            "-n", &self.name, "link", "set", &port, "master", "lan", "up",
        ]);
        must(&["-n", &host.namespace, "link", "set", "lo", "up"]);
        host.add(address);
        must(&["-n", &host.namespace, "link", "set", PORT, "up"]);
        // Groups are reached even where no address suggests it.
        for (family, group) in [("-4", "224.0.0.0/4"), ("-6", "ff00::/8")] {
            let route = [
                "-n",
                &host.namespace,
                family,
                "route",
                "replace",
                group,
                "dev",
                PORT,
            ];
            must(&route);
        }
        host
    }

    /// Records everything that passes the switch from now on.
    #[must_use]
    pub fn listen(&self) -> Ear {
        Ear::start(&self.name)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in self
            .hosts
            .iter()
            .map(|host| &host.namespace)
            .chain([&self.name])
        {
            if let Err(error) = ip(&["netns", "del", name]) {
                eprintln!("{error}");
            }
        }
    }
}

impl Host {
    fn add(&self, address: &str) {
        let mut words = vec![
            "-n",
            &self.namespace,
            "address",
            "add",
            address,
            "dev",
            PORT,
        ];
        if address.contains(':') {
            // Nobody else has it: no waiting until that is certain.
            words.push("nodad");
        }
        must(&words);
    }

    /// Gives the host another address in place of one that it has, as DHCP may.
    pub fn readdress(&self, from: &str, to: &str) {
        // In this order: an address that came second would go with the first.
        must(&["-n", &self.namespace, "address", "del", from, "dev", PORT]);
        self.add(to);
    }

    /// Starts a program on the host.
    #[must_use]
    pub fn start(&self, name: &str, program: &Path, arguments: &[&str]) -> Process {
        let program = program.to_str().expect("a path of plain text");
        let mut words = vec!["netns", "exec", &self.namespace, program];
        words.extend(arguments);
        Process::start(name, Path::new("ip"), &words)
    }

    /// Runs a future on the host: every socket that it opens is the host's.
    pub fn run<T: Send + 'static>(
        &self,
        what: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let namespace = self.namespace.clone();
        std::thread::spawn(move || {
            enter(&namespace);
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().expect("a runtime");
            runtime.block_on(what)
        })
    }
}

/// Moves the calling thread into a namespace.
fn enter(namespace: &str) {
    let path = Path::new("/run/netns").join(namespace);
    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let kind = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind)).expect("a namespace");
}

/// Hears all packets of the switch.
#[derive(Debug)]
pub struct Ear {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Vec<u8>>>,
}

impl Ear {
    fn start(namespace: &str) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (namespace, end) = (namespace.to_owned(), Arc::clone(&done));
        let (ready, listens) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            enter(&namespace);
            let all = Protocol::from(i32::from(ALL_PROTOCOLS.to_be()));
            let socket = Socket::new(Domain::from(AF_PACKET), Type::RAW, Some(all));
            let mut socket = socket.expect("a packet socket");
            socket.set_recv_buffer_size(32 << 20).expect("a buffer");
            socket.set_read_timeout(Some(LOOK)).expect("a timeout");
            ready.send(()).expect("the test waits");
            let mut packets = Vec::new();
            let mut packet = vec![0; 1 << 16];
            loop {
                match socket.read(&mut packet) {
                    Ok(bytes) => packets.push(packet[..bytes].to_vec()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if end.load(Ordering::Acquire) {
                            return packets;
                        }
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
        listens.recv().expect("the ear opens");
        Self { done, thread }
    }

    /// Everything that was heard, packet by packet.
    #[must_use]
    pub fn end(self) -> Vec<Vec<u8>> {
        self.done.store(true, Ordering::Release);
        self.thread.join().expect("the ear ends")
    }
}

/// Packets that contain a text.
#[must_use]
pub fn containing(packets: &[Vec<u8>], text: &str) -> usize {
    let text = text.as_bytes();
    let has = |packet: &&Vec<u8>| packet.windows(text.len()).any(|part| part == text);
    packets.iter().filter(has).count()
}
