//! Round trips, snapshots of bytes, and tables of messages that must be refused.

use prost::Message;

use super::*;
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
fn a_hello_out_of_bounds_is_refused_by_field() {
    type Change = fn(&mut wire::Hello);
    let table: [(&str, Change); 8] = [
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

#[test]
fn pairing_messages_are_checked_and_masked() {
    let request = PairRequest {
        secret: [0xab; SECRET_BYTES],
        name: "attic".into(),
    };
    let wire_form = wire::PairRequest::from(request.clone());
    assert_eq!(PairRequest::try_from(wire_form.clone()).unwrap(), request);
    let debug = format!("{request:?}");
    assert!(
        debug.contains("masked") && !debug.contains("171"),
        "{debug}"
    );
    for (field, broken) in [
        (
            "pair.protocol",
            wire::PairRequest {
                protocol: 9,
                ..wire_form.clone()
            },
        ),
        (
            "pair.secret",
            wire::PairRequest {
                secret: vec![1; 15],
                ..wire_form.clone()
            },
        ),
        (
            "pair.name",
            wire::PairRequest {
                name: String::new(),
                ..wire_form
            },
        ),
    ] {
        assert_eq!(PairRequest::try_from(broken).unwrap_err().field, field);
    }
    let nothing = wire::PairReply::default();
    assert!(PairReply::try_from(nothing).is_err(), "no answer is no yes");
    for reply in [
        PairReply::Accepted,
        PairReply::Refused(Refused {
            code: "invite_used".into(),
            text: "ask for a new one".into(),
        }),
    ] {
        let back = PairReply::try_from(wire::PairReply::from(reply.clone())).unwrap();
        assert_eq!(back, reply);
    }
}
