//! From the wire: every field is present, in range and within its cap, or the message is refused.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::weights;
use super::{
    Assign, Beat, CODE_BYTES_MAX, CacheType, ControlMessageError, CoordinatorMessage, Hello,
    LABEL_BYTES_MAX, LEASE_MS_MAX, LinkRates, LoadFailed, LoadProgress, Loaded, Measure, Measured,
    NodeMessage, Offer, Owner, PATH_BYTES_MAX, Peer, PeerLost, RTT_S_MAX, Refused, TEXT_BYTES_MAX,
    Welcome, wire,
};
use crate::groups::GroupSet;
use crate::ids::{Epoch, NodeId};
use crate::limits;

/// Threads that a node may say it computes with.
const THREADS_MAX: u32 = 65_536;

pub(super) type Checked<T> = Result<T, ControlMessageError>;

pub(super) fn wrong(
    field: &'static str,
    got: impl ToString,
    expected: impl ToString,
) -> ControlMessageError {
    ControlMessageError {
        field,
        got: got.to_string().chars().take(80).collect(),
        expected: expected.to_string(),
    }
}

/// Text without control characters (they could drive a terminal); line breaks are allowed.
pub(super) fn text(field: &'static str, value: String, max: usize) -> Checked<String> {
    if value.len() > max {
        let got = format!("{} bytes long", value.len());
        return Err(wrong(field, got, format!("at most {max} bytes")));
    }
    if value.chars().any(|c| c.is_control() && c != '\n') {
        return Err(wrong(field, value.escape_debug(), "printable text"));
    }
    Ok(value)
}

pub(super) fn filled(field: &'static str, value: String, max: usize) -> Checked<String> {
    if value.trim().is_empty() {
        return Err(wrong(field, "empty", "a text"));
    }
    text(field, value, max)
}

pub(super) fn name(field: &'static str, value: String) -> Checked<String> {
    let characters = value.chars().count();
    if characters > limits::NODE_NAME_MAX {
        let expected = format!("at most {} characters", limits::NODE_NAME_MAX);
        return Err(wrong(field, format!("{characters} characters"), expected));
    }
    filled(field, value, limits::NODE_NAME_MAX * 4)
}

fn rate(field: &'static str, value: f64) -> Checked<f64> {
    if value.is_finite() && (0.0..=1e18).contains(&value) {
        Ok(value)
    } else {
        Err(wrong(field, value, "a rate between 0 and 1e18"))
    }
}

pub(super) fn node(field: &'static str, value: String) -> Checked<NodeId> {
    NodeId::new(value).map_err(|error| wrong(field, error, "a node id"))
}

fn at_most(field: &'static str, value: u32, max: u32) -> Checked<u32> {
    if value > max {
        return Err(wrong(field, value, format!("at most {max}")));
    }
    Ok(value)
}

fn addresses(field: &'static str, values: &[String]) -> Checked<Vec<SocketAddr>> {
    if values.len() > limits::ADDRESSES_MAX {
        let expected = format!("at most {}", limits::ADDRESSES_MAX);
        return Err(wrong(
            field,
            format!("{} addresses", values.len()),
            expected,
        ));
    }
    values
        .iter()
        .map(|value| match value.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(address),
            _ => Err(wrong(field, value.escape_debug(), "an IP:PORT address")),
        })
        .collect()
}

pub(super) fn peer(field: &'static str, value: wire::Peer) -> Checked<Peer> {
    Ok(Peer {
        node: node(field, value.node)?,
        addresses: addresses(field, &value.addresses)?,
    })
}

fn neighbour(field: &'static str, value: Option<wire::Peer>) -> Checked<Option<Peer>> {
    value.map(|value| peer(field, value)).transpose()
}

fn set(field: &'static str, bits: u32) -> Checked<GroupSet> {
    let bits = u16::try_from(bits).map_err(|_| wrong(field, bits, "a set of at most 16"))?;
    Ok(GroupSet::from_bits(bits))
}

