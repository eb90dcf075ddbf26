//! The owner's local socket: how a command talks to the service that runs on this machine.
//!
//! One JSON line asks, one JSON line answers. Only the owner of the data directory can connect: the directory and
//! the socket carry owner-only permissions (on Windows the pipe of the user's own session). Never reached from a network.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Bytes of one request or answer.
const LINE_BYTES_MAX: u64 = 8 << 20;
/// Requests that wait for the service at once.
const CALLS_MAX: usize = 16;
const SOCKET_NAME: &str = "control.sock";
/// What is said when nobody is left to answer.
const STOPPING: &str = "the service is stopping";

/// What can go wrong between a command and the service.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LocalError {
    /// Nobody listens.
    #[error(
        "nothing runs with data directory {0}; start it first, or name its directory with --data-dir"
    )]
    NotRunning(PathBuf),
    /// Somebody listens already.
    #[error(
        "a service already runs with data directory {0}; stop it first, or use another --data-dir"
    )]
    AlreadyRunning(PathBuf),
    /// The socket cannot be used.
    #[error("local socket in {0}: {1}")]
    Socket(PathBuf, io::Error),
    /// The service answered something that is not an answer.
    #[error(
        "the service answered nothing that this command understands; are both of the same version?"
    )]
    Answer,
    /// The service refused.
    #[error("{0}")]
    Refused(String),
}

/// The wire form of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Ok(Value),
    Error(String),
}

/// One request of the owner, to be answered.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Value,
    reply: oneshot::Sender<Answer>,
}

/// Where the answer to a [`Call`] comes.
#[derive(Debug)]
pub struct Answering(oneshot::Receiver<Answer>);

impl Answering {
    /// Waits for the answer; a call that was dropped counts as a service that stops.
    ///
    /// # Errors
    /// The refusal, as a sentence for the owner.
    pub async fn wait(self) -> Result<Value, String> {
        match self.0.await {
            Ok(Answer::Ok(value)) => Ok(value),
            Ok(Answer::Error(text)) => Err(text),
            Err(_) => Err(STOPPING.to_owned()),
        }
    }
}

impl Call {
    /// A request of the owner that came another way than over the socket.
    #[must_use]
    pub fn new(request: Value) -> (Self, Answering) {
        let (reply, answer) = oneshot::channel();
        (Self { request, reply }, Answering(answer))
    }

    /// Answers with a value.
    pub fn answer(self, value: &impl Serialize) {
        let answer = match serde_json::to_value(value) {
            Ok(value) => Answer::Ok(value),
            Err(error) => Answer::Error(format!("the answer cannot be written: {error}")),
        };
        // The command may have gone away; nobody else wants the answer.
        let _gone = self.reply.send(answer);
    }

    /// Answers with a refusal.
    pub fn refuse(self, text: impl Into<String>) {
        let _gone = self.reply.send(Answer::Error(text.into()));
    }
}

/// The service's side.
#[derive(Debug)]
pub struct Listener {
    calls: mpsc::Receiver<Call>,
    task: JoinHandle<()>,
    path: PathBuf,
}

