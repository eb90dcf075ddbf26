//! Bulk transfers: who may borrow, what comes, and that frames do not wait for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use proto::bulk::{Ask, Status};
use proto::step::StepClass;
use transport::{BulkTransferError, Lender, Role};

use crate::house::*;

const CATALOGUE: [u8; 32] = [5; 32];
const PIECE: usize = 1 << 20;

/// Has 16 pieces of one shard, each filled with its number.
#[derive(Debug, Default)]
struct Shop(AtomicU64);

impl Lender for Shop {
    fn lend(&self, ask: &Ask) -> Result<Vec<u8>, Status> {
        self.0.fetch_add(1, Ordering::Relaxed);
        match ask {
            Ask::Catalogue(CATALOGUE) => Ok(b"catalogue".to_vec()),
            Ask::Pieces {
                shard: 0,
                first,
                end,
                ..
            } => Ok((*first..*end)
                .flat_map(|piece| vec![u8::try_from(piece).unwrap(); PIECE])
                .collect()),
            Ask::Pieces { shard: 1, .. } => Err(Status::Failed),
            _ => Err(Status::NotHere),
        }
    }
}

fn pieces(shard: u32, first: u32, end: u32) -> Ask {
    Ask::Pieces {
        catalogue: CATALOGUE,
        shard,
        first,
        end,
    }
}

#[tokio::test]
async fn a_borrower_gets_what_is_there_and_hears_what_is_not() {
    let (lender, borrower) = (open(Role::Node), open(Role::Node));
    lender.endpoint.lend(Arc::new(Shop::default()));
    lender
        .endpoint
        .lend_to(vec![borrower.endpoint.node_id().clone()]);
    let link = soon(borrower.endpoint.bulk(&peer(&lender))).await.unwrap();
    let mut answer = soon(link.ask(&Ask::Catalogue(CATALOGUE))).await.unwrap();
    assert_eq!(soon(answer.take(1000)).await.unwrap(), b"catalogue");
    let mut answer = soon(link.ask(&pieces(0, 3, 7))).await.unwrap();
    assert_eq!(answer.left(), 4 * PIECE as u64);
    for piece in 3..7 {
        let bytes = soon(answer.take(PIECE as u64)).await.unwrap();
        assert!(bytes.len() == PIECE && bytes.iter().all(|byte| *byte == piece));
    }
    for (ask, expected) in [
        (pieces(1, 0, 1), BulkTransferError::Failed),
        (pieces(2, 0, 1), BulkTransferError::NotHere),
        (Ask::Catalogue([1; 32]), BulkTransferError::NotHere),
    ] {
        assert_eq!(soon(link.ask(&ask)).await.unwrap_err(), expected);
    }
}

#[tokio::test]
async fn strangers_and_those_who_were_put_out_get_nothing() {
    let (lender, borrower) = (open(Role::Coordinator), open(Role::Node));
    let shop = Arc::new(Shop::default());
    lender.endpoint.lend(Arc::clone(&shop) as Arc<dyn Lender>);
    let me = borrower.endpoint.node_id().clone();
    let asked = async || {
        let link = borrower
            .endpoint
            .bulk(&peer(&lender))
            .await
            .map_err(|e| e.to_string())?;
        let answer = link
            .ask(&pieces(0, 0, 1))
            .await
            .map_err(|e| e.to_string())?;
        Ok::<_, String>((link, answer.left()))
    };
    let refused = soon(asked()).await.unwrap_err();
    assert!(refused.contains("not a member"), "{refused}");
    // Members of the household may, and no longer once they are expelled.
    lender.endpoint.members().admit(me.clone());
    let (link, left) = soon(asked()).await.unwrap();
    assert_eq!(left, PIECE as u64);
    lender.endpoint.members().expel(&me);
    let ended = async { while link.ask(&pieces(0, 0, 1)).await.is_ok() {} };
    soon(ended).await;
    // Those whom the daemon names may, until it names others.
    lender.endpoint.lend_to(vec![me.clone()]);
    let (link, _) = soon(asked()).await.unwrap();
    lender.endpoint.lend_to(Vec::new());
    soon(async { while link.ask(&pieces(0, 0, 1)).await.is_ok() {} }).await;
    let before = shop.0.load(Ordering::Relaxed);
    assert!(soon(asked()).await.is_err());
    assert_eq!(
        shop.0.load(Ordering::Relaxed),
        before,
        "nothing is read for them"
    );
}

#[tokio::test]
async fn one_member_has_few_connections() {
    let (lender, borrower) = (open(Role::Node), open(Role::Node));
    lender.endpoint.lend(Arc::new(Shop::default()));
    lender
        .endpoint
        .lend_to(vec![borrower.endpoint.node_id().clone()]);
    let mut links = Vec::new();
    for _ in 0..2 {
        let link = soon(borrower.endpoint.bulk(&peer(&lender))).await.unwrap();
        soon(link.ask(&pieces(0, 0, 1))).await.unwrap();
        links.push(link);
    }
    let third = soon(borrower.endpoint.bulk(&peer(&lender))).await.unwrap();
    let refused = soon(third.ask(&pieces(0, 0, 1))).await.unwrap_err();
    assert!(refused.to_string().contains("too many"), "{refused}");
    // A place that becomes free can be taken.
    drop(links.pop());
    let again = async {
        loop {
            let link = borrower.endpoint.bulk(&peer(&lender)).await.unwrap();
            if link.ask(&pieces(0, 0, 1)).await.is_ok() {
                return;
            }
        }
    };
    soon(again).await;
}

/// Blocks until it is let go.
#[derive(Debug, Default)]
struct Slow(Mutex<bool>, Condvar);

impl Lender for Slow {
    fn lend(&self, _: &Ask) -> Result<Vec<u8>, Status> {
        let open = self.0.lock().unwrap();
        drop(self.1.wait_while(open, |open| !*open).unwrap());
        Ok(vec![0; PIECE])
    }
}

#[tokio::test]
async fn frames_pass_while_transfers_are_under_way() {
    let (mut a, mut b) = (open(Role::Node), open(Role::Node));
    a.mesh.set_peers(vec![peer(&b)]);
    b.mesh.set_peers(vec![peer(&a)]);
    up(&mut a.mesh_events, b.endpoint.node_id()).await;
    up(&mut b.mesh_events, a.endpoint.node_id()).await;
    let slow = Arc::new(Slow::default());
    a.endpoint.lend(Arc::clone(&slow) as Arc<dyn Lender>);
    a.endpoint.lend_to(vec![b.endpoint.node_id().clone()]);
    let link = soon(b.endpoint.bulk(&peer(&a))).await.unwrap();
    let ask = pieces(0, 0, 1);
    let asking = link.ask(&ask);
    tokio::pin!(asking);
    let frames = async {
        for id in 0..100 {
            let sent = rows(id, StepClass::Decode, 1, 64);
            a.mesh.send(b.endpoint.node_id(), &sent).await.unwrap();
            assert_eq!(frame(&mut b.mesh_events).await, sent);
        }
    };
    tokio::select! {
        _ = &mut asking => panic!("the lender has not answered yet"),
        () = frames => {}
    }
    *slow.0.lock().unwrap() = true;
    slow.1.notify_all();
    assert_eq!(soon(asking).await.unwrap().left(), PIECE as u64);
}