/// Sets of groups by layer; each entry has layers and groups, and no layer has two.
fn groups(field: &'static str, entries: &[wire::Groups]) -> Checked<BTreeMap<u32, GroupSet>> {
    let mut by_layer = BTreeMap::new();
    if entries.len() > limits::LAYERS_MAX as usize {
        let expected = format!("at most {}", limits::LAYERS_MAX);
        return Err(wrong(field, format!("{} entries", entries.len()), expected));
    }
    for entry in entries {
        let end = at_most(field, entry.end_layer, limits::LAYERS_MAX)?;
        let groups = set(field, entry.groups)?;
        if entry.first_layer >= end || groups.is_empty() {
            let got = format!("{groups:?} of layers {}..{end}", entry.first_layer);
            return Err(wrong(field, got, "some groups of some layers"));
        }
        for layer in entry.first_layer..end {
            if by_layer.insert(layer, groups).is_some() {
                return Err(wrong(
                    field,
                    format!("layer {layer} twice"),
                    "each layer once",
                ));
            }
        }
    }
    Ok(by_layer)
}

fn peers_max(field: &'static str, count: usize) -> Checked<()> {
    if count > limits::NODES_MAX {
        let expected = format!("at most {}", limits::NODES_MAX);
        return Err(wrong(field, count, expected));
    }
    Ok(())
}

impl TryFrom<wire::Owner> for Owner {
    type Error = ControlMessageError;

    fn try_from(owner: wire::Owner) -> Checked<Self> {
        let peer = neighbour("assign.owners.peer", owner.peer)?;
        Ok(Owner {
            peer: peer.ok_or_else(|| wrong("assign.owners.peer", "missing", "a node"))?,
            groups: groups("assign.owners.groups", &owner.groups)?,
            head_blocks: set("assign.owners.head_blocks", owner.head_blocks)?,
        })
    }
}

/// What an assignment says of groups and blocks agrees with itself: owners have parts of the stage, each part once, and
/// what the node holds for others is not of its own stage.
fn agreed(assign: Assign) -> Checked<Assign> {
    let own = |layer: &u32| assign.layers.contains(layer);
    let mut blocks = GroupSet::none();
    let mut given: BTreeMap<u32, GroupSet> = BTreeMap::new();
    for owner in &assign.owners {
        for (layer, groups) in &owner.groups {
            let known = given.entry(*layer).or_default();
            if !own(layer) || !known.common(*groups).is_empty() {
                let got = format!("{groups} of layer {layer}");
                let expected = "groups of the stage's layers, each with one owner";
                return Err(wrong("assign.owners.groups", got, expected));
            }
            *known = known.and(*groups);
        }
        if !(owner.head_blocks.is_empty() || assign.head)
            || !blocks.common(owner.head_blocks).is_empty()
        {
            let expected = "blocks of the stage's head, each with one owner";
            return Err(wrong(
                "assign.owners.head_blocks",
                owner.head_blocks,
                expected,
            ));
        }
        blocks = blocks.and(owner.head_blocks);
    }
    if let Some(layer) = assign.foreign.keys().find(|layer| own(layer)) {
        return Err(wrong("assign.foreign", layer, "layers of other stages"));
    }
    if assign.head && !assign.head_blocks.is_empty() {
        let expected = "none beside the stage's own head";
        return Err(wrong("assign.head_blocks", assign.head_blocks, expected));
    }
    Ok(assign)
}

pub(super) fn some<T>(value: Option<T>) -> Checked<T> {
    value.ok_or_else(|| {
        let expected = "one of the kinds that this version knows: both programs need the same version of Hearth";
        wrong("kind", "missing or unknown", expected)
    })
}

impl TryFrom<wire::NodeMessage> for NodeMessage {
    type Error = ControlMessageError;

