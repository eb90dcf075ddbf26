//! The words of the command line: `name=8GiB` and `name=20,15`.
//!
//! Owns their parsing and the facts about machines that follow from them.

use anyhow::{anyhow, ensure};
use plan::NodeFacts;
use plan::speed::{DEFAULT_MACS_PER_S, DEFAULT_READ_BYTES_PER_S};
use proto::{NodeId, limits};

/// A machine and what it offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeWord {
    pub name: String,
    pub memory_bytes: u64,
}

/// A machine and its speed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SpeedWord {
    pub name: String,
    pub read_bytes_per_s: f64,
    pub macs_per_s: f64,
}

fn name(text: &str) -> anyhow::Result<String> {
    let count = text.chars().count();
    ensure!(
        (1..=limits::NODE_NAME_MAX).contains(&count) && !text.chars().any(char::is_control),
        "a machine's name has 1 to {} printable characters, this one has {count}",
        limits::NODE_NAME_MAX
    );
    Ok(text.to_owned())
}

/// Reads `name=8GiB`.
pub(crate) fn node(text: &str) -> anyhow::Result<NodeWord> {
    let (left, right) = text
        .split_once('=')
        .ok_or_else(|| anyhow!("expected NAME=MEMORY, desk=8GiB for example"))?;
    Ok(NodeWord {
        name: name(left)?,
        memory_bytes: plan::size::parse_size(right)?,
    })
}

/// Reads `name=20,15`: bytes read in GB/s, multiply-adds in billions per second.
pub(crate) fn speed(text: &str) -> anyhow::Result<SpeedWord> {
    let expected = || {
        anyhow!("expected NAME=GB_PER_S,GMAC_PER_S with positive numbers, desk=20,15 for example")
    };
    let (left, right) = text.split_once('=').ok_or_else(expected)?;
    let (read, macs) = right.split_once(',').ok_or_else(expected)?;
    let positive = |text: &str| {
        let number: f64 = text.trim().parse().map_err(|_| expected())?;
        if (1e-6..=1e9).contains(&number) {
            Ok(number * 1e9)
        } else {
            Err(expected())
        }
    };
    Ok(SpeedWord {
        name: name(left)?,
        read_bytes_per_s: positive(read)?,
        macs_per_s: positive(macs)?,
    })
}

/// The machines with their speeds; one without a speed gets the default.
pub(crate) fn facts(nodes: &[NodeWord], speeds: &[SpeedWord]) -> anyhow::Result<Vec<NodeFacts>> {
    for (words, flag) in [
        (
            nodes.iter().map(|node| &node.name).collect::<Vec<_>>(),
            "--node",
        ),
        (speeds.iter().map(|speed| &speed.name).collect(), "--speed"),
    ] {
        for (at, name) in words.iter().enumerate() {
            ensure!(
                !words[..at].contains(name),
                "{flag} names '{name}' twice; expected each machine once"
            );
        }
    }
    for speed in speeds {
        ensure!(
            nodes.iter().any(|node| node.name == speed.name),
            "--speed names '{}', which no --node names; add --node {}=MEMORY or correct the name",
            speed.name,
            speed.name
        );
    }
    nodes
        .iter()
        .enumerate()
        .map(|(at, node)| {
            let speed = speeds.iter().find(|speed| speed.name == node.name);
            Ok(NodeFacts {
                id: NodeId::new(format!("offline{at:02}"))?,
                name: node.name.clone(),
                memory_bytes: node.memory_bytes,
                read_bytes_per_s: speed.map_or(DEFAULT_READ_BYTES_PER_S, |s| s.read_bytes_per_s),
                macs_per_s: speed.map_or(DEFAULT_MACS_PER_S, |s| s.macs_per_s),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_read_as_written() {
        let read = node("desk=8GiB").unwrap();
        assert_eq!((read.name.as_str(), read.memory_bytes), ("desk", 8 << 30));
        for bad in [
            "desk",
            "desk=",
            "=8GiB",
            "desk=lots",
            &format!("{}=1GiB", "x".repeat(65)),
        ] {
            assert!(node(bad).is_err(), "{bad}");
        }
        let read = speed("desk=20.5,15").unwrap();
        assert_eq!((read.read_bytes_per_s, read.macs_per_s), (20.5e9, 15e9));
        for bad in [
            "desk=20",
            "desk",
            "desk=0,1",
            "desk=nan,1",
            "desk=1,-1",
            "desk=inf,1",
        ] {
            assert!(speed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_machine_is_named_once_and_speeds_belong_to_machines() {
        let desk = node("desk=8GiB").unwrap();
        let fast = speed("desk=40,30").unwrap();
        let both = [desk.clone(), node("lap=1GiB").unwrap()];
        let read = facts(&both, std::slice::from_ref(&fast)).unwrap();
        assert_eq!(read[0].read_bytes_per_s, 40e9);
        assert_eq!(read[1].read_bytes_per_s, DEFAULT_READ_BYTES_PER_S);
        assert!(facts(&[desk.clone(), desk.clone()], &[]).is_err());
        assert!(facts(&both, &[fast.clone(), fast]).is_err());
        assert!(facts(&[desk], &[speed("other=1,1").unwrap()]).is_err());
    }
}
