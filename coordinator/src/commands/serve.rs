//! `coordinator serve`: the service.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use command::Outcome;
use coordinator::gateway::Phase;
use coordinator::house::HouseSettings;
use coordinator::http::{HttpConfig, Replay};
use coordinator::people::People;
use serde::Serialize;
use serde_json::json;

use super::ending::Ending;
use super::progress::{Lines, Progress};
use super::service::{Service, Wanted, allow_many_files, bind_api, claim};
use super::{screen, served, settings};

#[derive(Debug, Default, Args, Serialize)]
#[command(
    after_help = "Every setting can also stand in the environment (HEARTH_MODEL, HEARTH_API, ..) or in the file given
with --config; flags win over the environment, the environment over the file.

While no key was made, only programs on this machine are answered, and an --api open to the network is refused. Once a
key works (`coordinator key create`), every request needs one, those of this machine too.

Examples:
  coordinator serve --model models/big-00001-of-00003.gguf
  coordinator serve --model models/qwen3-30b --expect 3 --context 16384
  coordinator serve --model Qwen3-30B-A3B-Q4_K_M       after: coordinator model add hf:..
  coordinator serve --model big.gguf --api 0.0.0.0:8080    after: coordinator key create --name ada
  coordinator serve --model big.gguf --api 0.0.0.0:8443 --tls
  coordinator serve --model big.gguf --plan plan.json"
)]
pub(crate) struct Flags {
    /// A .gguf file (of split files the first), a safetensors directory, or the name of an added model
    #[arg(long, value_name = "REF")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<Vec<String>>,
    /// Where clients connect [default: 127.0.0.1:8080]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api: Option<String>,
    /// Where machines connect [default: 0.0.0.0:7411]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mesh: Option<String>,
    /// Whether machines of the network are told by multicast DNS where this is: on or off [default: on, off on loopback]
    #[arg(long, value_name = "on|off")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) discovery: Option<String>,
    /// Where key and state are kept [default: the user's data directory]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Positions per sequence [default: the model's, at most 32768, lowered to what fits]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context: Option<u32>,
    /// Plan only when this many machines are in [default: 1]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expect: Option<usize>,
    /// auto, layers or experts (both use every machine), or a file that `plan --json` wrote [default: auto]
    #[arg(long, value_name = "auto|layers|experts|FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<String>,
    /// Type of the attention cache: f32 or f16 [default: f16 for quantised models, else f32]
    #[arg(long, value_name = "TYPE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kv: Option<String>,
    /// Sequences at a time that the caches should have room for; lowered to what fits [default: 8]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sequences: Option<u32>,
    /// File whose first line is a key that clients may bring, beside those of `coordinator key create`
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Speak TLS, with a certificate of the household's own that is made once and kept in the data directory
    #[arg(long)]
    #[serde(skip_serializing_if = "is_not_said")]
    pub(crate) tls: bool,
    /// Speak TLS with this certificate (PEM, its chain behind it)
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_key",
        conflicts_with = "tls"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_key: Option<PathBuf>,
    /// A name, beside loopback and our addresses, under which clients may call; may be repeated
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow_host: Option<Vec<String>>,
    /// An origin whose pages may call, such as https://chat.example; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow_origin: Option<Vec<String>>,
    /// To test clients: a JSON file of recorded answers, which requests with tools get in place of the model's own
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) replay: Option<PathBuf>,
    /// TOML file with these settings
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,
    /// Print one JSON value with the addresses once they are known, and nothing else
    #[arg(long)]
    #[serde(skip)]
    pub(crate) json: bool,
}

/// A switch that was not given leaves the word to the layers below.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_not_said(switch: &bool) -> bool {
    !*switch
}