    fn try_from(message: wire::NodeMessage) -> Checked<Self> {
        use wire::node_message::Kind;
        Ok(match some(message.kind)? {
            Kind::Hello(hello) => NodeMessage::Hello(hello.try_into()?),
            Kind::Beat(beat) => NodeMessage::Beat(Beat {
                free_memory_bytes: beat.free_memory_bytes,
                resident_bytes: beat.resident_bytes,
                steps: beat.steps,
                rows: beat.rows,
                sequences: beat.sequences,
                busy_us: beat.busy_us,
            }),
            Kind::Load(load) => NodeMessage::Load(LoadProgress {
                epoch: Epoch(load.epoch),
                done_bytes: load.done_bytes,
                total_bytes: load.total_bytes,
            }),
            Kind::Loaded(loaded) => NodeMessage::Loaded(Loaded {
                epoch: Epoch(loaded.epoch),
                resident_bytes: loaded.resident_bytes,
            }),
            Kind::LoadFailed(failed) => NodeMessage::LoadFailed(LoadFailed {
                epoch: Epoch(failed.epoch),
                code: filled("load_failed.code", failed.code, CODE_BYTES_MAX)?,
                text: text("load_failed.text", failed.text, TEXT_BYTES_MAX)?,
            }),
            Kind::PeerLost(lost) => NodeMessage::PeerLost(PeerLost {
                epoch: Epoch(lost.epoch),
                node: node("peer_lost.node", lost.node)?,
                text: text("peer_lost.text", lost.text, TEXT_BYTES_MAX)?,
            }),
            Kind::Leave(wire::Leave {}) => NodeMessage::Leave,
            Kind::Seek(seek) => NodeMessage::Seek(Epoch(seek.epoch)),
            Kind::Held(held) => NodeMessage::Held(weights::held(held)?),
            Kind::Offer(offer) => NodeMessage::Offer(Offer {
                memory_bytes: offer.memory_bytes,
                threads: at_most("offer.threads", offer.threads, THREADS_MAX)?,
                read_bytes_per_s: rate("offer.read_bytes_per_s", offer.read_bytes_per_s)?,
                macs_per_s: rate("offer.macs_per_s", offer.macs_per_s)?,
                paused: text("offer.paused", offer.paused, TEXT_BYTES_MAX)?,
            }),
            Kind::Measured(measured) => NodeMessage::Measured(measured.try_into()?),
        })
    }
}

impl TryFrom<wire::Measured> for Measured {
    type Error = ControlMessageError;

    fn try_from(measured: wire::Measured) -> Checked<Self> {
        let link = if measured.failure.is_empty() {
            if !(measured.rtt_s > 0.0 && measured.rtt_s <= RTT_S_MAX) {
                let expected = format!("seconds above 0, at most {RTT_S_MAX}");
                return Err(wrong("measured.rtt_s", measured.rtt_s, expected));
            }
            Ok(LinkRates {
                rtt_s: measured.rtt_s,
                out_bytes_per_s: flow("measured.out_bytes_per_s", measured.out_bytes_per_s)?,
                in_bytes_per_s: flow("measured.in_bytes_per_s", measured.in_bytes_per_s)?,
            })
        } else {
            Err(text("measured.failure", measured.failure, TEXT_BYTES_MAX)?)
        };
        Ok(Measured {
            ticket: measured.ticket,
            node: node("measured.node", measured.node)?,
            link,
        })
    }
}

/// A rate that something can be divided by.
fn flow(field: &'static str, value: f64) -> Checked<f64> {
    if value < 1.0 {
        return Err(wrong(field, value, "at least 1 byte per second"));
    }
    rate(field, value)
}

impl TryFrom<wire::Hello> for Hello {
    type Error = ControlMessageError;

    fn try_from(hello: wire::Hello) -> Checked<Self> {
        Ok(Hello {
            protocol: hello.protocol,
            name: name("hello.name", hello.name)?,
            version: text("hello.version", hello.version, LABEL_BYTES_MAX)?,
            os: text("hello.os", hello.os, LABEL_BYTES_MAX)?,
            arch: text("hello.arch", hello.arch, LABEL_BYTES_MAX)?,
            kernels: text("hello.kernels", hello.kernels, LABEL_BYTES_MAX)?,
            threads: at_most("hello.threads", hello.threads, THREADS_MAX)?,
            memory_bytes: hello.memory_bytes,
            read_bytes_per_s: rate("hello.read_bytes_per_s", hello.read_bytes_per_s)?,
            macs_per_s: rate("hello.macs_per_s", hello.macs_per_s)?,
            addresses: addresses("hello.addresses", &hello.addresses)?,
            paused: text("hello.paused", hello.paused, TEXT_BYTES_MAX)?,
        })
    }
}

impl TryFrom<wire::CoordinatorMessage> for CoordinatorMessage {
    type Error = ControlMessageError;

