//! The settings of `serve`: flags over environment over file over defaults, and the checks of what they say together.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use command::Failure;
use command::settings::{default_data_dir, layered};
use coordinator::house::PlanChoice;
use coordinator::http::{HttpConfig, Tls};
use coordinator::models::{ModelsError, Shelf};
use coordinator::people::ApiKey;
use plan::{KvType, Plan};
use proto::facts::ModelFacts;
use proto::limits::STEP_SEGMENTS_MAX;
use serde::{Deserialize, Deserializer};

use super::serve::Flags;

/// Sequences at a time, unless somebody says otherwise.
const SEQUENCES: u32 = 8;
/// Bytes of a key file.
const KEY_BYTES_MAX: u64 = 4096;
/// Characters that a key has at least.
const KEY_CHARS_LEAST: usize = 16;
/// Settings that the environment may give.
const KNOWN: [&str; 16] = [
    "model",
    "api",
    "mesh",
    "discovery",
    "data_dir",
    "context",
    "expect",
    "plan",
    "kv",
    "sequences",
    "api_key_file",
    "tls",
    "tls_cert",
    "tls_key",
    "allow_host",
    "allow_origin",
];

/// All layers merged; what nobody said is absent.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Merged {
    #[serde(deserialize_with = "one_or_many")]
    model: Vec<String>,
    api: Option<SocketAddr>,
    mesh: Option<SocketAddr>,
    discovery: Option<String>,
    data_dir: Option<PathBuf>,
    context: Option<u32>,
    expect: Option<usize>,
    plan: Option<String>,
    kv: Option<KvType>,
    sequences: Option<u32>,
    api_key_file: Option<PathBuf>,
    tls: Option<bool>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    #[serde(deserialize_with = "one_or_many")]
    allow_host: Vec<String>,
    #[serde(deserialize_with = "one_or_many")]
    allow_origin: Vec<String>,
}

/// A list, or one value in its place: the environment has no lists.
fn one_or_many<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(value)? {
        OneOrMany::One(value) => vec![value],
        OneOrMany::Many(values) => values,
    })
}

/// What the service is started with.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The model's path.
    pub(crate) model: PathBuf,
    /// Where the API listens.
    pub(crate) api: SocketAddr,
    /// Where the mesh listens.
    pub(crate) mesh: SocketAddr,
    /// Whether the network is told where.
    pub(crate) discovery: bool,
    /// Where key and state are kept.
    pub(crate) data_dir: PathBuf,
    /// Positions per sequence, if somebody said so.
    pub(crate) context: Option<u32>,
    /// Machines to wait for.
    pub(crate) expect: Option<usize>,
    /// How the plan is found.
    pub(crate) plan: PlanChoice,
    /// Type of the attention cache.
    pub(crate) kv: Option<KvType>,
    /// Sequences at a time.
    pub(crate) sequences: u32,
    /// With which certificate clients speak TLS, if they do.
    pub(crate) tls: Certificate,
    /// A key beside those of the record.
    pub(crate) file_key: Option<ApiKey>,
    /// How the API behaves; who may ask is added when the record is open.
    pub(crate) http: HttpConfig,
}

/// With which certificate clients speak TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Certificate {
    /// They do not.
    None,
    /// The household's own.
    Household,
    /// The owner's.
    Given {
        /// Its file.
        cert: PathBuf,
        /// The file of its key.
        key: PathBuf,
    },
}

impl Certificate {
    /// Opens it; the household's own is made for these names if it is not there.
    ///
    /// # Errors
    /// Its files cannot be used.
    pub(crate) fn open(&self, data_dir: &Path, names: Vec<String>) -> Result<Option<Tls>, Failure> {
        match self {
            Certificate::None => Ok(None),
            Certificate::Household => Ok(Some(Tls::household(data_dir, names)?)),
            Certificate::Given { cert, key } => match Tls::given(cert, key) {
                Ok(tls) => Ok(Some(tls)),
                Err(error) => Err(Failure::Usage(Failure::of(&error).to_string())),
            },
        }
    }
}

