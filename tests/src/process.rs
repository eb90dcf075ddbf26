//! One process of a test: its log is kept, its end is waited for with a deadline, and it never outlives its test.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long anything in a test may take.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Lines of one process, in the order of their arrival.
#[derive(Debug, Default)]
struct Log {
    out: Vec<String>,
    err: Vec<String>,
}

/// A running or ended process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<Log>>,
    news: watch::Receiver<u64>,
    readers: Vec<JoinHandle<()>>,
}

/// What a process that ended has said.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its stdout.
    pub out: String,
    /// Its stderr.
    pub err: String,
}

impl Ended {
    /// Its stdout, which must be exactly one JSON value on one line.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let line = self.out.strip_suffix('\n').unwrap_or(&self.out);
        assert!(
            !line.contains('\n'),
            "more than one line of answer: {self:?}"
        );
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The same, which must have ended well.
    #[must_use]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

/// A command with our environment removed, so that no setting of the person who tests gets in.
fn command<S: AsRef<OsStr>>(
    program: std::process::Command,
    arguments: &[S],
    envs: &[(&str, &str)],
) -> Command {
    let mut command = Command::from(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HEARTH_") {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .envs(envs.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs a command to its end.
pub async fn run<S: AsRef<OsStr>>(program: &Path, arguments: &[S]) -> Ended {
    run_with(program, arguments, &[]).await
}

/// Runs a command with some variables to its end.
pub async fn run_with<S: AsRef<OsStr>>(
    program: &Path,
    arguments: &[S],
    envs: &[(&str, &str)],
) -> Ended {
    let program_command = std::process::Command::new(program);
    let output = command(program_command, arguments, envs).output();
    let output = tokio::time::timeout(DEADLINE, output)
        .await
        .unwrap_or_else(|_| panic!("{} did not end", program.display()))
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    Ended {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Process {
    /// Starts a program.
    pub fn start<S: AsRef<OsStr>>(name: &str, program: &Path, arguments: &[S]) -> Self {
        Self::start_with(name, program, arguments, &[])
    }

    /// Starts a program with some variables.
    pub fn start_with<S: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: &[S],
        envs: &[(&str, &str)],
    ) -> Self {
        Self::spawn(name, std::process::Command::new(program), arguments, envs)
    }

    /// Starts a command that somebody has prepared, such as one on another machine of an emulated LAN.
    pub fn spawn<S: AsRef<OsStr>>(
        name: &str,
        program: std::process::Command,
        arguments: &[S],
        envs: &[(&str, &str)],
    ) -> Self {
        let mut child = command(program, arguments, envs)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let log = Arc::new(Mutex::new(Log::default()));
        let (sender, news) = watch::channel(0);
        let sender = Arc::new(sender);
        let out = child.stdout.take().expect("piped");
        let err = child.stderr.take().expect("piped");
        let readers = vec![
            tokio::spawn(keep(
                out,
                Arc::clone(&log),
                |log| &mut log.out,
                Arc::clone(&sender),
            )),
            tokio::spawn(keep(err, Arc::clone(&log), |log| &mut log.err, sender)),
        ];
        Self {
            name: name.to_owned(),
            child,
            log,
            news,
            readers,
        }
    }

    /// The process id while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it has said on stdout so far.
    #[must_use]
    pub fn out(&self) -> Vec<String> {
        self.log
            .lock()
            .expect("no panic under the lock")
            .out
            .clone()
    }

    /// What it has said on stderr so far.
    #[must_use]
    pub fn err(&self) -> Vec<String> {
        self.log
            .lock()
            .expect("no panic under the lock")
            .err
            .clone()
    }

    /// The first line of stdout that contains `text`, now or later.
    pub async fn out_line(&mut self, text: &str) -> String {
        self.line(text, |log| &log.out).await
    }

    /// The first line of stderr that contains `text`, now or later.
    pub async fn err_line(&mut self, text: &str) -> String {
        self.line(text, |log| &log.err).await
    }

    async fn line(&mut self, text: &str, side: fn(&Log) -> &Vec<String>) -> String {
        let log = Arc::clone(&self.log);
        let find = || {
            let log = log.lock().expect("no panic under the lock");
            side(&log).iter().find(|line| line.contains(text)).cloned()
        };
        let found = tokio::time::timeout(DEADLINE, async {
            loop {
                if let Some(line) = find() {
                    return Some(line);
                }
                if self.news.changed().await.is_err() {
                    return find();
                }
            }
        });
        match found.await {
            Ok(Some(line)) => line,
            Ok(None) => panic!(
                "{} ended without saying '{text}'\n{}",
                self.name,
                self.all()
            ),
            Err(_) => panic!("{} did not say '{text}'\n{}", self.name, self.all()),
        }
    }

    /// Asks it to end, as a terminal or a service manager does.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Ends it without a word to it.
    pub fn kill(&self) {
        self.signal("KILL");
    }

    /// Sends a signal by its name.
    pub fn signal(&self, signal: &str) {
        if let Some(id) = self.child.id() {
            let script = format!("kill -{signal} {id}");
            let sent = std::process::Command::new("sh")
                .args(["-c", &script])
                .status();
            assert!(sent.is_ok_and(|status| status.success()), "{script}");
        }
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> Ended {
        let status: ExitStatus = match tokio::time::timeout(DEADLINE, self.child.wait()).await {
            Ok(status) => status.expect("a child can be waited for"),
            Err(_) => panic!("{} did not end\n{}", self.name, self.all()),
        };
        for reader in self.readers.drain(..) {
            reader.await.expect("no panic in the reader");
        }
        let lines = |lines: Vec<String>| lines.iter().map(|line| format!("{line}\n")).collect();
        Ended {
            code: status.code(),
            out: lines(self.out()),
            err: lines(self.err()),
        }
    }

    /// Everything that it has said, for a failure.
    #[must_use]
    pub fn all(&self) -> String {
        let lines = |side: &str, lines: Vec<String>| -> String {
            lines
                .iter()
                .map(|line| format!("  {} {side} | {line}\n", self.name))
                .collect()
        };
        lines("out", self.out()) + &lines("err", self.err())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprint!("{}", self.all());
        }
        // Already ended is as good.
        let _ended = self.child.start_kill();
    }
}

async fn keep(
    stream: impl AsyncRead + Unpin,
    log: Arc<Mutex<Log>>,
    side: fn(&mut Log) -> &mut Vec<String>,
    news: Arc<watch::Sender<u64>>,
) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        side(&mut log.lock().expect("no panic under the lock")).push(line);
        news.send_modify(|count| *count += 1);
    }
}