    fn try_from(message: wire::CoordinatorMessage) -> Checked<Self> {
        use wire::coordinator_message::Kind;
        Ok(match some(message.kind)? {
            Kind::Welcome(welcome) => {
                if !(1..=LEASE_MS_MAX).contains(&welcome.lease_ms) {
                    let expected = format!("1 to {LEASE_MS_MAX}");
                    return Err(wrong("welcome.lease_ms", welcome.lease_ms, expected));
                }
                CoordinatorMessage::Welcome(Welcome {
                    lease_ms: welcome.lease_ms,
                    household: text("welcome.household", welcome.household, LABEL_BYTES_MAX)?,
                })
            }
            Kind::Assign(assign) => CoordinatorMessage::Assign(Box::new(assign.try_into()?)),
            Kind::Release(release) => CoordinatorMessage::Release {
                epoch: Epoch(release.epoch),
            },
            Kind::Drain(wire::Drain {}) => CoordinatorMessage::Drain,
            Kind::Refused(refused) => CoordinatorMessage::Refused(refusal(refused)?),
            Kind::Sources(message) => CoordinatorMessage::Sources(weights::sources(message)?),
            Kind::Lend(message) => CoordinatorMessage::Lend(weights::lend(message)?),
            Kind::Kicked(kicked) => CoordinatorMessage::Kicked {
                text: text("kicked.text", kicked.text, TEXT_BYTES_MAX)?,
            },
            Kind::Measure(measure) => CoordinatorMessage::Measure(Measure {
                ticket: measure.ticket,
                peer: peer("measure.peer", some(measure.peer)?)?,
                dial: measure.dial,
            }),
        })
    }
}

fn refusal(refused: wire::Refused) -> Checked<Refused> {
    Ok(Refused {
        code: filled("refused.code", refused.code, CODE_BYTES_MAX)?,
        text: text("refused.text", refused.text, TEXT_BYTES_MAX)?,
    })
}

impl TryFrom<wire::Assign> for Assign {
    type Error = ControlMessageError;

    fn try_from(assign: wire::Assign) -> Checked<Self> {
        let kv = match assign.kv() {
            wire::CacheType::F32 => CacheType::F32,
            wire::CacheType::F16 => CacheType::F16,
            wire::CacheType::Q8 => CacheType::Q8,
            wire::CacheType::Unspecified => {
                return Err(wrong("assign.kv", assign.kv, "1 (f32), 2 (f16) or 3 (q8)"));
            }
        };
        let end = at_most("assign.end_layer", assign.end_layer, limits::LAYERS_MAX)?;
        let first = at_most("assign.first_layer", assign.first_layer, end)?;
        let hash_bytes = assign.model_blake3.len();
        peers_max("assign.owners", assign.owners.len())?;
        peers_max("assign.askers", assign.askers.len())?;
        let owners = assign.owners.into_iter().map(TryInto::try_into);
        let askers = assign.askers.into_iter();
        agreed(Assign {
            owners: owners.collect::<Checked<_>>()?,
            foreign: groups("assign.foreign", &assign.foreign)?,
            head_blocks: set("assign.head_blocks", assign.head_blocks)?,
            askers: askers
                .map(|asker| peer("assign.askers", asker))
                .collect::<Checked<_>>()?,
            epoch: Epoch(assign.epoch),
            model_path: filled("assign.model_path", assign.model_path, PATH_BYTES_MAX)?,
            model_bytes: assign.model_bytes,
            model_blake3: assign.model_blake3.try_into().map_err(|_| {
                wrong(
                    "assign.model_blake3",
                    format!("{hash_bytes} bytes"),
                    "32 bytes",
                )
            })?,
            layers: first..end,
            embedding: assign.embedding,
            head: assign.head,
            kv,
            pages: assign.pages,
            slots: at_most("assign.slots", assign.slots, 65_536)?,
            context: at_most(
                "assign.context",
                assign.context,
                limits::SEQUENCE_POSITIONS_MAX,
            )?,
            chunk_rows: at_most(
                "assign.chunk_rows",
                assign.chunk_rows,
                limits::STEP_ROWS_MAX,
            )?,
            previous: neighbour("assign.previous", assign.previous)?,
            next: neighbour("assign.next", assign.next)?,
            first: neighbour("assign.first", assign.first)?,
            coordinator: node("assign.coordinator", assign.coordinator)?,
        })
    }
}
