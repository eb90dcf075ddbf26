//! To the wire. Our own texts are clipped to the caps that the receiver checks, so that an explanation that
//! came out long never costs the message it explains.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::weights;
use super::{
    Assign, CODE_BYTES_MAX, CacheType, CoordinatorMessage, Hello, LABEL_BYTES_MAX, Measured,
    NodeMessage, Owner, Peer, Refused, TEXT_BYTES_MAX, wire,
};
use crate::groups::GroupSet;
use crate::limits;

/// At most `max` bytes, cut between characters, control characters replaced.
pub(super) fn clip(text: &str, max: usize) -> String {
    let mut clipped = String::new();
    for c in text.chars() {
        let c = if c.is_control() && c != '\n' { ' ' } else { c };
        if clipped.len() + c.len_utf8() > max {
            break;
        }
        clipped.push(c);
    }
    clipped
}

fn addresses(values: &[SocketAddr]) -> Vec<String> {
    values
        .iter()
        .take(limits::ADDRESSES_MAX)
        .map(ToString::to_string)
        .collect()
}

impl From<Peer> for wire::Peer {
    fn from(peer: Peer) -> Self {
        Self {
            node: peer.node.to_string(),
            addresses: addresses(&peer.addresses),
        }
    }
}

/// Neighbouring layers with the same groups as one entry.
fn groups(by_layer: &BTreeMap<u32, GroupSet>) -> Vec<wire::Groups> {
    let mut entries: Vec<wire::Groups> = Vec::new();
    for (layer, set) in by_layer.iter().filter(|(_, set)| !set.is_empty()) {
        let bits = u32::from(set.bits());
        match entries.last_mut() {
            Some(last) if last.end_layer == *layer && last.groups == bits => {
                last.end_layer = layer.saturating_add(1);
            }
            _ => entries.push(wire::Groups {
                first_layer: *layer,
                end_layer: layer.saturating_add(1),
                groups: bits,
            }),
        }
    }
    entries
}

impl From<Owner> for wire::Owner {
    fn from(owner: Owner) -> Self {
        Self {
            peer: Some(owner.peer.into()),
            groups: groups(&owner.groups),
            head_blocks: owner.head_blocks.bits().into(),
        }
    }
}

impl From<Hello> for wire::Hello {
    fn from(hello: Hello) -> Self {
        Self {
            protocol: hello.protocol,
            name: hello.name,
            version: clip(&hello.version, LABEL_BYTES_MAX),
            os: clip(&hello.os, LABEL_BYTES_MAX),
            arch: clip(&hello.arch, LABEL_BYTES_MAX),
            kernels: clip(&hello.kernels, LABEL_BYTES_MAX),
            threads: hello.threads,
            memory_bytes: hello.memory_bytes,
            read_bytes_per_s: hello.read_bytes_per_s,
            macs_per_s: hello.macs_per_s,
            addresses: addresses(&hello.addresses),
            paused: clip(&hello.paused, TEXT_BYTES_MAX),
        }
    }
}