/// Serves until it is asked to end.
pub(crate) async fn run(flags: Flags) -> Outcome {
    let settings = settings::merge(&flags)?;
    let mut ending = Ending::listen()?;
    allow_many_files();
    let local = claim(&settings.data_dir).await?;
    let people = People::open(&settings.data_dir, settings.file_key.clone()).await?;
    let api = bind_api(settings.api, &people).await?;
    let mut http = settings.http.clone();
    http.tls = settings.tls.open(&settings.data_dir, names(&http))?;
    http.replay = flags.replay.as_deref().map(replay).transpose()?;
    let opened = served::open(&settings.model).await?;
    settings.suit(&opened.checkpoint.facts())?;
    let mut house = HouseSettings::new(settings.data_dir, opened.checkpoint, settings.mesh);
    house.discovery = settings.discovery;
    house.expect = settings.expect;
    house.plan = settings.plan;
    house.context = settings.context;
    house.kv = settings.kv;
    house.sequences = settings.sequences;
    house.people = Some(people);
    let facts = Facts {
        model: opened.served.id.clone(),
        path: std::path::absolute(&settings.model)?,
        data_dir: std::path::absolute(&house.data_dir)?,
        certificate: http.tls.as_ref().map(|tls| tls.fingerprint().to_owned()),
    };
    let mut service = Service::start(Wanted {
        local,
        house,
        served: opened.served,
        api,
        http,
    })
    .await?;
    let voice = if flags.json {
        Voice::Json
    } else {
        Voice::Person
    };
    announce(&service, &facts, voice)?;
    let attended = attend(&mut service, &mut ending, voice).await;
    tracing::info!("ending: running answers are finished, new ones refused");
    tokio::select! {
        stopped = service.stop() => attended.and(stopped),
        () = ending.asked() => Err(command::Failure::Failed("ended at once, at the second request".to_owned())),
    }
}

/// Recorded answers from a file.
fn replay(file: &Path) -> Result<Arc<Replay>, command::Failure> {
    let failed =
        |what: String| command::Failure::Usage(format!("--replay {}: {what}", file.display()));
    let bytes = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
    let read = Replay::read(&bytes).map_err(|error| failed(error.to_string()))?;
    tracing::warn!(
        "requests with tools get recorded answers: this service is for tests of clients"
    );
    Ok(Arc::new(read))
}

/// What stdout is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voice {
    /// One JSON value.
    Json,
    /// Lines for a person.
    Person,
}

/// What the owner is told beside addresses.
struct Facts {
    model: String,
    path: PathBuf,
    data_dir: PathBuf,
    /// Fingerprint of the certificate, where clients speak TLS.
    certificate: Option<String>,
}

/// The names and addresses under which clients may reach this machine, for the household's certificate.
fn names(http: &HttpConfig) -> Vec<String> {
    let hosts = http.allowed_hosts.iter();
    let hosts = hosts.map(|host| host.split(':').next().unwrap_or_default().to_owned());
    let addresses = if_addrs::get_if_addrs().unwrap_or_default();
    let addresses = addresses.iter().map(|interface| interface.ip().to_string());
    hosts
        .chain(addresses)
        .filter(|name| !name.is_empty())
        .collect()
}

fn announce(service: &Service, facts: &Facts, voice: Voice) -> Outcome {
    let scheme = facts.certificate.as_ref().map_or("http", |_| "https");
    let endpoint = format!("{scheme}://{}/v1", service.api);
    let mesh = service.house.mesh_addr();
    if voice == Voice::Json {
        return command::answer::print_json(&json!({
            "model": facts.model,
            "api": service.api,
            "endpoint": endpoint,
            "mesh": mesh,
            "coordinator": service.house.node_id(),
            "data_dir": facts.data_dir,
            "certificate": facts.certificate,
        }));
    }
    let certificate = match &facts.certificate {
        Some(fingerprint) => format!("\ncertificate (SHA-256)  {fingerprint}"),
        None => String::new(),
    };
    // The owner's page is for this machine.
    let page = match service.api.ip().is_unspecified() {
        true => format!("{scheme}://localhost:{}/", service.api.port()),
        false => format!("{scheme}://{}/", service.api),
    };
    screen::show(&format!(
        "model     {}  ({})\nendpoint  {endpoint}{certificate}\ndashboard {page}\nmesh      {mesh}\ninvite    coordinator invite --data-dir '{}'\n",
        facts.model,
        facts.path.display(),
        facts.data_dir.display()
    ))
}

/// Tells how far the service has come, until it is to end.
async fn attend(service: &mut Service, ending: &mut Ending, voice: Voice) -> Outcome {
    let mut progress = Progress::new(Lines::Log);
    let mut shown = voice == Voice::Json;
    loop {
        let status = service.status.borrow_and_update().clone();
        if status.phase == Phase::Ready && !shown {
            let plan = service.house.plan().borrow().clone();
            if let Some(plan) = plan {
                let table = plan::table::render_table(&plan);
                screen::show(&format!("\n{table}\nready\n"))?;
                shown = true;
            }
        } else {
            progress.show(&status);
        }
        tokio::select! {
            changed = service.status.changed() => if changed.is_err() { return Ok(()) },
            () = service.house.stopped() => return Ok(()),
            () = ending.asked() => return Ok(()),
        }
    }
}
