//! Short codes and requests on the owner's screen, over real connections.

use std::time::Duration;

use proto::control::Peer;
use proto::control::pairing::{Claim, Opening, Proof, Reply};
use transport::{
    CheckWords, Identity, PairError, PairingAnswer, PairingClaim, PairingRefusal, Role, Secret,
    ShortCode, Sockets,
};

use crate::house::{Rogue, closed, hello, open, peer, soon};
use crate::pairing::secret;

const HOUR: Duration = Duration::from_secs(3600);

/// Another code than this one.
fn wrong(code: &ShortCode) -> ShortCode {
    let text = code.reveal();
    let last = if text.ends_with('0') { '1' } else { '0' };
    format!("{}{last}", &text[..6]).parse().unwrap()
}

/// Answers the next request and says who asked.
async fn admit(coordinator: &mut Sockets) -> String {
    let request = soon(coordinator.pairing.recv()).await.unwrap();
    coordinator.endpoint.members().admit(request.node);
    request.reply.send(PairingAnswer::Accept).unwrap();
    request.name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_with_the_code_becomes_a_member_once() {
    let (node, mut coordinator) = (open(Role::Node), open(Role::Coordinator));
    let invited = Secret::generate();
    let code = coordinator.endpoint.codes().open(invited.clone(), HOUR);
    let at = peer(&coordinator);
    let seen = soon(node.endpoint.look(coordinator.endpoint.local_addr()));
    let seen = seen.await.unwrap();
    assert_eq!((&seen.coordinator, seen.code_open), (&at.node, true));
    let desk = async {
        let request = soon(coordinator.pairing.recv()).await.unwrap();
        assert!(
            secret(&request).same(&invited),
            "the invite that the code stood for"
        );
        assert_eq!(request.node, *node.endpoint.node_id());
        coordinator.endpoint.members().admit(request.node);
        request.reply.send(PairingAnswer::Accept).unwrap();
    };
    let pairing = soon(node.endpoint.pair_by_code(&at, &code, "attic"));
    let (paired, ()) = tokio::join!(pairing, desk);
    paired.unwrap();
    soon(node.endpoint.attach(&at, hello("attic")))
        .await
        .unwrap();
    // The code is spent.
    let other = open(Role::Node);
    let again = soon(other.endpoint.pair_by_code(&at, &code, "cellar")).await;
    assert_eq!(again.unwrap_err().code(), "code_none");
    let seen = soon(other.endpoint.look(coordinator.endpoint.local_addr()));
    assert!(!seen.await.unwrap().code_open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_code_is_refused_and_spends_the_right_one() {
    let (node, mut coordinator) = (open(Role::Node), open(Role::Coordinator));
    let code = coordinator.endpoint.codes().open(Secret::generate(), HOUR);
    let at = peer(&coordinator);
    let tried = soon(node.endpoint.pair_by_code(&at, &wrong(&code), "attic")).await;
    let error = tried.unwrap_err();
    assert_eq!(error.code(), "code_wrong");
    assert!(error.to_string().contains("coordinator invite"), "{error}");
    let failed = coordinator.endpoint.codes().failed().unwrap();
    assert!(failed.remote.is_loopback());
    let late = soon(node.endpoint.pair_by_code(&at, &code, "attic")).await;
    assert_eq!(late.unwrap_err().code(), "code_none");
    assert!(coordinator.pairing.try_recv().is_err(), "nobody was let in");
    // A new code is as good as the first was.
    let code = coordinator.endpoint.codes().open(Secret::generate(), HOUR);
    let (paired, name) = tokio::join!(
        soon(node.endpoint.pair_by_code(&at, &code, "attic")),
        admit(&mut coordinator)
    );
    paired.unwrap();
    assert_eq!(name, "attic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_guesses_at_once_one_counts() {
    let mut coordinator = open(Role::Coordinator);
    let code = coordinator.endpoint.codes().open(Secret::generate(), HOUR);
    let at = peer(&coordinator);
    let nodes: Vec<Sockets> = (0..8).map(|_| open(Role::Node)).collect();
    let guess = wrong(&code);
    let tries = nodes
        .iter()
        .map(|node| node.endpoint.pair_by_code(&at, &guess, "guesser"));
    let codes: Vec<String> = soon(futures::future::join_all(tries))
        .await
        .into_iter()
        .map(|tried| tried.unwrap_err().code().to_owned())
        .collect();
    let wrong = codes.iter().filter(|code| *code == "code_wrong").count();
    assert_eq!(wrong, 1, "{codes:?}");
    assert!(
        codes
            .iter()
            .all(|code| code == "code_wrong" || code == "code_none")
    );
    assert!(coordinator.pairing.try_recv().is_err());
}

/// A device that speaks for itself, message by message.
struct Line {
    connection: quinn::Connection,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
}

impl Line {
    async fn open(rogue: &Rogue, at: &Sockets) -> Self {
        let connection = rogue.dial(at, "hearth-pair/1").await;
        let (send, recv) = connection.open_bi().await.unwrap();
        Self {
            connection,
            send,
            recv,
        }
    }

    async fn say(&mut self, message: &[u8]) {
        let length = u16::try_from(message.len()).unwrap().to_le_bytes();
        self.send.write_all(&length).await.unwrap();
        self.send.write_all(message).await.unwrap();
    }

    async fn hear(&mut self) -> Reply {
        let mut length = [0; 2];
        soon(self.recv.read_exact(&mut length)).await.unwrap();
        let mut message = vec![0; usize::from(u16::from_le_bytes(length))];
        soon(self.recv.read_exact(&mut message)).await.unwrap();
        Reply::decode(&message).unwrap()
    }
}

fn opening(claim: Claim) -> Vec<u8> {
    let name = "rogue".to_owned();
    Opening { name, claim }.encode()
}

/// A possible half of an exchange: the base point, for side A.
fn some_element() -> [u8; 33] {
    let mut element = [0x66; 33];
    element[0] = b'A';
    element[1] = 0x58;
    element
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_broken_off_spends_nothing() {
    let (node, mut coordinator) = (open(Role::Node), open(Role::Coordinator));
    let code = coordinator.endpoint.codes().open(Secret::generate(), HOUR);
    let rogue = Rogue::new();
    for _ in 0..20 {
        let mut line = Line::open(&rogue, &coordinator).await;
        line.say(&opening(Claim::Element(some_element()))).await;
        assert!(matches!(line.hear().await, Reply::Element(_)));
        line.connection.close(0u32.into(), b"");
    }
    assert!(coordinator.endpoint.codes().failed().is_none());
    let at = peer(&coordinator);
    let (paired, _) = tokio::join!(
        soon(node.endpoint.pair_by_code(&at, &code, "attic")),
        admit(&mut coordinator)
    );
    paired.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_out_of_turn_end_the_pairing() {
    let coordinator = open(Role::Coordinator);
    let _shown = coordinator.endpoint.codes().open(Secret::generate(), HOUR);
    let rogue = Rogue::new();
    let share = || Proof::Share([1; 32]).encode();
    let confirmation = || Proof::Confirmation([1; 32]).encode();
    for (claim, second, expected) in [
        (Claim::Element(some_element()), share(), "does not follow"),
        (
            Claim::Commitment([1; 32]),
            confirmation(),
            "does not follow",
        ),
        (Claim::Commitment([1; 32]), share(), "promised"),
        (Claim::Element([0xff; 33]), share(), "not a possible one"),
    ] {
        let mut line = Line::open(&rogue, &coordinator).await;
        line.say(&opening(claim)).await;
        line.say(&second).await;
        let (code, reason) = closed(&line.connection).await;
        assert_eq!(code, 3, "{reason}");
        assert!(reason.contains(expected), "{expected}: {reason}");
    }
    // None of it was a guess.
    assert!(coordinator.endpoint.codes().is_open());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_recorded_does_not_open_the_door_again() {
    let mut coordinator = open(Role::Coordinator);
    let _shown = coordinator.endpoint.codes().open(Secret::generate(), HOUR);
    let rogue = Rogue::new();
    let mut line = Line::open(&rogue, &coordinator).await;
    line.say(&opening(Claim::Element(some_element()))).await;
    let Reply::Element(theirs) = line.hear().await else {
        panic!("an element was expected");
    };
    // The coordinator's own half is not one that a device may have.
    let mut mirror = Line::open(&rogue, &coordinator).await;
    mirror.say(&opening(Claim::Element(theirs))).await;
    let (refused, reason) = closed(&mirror.connection).await;
    assert_eq!(refused, 3, "{reason}");
    // Any proof that does not belong to this connection is a wrong one.
    line.say(&Proof::Confirmation([9; 32]).encode()).await;
    let Reply::Refused(refused) = line.hear().await else {
        panic!("a refusal was expected");
    };
    assert_eq!(refused.code, "code_wrong");
    assert!(coordinator.pairing.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_household_that_does_not_know_the_code_is_not_believed() {
    // A coordinator whose owner never showed this code, but which says yes to everybody.
    let (node, liar) = (open(Role::Node), open(Role::Coordinator));
    let opened = liar.endpoint.codes().open(Secret::generate(), HOUR);
    let tried = soon(
        node.endpoint
            .pair_by_code(&peer(&liar), &wrong(&opened), "attic"),
    )
    .await;
    assert!(matches!(tried, Err(PairError::Refused { .. })), "{tried:?}");
    // Another key at the address is not spoken to at all.
    let elsewhere = Peer {
        node: Identity::generate().node_id().clone(),
        addresses: vec![liar.endpoint.local_addr()],
    };
    let tried = soon(node.endpoint.pair_by_code(&elsewhere, &opened, "attic")).await;
    assert_eq!(tried.unwrap_err().code(), "wrong_peer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_on_the_screen_shows_the_same_words_on_both_sides() {
    let (node, mut coordinator) = (open(Role::Node), open(Role::Coordinator));
    let at = peer(&coordinator);
    for (verdict, expected) in [
        (
            PairingAnswer::Refuse(PairingRefusal::KnockDenied),
            Some("denied"),
        ),
        (PairingAnswer::Accept, None),
    ] {
        let mut on_device = None;
        let owner = async {
            let request = soon(coordinator.pairing.recv()).await.unwrap();
            assert_eq!(request.name, "attic");
            let PairingClaim::Screen(words) = request.claim else {
                panic!("a request on the screen was expected");
            };
            request.reply.send(verdict).unwrap();
            words
        };
        let knocking = node
            .endpoint
            .knock(&at, "attic", |words: CheckWords| on_device = Some(words));
        let (answered, on_screen) = tokio::join!(soon(knocking), owner);
        assert_eq!(on_device, Some(on_screen));
        let code = answered.err().map(|error| error.code().to_owned());
        assert_eq!(code.as_deref(), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_stops_asking_is_seen_to_have_gone() {
    let (node, mut coordinator) = (open(Role::Node), open(Role::Coordinator));
    let at = peer(&coordinator);
    let (shown_in, shown) = tokio::sync::oneshot::channel();
    let endpoint = node.endpoint.clone();
    let knocking = tokio::spawn(async move {
        endpoint
            .knock(&at, "attic", |words| shown_in.send(words).unwrap())
            .await
    });
    let mut request = soon(coordinator.pairing.recv()).await.unwrap();
    soon(shown).await.unwrap();
    knocking.abort();
    node.endpoint.close().await;
    soon(request.reply.closed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_on_the_screen_are_few_and_do_not_shut_the_door() {
    let mut coordinator = open(Role::Coordinator);
    let at = peer(&coordinator);
    let mut waiting = Vec::new();
    let mut requests = Vec::new();
    for _ in 0..proto::limits::KNOCKS_MAX {
        let (node, at) = (open(Role::Node), at.clone());
        waiting.push(tokio::spawn(async move {
            node.endpoint.knock(&at, "w", |_| ()).await
        }));
        requests.push(soon(coordinator.pairing.recv()).await.unwrap());
    }
    let node = open(Role::Node);
    let one_more = soon(node.endpoint.knock(&at, "more", |_| ())).await;
    assert_eq!(one_more.unwrap_err().code(), "too_many_waiting");
    // Whoever has a code comes in meanwhile.
    let code = coordinator.endpoint.codes().open(Secret::generate(), HOUR);
    let (paired, _) = tokio::join!(
        soon(node.endpoint.pair_by_code(&at, &code, "attic")),
        admit(&mut coordinator)
    );
    paired.unwrap();
    for task in waiting {
        task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_where_no_household_is_says_so() {
    let (node, other) = (open(Role::Node), open(Role::Node));
    let seen = soon(node.endpoint.look(other.endpoint.local_addr())).await;
    let error = seen.unwrap_err();
    assert_eq!(error.code(), "nobody");
    assert!(error.to_string().contains("no coordinator"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_put_out_hears_so_ever_after() {
    let (node, mut coordinator) = (open(Role::Node), open(Role::Coordinator));
    let (at, id) = (peer(&coordinator), node.endpoint.node_id().clone());
    let members = coordinator.endpoint.members().clone();
    members.admit(id.clone());
    let _link = soon(node.endpoint.attach(&at, hello("attic")))
        .await
        .unwrap();
    let _met = soon(coordinator.control.recv()).await.unwrap();
    members.expel(&id);
    for _ in 0..2 {
        let refused = soon(node.endpoint.attach(&at, hello("attic"))).await;
        let error = refused.unwrap_err();
        assert_eq!(error.code(), "not_member");
        assert!(error.to_string().contains("removed"), "{error}");
    }
    members.replace([], [id.clone()]);
    let refused = soon(node.endpoint.attach(&at, hello("attic"))).await;
    assert!(refused.unwrap_err().to_string().contains("removed"));
    members.admit(id);
    soon(node.endpoint.attach(&at, hello("attic")))
        .await
        .unwrap();
}
