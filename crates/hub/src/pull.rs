//! The whole way from a name to a model in a folder.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::client::Client;
use crate::fetch::{Job, fetch, is_verified};
use crate::manifest::{Manifest, WantedFile};
use crate::{HubError, HubRef, Progress, Settings, listing, select};

/// Held by whoever fetches into a folder.
const LOCK: &str = ".hearth-model.lock";
/// Attempts to get a listing.
const LISTING_TRIES: u32 = 3;

/// What is to be fetched, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// The model.
    pub model: HubRef,
    /// The folder that the files go into, made if need be.
    pub dir: PathBuf,
    /// The hub.
    pub settings: Settings,
}

/// What would happen, for the owner to agree to.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The files.
    pub manifest: Manifest,
    /// The folder.
    pub dir: PathBuf,
    /// Bytes that are still to come.
    pub missing_bytes: u64,
}

/// A model that is here, whole and verified.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The files.
    pub manifest: Manifest,
    /// What a program opens.
    pub path: PathBuf,
    /// Bytes that were missing before.
    pub fetched_bytes: u64,
}

/// Fetches a model: lists, chooses, lets `consent` agree or refuse, fetches what is missing and verifies it.
///
/// Nothing of the folder changes before `consent` agreed. Blocks; for a thread of its own.
///
/// # Errors
/// The hub cannot be reached or answers nonsense, nothing fits, `consent` refuses, the disk is full, or a checksum is
/// wrong. What came is kept for the next run, unless its checksum is wrong.
pub fn pull(
    request: &Request,
    consent: &mut dyn FnMut(&Plan) -> Result<(), HubError>,
    progress: &mut dyn Progress,
) -> Result<Pulled, HubError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(HubError::io(&request.dir, "no runtime for the download"))?;
    runtime.block_on(fetch_all(request, consent, progress))
}

/// A model that was fetched before, without a word to the network.
///
/// # Errors
/// It was never asked for, or files are missing; the text names them.
pub fn offline(model: &HubRef, dir: &Path) -> Result<Pulled, HubError> {
    let Some(manifest) = Manifest::read(dir)? else {
        return Err(HubError::Offline(format!(
            "{} holds nothing of {model}; run once without --offline",
            dir.display()
        )));
    };
    same_model(&manifest, model, dir)?;
    let missing = manifest.missing(dir);
    if !missing.is_empty() {
        let named: Vec<String> = missing
            .iter()
            .take(8)
            .map(|file| {
                let left = file.bytes.saturating_sub(file.bytes_here(dir));
                format!("{} ({left} bytes)", file.name())
            })
            .collect();
        return Err(HubError::Offline(format!(
            "{} of {} files are missing in {}: {}; run without --offline to go on",
            missing.len(),
            manifest.files.len(),
            dir.display(),
            named.join(", ")
        )));
    }
    Ok(Pulled {
        path: manifest.model_path(dir),
        manifest,
        fetched_bytes: 0,
    })
}

async fn fetch_all(
    request: &Request,
    consent: &mut dyn FnMut(&Plan) -> Result<(), HubError>,
    progress: &mut dyn Progress,
) -> Result<Pulled, HubError> {
    let Request {
        model,
        dir,
        settings,
    } = request;
    let before = Manifest::read(dir)?;
    if let Some(before) = &before {
        same_model(before, model, dir)?;
    }
    let client = Client::new(settings.clone())?;
    let manifest = ask_hub(&client, model, progress).await?;
    for file in &manifest.files {
        stands_in_nobodys_way(file, before.as_ref(), dir)?;
    }
    let missing_bytes = manifest.bytes().saturating_sub(manifest.bytes_here(dir));
    if !manifest.missing(dir).is_empty() {
        consent(&Plan {
            manifest: manifest.clone(),
            dir: dir.clone(),
            missing_bytes,
        })?;
    }
    std::fs::create_dir_all(dir).map_err(HubError::io(dir, "cannot be made"))?;
    let _held = lock(dir)?;
    manifest.write(dir)?;
    for file in manifest.missing(dir) {
        let job = Job {
            client: &client,
            repo: &model.path(),
            commit: &manifest.commit,
            file,
            dir,
        };
        fetch(&job, progress).await?;
    }
    Ok(Pulled {
        path: manifest.model_path(dir),
        manifest,
        fetched_bytes: missing_bytes,
    })
}

async fn ask_hub(
    client: &Client,
    model: &HubRef,
    progress: &mut dyn Progress,
) -> Result<Manifest, HubError> {
    let mut tries = 1;
    let text = loop {
        match client.listing(model).await {
            Ok(text) => break text,
            Err(crate::client::Trouble::Again { what, .. }) if tries < LISTING_TRIES => {
                tries += 1;
                progress.retry(&what);
            }
            Err(trouble) => return Err(trouble.into()),
        }
    };
    let host = client.host();
    let listing = listing::read(&host, model, &text)?;
    let files = select::select(model, &listing)?;
    Ok(Manifest::new(
        model.to_string(),
        listing.commit,
        host,
        files,
    ))
}

/// A folder holds one model.
fn same_model(page: &Manifest, model: &HubRef, dir: &Path) -> Result<(), HubError> {
    if page.model == model.to_string() {
        return Ok(());
    }
    Err(HubError::Folder {
        path: dir.to_path_buf(),
        what: format!("holds {}, not {model}; name another folder", page.model),
    })
}

/// Refuses to replace a file that we did not put there; one that is equal counts as fetched.
fn stands_in_nobodys_way(
    file: &WantedFile,
    before: Option<&Manifest>,
    dir: &Path,
) -> Result<(), HubError> {
    let place = file.place(dir);
    let Ok(meta) = std::fs::symlink_metadata(&place) else {
        return Ok(());
    };
    let ours = |page: &Manifest| page.files.contains(file);
    let equal = meta.is_file()
        && meta.len() == file.bytes
        && (before.is_some_and(ours) || is_verified(file, dir)?);
    if equal {
        return Ok(());
    }
    Err(HubError::Folder {
        path: place,
        what: "is there already and is not the hub's file of this name; move it away, or name another folder"
            .to_owned(),
    })
}

/// Holds the folder until it is dropped, or until this process ends in whatever way.
fn lock(dir: &Path) -> Result<File, HubError> {
    let path = dir.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(HubError::io(&path, "cannot be opened"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(HubError::Folder {
            path: dir.to_path_buf(),
            what: "another download into this folder is running; wait for it".to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(HubError::io(&path, "cannot be locked")(error)),
    }
}
