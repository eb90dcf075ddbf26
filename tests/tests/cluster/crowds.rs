//! Many clients at once, and many that leave: everybody gets an answer or is told to come back, and nothing stays taken.

use std::time::Duration;

use serde_json::{Value, json};
use tests::api::{Api, LOOK};
use tests::{Cluster, Wanted, fixtures, plans};

/// The same numbers every time (splitmix64).
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

async fn two_nodes() -> Cluster {
    Wanted::model(&fixtures::gguf("qwen3_5_moe"))
        .nodes(2)
        .plan(plans::cut("model-f16", 8, &[4]))
        .ready()
        .await
}

fn prompt(rng: &mut Rng, len: u64) -> Vec<u64> {
    (0..len).map(|_| rng.below(500)).collect()
}

/// Nothing runs, waits or holds a page or a slot.
async fn nothing_is_held(cluster: &Cluster) {
    let free = |status: &Value| {
        let none = ["requests_running", "requests_waiting", "sequences"];
        none.iter().all(|field| status[field] == 0) && status["pages_free"] == status["pages"]
    };
    let status = cluster.status("all pages are free", free).await;
    assert!(status["pages"].as_u64().unwrap() > 0, "{status}");
}

#[tokio::test]
async fn five_hundred_clients_that_leave_hold_nothing() {
    let cluster = two_nodes().await;
    let mut rng = Rng(500);
    for _ in 0..20 {
        let mut leaving = tokio::task::JoinSet::new();
        for _ in 0..25 {
            let api = cluster.api();
            let (rows, patience_us) = (1 + rng.below(120), rng.below(60_000));
            let body = json!({"prompt": prompt(&mut rng, rows), "max_tokens": 200, "ignore_eos": true,
                "stream": true, "model": api.model});
            leaving.spawn(async move {
                let patience = Duration::from_micros(patience_us);
                // Out of patience is what is wanted: before the head, in the prompt, or among the tokens.
                let _gone = tokio::time::timeout(patience, whole_stream(&api, body)).await;
            });
        }
        leaving.join_all().await;
    }
    nothing_is_held(&cluster).await;
    // And the household answers as before.
    let body = json!({"prompt": [1, 2, 3], "max_tokens": 3});
    assert_eq!(
        cluster.api().post("/v1/completions", body).await.status,
        200
    );
}

/// What became of one client.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Fate {
    /// So many tokens came, and the end.
    Answered(usize),
    /// 429 with a time to come back.
    ComeBack,
}

async fn whole_stream(api: &Api, body: Value) -> Fate {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/v1/completions", api.address);
    let response = client.post(url).json(&body).send().await.unwrap();
    if response.status() == 429 {
        assert!(response.headers().contains_key("retry-after"));
        return Fate::ComeBack;
    }
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    Fate::Answered(text.matches("data: {").count())
}

/// Memory that a process has resident, in KiB.
#[cfg(target_os = "linux")]
fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_at_once_get_a_stream_or_are_told_to_come_back() {
    let cluster = two_nodes().await;
    let process = cluster.coordinator.process.id().unwrap();
    let before_kib = resident_kib(process);
    let mut rng = Rng(1000);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let api = cluster.api();
        let body = json!({"prompt": prompt(&mut rng, 20), "max_tokens": 4, "ignore_eos": true,
            "stream": true, "model": api.model});
        asking.spawn(async move { whole_stream(&api, body).await });
    }
    let mut most_kib = before_kib;
    let mut looks = tokio::time::interval(LOOK);
    let mut fates = Vec::new();
    loop {
        tokio::select! {
            fate = asking.join_next() => match fate {
                Some(fate) => fates.push(fate.unwrap()),
                None => break,
            },
            _ = looks.tick() => most_kib = most_kib.max(resident_kib(process)),
        }
    }
    let answered = fates
        .iter()
        .filter(|fate| **fate == Fate::Answered(4))
        .count();
    let refused = fates.iter().filter(|fate| **fate == Fate::ComeBack).count();
    assert_eq!((fates.len(), answered + refused), (1000, 1000), "{fates:?}");
    assert!(answered >= 8, "{answered} were answered");
    let grown_mib = (most_kib - before_kib) / 1024;
    assert!(grown_mib < 256, "{grown_mib} MiB for a thousand clients");
    nothing_is_held(&cluster).await;
}

#[tokio::test]
async fn eight_streams_at_once_say_what_each_says_alone() {
    let cluster = two_nodes().await;
    let mut rng = Rng(8);
    let prompts: Vec<Vec<u32>> = (0..8)
        .map(|at| prompt(&mut rng, 5 + 20 * at))
        .map(|ids| {
            ids.into_iter()
                .map(|id| u32::try_from(id).unwrap())
                .collect()
        })
        .collect();
    let mut alone = Vec::new();
    for prompt in &prompts {
        alone.push(cluster.api().greedy(prompt, 40, 1).await);
    }
    let together = prompts.iter().map(|prompt| {
        let (api, prompt) = (cluster.api(), prompt.clone());
        tokio::spawn(async move { api.greedy(&prompt, 40, 1).await })
    });
    let together: Vec<_> = together.collect();
    for (alone, together) in alone.iter().zip(together) {
        assert_eq!(*alone, together.await.unwrap());
    }
}
