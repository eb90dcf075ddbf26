//! Finding the bundled model.

use std::path::{Path, PathBuf};

use command::Failure;

const FILE: &str = "models/hearth-tiny.gguf";

/// The bundled model: beside the program, above it (a build directory), here, or where the program was built.
///
/// # Errors
/// It is in none of these places.
pub(super) fn find() -> Result<PathBuf, Failure> {
    let exe = std::env::current_exe().unwrap_or_default();
    let mut places: Vec<PathBuf> = exe
        .ancestors()
        .skip(1)
        .take(4)
        .map(Path::to_owned)
        .collect();
    places.extend(
        exe.ancestors()
            .nth(2)
            .map(|prefix| prefix.join("share/hearth")),
    );
    places.extend(std::env::current_dir());
    places.push(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let found = places
        .iter()
        .map(|place| place.join(FILE))
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        Failure::Failed(format!(
            "the bundled model {FILE} is neither beside this program nor here; run this in the project's folder, or name a model with --model"
        ))
    })
}
