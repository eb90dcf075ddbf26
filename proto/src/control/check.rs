//! From the wire: every field is present, in range and within its cap, or the message is refused.

use std::net::SocketAddr;

use super::weights;
use super::{
    Assign, Beat, CODE_BYTES_MAX, CacheType, ControlMessageError, CoordinatorMessage, Hello,
    LABEL_BYTES_MAX, LEASE_MS_MAX, LoadFailed, LoadProgress, Loaded, NodeMessage, PAIRING_PROTOCOL,
    PATH_BYTES_MAX, PairReply, PairRequest, Peer, PeerLost, Refused, TEXT_BYTES_MAX, Welcome, wire,
};
use crate::ids::{Epoch, NodeId};
use crate::limits;

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

fn filled(field: &'static str, value: String, max: usize) -> Checked<String> {
    if value.trim().is_empty() {
        return Err(wrong(field, "empty", "a text"));
    }
    text(field, value, max)
}

fn name(field: &'static str, value: String) -> Checked<String> {
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

fn some<T>(value: Option<T>) -> Checked<T> {
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
        })
    }
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
            threads: at_most("hello.threads", hello.threads, 65_536)?,
            memory_bytes: hello.memory_bytes,
            read_bytes_per_s: rate("hello.read_bytes_per_s", hello.read_bytes_per_s)?,
            macs_per_s: rate("hello.macs_per_s", hello.macs_per_s)?,
            addresses: addresses("hello.addresses", &hello.addresses)?,
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
        Ok(Assign {
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

impl TryFrom<wire::PairRequest> for PairRequest {
    type Error = ControlMessageError;

    fn try_from(request: wire::PairRequest) -> Checked<Self> {
        if request.protocol != PAIRING_PROTOCOL {
            let expected =
                format!("{PAIRING_PROTOCOL}: both programs need the same version of Hearth");
            return Err(wrong("pair.protocol", request.protocol, expected));
        }
        let bytes = request.secret.len();
        Ok(PairRequest {
            secret: request
                .secret
                .try_into()
                .map_err(|_| wrong("pair.secret", format!("{bytes} bytes"), "16 bytes"))?,
            name: name("pair.name", request.name)?,
        })
    }
}

impl TryFrom<wire::PairReply> for PairReply {
    type Error = ControlMessageError;

    fn try_from(reply: wire::PairReply) -> Checked<Self> {
        if reply.accepted {
            return Ok(PairReply::Accepted);
        }
        Ok(PairReply::Refused(refusal(wire::Refused {
            code: reply.code,
            text: reply.text,
        })?))
    }
}
