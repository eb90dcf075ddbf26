//! How strangers come in, and what those get who misbehave at the door.

use std::time::Duration;

use transport::{
    DialError, Identity, Invite, PairError, PairingAnswer, PairingClaim, PairingRefusal,
    PairingRequest, Role, Secret, Sockets,
};

use crate::house::{Rogue, closed, hello, open, peer, soon};

fn invite_to(coordinator: &Sockets) -> Invite {
    Invite::new(
        Secret::generate(),
        coordinator.endpoint.node_id().clone(),
        vec![coordinator.endpoint.local_addr()],
    )
    .unwrap()
}

/// The secret that a request has shown.
pub fn secret(request: &PairingRequest) -> &Secret {
    match &request.claim {
        PairingClaim::Invite(secret) => secret,
        other => panic!("an invite was expected, this came: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invited_device_becomes_a_member() {
    let (node, mut coordinator) = (open(Role::Node), open(Role::Coordinator));
    let invite = invite_to(&coordinator);
    let url: Invite = invite.to_string().parse().unwrap();
    let desk = async {
        let request = soon(coordinator.pairing.recv()).await.unwrap();
        assert!(secret(&request).same(&invite.secret));
        assert_eq!(request.node, *node.endpoint.node_id());
        assert_eq!(request.remote, node.endpoint.local_addr());
        assert_eq!(request.name, "attic");
        coordinator.endpoint.members().admit(request.node);
        request.reply.send(PairingAnswer::Accept).unwrap();
    };
    let (paired, ()) = tokio::join!(soon(node.endpoint.pair(&url, "attic")), desk);
    paired.unwrap();
    soon(node.endpoint.attach(&peer(&coordinator), hello("attic")))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_has_its_code_and_says_what_to_do() {
    let (node, mut coordinator) = (open(Role::Node), open(Role::Coordinator));
    let invite = invite_to(&coordinator);
    for refusal in [
        PairingRefusal::InviteUnknown,
        PairingRefusal::InviteUsed,
        PairingRefusal::InviteExpired,
        PairingRefusal::HouseholdFull,
        PairingRefusal::Ending,
    ] {
        let desk = async {
            let request = soon(coordinator.pairing.recv()).await.unwrap();
            request.reply.send(PairingAnswer::Refuse(refusal)).unwrap();
        };
        let (paired, ()) = tokio::join!(soon(node.endpoint.pair(&invite, "attic")), desk);
        let error = paired.unwrap_err();
        assert_eq!(error.code(), refusal.code());
        assert!(error.to_string().contains(refusal.text()), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_no_yes() {
    let (node, mut coordinator) = (open(Role::Node), open(Role::Coordinator));
    let invite = invite_to(&coordinator);
    let desk = async { drop(soon(coordinator.pairing.recv()).await.unwrap()) };
    let (paired, ()) = tokio::join!(soon(node.endpoint.pair(&invite, "attic")), desk);
    assert!(
        matches!(paired, Err(PairError::Broken { .. })),
        "{paired:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_is_shown_to_the_inviting_key_alone() {
    let (node, mut coordinator) = (open(Role::Node), open(Role::Coordinator));
    let mut invite = invite_to(&coordinator);
    invite.coordinator = Identity::generate().node_id().clone();
    let error = soon(node.endpoint.pair(&invite, "attic"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, PairError::Dial(DialError::WrongPeer { .. })),
        "{error}"
    );
    assert!(coordinator.pairing.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_at_the_door_is_refused() {
    let mut coordinator = open(Role::Coordinator);
    let rogue = Rogue::new();
    let framed = |message: &[u8]| {
        let length = u16::try_from(message.len()).unwrap().to_le_bytes();
        [length.as_slice(), message].concat()
    };
    let table: [(&str, Vec<u8>); 7] = [
        ("4096 bytes", vec![0xff; 64]),
        ("4096 bytes", framed(&[0; 4095])),
        ("a message of pairing", framed(&[0xff; 64])),
        ("opening.protocol", framed(&[])),
        (
            "opening.secret",
            framed(&[0x08, 2, 0x12, 1, b'a', 0x1a, 2, 9, 9]),
        ),
        ("finished early", framed(&[0x08, 2])[..3].to_vec()),
        ("one of the kinds", framed(&[0x08, 2, 0x12, 1, b'a'])),
    ];
    for (expected, bytes) in table {
        let connection = rogue.dial(&coordinator, "hearth-pair/1").await;
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(&bytes).await.unwrap();
        send.finish().unwrap();
        let (code, reason) = closed(&connection).await;
        // What is cut short may as well have been a device that went away.
        let expected_code = if expected == "finished early" { 0 } else { 3 };
        assert_eq!(code, expected_code, "{reason}");
        assert!(reason.contains(expected), "{expected}: {reason}");
    }
    assert!(coordinator.pairing.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_has_one_stream_and_small_windows() {
    let coordinator = open(Role::Coordinator);
    let connection = Rogue::new().dial(&coordinator, "hearth-pair/1").await;
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    let wait = Duration::from_millis(200);
    assert!(
        tokio::time::timeout(wait, connection.open_bi())
            .await
            .is_err()
    );
    assert!(
        tokio::time::timeout(wait, connection.open_uni())
            .await
            .is_err()
    );
    let much = vec![0; 1 << 20];
    let written = tokio::time::timeout(Duration::from_secs(5), send.write_all(&much)).await;
    assert!(
        !matches!(written, Ok(Ok(()))),
        "a stranger may not send a mebibyte"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_strangers_are_few_and_go_after_ten_seconds_while_a_member_goes_on() {
    let (node, mut coordinator) = (open(Role::Node), open(Role::Coordinator));
    coordinator
        .endpoint
        .members()
        .admit(node.endpoint.node_id().clone());
    // One more than there is room for. Which one finds the door shut depends on the order in which they are met.
    let mut slow = Vec::new();
    for _ in 0..17 {
        let rogue = Rogue::new();
        let connection = rogue.dial(&coordinator, "hearth-pair/1").await;
        // The one that is shut out may be closed before it has said anything.
        let stream = match connection.open_bi().await {
            Ok((mut send, recv)) => {
                let _shut_out = send.write_all(&[0x08]).await;
                Some((send, recv))
            }
            Err(_shut_out) => None,
        };
        slow.push((rogue, connection, stream));
    }
    let link = soon(node.endpoint.attach(&peer(&coordinator), hello("attic"))).await;
    let _met = soon(coordinator.control.recv()).await.unwrap();
    let (mut shut_out, mut too_slow) = (0, 0);
    for (_rogue, connection, _stream) in &slow {
        match closed(connection).await {
            (2, _) => shut_out += 1,
            (7, reason) if reason.contains("10 s") => too_slow += 1,
            (code, reason) => panic!("{code}: {reason}"),
        }
    }
    assert_eq!((shut_out, too_slow), (1, 16));
    drop(link);
}
