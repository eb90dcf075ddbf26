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
    /// A value has the wrong form or a key of the file is not known.
    #[error("settings: {0}")]
    Value(Box<figment::Error>),
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
