//! `coordinator model`: models that were fetched from a hub and kept under a name.
//!
//! Each lives in its own folder `models/NAME` of the data directory, beside the page that says what belongs to it. The
//! folders are the list: nothing else has to be kept in step with them.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use command::settings::default_data_dir;
use command::{Failure, Outcome};
use coordinator::models::{Added, Shelf};
use hub::{Answer, Bars, HubError, HubRef, Request, Settings};
use model::Checkpoint;
use plan::size::size_text;
use serde_json::{Value, json};

use super::screen;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  coordinator model add hf:Qwen/Qwen3-30B-A3B-GGUF:Q4_K_M
  coordinator model list
  coordinator serve --model Qwen3-30B-A3B-Q4_K_M
  coordinator model remove Qwen3-30B-A3B-Q4_K_M")]
pub(crate) struct Flags {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Fetch a model from a hub and keep it under a name that `serve --model` takes
    Add(Add),
    /// List the models that were added
    List(Place),
    /// Delete a model that was added
    Remove(Remove),
}

#[derive(Debug, Args)]
struct Place {
    /// Data directory of the service [default: the one that `coordinator serve` takes]
    #[arg(long, env = "HEARTH_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print exactly one JSON value
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "What would be fetched is shown first, and asked for on a terminal. HF_TOKEN, HF_ENDPOINT and proxies are taken from
the environment; an interrupted download goes on when the same command runs again.

Examples:
  coordinator model add hf:Qwen/Qwen3-30B-A3B-GGUF:Q4_K_M
  coordinator model add hf:Qwen/Qwen3-0.6B --name small --yes"
)]
struct Add {
    /// The model: hf:ORG/REPO, hf:ORG/REPO:FILE or hf:ORG/REPO@REVISION:FILE
    model: String,
    /// The name to keep it under [default: the file's or the repository's]
    #[arg(long)]
    name: Option<String>,
    /// Agree to the download beforehand
    #[arg(long)]
    yes: bool,
    /// Ask nobody: say whether the model is here, and what is missing
    #[arg(long, conflicts_with_all = ["yes", "mirror"])]
    offline: bool,
    /// A hub other than huggingface.co [default: HF_ENDPOINT]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Remove {
    /// The name, as `coordinator model list` shows it
    name: String,
    #[command(flatten)]
    place: Place,
}

impl Place {
    fn shelf(&self) -> Shelf {
        let dir = self.data_dir.clone();
        Shelf::of(&dir.unwrap_or_else(|| default_data_dir("coordinator")))
    }
}

/// Adds, lists or removes.
pub(crate) async fn run(flags: Flags) -> Outcome {
    match flags.act {
        Act::Add(flags) => tokio::task::spawn_blocking(move || add(&flags)).await?,
        Act::List(place) => list(&place),
        Act::Remove(flags) => remove(&flags),
    }
}

fn add(flags: &Add) -> Outcome {
    let model: HubRef = flags.model.parse().map_err(failure)?;
    let shelf = flags.place.shelf();
    let name = match &flags.name {
        Some(name) => name.clone(),
        None => Shelf::name_for(&model),
    };
    let dir = shelf.dir(&name)?;
    let pulled = if flags.offline {
        hub::offline(&model, &dir)
    } else {
        fetch(flags, model, &dir)
    };
    let pulled = pulled.map_err(failure)?;
    let checkpoint = Checkpoint::open(&pulled.path)?;
    if flags.place.json {
        return command::answer::print_json(&json!({
            "name": name,
            "id": checkpoint.id(),
            "model": pulled.manifest.model,
            "path": pulled.path,
            "bytes": pulled.manifest.bytes(),
            "fetched_bytes": pulled.fetched_bytes,
        }));
    }
    screen::show(&format!(
        "{name} is here, {}; coordinator serve --model {name}\n",
        size_text(pulled.manifest.bytes())
    ))
}

fn fetch(flags: &Add, model: HubRef, dir: &Path) -> Result<hub::Pulled, HubError> {
    let answer = if flags.yes { Answer::Yes } else { Answer::Ask };
    let mut bars = Bars::new();
    let request = Request {
        model,
        dir: dir.to_owned(),
        settings: Settings::from_environment(flags.mirror.as_deref())?,
    };
    let pulled = hub::pull(&request, &mut |plan| hub::ask(plan, answer), &mut bars);
    bars.done();
    pulled
}

fn list(place: &Place) -> Outcome {
    let added = place.shelf().list()?;
    if place.json {
        let models: Vec<Value> = added.iter().map(value).collect();
        return command::answer::print_json(&json!({ "models": models }));
    }
    if added.is_empty() {
        return screen::show("no models were added; coordinator model add hf:ORG/REPO\n");
    }
    let lines = added.iter().map(|added| {
        let state = match added.missing_bytes {
            0 => String::new(),
            missing => format!("  {} missing: run `model add` again", size_text(missing)),
        };
        let (name, size) = (&added.name, size_text(added.manifest.bytes()));
        format!("{name}  {size}  {}{state}\n", added.manifest.model)
    });
    screen::show(&lines.collect::<String>())
}

fn value(added: &Added) -> Value {
    json!({
        "name": added.name,
        "model": added.manifest.model,
        "commit": added.manifest.commit,
        "path": added.path,
        "bytes": added.manifest.bytes(),
        "missing_bytes": added.missing_bytes,
    })
}

fn remove(flags: &Remove) -> Outcome {
    let freed = flags.place.shelf().remove(&flags.name)?;
    if flags.place.json {
        return command::answer::print_json(&json!({"removed": flags.name, "freed_bytes": freed}));
    }
    screen::show(&format!(
        "{} is gone, {} are free\n",
        flags.name,
        size_text(freed)
    ))
}

/// A wrong name, setting or missing word is wrong usage; the rest is a failure.
fn failure(error: HubError) -> Failure {
    let text = Failure::of(&error).to_string();
    match error {
        HubError::Name(_) | HubError::Setting { .. } | HubError::Consent(_) => Failure::Usage(text),
        _ => Failure::Failed(text),
    }
}
