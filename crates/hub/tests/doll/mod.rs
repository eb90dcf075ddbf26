//! A doll of a hub on loopback: listing, resolve, redirects to a second port as a store of blobs, ranges, checksums; and
//! on demand everything that a hub should not do. Knows nothing of the crate that it is made for.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "test support: each test file uses its part of it"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::Digest as _;

/// How long anything in a test may take.
pub const DEADLINE: Duration = Duration::from_secs(30);
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the doll does with the next request for a file.
#[derive(Debug, Clone)]
pub enum Act {
    /// Ends the connection after so many bytes of content.
    DropAfter(usize),
    /// Sends so many bytes, then nothing until [`Doll::release`].
    StallAfter(usize),
    /// Sends other bytes of the same length.
    Corrupt,
    /// More bytes than announced by the listing.
    TooLong,
    /// A status and no content.
    Status(u16),
    /// A page that wants a login.
    Html,
    /// The whole content, whatever range was asked for.
    NoRange,
    /// A range that was not asked for.
    WrongRange,
    /// A redirect to this address.
    Redirect(String),
    /// This text as a listing.
    Json(String),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `hub` or `blobs`.
    pub port: &'static str,
    pub path: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
}

#[derive(Default)]
struct State {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    acts: Mutex<Vec<(String, Act)>>,
    seen: Mutex<Vec<Seen>>,
    ending: AtomicBool,
    released: Mutex<bool>,
    release: Condvar,
}

/// A hub with one repository, `org/repo`.
pub struct Doll {
    hub: SocketAddr,
    blobs: SocketAddr,
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

impl Doll {
    /// A hub with these files; those that end with .gguf or .safetensors are large ones.
    pub fn start(files: &[(&str, Vec<u8>)]) -> Self {
        let state = Arc::new(State::default());
        let owned = files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), bytes.clone()));
        *state.files.lock().unwrap() = owned.collect();
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [hub, blobs] = listeners.each_ref().map(|l| l.local_addr().unwrap());
        let threads = listeners.into_iter().zip(["hub", "blobs"]);
        let threads = threads
            .map(|(listener, port)| {
                let state = Arc::clone(&state);
                std::thread::spawn(move || serve(&listener, port, blobs, &state))
            })
            .collect();
        Self {
            hub,
            blobs,
            state,
            threads,
        }
    }

    /// Where the hub is.
    pub fn url(&self) -> String {
        format!("http://{}", self.hub)
    }

    /// Where its blobs are.
    pub fn blobs_url(&self) -> String {
        format!("http://{}", self.blobs)
    }

    /// The next request whose path contains `part` gets this.
    pub fn act(&self, part: &str, act: Act) {
        self.state.acts.lock().unwrap().push((part.to_owned(), act));
    }

    /// Ends every stall.
    pub fn release(&self) {
        *self.state.released.lock().unwrap() = true;
        self.state.release.notify_all();
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Another content of a file; the listing follows.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        self.state
            .files
            .lock()
            .unwrap()
            .insert(name.to_owned(), bytes);
    }
}

