//! The node processes of a demonstration. Dropping them ends them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use command::Failure;
use tokio::process::{Child, Command};

/// Lines of a node's log that a failure shows.
const LAST_LINES: usize = 8;

/// All nodes of a demonstration.
pub(super) struct Machines {
    program: PathBuf,
    folder: PathBuf,
    threads: usize,
    memory_bytes: u64,
    children: Vec<Child>,
}

/// The `node` program, beside this one.
///
/// # Errors
/// It was not built.
pub(super) fn program() -> Result<PathBuf, Failure> {
    let exe = std::env::current_exe()?;
    let program = exe.with_file_name(format!("node{}", std::env::consts::EXE_SUFFIX));
    if program.is_file() {
        return Ok(program);
    }
    Err(Failure::Failed(format!(
        "the demonstration starts `node` processes, and there is no {}; build it with: cargo build --release --workspace --bins",
        program.display()
    )))
}

impl Machines {
    /// None yet; `count` of them will share this machine's processors.
    pub(super) fn new(program: &Path, folder: &Path, count: usize, memory_bytes: u64) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            program: program.to_owned(),
            folder: folder.to_owned(),
            threads: (processors / count.max(1)).max(1),
            memory_bytes,
            children: Vec::new(),
        }
    }

    fn log_path(&self, at: usize) -> PathBuf {
        self.folder.join(format!("node-{}.log", at + 1))
    }

    /// Starts one more.
    ///
    /// # Errors
    /// The system does not start it.
    pub(super) fn start(&mut self, invite: &str) -> Result<(), Failure> {
        let at = self.children.len();
        let name = format!("node-{}", at + 1);
        let log = std::fs::File::create(self.log_path(at))?;
        let mut command = Command::new(&self.program);
        command
            .args(["join", invite, "--name", &name])
            .args(["--memory", &self.memory_bytes.to_string()])
            .args(["--threads", &self.threads.to_string()])
            .arg("--data-dir")
            .arg(self.folder.join(&name))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        // Ctrl-C is for the coordinator, which ends the nodes when the answers are finished.
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn().map_err(|error| {
            Failure::Failed(format!(
                "{} does not start: {error}",
                self.program.display()
            ))
        })?;
        self.children.push(child);
        Ok(())
    }

    /// Waits until a node ends, which none should, and says why. Cancel-safe.
    pub(super) async fn failed(&mut self) -> Failure {
        let ended = std::future::poll_fn(|context| {
            for (at, child) in self.children.iter_mut().enumerate() {
                let wait = std::pin::pin!(child.wait());
                if let std::task::Poll::Ready(status) = wait.poll(context) {
                    return std::task::Poll::Ready((at, status));
                }
            }
            std::task::Poll::Pending
        });
        let (at, status) = ended.await;
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        Failure::Failed(format!(
            "node-{} ended ({status}):\n{}",
            at + 1,
            self.tail(at)
        ))
    }

    /// Ends all of them, and waits until they are gone.
    pub(super) async fn end(mut self) {
        for child in &mut self.children {
            // Already ended is as good.
            let _ended = child.kill().await;
        }
    }

    /// The ends of all logs.
    pub(super) fn last_words(&self) -> String {
        (0..self.children.len())
            .map(|at| format!("node-{}:\n{}\n", at + 1, self.tail(at)))
            .collect()
    }

    fn tail(&self, at: usize) -> String {
        let text = std::fs::read_to_string(self.log_path(at)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(LAST_LINES);
        lines.get(first..).unwrap_or_default().join("\n")
    }
}
