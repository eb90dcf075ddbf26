//! Nodes that have not got the model: what comes over the network, what is kept, and that the answers are the same.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
#[cfg(target_os = "linux")]
use std::{process::Command, sync::Arc};

use serde_json::Value;
#[cfg(target_os = "linux")]
use tests::lan::{Link, Rig};
use tests::process::run;
use tests::{Cluster, Wanted, fixtures, programs};

const PROMPT: [u32; 4] = [39, 279, 486, 11];

/// A household none of whose nodes opens a file of the model.
fn without_files(model: &Path, nodes: usize) -> Wanted {
    Wanted::model(model)
        .nodes(nodes)
        .join(&["--no-shared-files"])
        .serve(&["--plan", "layers"])
}

async fn node_status(cluster: &Cluster, at: usize) -> Value {
    let dir = cluster.members[at].dir.to_str().unwrap();
    let words = ["status", "--json", "--data-dir", dir];
    run(&programs::node(), &words).await.ok().json()
}

/// Ends a node without a word, and waits until the coordinator has noticed.
async fn lose(cluster: &mut Cluster, at: usize) {
    cluster.kill(at).await;
    cluster
        .status("its loss", |status| status["nodes"] == 0)
        .await;
}

fn number(value: &Value, field: &str) -> u64 {
    value[field]
        .as_u64()
        .unwrap_or_else(|| panic!("{field} in {value}"))
}

/// The one model in a node's store.
fn image(cluster: &Cluster, at: usize) -> PathBuf {
    let store = cluster.members[at].dir.join("store");
    let mut models = fs::read_dir(&store)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    models.next().expect("a model in the store")
}

