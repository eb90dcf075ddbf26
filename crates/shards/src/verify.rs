//! Comparing what lies on a disk with its catalogue, and naming what is damaged.

use std::path::{Path, PathBuf};

use model::{Checkpoint, FileRange};

use crate::disk::read_catalogue;
use crate::image::{HELD_FILE, files, read_held};
use crate::split::{CATALOGUE_FILE, shard_file};
use crate::{Bits, Catalogue, Digest, Reader, ShardError, Source, Unit};

/// Something that is not as its catalogue says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The catalogue that it was compared with.
    pub catalogue: Digest,
    /// The shard.
    pub unit: Unit,
    /// Pieces that differ.
    pub pieces: Vec<u32>,
    /// Why the shard could not be read, where it could not.
    pub unreadable: Option<String>,
}

/// What was compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// Shards of which something was there.
    pub shards: usize,
    /// Pieces compared.
    pub pieces: usize,
    /// Bytes compared.
    pub bytes: u64,
    /// What is damaged.
    pub damage: Vec<Damage>,
}

/// Where the bytes of shards are to be found.
enum Form {
    /// In the model's own files; with the pieces that should be there.
    Files(Vec<PathBuf>, Bits),
    /// Each in a file of its own in this directory.
    Own(PathBuf),
}

/// Compares what lies at `path` with its catalogue: a directory that `split` wrote, a node's store or one model of it, or
/// a model with the catalogue in the file `against`.
///
/// # Errors
/// When `path` is none of these, or a catalogue cannot be used. Damage is no error: the report names it.
pub fn verify(path: &Path, against: Option<&Path>) -> Result<VerifyReport, ShardError> {
    let mut report = VerifyReport::default();
    if let Some(against) = against {
        let catalogue = read_catalogue(against)?;
        let checkpoint = Checkpoint::open(path)?;
        if *checkpoint.identity() != catalogue.identity() {
            return Err(ShardError::NotShards {
                path: path.to_owned(),
                got: format!("another model ({})", checkpoint.identity()),
                expected: "the model that the catalogue describes",
            });
        }
        let paths = Source::of(&checkpoint)?.paths().to_vec();
        let all = Bits::all(catalogue.piece_count());
        compare(&catalogue, &Form::Files(paths, all), &mut report);
        return Ok(report);
    }
    if path.join(CATALOGUE_FILE).is_file() {
        verify_one(path, &mut report)?;
        return Ok(report);
    }
    let mut models = 0usize;
    let entries = std::fs::read_dir(path).map_err(ShardError::io(path, "list the directory"))?;
    for entry in entries {
        let dir = entry
            .map_err(ShardError::io(path, "list the directory"))?
            .path();
        if dir.join(CATALOGUE_FILE).is_file() {
            verify_one(&dir, &mut report)?;
            models = models.saturating_add(1);
        }
    }
    if models == 0 {
        return Err(ShardError::NotShards {
            path: path.to_owned(),
            got: "no catalogue.json in it".to_owned(),
            expected: "a directory that `shard-tool split` wrote, or the store of a node; for a model file name its catalogue with --catalogue",
        });
    }
    Ok(report)
}

fn verify_one(dir: &Path, report: &mut VerifyReport) -> Result<(), ShardError> {
    let catalogue = read_catalogue(&dir.join(CATALOGUE_FILE))?;
    let form = if dir.join(HELD_FILE).is_file() {
        Form::Files(files(dir, &catalogue), read_held(dir, &catalogue)?)
    } else {
        Form::Own(dir.to_owned())
    };
    compare(&catalogue, &form, report);
    Ok(())
}

fn compare(catalogue: &Catalogue, form: &Form, report: &mut VerifyReport) {
    let mut shared = match form {
        Form::Files(paths, _) => Some(Reader::new(paths.clone())),
        Form::Own(_) => None,
    };
    for shard in catalogue.shards() {
        let there = |piece: u32| match form {
            Form::Files(_, held) => held.has(shard.first_piece.saturating_add(piece as usize)),
            Form::Own(_) => true,
        };
        let mut own = match form {
            Form::Own(dir) => Some(Reader::new(vec![dir.join(shard_file(shard))])),
            Form::Files(..) => None,
        };
        let mut damage = Damage {
            catalogue: catalogue.digest(),
            unit: shard.unit,
            pieces: Vec::new(),
            unreadable: None,
        };
        let mut bytes = Vec::new();
        let before = report.pieces;
        for piece in (0..shard.piece_count()).filter(|piece| there(*piece)) {
            let part = shard.piece(piece, catalogue.piece_bytes());
            let places = match form {
                Form::Files(..) => shard.places(part),
                Form::Own(_) => vec![FileRange {
                    file: 0,
                    start: part.start,
                    len: part.end - part.start,
                }],
            };
            bytes.clear();
            let Some(reader) = own.as_mut().or(shared.as_mut()) else {
                continue;
            };
            report.pieces = report.pieces.saturating_add(1);
            if let Err(error) = reader.read(&places, &mut bytes) {
                damage.unreadable = Some(error.to_string());
                break;
            }
            report.bytes = report.bytes.saturating_add(bytes.len() as u64);
            if shard.pieces.get(piece as usize) != Some(&Digest::of(&bytes)) {
                damage.pieces.push(piece);
            }
        }
        if report.pieces > before {
            report.shards = report.shards.saturating_add(1);
        }
        if damage.unreadable.is_some() || !damage.pieces.is_empty() {
            report.damage.push(damage);
        }
    }
}
