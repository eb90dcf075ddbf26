//! `coordinator demo`: a household on one machine.
//!
//! Owns the order of the show and every process that it starts. It must never leave one behind. The one idea: nothing
//! is staged; the nodes are ordinary `node` processes that were invited, and the prompt goes through the endpoint.

mod allowance;
mod bundled;
mod client;
mod machines;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use command::{Failure, Outcome};
use coordinator::gateway::Phase;
use coordinator::house::{HouseSettings, PlanChoice};
use coordinator::http::HttpConfig;
use coordinator::people::People;
use plan::Plan;
use plan::size::size_text;
use serde_json::json;
use tokio::net::TcpListener;

use super::ending::Ending;
use super::progress::{Lines, Progress};
use super::screen;
use super::served::{self, Opened};
use super::service::{Service, Wanted, bind_api, claim};
use allowance::Allowance;
use client::Spoken;
use machines::Machines;

/// Where the endpoint is, if that port is free.
const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// What is asked, if nobody says otherwise.
const PROMPT: &str = "Tell me a story.";
/// How long nodes may take to join and load.
const READY_DEADLINE: Duration = Duration::from_secs(300);
const INVITE_TTL: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
#[command(
    after_help = "Each node may use less memory than the model needs; together they run it. Everything is on this machine,
on loopback, in a temporary directory that is removed at the end.

Examples:
  coordinator demo
  coordinator demo --nodes 4
  coordinator demo --once \"What is the capital of France?\""
)]
pub(crate) struct Flags {
    /// Node processes to start
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=64))]
    nodes: u16,
    /// Where the endpoint listens [default: 127.0.0.1:8080, or a free port if that is taken]
    #[arg(long, value_name = "IP:PORT")]
    api: Option<SocketAddr>,
    /// Answer this prompt and end
    #[arg(long, value_name = "PROMPT")]
    once: Option<String>,
    /// Another model: a .gguf file or a safetensors directory [default: the bundled one]
    #[arg(long, value_name = "REF")]
    model: Option<PathBuf>,
    /// Print one JSON value with plan and answer, and nothing else; only with --once
    #[arg(long, requires = "once")]
    json: bool,
}

/// Shows a household.
pub(crate) async fn run(flags: Flags) -> Outcome {
    let mut ending = Ending::listen()?;
    let path = match &flags.model {
        Some(path) => path.clone(),
        None => bundled::find()?,
    };
    let program = machines::program()?;
    let api = listen(flags.api).await?;
    let opened = served::open(&path).await?;
    let allowance = allowance::smallest(&opened.checkpoint.facts(), usize::from(flags.nodes))?;
    if !flags.json {
        introduce(&flags, &opened, &allowance)?;
    }
    let folder = tempfile::Builder::new().prefix("hearth-demo-").tempdir()?;
    let mut service = start(&flags, api, opened, &allowance, folder.path()).await?;
    let mut machines = Machines::new(
        &program,
        folder.path(),
        usize::from(flags.nodes),
        allowance.bytes,
    );
    let shown = tokio::select! {
        shown = show(&flags, &mut service, &mut machines) => shown,
        () = ending.asked() => Ok(Next::End),
    };
    let outcome = match shown {
        Ok(Next::Serve) => keep(&mut service, &mut machines, &mut ending).await,
        Ok(Next::End) => Ok(()),
        Err(failure) => Err(failure),
    };
    let stopped = service.stop().await;
    machines.end().await;
    folder.close()?;
    outcome.and(stopped)
}

/// What follows the show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The endpoint stays.
    Serve,
    /// Nothing.
    End,
}

async fn listen(wanted: Option<SocketAddr>) -> Result<TcpListener, Failure> {
    let nobody = People::default();
    match wanted {
        Some(address) => bind_api(address, &nobody).await,
        None => match TcpListener::bind(API).await {
            Ok(listener) => Ok(listener),
            Err(_) => bind_api(SocketAddr::new(API.ip(), 0), &nobody).await,
        },
    }
}

fn introduce(flags: &Flags, opened: &Opened, allowance: &Allowance) -> Outcome {
    let honest = match flags.model {
        Some(_) => "",
        None => {
            "        a tiny model that shows the machinery: a demonstration, not an assistant\n"
        }
    };
    screen::show(&format!(
        "Hearth demonstration: one model, {} node processes on this machine
model   {}, {} of weights
{honest}nodes   {} of memory each: none may hold the model, together they do\n\n",
        flags.nodes,
        opened.served.id,
        size_text(allowance.weight_bytes),
        size_text(allowance.bytes)
    ))
}