fn catalogue(cluster: &Cluster, at: usize) -> Value {
    let text = fs::read(image(cluster, at).join("catalogue.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Bytes of the shards of layers `first` to `end`, with base and head or embedding as asked.
fn bytes_of(catalogue: &Value, first: u64, end: u64, ends: &[&str]) -> u64 {
    let wanted = |unit: &str| {
        let mut parts = unit.split('.');
        let name = parts.next().unwrap();
        let layer = parts.next().and_then(|n| n.parse().ok());
        match name {
            "trunk" | "group" => layer.is_some_and(|layer: u64| (first..end).contains(&layer)),
            other => ends.contains(&other),
        }
    };
    let shards = catalogue["shards"].as_array().unwrap().iter();
    shards
        .filter(|shard| wanted(shard["unit"].as_str().unwrap()))
        .map(|shard| number(shard, "bytes"))
        .sum()
}

#[tokio::test]
async fn every_family_answers_the_same_out_of_fetched_shards() {
    for family in fixtures::FAMILIES {
        for model in [fixtures::gguf(family), fixtures::safetensors(family)] {
            let golden = fixtures::goldens(family).remove(0);
            let here = Wanted::model(&model).ready().await;
            let expected = here.api().greedy(&golden.prompt, 12, 20).await;
            drop(here);
            let cluster = without_files(&model, 2).ready().await;
            let got = cluster.api().greedy(&golden.prompt, 12, 20).await;
            assert_eq!(got, expected, "{}", model.display());
        }
    }
}

#[tokio::test]
async fn each_node_fetches_its_own_shards_and_nothing_else() {
    let cluster = without_files(&fixtures::bundled(), 2).ready().await;
    let catalogue = catalogue(&cluster, 0);
    let size = fs::metadata(image(&cluster, 0).join("catalogue.json"))
        .unwrap()
        .len();
    let tied = catalogue["shards"]
        .as_array()
        .unwrap()
        .iter()
        .all(|s| s["unit"] != "embedding");
    let mut all = 0;
    for at in 0..2 {
        let status = node_status(&cluster, at).await;
        let layers = &status["layers"];
        let (first, end) = (layers[0].as_u64().unwrap(), layers[1].as_u64().unwrap());
        let ends: &[&str] = match (first == 0, tied) {
            (true, false) => &["base", "embedding"],
            _ => &["base", "head"],
        };
        let needed = bytes_of(&catalogue, first, end, ends);
        assert_eq!(number(&status, "store_bytes"), needed, "{status}");
        assert_eq!(number(&status, "fetched_bytes"), needed + size, "{status}");
        all += needed;
    }
    assert!(all < 2 * fs::metadata(fixtures::bundled()).unwrap().len());
}

#[tokio::test]
async fn a_node_that_comes_back_fetches_nothing() {
    let mut cluster = without_files(&fixtures::bundled(), 1).ready().await;
    let before = cluster.api().greedy(&PROMPT, 12, 20).await;
    lose(&mut cluster, 0).await;
    cluster.restart(0);
    cluster.api().ready().await;
    assert_eq!(cluster.api().greedy(&PROMPT, 12, 20).await, before);
    let status = node_status(&cluster, 0).await;
    assert_eq!(number(&status, "fetched_bytes"), 0, "{status}");
}

#[tokio::test]
async fn nodes_lend_to_each_other() {
    let mut cluster = without_files(&fixtures::bundled(), 2).ready().await;
    let before = cluster.api().greedy(&PROMPT, 12, 20).await;
    // Left alone, the first machine fetches the rest and has everything.
    cluster.kill(1).await;
    cluster
        .status("one stage", |status| {
            status["stages"] == 1 && status["ready"] == true
        })
        .await;
    let mut lent = 0;
    // The coordinator is a source as well, and may be done before the other one was asked.
    for _ in 0..5 {
        fs::remove_dir_all(cluster.members[1].dir.join("store")).unwrap();
        cluster.restart(1);
        cluster
            .status("two machines", |status| status["nodes"] == 2)
            .await;
        cluster.restart_coordinator().await;
        cluster
            .status("two stages", |status| {
                status["stages"] == 2 && status["ready"] == true
            })
            .await;
        assert_eq!(cluster.api().greedy(&PROMPT, 12, 20).await, before);
        let [first, second] = [
            node_status(&cluster, 0).await,
            node_status(&cluster, 1).await,
        ];
        lent = number(&first, "lent_bytes");
        assert!(number(&second, "fetched_bytes") > 0, "{second}");
        if lent > 0 {
            break;
        }
        cluster.kill(1).await;
    }
    assert!(lent > 0, "the first machine lent nothing");
}

fn flip(path: &Path, at: u64) {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 0x10]).unwrap();
}

#[tokio::test]
async fn bits_that_flip_on_disk_are_found_and_fetched_again() {
    let mut cluster = without_files(&fixtures::bundled(), 1).ready().await;
    let before = cluster.api().greedy(&PROMPT, 12, 20).await;
    lose(&mut cluster, 0).await;
    let catalogue = catalogue(&cluster, 0);
    let shards = catalogue["shards"].as_array().unwrap();
    let trunk = shards
        .iter()
        .find(|shard| shard["unit"] == "trunk.4")
        .unwrap();
    let place = &trunk["ranges"][0];
    let name = catalogue["files"][0]["name"].as_str().unwrap();
    let file = image(&cluster, 0).join("files").join(name);
    flip(&file, place[1].as_u64().unwrap() + 5);
    cluster.restart(0);
    cluster.api().ready().await;
    assert_eq!(cluster.api().greedy(&PROMPT, 12, 20).await, before);
    let status = node_status(&cluster, 0).await;
    let piece = number(trunk, "bytes").min(number(&catalogue, "piece_bytes"));
    assert_eq!(number(&status, "fetched_bytes"), piece, "{status}");
    let said = cluster.members[0].process.err().join("\n");
    assert!(said.contains("damaged on disk"), "{said}");
}

#[tokio::test]
async fn a_node_killed_while_it_fetches_goes_on_where_it_was() {
    let mut cluster = without_files(&fixtures::bundled(), 0).start().await;
    let invite = cluster.invite().await;
    cluster.join("n0", "256MiB", &invite);
    for _ in 0..3 {
        // Ended at some moment between the first shard and the last.
        let process = &mut cluster.members[0].process;
        process.err_line("taken from other machines").await;
        lose(&mut cluster, 0).await;
        cluster.restart(0);
    }
    cluster.api().ready().await;
    let status = node_status(&cluster, 0).await;
    let store = cluster.members[0].dir.join("store");
    let whole: u64 = bytes_of(
        &catalogue(&cluster, 0),
        0,
        u64::MAX,
        &["base", "embedding", "head"],
    );
    assert_eq!(number(&status, "store_bytes"), whole, "{status}");
    assert!(shards::verify(&store, None).unwrap().damage.is_empty());
    assert!(!cluster.api().greedy(&PROMPT, 12, 0).await.ids.is_empty());
}

#[tokio::test]
async fn a_store_that_is_too_small_is_said_with_both_numbers() {
    let cluster = without_files(&fixtures::bundled(), 1)
        .join(&["--store-limit", "1MiB"])
        .start()
        .await;
    let api = cluster.api();
    let said = api.readiness("the limit", |reply| {
        let detail = reply.body["detail"].as_str().unwrap_or_default();
        detail.contains("--store-limit") && detail.contains("1048576")
    });
    let reply = said.await;
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(
        reply.body["detail"]
            .as_str()
            .unwrap()
            .contains("store_limit"),
        "{reply:?}"
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn readiness_shows_how_far_a_fetch_is() {
    // 18 MB take some seconds.
    let slow = Link {
        bits_per_s: 40_000_000,
        ..Link::GIGABIT
    };
    let Some(rig) = Rig::or_skip(&[slow; 2], 3) else {
        return;
    };
    let rig = Arc::new(rig);
    let wanted = without_files(&fixtures::bundled(), 1).on(&rig, 0, &[1]);
    let cluster = wanted.start().await;
    let mut before = 0;
    for _ in 0..3 {
        let api = cluster.api();
        let reply = api.readiness("progress", |reply| {
            reply.body["phase"] == "loading"
                && number(&reply.body, "done_bytes") > before
                && reply.body["eta_s"].is_number()
        });
        let reply = reply.await;
        assert_eq!(reply.status, 503, "{reply:?}");
        let (done, total) = (
            number(&reply.body, "done_bytes"),
            number(&reply.body, "total_bytes"),
        );
        assert!(done < total, "{reply:?}");
        assert!(reply.body["eta_s"].as_f64().unwrap() > 0.0, "{reply:?}");
        let detail = reply.body["detail"].as_str().unwrap();
        assert!(detail.contains("1 machines are loading"), "{reply:?}");
        before = done;
    }
    let status = node_status(&cluster, 0).await;
    assert!(number(&status, "fetched_bytes") > 0, "{status}");
    assert_eq!(status["phase"], "loading", "{status}");
    cluster.api().ready().await;
}

/// A small disk, until it is dropped.
#[cfg(target_os = "linux")]
struct Disk(PathBuf);

#[cfg(target_os = "linux")]
impl Disk {
    /// `None`, with a word why, where this process may not have one.
    fn or_skip(at: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&at)
            .output();
        match mounted {
            Ok(ran) if ran.status.success() => Some(Self(at)),
            Ok(ran) => {
                eprintln!("skipped: mount: {}", String::from_utf8_lossy(&ran.stderr));
                None
            }
            Err(error) => {
                eprintln!("skipped: mount: {error}");
                None
            }
        }
    }

    fn grow(&self, size: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,size={size}")]);
        assert!(mount.arg(&self.0).status().unwrap().success());
    }
}

#[cfg(target_os = "linux")]
impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a node may still have files open there.
        let ended = Command::new("umount").arg("-l").arg(&self.0).status();
        if !ended.is_ok_and(|ended| ended.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_said_and_the_fetch_goes_on_when_there_is_room() {
    let model = fixtures::bundled();
    let mut cluster = without_files(&model, 0)
        .join(&["--store-limit", "1GiB"])
        .start()
        .await;
    let Some(disk) = Disk::or_skip(cluster.dir().join("n0"), "9M") else {
        return;
    };
    let invite = cluster.invite().await;
    cluster.join("n0", "256MiB", &invite);
    let full = "the disk is full";
    let line = cluster.members[0].process.err_line(full).await;
    assert!(line.contains("disk_full"), "{line}");
    cluster
        .status("the machine's rest", |status| {
            status["phase"] == "waiting_for_nodes"
        })
        .await;
    let nodes = cluster.told(&["nodes"]).await;
    let trouble = nodes["nodes"][0]["trouble"].as_str().unwrap_or_default();
    assert!(
        trouble.contains(full) && trouble.contains("what was fetched is kept"),
        "{nodes}"
    );
    let status = node_status(&cluster, 0).await;
    assert!(
        status["trouble"].as_str().is_some_and(|t| t.contains(full)),
        "{status}"
    );
    let api = cluster.api();
    let said = api.readiness("the reason", |reply| {
        let detail = reply.body["detail"].as_str().unwrap_or_default();
        detail.contains(full) && detail.contains("tried again")
    });
    said.await;
    let kept = number(&status, "store_bytes");
    assert!(kept > 4 << 20, "{status}");
    disk.grow("64M");
    cluster.api().ready().await;
    let status = node_status(&cluster, 0).await;
    assert_eq!(status["trouble"], Value::Null, "{status}");
    let whole = bytes_of(
        &catalogue(&cluster, 0),
        0,
        u64::MAX,
        &["base", "embedding", "head"],
    );
    assert_eq!(number(&status, "store_bytes"), whole, "{status}");
    let damage = shards::verify(&cluster.members[0].dir.join("store"), None);
    assert!(damage.unwrap().damage.is_empty());
    assert!(!cluster.api().greedy(&PROMPT, 12, 0).await.ids.is_empty());
    cluster.kill(0).await;
}
