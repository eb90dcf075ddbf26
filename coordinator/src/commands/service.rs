//! The service in this process: household and API, started together and ended in order.
//!
//! Owns the order of both. The one idea: everything that can be refused (a key, a port, a data directory in use, a
//! broken model) is refused before anything else starts.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use command::local::Listener;
use command::settings::make_data_dir;
use command::{Failure, Outcome};
use coordinator::gateway::{Gateway, ServedModel, ServiceStatus};
use coordinator::house::{self, House, HouseSettings};
use coordinator::http::{self, HttpConfig, Keyless};
use coordinator::people::{Bookkeeper, People};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Open files that a service may want: connections of clients, and of machines.
#[cfg(unix)]
const FILES: u64 = 4096;

/// What a service is started with.
pub(crate) struct Wanted {
    /// The owner's local socket, taken already.
    pub(crate) local: Listener,
    /// The household; its data directory is made if it is not there.
    pub(crate) house: HouseSettings,
    /// The model's other half.
    pub(crate) served: Arc<ServedModel>,
    /// The API's socket, bound already.
    pub(crate) api: TcpListener,
    /// How the API behaves.
    pub(crate) http: HttpConfig,
}

/// A running service.
pub(crate) struct Service {
    /// The model's id.
    pub(crate) model: String,
    /// Where the API is.
    pub(crate) api: SocketAddr,
    /// The household.
    pub(crate) house: House,
    /// How far it has come.
    pub(crate) status: watch::Receiver<ServiceStatus>,
    end: oneshot::Sender<()>,
    http: JoinHandle<()>,
    books: Bookkeeper,
}

/// Takes the API's port.
///
/// # Errors
/// Somebody has it, or it may not be had. With an address that is open to the network, there must be a key.
pub(crate) async fn bind_api(address: SocketAddr, people: &People) -> Result<TcpListener, Failure> {
    if !address.ip().is_loopback() && !people.guarded() {
        return Err(Failure::Usage(format!(
            "--api {address} is open to the network and no key guards it; make one with `coordinator key create --name NAME` (and the same --data-dir), name a file with one with --api-key-file, or listen on 127.0.0.1"
        )));
    }
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another program has it; end that program or choose another port with --api"
            }
            _ => "choose another address with --api",
        };
        Failure::Failed(format!(
            "the API cannot listen on {address}: {error}; {advice}"
        ))
    })
}

/// Lets this process have as many open files as connections and nodes need, as far as the system allows.
pub(crate) fn allow_many_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let wanted = limit.maximum.map_or(FILES, |most| most.min(FILES));
        if limit.current.is_some_and(|current| current < wanted) {
            let raised = Rlimit {
                current: Some(wanted),
                maximum: limit.maximum,
            };
            if let Err(error) = setrlimit(Resource::Nofile, raised) {
                tracing::debug!(%error, "the number of open files stays as it is");
            }
        }
    }
}

/// Takes the owner's local socket of a data directory, which is made if it is not there.
///
/// # Errors
/// The directory cannot be made, or another service runs in it.
pub(crate) async fn claim(data_dir: &Path) -> Result<Listener, Failure> {
    make_data_dir(data_dir)?;
    Ok(Listener::bind(data_dir).await?)
}

impl Service {
    /// Starts household and API.
    ///
    /// # Errors
    /// The data directory or the mesh port cannot be used.
    pub(crate) async fn start(wanted: Wanted) -> Result<Self, Failure> {
        let api = wanted.api.local_addr()?;
        let model = wanted.served.id.clone();
        let (gateway, household) = Gateway::new(wanted.served);
        let status = household.status.subscribe();
        let house = house::start(wanted.house, household, wanted.local)
            .await
            .map_err(|error| match error.code() {
                "port_in_use" => Failure::Failed(format!("{error} with --mesh")),
                _ => Failure::of(&error),
            })?;
        let mut config = wanted.http;
        config.people = house.people().clone();
        config.keyless = match api.ip().is_loopback() {
            true => Keyless::Answered,
            false => Keyless::Refused,
        };
        let books = config.people.keep_books();
        let (end, ended) = oneshot::channel::<()>();
        let serving = http::serve(wanted.api, gateway, config, async {
            // A sender that is gone ends the service as well.
            let _ended_or_gone = ended.await;
        });
        Ok(Self {
            model,
            api,
            house,
            status,
            end,
            http: tokio::spawn(serving),
            books,
        })
    }

    /// Lets running answers finish within their grace, tells the nodes and closes everything.
    ///
    /// # Errors
    /// The API ended by a fault of its own.
    pub(crate) async fn stop(self) -> Outcome {
        // The API is gone already if nobody hears it.
        let _heard = self.end.send(());
        let ((), api) = tokio::join!(self.house.shutdown(), self.http);
        // Nobody uses anything any more.
        self.books.close().await;
        api.map_err(Failure::from)
    }
}