impl Listener {
    /// Listens in `data_dir`, which must exist.
    ///
    /// # Errors
    /// When another service listens there, or the socket cannot be made.
    pub async fn bind(data_dir: &Path) -> Result<Self, LocalError> {
        let path = data_dir.join(SOCKET_NAME);
        let error = |e| LocalError::Socket(data_dir.to_owned(), e);
        if platform::connect(&path).await.is_ok() {
            return Err(LocalError::AlreadyRunning(data_dir.to_owned()));
        }
        let mut acceptor = platform::bind(&path).map_err(error)?;
        let (sender, calls) = mpsc::channel(CALLS_MAX);
        let task = tokio::spawn(async move {
            loop {
                match acceptor.accept().await {
                    Ok(stream) => {
                        let sender = sender.clone();
                        // Bounded by the channel; ends with its one answer or when the command goes away.
                        tokio::spawn(async move {
                            if let Err(error) = serve(stream, sender).await {
                                tracing::debug!(%error, "local call ended early");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "local socket");
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    }
                }
            }
        });
        Ok(Self { calls, task, path })
    }

    /// The next request; cancel-safe.
    pub async fn next(&mut self) -> Option<Call> {
        self.calls.recv().await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
        platform::unlink(&self.path);
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    calls: mpsc::Sender<Call>,
) -> io::Result<()> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut line = String::new();
    BufReader::new(reader.take(LINE_BYTES_MAX))
        .read_line(&mut line)
        .await?;
    let answer = match serde_json::from_str(&line) {
        Err(error) => Answer::Error(format!("the request is not JSON: {error}")),
        Ok(request) => {
            let (call, answering) = Call::new(request);
            // A call that nobody takes is dropped, and its answer is that the service stops.
            drop(calls.send(call).await);
            match answering.wait().await {
                Ok(value) => Answer::Ok(value),
                Err(text) => Answer::Error(text),
            }
        }
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    writer.write_all(text.as_bytes()).await?;
    writer.flush().await
}

/// Asks the service that runs with `data_dir`.
///
/// # Errors
/// When nothing runs there, or the service refuses.
pub async fn call(data_dir: &Path, request: &impl Serialize) -> Result<Value, LocalError> {
    let error = |e| LocalError::Socket(data_dir.to_owned(), e);
    let stream = platform::connect(&data_dir.join(SOCKET_NAME))
        .await
        .map_err(|_| LocalError::NotRunning(data_dir.to_owned()))?;
    let (reader, mut writer) = tokio::io::split(stream);
    let mut text = serde_json::to_string(request).map_err(|_| LocalError::Answer)?;
    text.push('\n');
    writer.write_all(text.as_bytes()).await.map_err(error)?;
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(LINE_BYTES_MAX));
    reader.read_line(&mut line).await.map_err(error)?;
    match serde_json::from_str(&line) {
        Ok(Answer::Ok(value)) => Ok(value),
        Ok(Answer::Error(text)) => Err(LocalError::Refused(text)),
        Err(_) => Err(LocalError::Answer),
    }
}

#[cfg(unix)]
mod platform {
    use std::io;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use tokio::net::{UnixListener, UnixStream};

    pub struct Acceptor(UnixListener);

    impl Acceptor {
        pub async fn accept(&mut self) -> io::Result<UnixStream> {
            Ok(self.0.accept().await?.0)
        }
    }

    /// Nobody listens on a path that is left over, so it may be replaced.
    pub fn bind(path: &Path) -> io::Result<Acceptor> {
        unlink(path);
        if let Some(dir) = path.parent() {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Acceptor(listener))
    }

    pub async fn connect(path: &Path) -> io::Result<UnixStream> {
        UnixStream::connect(path).await
    }

    pub fn unlink(path: &Path) {
        // A path that is not there is as good as removed; any other trouble shows at bind.
        let _absent = std::fs::remove_file(path);
    }
}

#[cfg(windows)]
mod platform {
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::io;
    use std::path::Path;

    use tokio::net::windows::named_pipe::{
        ClientOptions, NamedPipeClient, NamedPipeServer, ServerOptions,
    };

    pub struct Acceptor {
        name: String,
        next: NamedPipeServer,
    }

    fn name(path: &Path) -> String {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        format!(r"\\.\pipe\hearth-{:016x}", hasher.finish())
    }

    impl Acceptor {
        pub async fn accept(&mut self) -> io::Result<NamedPipeServer> {
            self.next.connect().await?;
            let fresh = ServerOptions::new()
                .reject_remote_clients(true)
                .create(&self.name)?;
            Ok(std::mem::replace(&mut self.next, fresh))
        }
    }

    pub fn bind(path: &Path) -> io::Result<Acceptor> {
        let name = name(path);
        let next = ServerOptions::new()
            .first_pipe_instance(true)
            .reject_remote_clients(true)
            .create(&name)?;
        Ok(Acceptor { name, next })
    }

    pub async fn connect(path: &Path) -> io::Result<NamedPipeClient> {
        ClientOptions::new().open(name(path))
    }

    pub fn unlink(_path: &Path) {}
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_command_is_answered_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut listener = Listener::bind(dir.path()).await.unwrap();
        let asks = async {
            let ok = call(dir.path(), &json!({"do": "a"})).await;
            let no = call(dir.path(), &json!({"do": "b"})).await;
            (ok, no)
        };
        let answers = async {
            let first = listener.next().await.unwrap();
            assert_eq!(first.request["do"], "a");
            first.answer(&json!({"n": 1}));
            listener.next().await.unwrap().refuse("not now");
        };
        let ((ok, no), ()) = tokio::join!(asks, answers);
        assert_eq!(ok.unwrap(), json!({"n": 1}));
        assert_eq!(no.unwrap_err().to_string(), "not now");
    }

    #[tokio::test]
    async fn one_service_per_directory_and_a_clear_word_when_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let none = call(dir.path(), &json!({})).await.unwrap_err();
        assert!(matches!(none, LocalError::NotRunning(_)), "{none}");
        let first = Listener::bind(dir.path()).await.unwrap();
        let second = Listener::bind(dir.path()).await.unwrap_err();
        assert!(matches!(second, LocalError::AlreadyRunning(_)), "{second}");
        drop(first);
        Listener::bind(dir.path()).await.unwrap();
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn only_the_owner_can_connect() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let _listener = Listener::bind(dir.path()).await.unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(dir.path()), 0o700);
        assert_eq!(mode(&dir.path().join(SOCKET_NAME)), 0o600);
    }
}
