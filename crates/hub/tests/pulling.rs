//! A model comes whole from a hub of loopback, whatever happens on the way; and a hub that lies gets nothing done.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod doll;

use std::path::Path;

use doll::{Act, Doll, noise};
use hub::{HubError, HubRef, Manifest, Plan, Progress, Pulled, Request, Settings, Token, pull};
use tempfile::TempDir;

const BYTES: usize = 300_000;

/// Counts what it is told.
#[derive(Default)]
struct Told {
    begun: Vec<(String, u64)>,
    bytes: u64,
    retries: Vec<String>,
    restarts: usize,
}

impl Progress for Told {
    fn begin(&mut self, file: &str, have: u64, _bytes: u64) {
        self.begun.push((file.to_owned(), have));
    }
    fn advance(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
    fn retry(&mut self, why: &str) {
        self.retries.push(why.to_owned());
    }
    fn restart(&mut self, _have: u64) {
        self.restarts += 1;
    }
}

struct Case {
    doll: Doll,
    folder: TempDir,
}

impl Case {
    fn new(files: &[(&str, Vec<u8>)]) -> Self {
        Self {
            doll: Doll::start(files),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn gguf() -> Self {
        Self::new(&[
            ("m.gguf", noise(BYTES, 1)),
            ("README.md", b"hello".to_vec()),
        ])
    }

    fn dir(&self) -> std::path::PathBuf {
        self.folder.path().join("model")
    }

    fn pull(&self, model: &str) -> (Result<Pulled, HubError>, Told) {
        self.pull_with(model, None, &mut |_| Ok(()))
    }

    fn pull_with(
        &self,
        model: &str,
        token: Option<&str>,
        consent: &mut dyn FnMut(&Plan) -> Result<(), HubError>,
    ) -> (Result<Pulled, HubError>, Told) {
        let token = token.map(|token| Token::new(token).unwrap());
        let request = Request {
            model: model.parse().unwrap(),
            dir: self.dir(),
            settings: Settings::new("--mirror", &self.doll.url(), token).unwrap(),
        };
        let mut told = Told::default();
        (pull(&request, consent, &mut told), told)
    }

    fn refused(&self) -> String {
        self.pull("hf:org/repo").0.unwrap_err().to_string()
    }

    fn holds(&self, name: &str, bytes: &[u8]) {
        assert_eq!(
            std::fs::read(self.dir().join(name)).unwrap(),
            bytes,
            "{name}"
        );
        assert!(parts(&self.dir()).is_empty());
    }

    /// Ranges asked for at the store of blobs.
    fn ranges(&self) -> Vec<Option<String>> {
        let seen = self.doll.seen().into_iter();
        seen.filter(|seen| seen.port == "blobs")
            .map(|seen| seen.range)
            .collect()
    }
}

/// Names of files that are not whole yet.
fn parts(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".part")).collect()
}

#[test]
fn a_model_comes_whole_and_a_second_time_costs_nothing() {
    let case = Case::gguf();
    let (pulled, told) = case.pull("hf:org/repo");
    let pulled = pulled.unwrap();
    assert_eq!(pulled.path, case.dir().join("m.gguf"));
    assert_eq!(
        (pulled.fetched_bytes, told.bytes),
        (BYTES as u64, BYTES as u64)
    );
    case.holds("m.gguf", &noise(BYTES, 1));
    let mut asked = false;
    let (again, told) = case.pull_with("hf:org/repo", None, &mut |_| {
        asked = true;
        Ok(())
    });
    assert_eq!(
        (again.unwrap().fetched_bytes, told.bytes, asked),
        (0, 0, false)
    );
    assert_eq!(case.ranges().len(), 1);
}

#[test]
fn directories_and_split_files_come_with_all_their_parts() {
    let names = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ];
    let files: Vec<(&str, Vec<u8>)> = (1..)
        .zip(names)
        .map(|(n, name)| (name, noise(5000, n)))
        .collect();
    let case = Case::new(&[files.clone(), vec![("other.bin", vec![1])]].concat());
    let pulled = case.pull("hf:org/repo").0.unwrap();
    assert_eq!(pulled.path, case.dir());
    files
        .iter()
        .for_each(|(name, bytes)| case.holds(name, bytes));
    assert!(!case.dir().join("other.bin").exists());
    let parts = [
        "Q8/m-Q8_0-00001-of-00002.gguf",
        "Q8/m-Q8_0-00002-of-00002.gguf",
    ];
    let case = Case::new(&[
        (parts[0], noise(4000, 1)),
        (parts[1], noise(4000, 2)),
        ("m-F16.gguf", vec![1]),
    ]);
    let pulled = case.pull("hf:org/repo:Q8_0").0.unwrap();
    assert_eq!(pulled.path, case.dir().join("m-Q8_0-00001-of-00002.gguf"));
    case.holds("m-Q8_0-00002-of-00002.gguf", &noise(4000, 2));
}