impl Drop for Doll {
    fn drop(&mut self) {
        self.state.ending.store(true, Ordering::SeqCst);
        self.release();
        for address in [self.hub, self.blobs] {
            // Wakes the listener; if it is gone already, so much the better.
            let _ = TcpStream::connect(address);
        }
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn serve(listener: &TcpListener, port: &'static str, blobs: SocketAddr, state: &Arc<State>) {
    let mut threads = Vec::new();
    for stream in listener.incoming() {
        if state.ending.load(Ordering::SeqCst) {
            break;
        }
        let (stream, state) = (stream.unwrap(), Arc::clone(state));
        // A client that goes away in the middle is part of the tests.
        threads.push(std::thread::spawn(move || {
            let _ = answer(stream, port, blobs, &state);
        }));
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

fn read_request(stream: &TcpStream, port: &'static str) -> std::io::Result<Seen> {
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let target = first.split(' ').nth(1).unwrap_or_default();
    // A proxy is asked with the whole address.
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("", |at| &rest[at..]),
        None => target,
    };
    let mut seen = Seen {
        port,
        path: path.to_owned(),
        authorization: None,
        range: None,
    };
    for line in lines {
        let line = line?;
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                seen.authorization = Some(value.to_owned());
            }
            Some((name, value)) if name.eq_ignore_ascii_case("range") => {
                seen.range = Some(value.to_owned());
            }
            Some(_) => {}
            None => break,
        }
    }
    Ok(seen)
}

fn answer(
    mut stream: TcpStream,
    port: &'static str,
    blobs: SocketAddr,
    state: &State,
) -> std::io::Result<()> {
    let seen = read_request(&stream, port)?;
    state.seen.lock().unwrap().push(seen.clone());
    let act = {
        let mut acts = state.acts.lock().unwrap();
        let found = acts
            .iter()
            .position(|(part, _)| seen.path.contains(part.as_str()));
        found.map(|at| acts.remove(at).1)
    };
    match &act {
        Some(Act::Status(status)) => return head(&mut stream, *status, "text/plain", 0, ""),
        Some(Act::Html) => return text(&mut stream, "text/html", "<html>please log in</html>"),
        Some(Act::Json(json)) => return text(&mut stream, "application/json", json),
        Some(Act::Redirect(to)) => {
            return head(
                &mut stream,
                302,
                "text/plain",
                0,
                &format!("Location: {to}\r\n"),
            );
        }
        _ => {}
    }
    if seen.path.starts_with("/api/models/org/repo/revision/") {
        return text(
            &mut stream,
            "application/json; charset=utf-8",
            &listing(state),
        );
    }
    let prefixes = [format!("/org/repo/resolve/{COMMIT}/"), "/blobs/".to_owned()];
    let name = prefixes
        .iter()
        .find_map(|prefix| seen.path.strip_prefix(prefix.as_str()));
    let name = name
        .unwrap_or_default()
        .split('?')
        .next()
        .unwrap_or_default();
    let Some(content) = state.files.lock().unwrap().get(name).cloned() else {
        return head(&mut stream, 404, "text/plain", 0, "");
    };
    if port == "hub" && is_large(name) {
        let to = format!("Location: http://{blobs}/blobs/{name}?signature=secret\r\n");
        return head(&mut stream, 302, "text/plain", 0, &to);
    }
    content_of(&mut stream, &seen, content, act, state)
}

fn content_of(
    stream: &mut TcpStream,
    seen: &Seen,
    mut content: Vec<u8>,
    act: Option<Act>,
    state: &State,
) -> std::io::Result<()> {
    let from = seen.range.as_deref().and_then(|range| {
        let range = range.strip_prefix("bytes=")?;
        range.strip_suffix('-')?.parse::<usize>().ok()
    });
    let from = from.filter(|_| !matches!(act, Some(Act::NoRange)));
    match act {
        Some(Act::Corrupt) => content.iter_mut().for_each(|byte| *byte ^= 0x55),
        Some(Act::TooLong) => content.extend([7; 1000]),
        _ => {}
    }
    let all = content.len();
    let (status, first, range) = match from {
        Some(from) if from >= all => return head(stream, 416, "text/plain", 0, ""),
        Some(from) => {
            let told = if matches!(act, Some(Act::WrongRange)) {
                0
            } else {
                from
            };
            let range = format!("Content-Range: bytes {told}-{}/{all}\r\n", all - 1);
            (206, from, range)
        }
        None => (200, 0, String::new()),
    };
    let rest = content.get(first..).unwrap_or_default();
    head(
        stream,
        status,
        "application/octet-stream",
        rest.len(),
        &range,
    )?;
    match act {
        Some(Act::DropAfter(bytes)) => stream.write_all(&rest[..bytes.min(rest.len())]),
        Some(Act::StallAfter(bytes)) => {
            stream.write_all(&rest[..bytes.min(rest.len())])?;
            let released = state.released.lock().unwrap();
            let waiting = |released: &mut bool| !*released;
            drop(
                state
                    .release
                    .wait_timeout_while(released, DEADLINE, waiting)
                    .unwrap(),
            );
            Ok(())
        }
        _ => stream.write_all(rest),
    }
}

fn head(
    stream: &mut TcpStream,
    status: u16,
    kind: &str,
    bytes: usize,
    more: &str,
) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} Doll\r\nContent-Type: {kind}\r\nContent-Length: {bytes}\r\nConnection: close\r\n{more}\r\n"
    )
}

fn text(stream: &mut TcpStream, kind: &str, text: &str) -> std::io::Result<()> {
    head(stream, 200, kind, text.len(), "")?;
    stream.write_all(text.as_bytes())
}

fn is_large(name: &str) -> bool {
    name.ends_with(".gguf") || name.ends_with(".safetensors")
}

fn listing(state: &State) -> String {
    let files = state.files.lock().unwrap();
    let siblings: Vec<String> = files
        .iter()
        .map(|(name, bytes)| {
            let size = bytes.len();
            let mut blob = sha1::Sha1::new();
            blob.update(format!("blob {size}\0").as_bytes());
            blob.update(bytes);
            let blob = hex::encode(blob.finalize());
            let lfs = if is_large(name) {
                let sum = hex::encode(sha2::Sha256::digest(bytes));
                format!(r#","lfs":{{"sha256":"{sum}","size":{size},"pointerSize":134}}"#)
            } else {
                String::new()
            };
            format!(r#"{{"rfilename":"{name}","size":{size},"blobId":"{blob}"{lfs}}}"#)
        })
        .collect();
    format!(
        r#"{{"id":"org/repo","sha":"{COMMIT}","siblings":[{}]}}"#,
        siblings.join(",")
    )
}

/// Bytes that repeat only after a long time.
pub fn noise(count: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..count).map(|_| next()).collect()
}
