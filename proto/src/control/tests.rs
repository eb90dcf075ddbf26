//! Round trips, snapshots of bytes, and tables of messages that must be refused.

use prost::Message;

use super::*;
use crate::GroupSet;
use crate::limits;

fn node(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

fn hello() -> Hello {
    Hello {
        protocol: CONTROL_PROTOCOL,
        name: "attic".into(),
        version: "0.1.0".into(),
        os: "linux".into(),
        arch: "x86_64".into(),
        kernels: "avx2".into(),
        threads: 2,
        memory_bytes: 8 << 30,
        read_bytes_per_s: 2.8e10,
        macs_per_s: 1.0e11,
        addresses: vec!["192.168.1.5:7412".parse().unwrap()],
        paused: String::new(),
    }
}

fn assign() -> Assign {
    let peer = |name: &str| Peer {
        node: node(name),
        addresses: vec!["[fe80::1]:4000".parse().unwrap()],
    };
    Assign {
        epoch: Epoch(7),
        model_path: "/models/a.gguf".into(),
        model_bytes: 123,
        model_blake3: [9; 32],
        layers: 2..6,
        embedding: false,
        head: true,
        kv: CacheType::F16,
        pages: 512,
        slots: 8,
        context: 4096,
        chunk_rows: 256,
        previous: Some(peer("12D3KooWa")),
        next: None,
        first: Some(peer("12D3KooWb")),
        coordinator: node("12D3KooWc"),
        owners: vec![
            Owner {
                peer: peer("12D3KooWd"),
                groups: [
                    (2, GroupSet::all(8)),
                    (3, GroupSet::all(8)),
                    (5, GroupSet::all(1)),
                ]
                .into(),
                head_blocks: GroupSet::from_bits(0b110),
            },
            Owner {
                peer: peer("12D3KooWe"),
                groups: [(2, GroupSet::all(8).missing(16))].into(),
                head_blocks: GroupSet::none(),
            },
        ],
        foreign: [(0, GroupSet::from_bits(0x8001)), (6, GroupSet::all(2))].into(),
        head_blocks: GroupSet::none(),
        askers: vec![peer("12D3KooWa"), peer("12D3KooWd")],
    }
}

fn measured() -> Measured {
    Measured {
        ticket: 8,
        node: node("12D3KooWa"),
        link: Ok(LinkRates {
            rtt_s: 0.0003,
            out_bytes_per_s: 1.1e8,
            in_bytes_per_s: 1.2e8,
        }),
    }
}

#[test]
fn what_an_assignment_says_of_groups_must_agree() {
    type Spoil = fn(&mut wire::Assign);
    let cases: [(&str, Spoil); 13] = [
        ("assign.owners.peer", |a| a.owners[0].peer = None),
        ("assign.owners.groups", |a| a.owners[0].groups[0].groups = 0),
        ("assign.owners.groups", |a| {
            a.owners[0].groups[0].groups = 0x1_0000;
        }),
        ("assign.owners.groups", |a| {
            a.owners[0].groups[0].end_layer = u32::MAX;
        }),
        ("assign.owners.groups", |a| {
            a.owners[0].groups[1].first_layer = 2;
        }),
        ("assign.owners.groups", |a| {
            a.owners[1].groups[0].groups |= 1;
        }),
        ("assign.owners.groups", |a| a.end_layer = 5),
        ("assign.owners.head_blocks", |a| a.head = false),
        ("assign.owners.head_blocks", |a| {
            a.owners[1].head_blocks = 0b10;
        }),
        ("assign.foreign", |a| a.foreign[0].end_layer = 4),
        ("assign.head_blocks", |a| a.head_blocks = 1),
        ("assign.askers", |a| {
            a.askers = vec![a.askers[0].clone(); limits::NODES_MAX + 1];
        }),
        ("assign.owners", |a| {
            a.owners = vec![a.owners[0].clone(); limits::NODES_MAX + 1];
        }),
    ];
    Assign::try_from(wire::Assign::from(assign())).unwrap();
    for (at, (field, spoil)) in cases.into_iter().enumerate() {
        let mut message = wire::Assign::from(assign());
        spoil(&mut message);
        let error = Assign::try_from(message).unwrap_err();
        assert_eq!(error.field, field, "case {at}: {error}");
    }
    let neighbours = assign();
    assert_eq!(neighbours.neighbours().count(), 5);
    assert_eq!(neighbours.given_groups(2), GroupSet::all(16));
    assert_eq!(neighbours.given_groups(4), GroupSet::none());
    assert_eq!(neighbours.given_blocks().len(), 2);
}

#[test]
fn node_messages_survive_the_wire() {
    let epoch = Epoch(3);
    let messages = [
        NodeMessage::Hello(hello()),
        NodeMessage::Beat(Beat {
            free_memory_bytes: 1,
            resident_bytes: 2,
            steps: 3,
            rows: 4,
            sequences: 5,
            busy_us: 6,
        }),
        NodeMessage::Load(LoadProgress {
            epoch,
            done_bytes: 1,
            total_bytes: 2,
        }),
        NodeMessage::Loaded(Loaded {
            epoch,
            resident_bytes: 9,
        }),
        NodeMessage::LoadFailed(LoadFailed {
            epoch,
            code: "model_differs".into(),
            text: "size\nand hash".into(),
        }),
        NodeMessage::PeerLost(PeerLost {
            epoch,
            node: node("12D3KooWa"),
            text: "timed out".into(),
        }),
        NodeMessage::Leave,
        NodeMessage::Offer(Offer {
            memory_bytes: 4 << 30,
            threads: 2,
            read_bytes_per_s: 1e10,
            macs_per_s: 2e10,
            paused: "it runs on battery".into(),
        }),
        NodeMessage::Measured(measured()),
        NodeMessage::Measured(Measured {
            link: Err("no answer".into()),
            ..measured()
        }),
    ];
    for message in messages {
        let bytes = wire::NodeMessage::from(message.clone()).encode_to_vec();
        let back = wire::NodeMessage::decode(bytes.as_slice()).unwrap();
        assert_eq!(NodeMessage::try_from(back).unwrap(), message);
    }
}

#[test]
fn coordinator_messages_survive_the_wire() {
    let refused = Refused {
        code: "version".into(),
        text: "update".into(),
    };
    let messages = [
        CoordinatorMessage::Welcome(Welcome {
            lease_ms: 5000,
            household: "home".into(),
        }),
        CoordinatorMessage::Assign(Box::new(assign())),
        CoordinatorMessage::Release { epoch: Epoch(1) },
        CoordinatorMessage::Drain,
        CoordinatorMessage::Refused(refused),
        CoordinatorMessage::Kicked { text: "bye".into() },
        CoordinatorMessage::Measure(Measure {
            ticket: 8,
            peer: Peer {
                node: node("12D3KooWa"),
                addresses: vec!["10.0.0.7:4000".parse().unwrap()],
            },
            dial: true,
        }),
    ];
    for message in messages {
        let bytes = wire::CoordinatorMessage::from(message.clone()).encode_to_vec();
        let back = wire::CoordinatorMessage::decode(bytes.as_slice()).unwrap();
        assert_eq!(CoordinatorMessage::try_from(back).unwrap(), message);
    }
}

#[test]
fn the_bytes_of_a_beat_stay_what_they_are() {
    let beat = NodeMessage::Beat(Beat {
        free_memory_bytes: 1,
        resident_bytes: 2,
        steps: 3,
        rows: 4,
        sequences: 5,
        busy_us: 300,
    });
    let bytes = wire::NodeMessage::from(beat).encode_to_vec();
    assert_eq!(
        bytes,
        [18, 13, 8, 1, 16, 2, 24, 3, 32, 4, 40, 5, 48, 172, 2]
    );
}

#[test]
fn an_offer_out_of_bounds_is_refused_by_field() {
    type Change = fn(&mut wire::Offer);
    let cases: [(&str, Change); 4] = [
        ("offer.threads", |o| o.threads = 65_537),
        ("offer.read_bytes_per_s", |o| {
            o.read_bytes_per_s = f64::INFINITY
        }),
        ("offer.macs_per_s", |o| o.macs_per_s = -1.0),
        ("offer.paused", |o| o.paused = "\u{7}".into()),
    ];
    for (field, change) in cases {
        let mut offer = wire::Offer::default();
        change(&mut offer);
        let kind = Some(wire::node_message::Kind::Offer(offer));
        let refused = NodeMessage::try_from(wire::NodeMessage { kind });
        assert_eq!(refused.unwrap_err().field, field);
    }
}

#[test]
fn a_hello_out_of_bounds_is_refused_by_field() {
    type Change = fn(&mut wire::Hello);
    let table: [(&str, Change); 10] = [
        ("hello.name", |h| h.name = String::new()),
        ("hello.name", |h| {
            h.name = "x".repeat(limits::NODE_NAME_MAX + 1)
        }),
        ("hello.name", |h| h.name = "a\u{1b}[2J".into()),
        ("hello.version", |h| {
            h.version = "v".repeat(LABEL_BYTES_MAX + 1)
        }),
        ("hello.read_bytes_per_s", |h| h.read_bytes_per_s = f64::NAN),
        ("hello.macs_per_s", |h| h.macs_per_s = -1.0),
        ("hello.paused", |h| h.paused = "a\u{1b}[2J".into()),
        ("hello.paused", |h| {
            h.paused = "x".repeat(TEXT_BYTES_MAX + 1)
        }),
        ("hello.addresses", |h| h.addresses = vec!["host:1".into()]),
        ("hello.addresses", |h| {
            h.addresses = vec!["1.2.3.4:5".into(); limits::ADDRESSES_MAX + 1];
        }),
    ];
    for (field, change) in table {
        let mut message = wire::Hello::from(hello());
        change(&mut message);
        assert_eq!(Hello::try_from(message).unwrap_err().field, field);
    }
}

#[test]
fn a_measured_link_out_of_bounds_is_refused_by_field() {
    type Change = fn(&mut wire::Measured);
    let table: [(&str, Change); 9] = [
        ("measured.node", |m| m.node = "../..".into()),
        ("measured.rtt_s", |m| m.rtt_s = 0.0),
        ("measured.rtt_s", |m| m.rtt_s = f64::NAN),
        ("measured.rtt_s", |m| m.rtt_s = RTT_S_MAX * 1.1),
        ("measured.out_bytes_per_s", |m| m.out_bytes_per_s = 0.0),
        ("measured.out_bytes_per_s", |m| m.out_bytes_per_s = f64::NAN),
        ("measured.in_bytes_per_s", |m| m.in_bytes_per_s = -1.0),
        ("measured.in_bytes_per_s", |m| {
            m.in_bytes_per_s = f64::INFINITY
        }),
        ("measured.failure", |m| m.failure = "\u{1b}[2J".into()),
    ];
    for (field, change) in table {
        let mut message = wire::Measured::from(measured());
        change(&mut message);
        assert_eq!(Measured::try_from(message).unwrap_err().field, field);
    }
    let silent = Measured {
        link: Err(String::new()),
        ..measured()
    };
    let back = Measured::try_from(wire::Measured::from(silent)).unwrap();
    assert!(back.link.is_err(), "a failure without a reason stays one");
}

#[test]
fn an_assignment_out_of_bounds_is_refused_by_field() {
    type Change = fn(&mut wire::Assign);
    let table: [(&str, Change); 8] = [
        ("assign.kv", |a| a.kv = 0),
        ("assign.kv", |a| a.kv = 77),
        ("assign.first_layer", |a| a.first_layer = a.end_layer + 1),
        ("assign.end_layer", |a| a.end_layer = limits::LAYERS_MAX + 1),
        ("assign.model_blake3", |a| a.model_blake3.truncate(31)),
        ("assign.model_path", |a| a.model_path = "\0".into()),
        ("assign.coordinator", |a| a.coordinator = "../..".into()),
        ("assign.previous", |a| {
            a.previous = Some(wire::Peer::default());
        }),
    ];
    for (field, change) in table {
        let mut message = wire::Assign::from(assign());
        change(&mut message);
        assert_eq!(Assign::try_from(message).unwrap_err().field, field);
    }
}

#[test]
fn a_message_of_no_known_kind_names_the_version() {
    let error = NodeMessage::try_from(wire::NodeMessage { kind: None }).unwrap_err();
    assert!(error.to_string().contains("same version"), "{error}");
    assert!(CoordinatorMessage::try_from(wire::CoordinatorMessage { kind: None }).is_err());
}

#[test]
fn our_own_long_texts_are_clipped_between_characters() {
    let failed = NodeMessage::LoadFailed(LoadFailed {
        epoch: Epoch(1),
        code: "io".into(),
        text: "ö\t".repeat(TEXT_BYTES_MAX),
    });
    let NodeMessage::LoadFailed(back) =
        NodeMessage::try_from(wire::NodeMessage::from(failed)).unwrap()
    else {
        panic!("another kind came back");
    };
    assert!(back.text.len() <= TEXT_BYTES_MAX && back.text.len() > TEXT_BYTES_MAX - 4);
    assert!(back.text.starts_with("ö ö "));
}