#[test]
fn nothing_happens_without_consent() {
    let case = Case::gguf();
    let mut shown = None;
    let (refused, _) = case.pull_with("hf:org/repo", None, &mut |plan| {
        shown = Some(plan.clone());
        Err(HubError::Consent("no"))
    });
    assert!(matches!(refused, Err(HubError::Consent("no"))));
    let shown = shown.unwrap();
    assert_eq!(
        (shown.missing_bytes, shown.manifest.files.len()),
        (BYTES as u64, 1)
    );
    assert!(!case.dir().exists());
    assert!(case.ranges().is_empty());
}

#[test]
fn a_lost_connection_is_gone_on_with() {
    let case = Case::gguf();
    case.doll.act("/blobs/m.gguf", Act::DropAfter(100_000));
    case.doll.act("/blobs/m.gguf", Act::DropAfter(50_000));
    let (pulled, told) = case.pull("hf:org/repo");
    pulled.unwrap();
    case.holds("m.gguf", &noise(BYTES, 1));
    let ranges = [
        None,
        Some("bytes=100000-".to_owned()),
        Some("bytes=150000-".to_owned()),
    ];
    assert_eq!(case.ranges(), ranges);
    assert_eq!((told.retries.len(), told.bytes), (2, BYTES as u64));
}

#[test]
fn what_an_earlier_run_left_is_gone_on_with() {
    let case = Case::gguf();
    case.doll.act("/blobs/m.gguf", Act::DropAfter(100_000));
    // The redirect is asked for again after the loss, and refused.
    case.doll.act(
        "resolve",
        Act::Redirect(format!("{}/blobs/m.gguf", case.doll.blobs_url())),
    );
    case.doll.act("resolve", Act::Status(403));
    let text = case.refused();
    assert!(text.contains("403") && text.contains("HF_TOKEN"), "{text}");
    assert_eq!(parts(&case.dir()).len(), 1);
    let (pulled, told) = case.pull("hf:org/repo");
    assert_eq!(pulled.unwrap().fetched_bytes, BYTES as u64 - 100_000);
    assert_eq!(told.begun, [("m.gguf".to_owned(), 100_000)]);
    case.holds("m.gguf", &noise(BYTES, 1));
}

#[test]
fn a_hub_without_ranges_starts_over() {
    let case = Case::gguf();
    case.doll.act("/blobs/m.gguf", Act::DropAfter(100_000));
    case.doll.act("/blobs/m.gguf", Act::NoRange);
    let (pulled, told) = case.pull("hf:org/repo");
    pulled.unwrap();
    assert_eq!(told.restarts, 1);
    case.holds("m.gguf", &noise(BYTES, 1));
}

#[test]
fn a_busy_hub_is_asked_again() {
    let case = Case::gguf();
    case.doll.act("/api/", Act::Status(503));
    case.doll.act("/blobs/m.gguf", Act::Status(429));
    let (pulled, told) = case.pull("hf:org/repo");
    pulled.unwrap();
    assert_eq!(told.retries.len(), 2, "{:?}", told.retries);
}

