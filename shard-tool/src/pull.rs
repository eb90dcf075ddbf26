//! `shard-tool pull`: a model from a hub into a folder.
//!
//! Owns the command line and the answer; the download is `hub`'s. What was fetched is opened before it is called a model.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use hub::{Answer, Bars, HubError, HubRef, Pulled, Request, Settings};
use model::Checkpoint;
use plan::size::size_text;
use serde_json::json;

use crate::Failure;

#[derive(Args)]
#[command(
    after_help = "Which files: of a repository with safetensors these and the JSON files beside them; with GGUF files the only
model, or the one that FILE names: a whole name, or a label such as Q4_K_M that one model has. All parts of a split
model come together.

An interrupted download goes on where it stopped when the same command runs again. Every file is compared with the hub's
checksum before it gets its name. HF_TOKEN, if set, is sent to the hub alone; HF_ENDPOINT names another hub; HTTPS_PROXY,
HTTP_PROXY, ALL_PROXY and NO_PROXY count.

Examples:
  shard-tool pull hf:Qwen/Qwen3-30B-A3B-GGUF:Q4_K_M
  shard-tool pull hf:Qwen/Qwen3-0.6B --out models/qwen3 --yes
  shard-tool pull hf:Qwen/Qwen3-0.6B --mirror https://hub.example --json --yes
  shard-tool pull hf:Qwen/Qwen3-0.6B --offline"
)]
pub(crate) struct Arguments {
    /// The model: hf:ORG/REPO, hf:ORG/REPO:FILE or hf:ORG/REPO@REVISION:FILE
    model: String,
    /// The folder that the files go into [default: one with the repository's name, here]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Agree to the download beforehand
    #[arg(long)]
    yes: bool,
    /// Ask nobody: say whether the model is here, and what is missing
    #[arg(long, conflicts_with_all = ["yes", "mirror"])]
    offline: bool,
    /// A hub other than huggingface.co [default: HF_ENDPOINT]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Print the answer as one JSON value on one line
    #[arg(long)]
    json: bool,
}

/// Fetches, and gives the text to print.
pub(crate) fn run(arguments: &Arguments) -> Result<String, Failure> {
    let model: HubRef = arguments.model.parse().map_err(failure)?;
    let dir = match &arguments.out {
        Some(dir) => dir.clone(),
        None => PathBuf::from(model.repo()),
    };
    let pulled = if arguments.offline {
        hub::offline(&model, &dir)
    } else {
        let answer = if arguments.yes {
            Answer::Yes
        } else {
            Answer::Ask
        };
        let settings = Settings::from_environment(arguments.mirror.as_deref());
        settings.and_then(|settings| {
            let mut bars = Bars::new();
            let request = Request {
                model: model.clone(),
                dir,
                settings,
            };
            let pulled = hub::pull(&request, &mut |plan| hub::ask(plan, answer), &mut bars);
            bars.done();
            pulled
        })
    };
    report(&pulled.map_err(failure)?, arguments.json)
}

fn report(pulled: &Pulled, json: bool) -> Result<String, Failure> {
    let checkpoint = Checkpoint::open(&pulled.path)
        .context("every file is as the hub has it, but this program cannot use the model")?;
    let (path, bytes) = (pulled.path.display(), pulled.manifest.bytes());
    if json {
        let line = json!({
            "model": pulled.manifest.model,
            "commit": pulled.manifest.commit,
            "host": pulled.manifest.host,
            "path": pulled.path,
            "id": checkpoint.id(),
            "files": pulled.manifest.files.len(),
            "bytes": bytes,
            "fetched_bytes": pulled.fetched_bytes,
        });
        return Ok(format!("{line}\n"));
    }
    Ok(format!(
        "{path}  ({} in {} files, {} fetched now)\n",
        size_text(bytes),
        pulled.manifest.files.len(),
        size_text(pulled.fetched_bytes)
    ))
}

/// A wrong name, setting or missing word is wrong usage; the rest is a failure.
fn failure(error: HubError) -> Failure {
    match error {
        HubError::Name(_) | HubError::Setting { .. } | HubError::Consent(_) => {
            Failure::Usage(error.into())
        }
        error => Failure::Failed(error.into()),
    }
}
