//! Transfers between real sockets: honest members, liars, and such that go.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use model::Checkpoint;
use proto::bulk::Status;
use shards::{Catalogue, Reader, Store, make};
use transport::{Identity, Lender, Role, Settings, Sockets, Timing};

use super::*;

const PIECE: u32 = 16 << 10;

fn sockets() -> Sockets {
    let settings = Settings {
        bind: "127.0.0.1:0".parse().unwrap(),
        role: Role::Node,
        timing: Timing::default(),
    };
    transport::open(&Identity::generate(), settings).unwrap()
}

/// How a member behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Turns a bit in every piece.
    Lies,
    /// Goes for good after this many asks.
    Goes(u64),
}

struct Member {
    catalogue: Arc<Catalogue>,
    manner: Manner,
    asks: AtomicU64,
    bytes: AtomicU64,
    gone: AtomicBool,
}

fn model_file() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/qwen3_5_moe/model-f16.gguf")
}

impl Lender for Member {
    fn lend(&self, ask: &Ask) -> Result<Vec<u8>, Status> {
        let asks = self.asks.fetch_add(1, Ordering::Relaxed);
        if matches!(self.manner, Manner::Goes(after) if asks >= after) {
            self.gone.store(true, Ordering::Relaxed);
        }
        if self.gone.load(Ordering::Relaxed) {
            return Err(Status::NotHere);
        }
        let Ask::Pieces {
            shard, first, end, ..
        } = ask
        else {
            return Err(Status::NotHere);
        };
        let entry = &self.catalogue.shards()[*shard as usize];
        let part = entry.piece(*first, PIECE).start..entry.piece(*end - 1, PIECE).end;
        let mut bytes = Vec::new();
        Reader::new(vec![model_file()])
            .read(&entry.places(part), &mut bytes)
            .unwrap();
        if self.manner == Manner::Lies {
            bytes[11] ^= 4;
        }
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// A borrower with an empty store, and members of the given manners.
struct House {
    borrower: Sockets,
    image: Arc<Image>,
    members: Vec<(Sockets, Arc<Member>)>,
    _dir: tempfile::TempDir,
}

impl House {
    fn new(manners: &[Manner]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::open(&model_file()).unwrap();
        let catalogue = Arc::new(make(&checkpoint, PIECE, &mut |_| {}).unwrap());
        let store = Store::open(dir.path(), u64::MAX).unwrap();
        let image = store.image(Arc::clone(&catalogue)).unwrap();
        let borrower = sockets();
        let member = |manner: &Manner| {
            let member = Arc::new(Member {
                catalogue: Arc::clone(&catalogue),
                manner: *manner,
                asks: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                gone: AtomicBool::new(false),
            });
            let sockets = sockets();
            sockets
                .endpoint
                .lend(Arc::clone(&member) as Arc<dyn Lender>);
            sockets
                .endpoint
                .lend_to(vec![borrower.endpoint.node_id().clone()]);
            (sockets, member)
        };
        let members = manners.iter().map(member).collect();
        Self {
            borrower,
            image,
            members,
            _dir: dir,
        }
    }

    fn sources(&self) -> Vec<Source> {
        let count = self.image.catalogue().shards().len();
        let of = |(sockets, _): &(Sockets, Arc<Member>)| Source {
            peer: Peer {
                node: sockets.endpoint.node_id().clone(),
                addresses: vec![sockets.endpoint.local_addr()],
            },
            shards: Bits::all(count),
        };
        self.members.iter().map(of).collect()
    }

    async fn fetch(&self) -> (Result<(), TransferError>, u64) {
        let shards = self.image.catalogue().pick(|_| true);
        let fetched = Arc::new(AtomicU64::new(0));
        let counters = [Arc::clone(&fetched), Arc::default()];
        let sources = self.sources();
        let done = transfer(
            &self.borrower.endpoint,
            &self.image,
            &shards,
            sources,
            counters,
        );
        let done = tokio::time::timeout(Duration::from_secs(60), done)
            .await
            .unwrap();
        (done, fetched.load(Ordering::Relaxed))
    }

    fn bytes(&self) -> u64 {
        self.image
            .catalogue()
            .shards()
            .iter()
            .map(|shard| shard.bytes)
            .sum()
    }

    fn is_whole(&self) -> bool {
        let count = self.image.catalogue().shards().len();
        self.image.held().len() == count
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_members_share_the_work_and_nothing_comes_twice() {
    let house = House::new(&[Manner::Honest; 3]);
    let (done, fetched) = house.fetch().await;
    done.unwrap();
    assert!(house.is_whole());
    assert_eq!(fetched, house.bytes());
    for (_, member) in &house.members {
        assert!(
            member.bytes.load(Ordering::Relaxed) > 0,
            "one member did nothing"
        );
    }
    // What is here does not come again.
    let (done, fetched) = house.fetch().await;
    done.unwrap();
    assert_eq!(fetched, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_were_changed_on_the_way_are_fetched_elsewhere() {
    let house = House::new(&[Manner::Lies, Manner::Honest]);
    let (done, _) = house.fetch().await;
    done.unwrap();
    assert!(house.is_whole());
    assert!(
        house.members[0].1.bytes.load(Ordering::Relaxed) > 0,
        "the liar was asked"
    );
    let all = house.image.catalogue().pick(|_| true);
    let damaged: usize = all
        .iter()
        .map(|at| house.image.check(*at).unwrap().len())
        .sum();
    assert_eq!(damaged, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_goes_midway_is_replaced_by_the_others() {
    let house = House::new(&[Manner::Goes(5), Manner::Honest]);
    let (going, member) = &house.members[0];
    let closing = async {
        // Its socket closes once it has decided to go.
        let mut looks = tokio::time::interval(Duration::from_millis(2));
        while !member.gone.load(Ordering::Relaxed) {
            looks.tick().await;
        }
        going.endpoint.close().await;
    };
    let ((done, _), ()) = tokio::join!(house.fetch(), closing);
    done.unwrap();
    assert!(house.is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_give_is_named_and_the_rest_is_kept() {
    let house = House::new(&[Manner::Goes(5)]);
    let (done, fetched) = house.fetch().await;
    let error = done.unwrap_err().to_string();
    assert!(error.contains("cannot be had from any member"), "{error}");
    let shards = house.image.catalogue().shards().len();
    let here: u64 = (0..shards).map(|at| house.image.held_bytes(at)).sum();
    assert!(here > 0 && here == fetched && here < house.bytes());
    // With another member it goes on where it stopped.
    let more = House::new(&[Manner::Honest]);
    more.members[0]
        .0
        .endpoint
        .lend_to(vec![house.borrower.endpoint.node_id().clone()]);
    let all = house.image.catalogue().pick(|_| true);
    let fetched = Arc::new(AtomicU64::new(0));
    let counters = [Arc::clone(&fetched), Arc::default()];
    let done = transfer(
        &house.borrower.endpoint,
        &house.image,
        &all,
        more.sources(),
        counters,
    );
    done.await.unwrap();
    assert!(house.is_whole());
    assert_eq!(fetched.load(Ordering::Relaxed), house.bytes() - here);
}
