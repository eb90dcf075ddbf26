//! Messages about weights that go from member to member: who has what, who may ask whom.

use super::check::{Checked, node, peer, text, wrong};
use super::write::clip;
use super::{Peer, TEXT_BYTES_MAX, wire};
use crate::ids::{Epoch, NodeId};
use crate::limits::{NODES_MAX, SHARDS_MAX};

/// Bytes of a set of shards.
const SHARDS_BYTES_MAX: usize = SHARDS_MAX / 8;

/// What a node can lend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// BLAKE3 of the catalogue.
    pub catalogue: [u8; 32],
    /// One bit for each of its shards, the lowest of the first byte first.
    pub shards: Vec<u8>,
}

/// Where the shards of an epoch's model are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// Epoch of the assignment.
    pub epoch: Epoch,
    /// What there is, or why there is nothing.
    pub wares: Result<Wares, String>,
}

/// A catalogue and who has shards of it beside the coordinator, which has all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wares {
    /// BLAKE3 of the catalogue.
    pub catalogue: [u8; 32],
    /// Members that lend.
    pub sources: Vec<Source>,
}

/// A member that lends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Who and where.
    pub peer: Peer,
    /// One bit for each shard of the catalogue.
    pub shards: Vec<u8>,
}

fn digest(field: &'static str, bytes: Vec<u8>) -> Checked<[u8; 32]> {
    let got = format!("{} bytes", bytes.len());
    bytes.try_into().map_err(|_| wrong(field, got, "32 bytes"))
}

fn shards(field: &'static str, bytes: Vec<u8>) -> Checked<Vec<u8>> {
    if bytes.len() <= SHARDS_BYTES_MAX {
        return Ok(bytes);
    }
    let got = format!("{} bytes", bytes.len());
    Err(wrong(
        field,
        got,
        format!("at most {SHARDS_BYTES_MAX} bytes"),
    ))
}

fn at_most_all<T>(field: &'static str, list: &[T]) -> Checked<()> {
    if list.len() <= NODES_MAX {
        return Ok(());
    }
    let got = format!("{} nodes", list.len());
    Err(wrong(field, got, format!("at most {NODES_MAX}")))
}

pub(super) fn held(held: wire::Held) -> Checked<Held> {
    Ok(Held {
        catalogue: digest("held.catalogue", held.catalogue)?,
        shards: shards("held.shards", held.shards)?,
    })
}

pub(super) fn lend(lend: wire::Lend) -> Checked<Vec<NodeId>> {
    at_most_all("lend.nodes", &lend.nodes)?;
    let nodes = lend.nodes.into_iter();
    nodes.map(|name| node("lend.nodes", name)).collect()
}

pub(super) fn sources(message: wire::Sources) -> Checked<Sources> {
    let epoch = Epoch(message.epoch);
    let text = text("sources.text", message.text, TEXT_BYTES_MAX)?;
    if !text.is_empty() {
        return Ok(Sources {
            epoch,
            wares: Err(text),
        });
    }
    at_most_all("sources.sources", &message.sources)?;
    let source = |source: wire::Source| {
        let missing = || wrong("sources.peer", "missing", "a member");
        Ok(Source {
            peer: peer("sources.peer", source.peer.ok_or_else(missing)?)?,
            shards: shards("sources.shards", source.shards)?,
        })
    };
    let sources = message.sources.into_iter().map(source);
    Ok(Sources {
        epoch,
        wares: Ok(Wares {
            catalogue: digest("sources.catalogue", message.catalogue)?,
            sources: sources.collect::<Checked<_>>()?,
        }),
    })
}

impl From<Held> for wire::Held {
    fn from(held: Held) -> Self {
        Self {
            catalogue: held.catalogue.to_vec(),
            shards: held.shards,
        }
    }
}