async fn start(
    flags: &Flags,
    api: TcpListener,
    opened: Opened,
    allowance: &Allowance,
    folder: &std::path::Path,
) -> Result<Service, Failure> {
    let mesh = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut house = HouseSettings::new(folder.join("coordinator"), opened.checkpoint, mesh);
    house.expect = Some(usize::from(flags.nodes));
    house.plan = PlanChoice::Layers;
    house.context = Some(allowance.context);
    house.sequences = allowance.sequences;
    Service::start(Wanted {
        local: claim(&house.data_dir).await?,
        house,
        served: opened.served,
        api,
        http: HttpConfig::default(),
    })
    .await
}

/// From the first node to the answer.
async fn show(
    flags: &Flags,
    service: &mut Service,
    machines: &mut Machines,
) -> Result<Next, Failure> {
    for _ in 0..flags.nodes {
        let invite = service.house.invite(INVITE_TTL).await?;
        machines.start(&invite.to_string())?;
    }
    let ready = tokio::time::timeout(READY_DEADLINE, ready(service));
    tokio::select! {
        ready = ready => ready.map_err(|_| Failure::Failed(format!(
            "the nodes were not ready after {} s: {}\n{}",
            READY_DEADLINE.as_secs(), service.status.borrow().detail, machines.last_words(),
        )))??,
        failure = machines.failed() => return Err(failure),
    }
    let plan = service.house.plan().borrow().clone();
    let plan = plan
        .ok_or_else(|| Failure::Failed("the plan is gone: a node was lost at once".to_owned()))?;
    if !flags.json {
        screen::show(&format!("{}\n", plan::table::render_table(&plan)))?;
    }
    let prompt = flags.once.as_deref().unwrap_or(PROMPT);
    let spoken = speak(flags, service, prompt).await?;
    if flags.json {
        report(&plan, prompt, &spoken)?;
        return Ok(Next::End);
    }
    screen::show(&format!("\n\n{}\n", spoken.speed_text()))?;
    if flags.once.is_some() {
        return Ok(Next::End);
    }
    invite_clients(service)?;
    Ok(Next::Serve)
}

/// Until a request sent now is answered.
async fn ready(service: &mut Service) -> Outcome {
    let mut progress = Progress::new(Lines::Ours);
    let mut status = service.status.clone();
    let gone =
        |_| Failure::Failed("the household ended by itself; the log above says why".to_owned());
    loop {
        let now = status.borrow_and_update().clone();
        progress.show(&now);
        if now.phase == Phase::Ready {
            return Ok(());
        }
        status.changed().await.map_err(gone)?;
    }
}

async fn speak(flags: &Flags, service: &Service, prompt: &str) -> Result<Spoken, Failure> {
    if flags.json {
        return client::speak(service.api, &service.model, prompt, |_| {}).await;
    }
    screen::show(&format!("> {prompt}\n"))?;
    client::speak(service.api, &service.model, prompt, |text| {
        // A screen that fails ends nothing; the next text shows it again.
        let _failed = screen::show(text);
    })
    .await
}

fn report(plan: &Arc<Plan>, prompt: &str, spoken: &Spoken) -> Outcome {
    command::answer::print_json(&json!({
        "plan": &**plan,
        "prompt": prompt,
        "answer": spoken.text,
        "tokens": spoken.tokens,
        "first_token_s": spoken.first_s,
        "tokens_per_s": spoken.tokens_per_s(),
    }))
}

fn invite_clients(service: &Service) -> Outcome {
    let body = json!({
        "model": service.model,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    });
    let api = service.api;
    screen::show(&format!(
        "\nendpoint  http://{api}/v1\ndashboard http://{api}/\ntry       curl http://{api}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'\n\nCtrl-C ends it.\n"
    ))
}

/// Serves until the owner ends it.
async fn keep(service: &mut Service, machines: &mut Machines, ending: &mut Ending) -> Outcome {
    tokio::select! {
        () = ending.asked() => Ok(()),
        () = service.house.stopped() => Ok(()),
        failure = machines.failed() => Err(failure),
    }
}