impl From<NodeMessage> for wire::NodeMessage {
    fn from(message: NodeMessage) -> Self {
        use wire::node_message::Kind;
        let kind = match message {
            NodeMessage::Hello(hello) => Kind::Hello(hello.into()),
            NodeMessage::Beat(beat) => Kind::Beat(wire::Beat {
                free_memory_bytes: beat.free_memory_bytes,
                resident_bytes: beat.resident_bytes,
                steps: beat.steps,
                rows: beat.rows,
                sequences: beat.sequences,
                busy_us: beat.busy_us,
            }),
            NodeMessage::Load(load) => Kind::Load(wire::Load {
                epoch: load.epoch.0,
                done_bytes: load.done_bytes,
                total_bytes: load.total_bytes,
            }),
            NodeMessage::Loaded(loaded) => Kind::Loaded(wire::Loaded {
                epoch: loaded.epoch.0,
                resident_bytes: loaded.resident_bytes,
            }),
            NodeMessage::LoadFailed(failed) => Kind::LoadFailed(wire::LoadFailed {
                epoch: failed.epoch.0,
                code: clip(&failed.code, CODE_BYTES_MAX),
                text: clip(&failed.text, TEXT_BYTES_MAX),
            }),
            NodeMessage::PeerLost(lost) => Kind::PeerLost(wire::PeerLost {
                epoch: lost.epoch.0,
                node: lost.node.to_string(),
                text: clip(&lost.text, TEXT_BYTES_MAX),
            }),
            NodeMessage::Leave => Kind::Leave(wire::Leave {}),
            NodeMessage::Seek(epoch) => Kind::Seek(wire::Seek { epoch: epoch.0 }),
            NodeMessage::Held(held) => Kind::Held(held.into()),
            NodeMessage::Offer(offer) => Kind::Offer(wire::Offer {
                memory_bytes: offer.memory_bytes,
                threads: offer.threads,
                read_bytes_per_s: offer.read_bytes_per_s,
                macs_per_s: offer.macs_per_s,
                paused: clip(&offer.paused, TEXT_BYTES_MAX),
            }),
            NodeMessage::Measured(measured) => Kind::Measured(measured.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl From<Measured> for wire::Measured {
    fn from(measured: Measured) -> Self {
        let blank = Self {
            ticket: measured.ticket,
            node: measured.node.to_string(),
            ..Self::default()
        };
        match measured.link {
            Ok(link) => Self {
                rtt_s: link.rtt_s,
                out_bytes_per_s: link.out_bytes_per_s,
                in_bytes_per_s: link.in_bytes_per_s,
                ..blank
            },
            Err(failure) => {
                let failure = clip(&failure, TEXT_BYTES_MAX);
                let failure = if failure.is_empty() {
                    "no reason was given".to_owned()
                } else {
                    failure
                };
                Self { failure, ..blank }
            }
        }
    }
}

impl From<Assign> for wire::Assign {
    fn from(assign: Assign) -> Self {
        let kv = match assign.kv {
            CacheType::F32 => wire::CacheType::F32,
            CacheType::F16 => wire::CacheType::F16,
            CacheType::Q8 => wire::CacheType::Q8,
        };
        Self {
            epoch: assign.epoch.0,
            model_path: assign.model_path,
            model_bytes: assign.model_bytes,
            model_blake3: assign.model_blake3.to_vec(),
            first_layer: assign.layers.start,
            end_layer: assign.layers.end,
            embedding: assign.embedding,
            head: assign.head,
            kv: kv.into(),
            pages: assign.pages,
            slots: assign.slots,
            context: assign.context,
            chunk_rows: assign.chunk_rows,
            previous: assign.previous.map(Into::into),
            next: assign.next.map(Into::into),
            first: assign.first.map(Into::into),
            owners: assign.owners.into_iter().map(Into::into).collect(),
            foreign: groups(&assign.foreign),
            head_blocks: assign.head_blocks.bits().into(),
            askers: assign.askers.into_iter().map(Into::into).collect(),
            coordinator: assign.coordinator.to_string(),
        }
    }
}

impl From<CoordinatorMessage> for wire::CoordinatorMessage {
    fn from(message: CoordinatorMessage) -> Self {
        use wire::coordinator_message::Kind;
        let kind = match message {
            CoordinatorMessage::Welcome(welcome) => Kind::Welcome(wire::Welcome {
                lease_ms: welcome.lease_ms,
                household: clip(&welcome.household, LABEL_BYTES_MAX),
            }),
            CoordinatorMessage::Assign(assign) => Kind::Assign((*assign).into()),
            CoordinatorMessage::Release { epoch } => {
                Kind::Release(wire::Release { epoch: epoch.0 })
            }
            CoordinatorMessage::Drain => Kind::Drain(wire::Drain {}),
            CoordinatorMessage::Refused(refused) => Kind::Refused(refused.into()),
            CoordinatorMessage::Kicked { text } => Kind::Kicked(wire::Kicked {
                text: clip(&text, TEXT_BYTES_MAX),
            }),
            CoordinatorMessage::Sources(sources) => Kind::Sources(sources.into()),
            CoordinatorMessage::Lend(nodes) => Kind::Lend(weights::lend_to(&nodes)),
            CoordinatorMessage::Measure(measure) => Kind::Measure(wire::Measure {
                ticket: measure.ticket,
                peer: Some(measure.peer.into()),
                dial: measure.dial,
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl From<Refused> for wire::Refused {
    fn from(refused: Refused) -> Self {
        Self {
            code: clip(&refused.code, CODE_BYTES_MAX),
            text: clip(&refused.text, TEXT_BYTES_MAX),
        }
    }
}