fn certificate(
    own: Option<bool>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Certificate, Failure> {
    match (own.unwrap_or(false), cert, key) {
        (false, None, None) => Ok(Certificate::None),
        (true, None, None) => Ok(Certificate::Household),
        (false, Some(cert), Some(key)) => Ok(Certificate::Given { cert, key }),
        (true, ..) => Err(Failure::Usage(
            "--tls came together with --tls-cert or --tls-key; expected the household's own certificate or another one"
                .to_owned(),
        )),
        (false, ..) => Err(Failure::Usage(
            "one of --tls-cert and --tls-key came; expected both, or --tls for the household's own certificate"
                .to_owned(),
        )),
    }
}

/// Merges and checks.
///
/// # Errors
/// A setting has a wrong form, names a file that cannot be used, or asks for what is not there yet.
pub(crate) fn merge(flags: &Flags) -> Result<Settings, Failure> {
    let merged: Merged = layered(flags, flags.config.as_deref(), &KNOWN).map_err(usage)?;
    let http = HttpConfig {
        allowed_hosts: merged.allow_host,
        allowed_origins: merged.allow_origin,
        ..HttpConfig::default()
    };
    if merged.expect == Some(0) {
        return Err(Failure::Usage(
            "--expect 0 came; at least 1 machine is needed to run a model".to_owned(),
        ));
    }
    let data_dir = merged
        .data_dir
        .unwrap_or_else(|| default_data_dir("coordinator"));
    Ok(Settings {
        model: found(one_model(merged.model)?, &data_dir)?,
        api: merged
            .api
            .unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
        mesh: merged
            .mesh
            .unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7411))),
        data_dir,
        discovery: discovery(merged.discovery.as_deref())?,
        context: merged.context,
        expect: merged.expect,
        plan: choice(merged.plan.as_deref())?,
        kv: merged.kv,
        sequences: merged.sequences.unwrap_or(SEQUENCES),
        tls: certificate(merged.tls, merged.tls_cert, merged.tls_key)?,
        file_key: merged.api_key_file.as_deref().map(key).transpose()?,
        http,
    })
}

impl Settings {
    /// Compares what was asked with the model, before anything waits for nodes.
    ///
    /// # Errors
    /// A context that the model does not have, no room for any sequence, or a plan for another model.
    pub(crate) fn suit(&self, model: &ModelFacts) -> Result<(), Failure> {
        let most = model.context;
        if let Some(context) = self.context.filter(|c| !(1..=most).contains(c)) {
            return Err(Failure::Usage(format!(
                "--context {context} came; {} takes 1 to {most}",
                model.id
            )));
        }
        if !(1..=STEP_SEGMENTS_MAX).contains(&self.sequences) {
            return Err(Failure::Usage(format!(
                "--sequences {} came; expected 1 to {STEP_SEGMENTS_MAX}",
                self.sequences
            )));
        }
        match &self.plan {
            PlanChoice::File(plan) if plan.model != model.id => Err(Failure::Usage(format!(
                "the plan is for the model '{}'; this is '{}': name that model or another plan",
                plan.model, model.id
            ))),
            _ => Ok(()),
        }
    }
}

fn usage(error: command::settings::SettingsError) -> Failure {
    Failure::Usage(Failure::of(&error).to_string())
}

fn discovery(word: Option<&str>) -> Result<bool, Failure> {
    match word {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(other) => Err(Failure::Usage(format!(
            "--discovery {other} came; expected on or off"
        ))),
    }
}

fn one_model(mut models: Vec<String>) -> Result<PathBuf, Failure> {
    match (models.pop(), models.len()) {
        (Some(model), 0) => Ok(model.into()),
        (None, _) => Err(Failure::Usage(
            "no model was named; say --model with a .gguf file or a safetensors directory"
                .to_owned(),
        )),
        (Some(_), others) => Err(Failure::Usage(format!(
            "{} models were named; this version serves one: start a second service with another --data-dir, --api and --mesh",
            others + 1
        ))),
    }
}

/// The path as it is, or that of the added model whose name it is. A file wins over a name.
fn found(model: PathBuf, data_dir: &Path) -> Result<PathBuf, Failure> {
    let name = model.to_str().filter(|_| !model.exists());
    match name.map(|name| Shelf::of(data_dir).open(name)) {
        Some(Ok(path)) => Ok(path),
        // What is neither is refused as a path, when it is opened.
        None | Some(Err(ModelsError::Unknown(_) | ModelsError::Name(_))) => Ok(model),
        Some(Err(error)) => Err(Failure::of(&error)),
    }
}

fn choice(word: Option<&str>) -> Result<PlanChoice, Failure> {
    match word {
        None | Some("auto") => Ok(PlanChoice::Auto),
        Some("layers") => Ok(PlanChoice::Layers),
        Some("experts") => Ok(PlanChoice::Experts),
        Some(file) => read_plan(Path::new(file)).map(|plan| PlanChoice::File(Box::new(plan))),
    }
}

fn read_plan(path: &Path) -> Result<Plan, Failure> {
    let fail = |what: String| {
        Failure::Usage(format!(
            "--plan {}: {what}; expected auto, layers, experts or a file that `coordinator plan --json` or `shard-tool plan --json` wrote",
            path.display()
        ))
    };
    let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    Plan::from_json(&text).map_err(|error| fail(error.to_string()))
}