#[test]
fn a_new_version_does_not_mix_with_the_old_one() {
    let case = Case::gguf();
    case.doll.act("/blobs/m.gguf", Act::DropAfter(100_000));
    case.doll.act(
        "resolve",
        Act::Redirect(format!("{}/blobs/m.gguf", case.doll.blobs_url())),
    );
    case.doll.act("resolve", Act::Status(404));
    assert!(case.refused().contains("404"));
    case.doll.put("m.gguf", noise(BYTES, 2));
    let (pulled, told) = case.pull("hf:org/repo");
    pulled.unwrap();
    assert_eq!(told.begun, [("m.gguf".to_owned(), 0)]);
    assert_eq!(
        std::fs::read(case.dir().join("m.gguf")).unwrap(),
        noise(BYTES, 2)
    );
}

#[test]
fn a_wrong_checksum_is_found_and_deleted() {
    let case = Case::gguf();
    case.doll.act("/blobs/m.gguf", Act::Corrupt);
    let text = case.refused();
    assert!(
        text.contains("SHA-256") && text.contains("m.gguf"),
        "{text}"
    );
    assert!(parts(&case.dir()).is_empty() && !case.dir().join("m.gguf").exists());
    case.pull("hf:org/repo").0.unwrap();
    case.holds("m.gguf", &noise(BYTES, 1));
    let files = [
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("model.safetensors", noise(99, 1)),
    ];
    let case = Case::new(&files);
    case.doll.act("/config.json", Act::Corrupt);
    assert!(case.refused().contains("git blob id"));
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let case = Case::gguf();
    let (pulled, _) = case.pull_with("hf:org/repo", Some("hf_verysecret"), &mut |_| Ok(()));
    pulled.unwrap();
    for seen in case.doll.seen() {
        let expected = (seen.port == "hub").then(|| "Bearer hf_verysecret".to_owned());
        assert_eq!(seen.authorization, expected, "{} {}", seen.port, seen.path);
    }
    let page = std::fs::read_to_string(case.dir().join("hearth-model.json")).unwrap();
    assert!(!page.contains("verysecret"));
}

#[test]
fn no_text_of_an_error_has_the_token_or_a_signature() {
    let case = Case::gguf();
    for _ in 0..8 {
        case.doll.act("/blobs/m.gguf", Act::Status(403));
        let (refused, _) = case.pull_with("hf:org/repo", Some("hf_verysecret"), &mut |_| Ok(()));
        let error = refused.unwrap_err();
        for text in [error.to_string(), format!("{error:?}")] {
            assert!(
                !text.contains("verysecret") && !text.contains("signature"),
                "{text}"
            );
        }
    }
}

#[test]
fn redirects_end_and_lead_to_the_web_alone() {
    let case = Case::gguf();
    let own = format!("{}/org/repo/resolve/x", case.doll.url());
    for _ in 0..10 {
        case.doll.act("resolve", Act::Redirect(own.clone()));
    }
    assert!(case.refused().contains("redirect"));
    let case = Case::gguf();
    for to in [
        "ftp://127.0.0.1/m",
        "file:///etc/passwd",
        "http://a:b@127.0.0.1/m",
        "http://",
    ] {
        case.doll.act("resolve", Act::Redirect(to.to_owned()));
        let text = case.refused();
        assert!(text.contains("redirect"), "{to}: {text}");
    }
}

#[test]
fn answers_of_the_wrong_length_or_place_are_refused() {
    let case = Case::gguf();
    case.doll.act("/blobs/m.gguf", Act::TooLong);
    let text = case.refused();
    assert!(text.contains("longer than 300000 bytes"), "{text}");
    let case = Case::gguf();
    case.doll.act("/blobs/m.gguf", Act::DropAfter(1000));
    case.doll.act("/blobs/m.gguf", Act::WrongRange);
    let text = case.refused();
    assert!(text.contains("begins at byte 1000"), "{text}");
}