impl From<Sources> for wire::Sources {
    fn from(message: Sources) -> Self {
        let mut written = Self {
            epoch: message.epoch.0,
            ..Self::default()
        };
        match message.wares {
            Err(text) => {
                // An empty reason would read as wares.
                written.text = clip(
                    if text.is_empty() {
                        "it is not known why"
                    } else {
                        &text
                    },
                    TEXT_BYTES_MAX,
                );
            }
            Ok(wares) => {
                written.catalogue = wares.catalogue.to_vec();
                let sources = wares.sources.into_iter().take(NODES_MAX);
                written.sources = sources
                    .map(|source| wire::Source {
                        peer: Some(source.peer.into()),
                        shards: source.shards,
                    })
                    .collect();
            }
        }
        written
    }
}

pub(super) fn lend_to(nodes: &[NodeId]) -> wire::Lend {
    wire::Lend {
        nodes: nodes
            .iter()
            .take(NODES_MAX)
            .map(NodeId::to_string)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::control::{CoordinatorMessage, NodeMessage};

    fn node_of(text: &str) -> NodeId {
        NodeId::new(text).unwrap()
    }

    fn wares() -> Sources {
        let peer = Peer {
            node: node_of("12D3KooWa"),
            addresses: vec!["192.168.1.9:7000".parse().unwrap()],
        };
        Sources {
            epoch: Epoch(4),
            wares: Ok(Wares {
                catalogue: [3; 32],
                sources: vec![Source {
                    peer,
                    shards: vec![0xff, 1],
                }],
            }),
        }
    }

    #[test]
    fn messages_about_weights_survive_the_wire() {
        let held = Held {
            catalogue: [7; 32],
            shards: vec![1, 0, 128],
        };
        for message in [NodeMessage::Seek(Epoch(9)), NodeMessage::Held(held)] {
            let bytes = wire::NodeMessage::from(message.clone()).encode_to_vec();
            let back = wire::NodeMessage::decode(bytes.as_slice()).unwrap();
            assert_eq!(NodeMessage::try_from(back).unwrap(), message);
        }
        let none = Sources {
            epoch: Epoch(4),
            wares: Err("the file changed".into()),
        };
        for message in [
            CoordinatorMessage::Sources(wares()),
            CoordinatorMessage::Sources(none),
            CoordinatorMessage::Lend(vec![node_of("a"), node_of("b")]),
            CoordinatorMessage::Lend(Vec::new()),
        ] {
            let bytes = wire::CoordinatorMessage::from(message.clone()).encode_to_vec();
            let back = wire::CoordinatorMessage::decode(bytes.as_slice()).unwrap();
            assert_eq!(CoordinatorMessage::try_from(back).unwrap(), message);
        }
    }

    #[test]
    fn the_bytes_of_a_seek_stay_what_they_are() {
        let bytes = wire::NodeMessage::from(NodeMessage::Seek(Epoch(300))).encode_to_vec();
        assert_eq!(bytes, [242, 1, 3, 8, 172, 2]);
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_field() {
        type Change = fn(&mut wire::Sources);
        let table: [(&str, Change); 5] = [
            ("sources.catalogue", |s| s.catalogue.truncate(31)),
            ("sources.sources", |s| {
                s.sources = vec![wire::Source::default(); NODES_MAX + 1];
            }),
            ("sources.peer", |s| s.sources[0].peer = None),
            ("sources.shards", |s| {
                s.sources[0].shards = vec![0; SHARDS_BYTES_MAX + 1]
            }),
            ("sources.text", |s| s.text = "a\u{1b}".into()),
        ];
        for (field, change) in table {
            let mut message = wire::Sources::from(wares());
            change(&mut message);
            assert_eq!(sources(message).unwrap_err().field, field);
        }
        let held_of = |catalogue: usize, shards: usize| wire::Held {
            catalogue: vec![1; catalogue],
            shards: vec![0; shards],
        };
        assert_eq!(held(held_of(33, 1)).unwrap_err().field, "held.catalogue");
        assert_eq!(
            held(held_of(32, SHARDS_BYTES_MAX + 1)).unwrap_err().field,
            "held.shards"
        );
        let nodes = vec!["a".to_owned(); NODES_MAX + 1];
        assert_eq!(lend(wire::Lend { nodes }).unwrap_err().field, "lend.nodes");
    }
}
