//! One file from the hub into its folder: begun, gone on with, compared, and only then given its name.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::client::{Body, Client, Trouble};
use crate::digest::{Running, update_from};
use crate::manifest::WantedFile;
use crate::{HubError, Progress};

/// Tries without a single new byte before we give up.
const TRIES_MAX: u32 = 6;
/// The first wait between tries; it doubles. The very first try after a loss waits for nothing.
const WAIT: Duration = Duration::from_millis(500);

/// Where a file comes from and goes to.
pub(crate) struct Job<'j> {
    /// The hub.
    pub(crate) client: &'j Client,
    /// `ORG/REPO`.
    pub(crate) repo: &'j str,
    /// The commit.
    pub(crate) commit: &'j str,
    /// The file.
    pub(crate) file: &'j WantedFile,
    /// The folder.
    pub(crate) dir: &'j Path,
}

/// A file that grows: how much there is, and the checksum of that.
struct Part {
    path: PathBuf,
    file: File,
    len: u64,
    running: Running,
}

impl Part {
    /// Opens what an earlier run left, or begins.
    fn open(wanted: &WantedFile, dir: &Path) -> Result<Self, HubError> {
        let path = wanted.part(dir);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(HubError::io(&path, "cannot be opened"))?;
        let mut running = Running::begin(&wanted.checksum, wanted.bytes);
        let len =
            update_from(&mut running, &file).map_err(HubError::io(&path, "cannot be read"))?;
        let mut part = Self {
            path,
            file,
            len,
            running,
        };
        if part.len > wanted.bytes {
            part.restart(wanted)?;
        }
        Ok(part)
    }

    /// Forgets everything.
    fn restart(&mut self, wanted: &WantedFile) -> Result<(), HubError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(HubError::io(&self.path, "cannot be emptied"))?;
        self.len = 0;
        self.running = Running::begin(&wanted.checksum, wanted.bytes);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file
            .write_all(bytes)
            .map_err(HubError::io(&self.path, "cannot be written"))?;
        self.running.update(bytes);
        self.len = self.len.saturating_add(bytes.len() as u64);
        Ok(())
    }
}

/// Fetches a file, trying again after losses.
pub(crate) async fn fetch(job: &Job<'_>, progress: &mut dyn Progress) -> Result<(), HubError> {
    let mut part = Part::open(job.file, job.dir)?;
    progress.begin(job.file.name(), part.len, job.file.bytes);
    let mut tries = 0;
    while part.len < job.file.bytes {
        let before = part.len;
        match more(job, &mut part, progress).await {
            Ok(()) => break,
            Err(Trouble::Never(error)) => return Err(error),
            Err(Trouble::Again { host, what }) => {
                tries = if part.len > before { 0 } else { tries + 1 };
                if tries >= TRIES_MAX {
                    return Err(HubError::Connection { host, what });
                }
                progress.retry(&what);
                if tries > 0 {
                    tokio::time::sleep(WAIT.saturating_mul(1 << tries.min(8))).await;
                }
            }
        }
    }
    finish(job, part)
}

/// Asks for what is missing and writes it as it comes.
async fn more(job: &Job<'_>, part: &mut Part, progress: &mut dyn Progress) -> Result<(), Trouble> {
    let name = &job.file.path;
    let opened = job.client.file(job.repo, job.commit, name, part.len);
    let Some(mut body) = opened.await? else {
        // The hub knows no such byte, so what is here is not of this file.
        progress.restart(part.len);
        part.restart(job.file)?;
        let host = job.client.host();
        let what = format!("{name} is shorter there than what is here");
        return Err(Trouble::Again { host, what });
    };
    if body.start != part.len {
        progress.restart(part.len);
        part.restart(job.file)?;
    }
    while let Some(chunk) = body.next().await? {
        let room = job.file.bytes.saturating_sub(part.len);
        if chunk.len() as u64 > room {
            return Err(too_long(job.file, &body).into());
        }
        part.append(&chunk)?;
        progress.advance(chunk.len() as u64);
    }
    if part.len < job.file.bytes {
        let (host, len) = (body.host().to_owned(), part.len);
        let what = format!("the connection ended at byte {len} of {}", job.file.bytes);
        return Err(Trouble::Again { host, what });
    }
    Ok(())
}

fn too_long(file: &WantedFile, body: &Body) -> HubError {
    HubError::Answer {
        host: body.host().to_owned(),
        what: file.path.clone(),
        got: format!("longer than {} bytes", file.bytes),
        expected: "as long as the hub's list says".to_owned(),
    }
}

/// Compares the checksum and gives the file its name; what has another checksum is deleted.
fn finish(job: &Job<'_>, part: Part) -> Result<(), HubError> {
    let place = job.file.place(job.dir);
    let Part {
        path,
        file,
        running,
        ..
    } = part;
    let got = running.finish();
    if got != job.file.checksum.digits() {
        std::fs::remove_file(&path).map_err(HubError::io(&path, "cannot be deleted"))?;
        return Err(HubError::Checksum {
            file: job.file.path.clone(),
            kind: job.file.checksum.kind(),
            got,
            expected: job.file.checksum.digits().to_owned(),
        });
    }
    file.sync_all()
        .and_then(|()| std::fs::rename(&path, &place))
        .map_err(HubError::io(&place, "cannot be written"))
}

/// Whether the file that stands at its place is the hub's.
pub(crate) fn is_verified(file: &WantedFile, dir: &Path) -> Result<bool, HubError> {
    let path = file.place(dir);
    let mut running = Running::begin(&file.checksum, file.bytes);
    let opened = File::open(&path).map_err(HubError::io(&path, "cannot be opened"))?;
    let len = update_from(&mut running, opened).map_err(HubError::io(&path, "cannot be read"))?;
    Ok(len == file.bytes && running.finish() == file.checksum.digits())
}