#[test]
fn a_listing_that_is_none_is_refused() {
    let case = Case::gguf();
    case.doll.act("/api/", Act::Html);
    let text = case.refused();
    assert!(
        text.contains("text/html") && text.contains("login"),
        "{text}"
    );
    case.doll.act("/api/", Act::Json("[1, 2".to_owned()));
    assert!(case.refused().contains("no list"));
    case.doll.act("/api/", Act::Status(404));
    assert!(case.refused().contains("check the names"));
    let endless = "x".repeat(33 << 20);
    case.doll.act("/api/", Act::Json(endless));
    assert!(case.refused().contains("without end"));
    let zeros = "0".repeat(40);
    let evil = format!(
        r#"{{"sha":"{zeros}","siblings":[{{"rfilename":"../../m.gguf","size":3,"blobId":"{zeros}"}}]}}"#
    );
    case.doll.act("/api/", Act::Json(evil));
    assert!(case.refused().contains("neither"));
    assert!(!case.dir().exists());
}

#[test]
fn a_hub_that_is_not_there_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let folder = tempfile::tempdir().unwrap();
    let request = Request {
        model: "hf:org/repo".parse().unwrap(),
        dir: folder.path().join("m"),
        settings: Settings::new("--mirror", &format!("http://{address}"), None).unwrap(),
    };
    let error = pull(&request, &mut |_| Ok(()), &mut Told::default()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&address.to_string()) && text.contains("HTTPS_PROXY"),
        "{text}"
    );
}

#[test]
fn offline_says_what_is_missing_and_asks_nobody() {
    let case = Case::gguf();
    let model: HubRef = "hf:org/repo".parse().unwrap();
    let missing = |model: &HubRef| hub::offline(model, &case.dir()).unwrap_err().to_string();
    assert!(missing(&model).contains("holds nothing of hf:org/repo"));
    case.doll.act("/blobs/m.gguf", Act::DropAfter(100_000));
    case.doll.act(
        "resolve",
        Act::Redirect(format!("{}/blobs/m.gguf", case.doll.blobs_url())),
    );
    case.doll.act("resolve", Act::Status(403));
    case.refused();
    let asked = case.doll.seen().len();
    let text = missing(&model);
    assert!(
        text.contains("m.gguf (200000 bytes)") && text.contains("1 of 1"),
        "{text}"
    );
    assert_eq!(case.doll.seen().len(), asked);
    case.pull("hf:org/repo").0.unwrap();
    let asked = case.doll.seen().len();
    let here = hub::offline(&model, &case.dir()).unwrap();
    assert_eq!(here.path, case.dir().join("m.gguf"));
    assert!(missing(&"hf:org/other".parse().unwrap()).contains("not hf:org/other"));
    assert_eq!(case.doll.seen().len(), asked);
}

#[test]
fn files_of_others_are_not_replaced() {
    let case = Case::gguf();
    std::fs::create_dir(case.dir()).unwrap();
    let place = case.dir().join("m.gguf");
    std::fs::write(&place, "mine").unwrap();
    let text = case.refused();
    assert!(text.contains("move it away"), "{text}");
    assert_eq!(std::fs::read(&place).unwrap(), b"mine");
    // The same content is as good as fetched.
    std::fs::write(&place, noise(BYTES, 1)).unwrap();
    assert_eq!(case.pull("hf:org/repo").0.unwrap().fetched_bytes, 0);
    assert!(Manifest::read(&case.dir()).unwrap().is_some());
    let other = case.pull("hf:org/repo:m.gguf").0.unwrap_err().to_string();
    assert!(other.contains("holds hf:org/repo"), "{other}");
}

#[test]
fn two_downloads_do_not_share_a_folder() {
    let case = Case::gguf();
    case.doll.act("/blobs/m.gguf", Act::StallAfter(1000));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| case.pull("hf:org/repo").0);
        let begun = std::time::Instant::now();
        while case.ranges().is_empty() {
            assert!(begun.elapsed() < doll::DEADLINE);
            std::thread::yield_now();
        }
        let text = case.refused();
        case.doll.release();
        assert!(text.contains("another download"), "{text}");
        first.join().unwrap().unwrap();
    });
    case.holds("m.gguf", &noise(BYTES, 1));
}
