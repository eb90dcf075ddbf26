//! Settings in layers: flags over environment over a TOML file over defaults.

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Prefix of every environment variable of ours.
pub const ENV_PREFIX: &str = "HEARTH_";

/// A setting that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The named file is not there.
    #[error(
        "settings file {0} cannot be read: {1}; name one that exists with --config, or leave it out"
    )]
    File(PathBuf, std::io::Error),
    /// The data directory cannot be made.
    #[error("data directory {0} cannot be made: {1}; name another with --data-dir")]
    DataDir(PathBuf, std::io::Error),
    /// A value has the wrong form or a key of the file is not known.
    #[error("settings: {0}")]
    Value(Box<figment::Error>),
}

/// Where a role keeps its key and state when nobody says: the user's data directory of this system.
#[must_use]
pub fn default_data_dir(role: &str) -> PathBuf {
    dirs::data_local_dir()
        .unwrap_or_else(|| PathBuf::from("."))
        .join("hearth")
        .join(role)
}

/// Makes a data directory that only its owner can enter.
///
/// # Errors
/// When it cannot be made.
pub fn make_data_dir(path: &Path) -> Result<(), SettingsError> {
    let error = |e| SettingsError::DataDir(path.to_owned(), e);
    std::fs::create_dir_all(path).map_err(error)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(error)?;
    }
    Ok(())
}

/// Merges the layers into `T`, whose fields are all optional or defaulted and which refuses unknown fields.
///
/// `flags` holds what the command line said; its `None` fields must be skipped when serialised. `known` are the
/// names that the environment may set (`HEARTH_` and the name in capitals); other `HEARTH_` variables give a warning.
///
/// # Errors
/// When the file cannot be read, a key of it is unknown, or a value has the wrong form.
pub fn layered<T: DeserializeOwned>(
    flags: &impl Serialize,
    file: Option<&Path>,
    known: &[&str],
) -> Result<T, SettingsError> {
    let mut figment = Figment::new();
    if let Some(path) = file {
        let text =
            std::fs::read_to_string(path).map_err(|e| SettingsError::File(path.to_owned(), e))?;
        figment = figment.merge(Toml::string(&text));
    }
    warn_unknown(known);
    let names: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
    let env =
        Env::prefixed(ENV_PREFIX).filter(move |key| names.iter().any(|name| key == name.as_str()));
    figment
        .merge(env)
        .merge(Serialized::defaults(flags))
        .extract()
        .map_err(|e| SettingsError::Value(Box::new(e)))
}

/// Variables of ours that no setting reads.
fn warn_unknown(known: &[&str]) {
    for (name, _) in std::env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        if let Some(rest) = name.strip_prefix(ENV_PREFIX)
            && !known.contains(&rest.to_ascii_lowercase().as_str())
        {
            tracing::warn!(
                variable = name,
                "unknown setting in the environment, ignored"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        threads: Option<u32>,
        name: Option<String>,
    }

    #[derive(Serialize)]
    struct Flags {
        #[serde(skip_serializing_if = "Option::is_none")]
        threads: Option<u32>,
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = file("threads = 2\nname = 'den'\n");
        let got: Wanted = layered(&Flags { threads: Some(7) }, Some(file.path()), &[]).unwrap();
        assert_eq!(
            got,
            Wanted {
                threads: Some(7),
                name: Some("den".into())
            }
        );
        let got: Wanted = layered(&Flags { threads: None }, Some(file.path()), &[]).unwrap();
        assert_eq!(got.threads, Some(2));
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_refused() {
        for text in ["thread = 2", "threads = 'many'", "threads = ["] {
            let file = file(text);
            let got = layered::<Wanted>(&Flags { threads: None }, Some(file.path()), &[]);
            assert!(got.is_err(), "{text}");
        }
        let missing = layered::<Wanted>(
            &Flags { threads: None },
            Some(Path::new("no-such.toml")),
            &[],
        );
        assert!(missing.unwrap_err().to_string().contains("no-such.toml"));
    }
}
