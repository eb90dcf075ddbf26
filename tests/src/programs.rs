//! The programs under test: built once per test process, beside the tests, with the tests' own profile.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `coordinator` program.
#[must_use]
pub fn coordinator() -> PathBuf {
    program("coordinator")
}

/// The `node` program.
#[must_use]
pub fn node() -> PathBuf {
    program("node")
}

/// The `shard-tool` program.
#[must_use]
pub fn shard_tool() -> PathBuf {
    program("shard-tool")
}

fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(build);
    let path = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(path.is_file(), "{} was not built", path.display());
    path
}

/// Brings the programs up to date (nothing to do when the whole workspace was built for the tests) and names their folder.
fn build() -> PathBuf {
    // A test runs as TARGET/PROFILE/deps/NAME.
    let exe = std::env::current_exe().expect("the test's own path");
    let folder = exe
        .parent()
        .and_then(Path::parent)
        .expect("TARGET/PROFILE")
        .to_owned();
    let target = folder.parent().expect("TARGET");
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // The whole workspace, so that features are the same as when the tests were built.
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--workspace",
            "--bins",
            "--offline",
            "--quiet",
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(root)
        .output()
        .expect("cargo runs");
    assert!(
        built.status.success(),
        "the programs do not build:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
    folder
}