/// Reads a key: the first line of a small file.
fn key(path: &Path) -> Result<ApiKey, Failure> {
    use std::io::Read as _;
    let fail = |what: String| Failure::Usage(format!("--api-key-file {}: {what}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let mut text = String::new();
    file.take(KEY_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| fail(error.to_string()))?;
    let key = text.lines().next().unwrap_or_default().trim();
    let printable = key.chars().all(|c| c.is_ascii_graphic());
    if !printable || key.len() < KEY_CHARS_LEAST {
        return Err(fail(format!(
            "its first line has {} characters; expected at least {KEY_CHARS_LEAST} printable ASCII characters without blanks",
            key.chars().count()
        )));
    }
    Ok(ApiKey::new(key))
}

#[cfg(test)]
mod tests {
    use coordinator::people::People;

    use super::*;

    fn refused(flags: Flags) -> String {
        match merge(&flags) {
            Err(Failure::Usage(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    fn flags() -> Flags {
        Flags {
            model: Some(vec!["m.gguf".to_owned()]),
            ..Flags::default()
        }
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let settings = merge(&flags()).unwrap();
        assert_eq!(settings.api.to_string(), "127.0.0.1:8080");
        assert_eq!(settings.mesh.to_string(), "0.0.0.0:7411");
        assert_eq!(settings.sequences, SEQUENCES);
        assert!(settings.discovery);
        assert!(matches!(settings.plan, PlanChoice::Auto));
        assert!(settings.file_key.is_none());
    }

    #[test]
    fn what_is_not_there_yet_is_refused_by_name() {
        let two = vec!["a.gguf".to_owned(), "b.gguf".to_owned()];
        assert!(
            refused(Flags {
                model: Some(two),
                ..flags()
            })
            .contains("2 models")
        );
        assert!(
            refused(Flags {
                model: None,
                ..flags()
            })
            .contains("--model")
        );
        let missing = Some("no-such-plan.json".to_owned());
        assert!(
            refused(Flags {
                plan: missing,
                ..flags()
            })
            .contains("no-such-plan.json")
        );
        assert!(
            refused(Flags {
                kv: Some("f8".to_owned()),
                ..flags()
            })
            .contains("f8")
        );
        assert!(
            refused(Flags {
                expect: Some(0),
                ..flags()
            })
            .contains("at least 1")
        );
        let discovery = Some("maybe".to_owned());
        assert!(
            refused(Flags {
                discovery,
                ..flags()
            })
            .contains("maybe")
        );
        let api = Some("localhost".to_owned());
        assert!(refused(Flags { api, ..flags() }).contains("api"));
    }

    #[test]
    fn a_certificate_is_the_households_or_given_whole() {
        let file = |name: &str| Some(PathBuf::from(name));
        for (own, cert, key, expected) in [
            (None, None, None, Some(Certificate::None)),
            (Some(true), None, None, Some(Certificate::Household)),
            (
                None,
                file("c"),
                file("k"),
                Some(Certificate::Given {
                    cert: "c".into(),
                    key: "k".into(),
                }),
            ),
            (Some(true), file("c"), file("k"), None),
            (None, file("c"), None, None),
            (None, None, file("k"), None),
        ] {
            assert_eq!(certificate(own, cert, key).ok(), expected);
        }
    }

    #[test]
    fn every_cache_type_can_be_asked_for() {
        for kv in [KvType::F32, KvType::F16, KvType::Q8] {
            let given = Some(kv.to_string());
            let settings = merge(&Flags {
                kv: given,
                ..flags()
            })
            .unwrap();
            assert_eq!(settings.kv, Some(kv));
        }
    }

    #[test]
    fn a_file_may_name_one_model_or_a_list() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("hearth.toml");
        for text in ["model = 'm.gguf'", "model = ['m.gguf']"] {
            std::fs::write(&config, text).unwrap();
            let flags = Flags {
                config: Some(config.clone()),
                ..Flags::default()
            };
            assert_eq!(merge(&flags).unwrap().model, Path::new("m.gguf"));
        }
        std::fs::write(&config, "models = 'm.gguf'").unwrap();
        let flags = Flags {
            config: Some(config),
            ..flags()
        };
        assert!(refused(flags).contains("models"));
    }

    #[test]
    fn a_key_is_one_long_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for bad in [
            "",
            "short",
            "a key with blanks in it",
            "schlüssel-mit-umlaut",
        ] {
            std::fs::write(&path, bad).unwrap();
            assert!(key(&path).is_err(), "{bad}");
        }
        std::fs::write(&path, "0123456789abcdef\nrest\n").unwrap();
        let people = People::with_key(key(&path).unwrap());
        assert!(people.recognise(Some(b"0123456789abcdef")).is_ok());
    }
}
