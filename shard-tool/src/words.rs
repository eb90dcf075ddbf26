//! The words of the command line: `name=8GiB`, `name=20,15` and `a,b=1Gbit/0.3ms`.
//!
//! Owns their parsing and the facts about machines that follow from them.

use anyhow::{anyhow, ensure};
use plan::speed::{DEFAULT_MACS_PER_S, DEFAULT_READ_BYTES_PER_S};
use plan::{LinkFacts, NodeFacts};
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

/// Two machines and the link between them, the same both ways.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LinkWord {
    pub ends: [String; 2],
    pub bytes_per_s: f64,
    pub rtt_s: f64,
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

/// Reads `a,b=1Gbit/0.3ms`: throughput in Mbit, Gbit, MB or GB per second, round trip in us, ms or s.
pub(crate) fn link(text: &str) -> anyhow::Result<LinkWord> {
    let expected = || {
        anyhow!(
            "expected NAME,NAME=SPEED/ROUNDTRIP, desk,laptop=1Gbit/0.3ms for example; speeds in Mbit, Gbit, MB or GB a second, round trips in us, ms or s"
        )
    };
    let measure = |text: &str, units: &[(&str, f64)]| {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, unit) = text.split_at(split.unwrap_or(text.len()));
        let unit = unit.trim().to_ascii_lowercase();
        let scale = units
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, scale)| scale);
        let number: f64 = number.parse().map_err(|_| expected())?;
        let value = number * scale.ok_or_else(expected)?;
        ensure!(value.is_finite() && value > 0.0, expected());
        Ok(value)
    };
    let (ends, figures) = text.split_once('=').ok_or_else(expected)?;
    let (one, other) = ends.split_once(',').ok_or_else(expected)?;
    let (speed, rtt) = figures.split_once('/').ok_or_else(expected)?;
    let speeds = [
        ("mbit", 1e6 / 8.0),
        ("gbit", 1e9 / 8.0),
        ("mb", 1e6),
        ("gb", 1e9),
    ];
    let word = LinkWord {
        ends: [name(one)?, name(other)?],
        bytes_per_s: measure(speed, &speeds)?,
        rtt_s: measure(rtt, &[("us", 1e-6), ("ms", 1e-3), ("s", 1.0)])?,
    };
    ensure!(word.bytes_per_s >= 1.0 && word.rtt_s <= 60.0, expected());
    ensure!(one != other, "a link has two ends; '{one}' is named twice");
    Ok(word)
}

/// The links in both directions.
pub(crate) fn links(words: &[LinkWord], nodes: &[NodeFacts]) -> anyhow::Result<Vec<LinkFacts>> {
    let id = |name: &str| {
        let node = nodes.iter().find(|node| node.name == name);
        node.map(|node| node.id.clone()).ok_or_else(|| {
            anyhow!("--link names '{name}', which no --node names; add --node {name}=MEMORY or correct the name")
        })
    };
    let mut links = Vec::with_capacity(2 * words.len());
    for word in words {
        let [one, other] = &word.ends;
        for (from, to) in [(one, other), (other, one)] {
            links.push(LinkFacts {
                from: id(from)?,
                to: id(to)?,
                rtt_s: word.rtt_s,
                bytes_per_s: word.bytes_per_s,
            });
        }
    }
    Ok(links)
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
    fn links_are_read_as_written_and_hold_both_ways() {
        let read = link("desk,lap=1Gbit/0.3ms").unwrap();
        assert_eq!(read.ends, ["desk", "lap"]);
        assert!((read.bytes_per_s - 125e6).abs() < 1.0 && (read.rtt_s - 0.0003).abs() < 1e-9);
        assert_eq!(link("a,b=2.5GB/40us").unwrap().bytes_per_s, 2.5e9);
        for bad in [
            "desk=1Gbit/1ms",
            "a,b=1Gbit",
            "a,b=1/1ms",
            "a,b=1Gbit/1",
            "a,b=0Gbit/1ms",
            "a,b=1Gbit/90s",
            "a,a=1Gbit/1ms",
            ",b=1Gbit/1ms",
            "a,b=-1Gbit/1ms",
        ] {
            assert!(link(bad).is_err(), "{bad}");
        }
        let nodes = [node("desk=8GiB").unwrap(), node("lap=8GiB").unwrap()];
        let facts = facts(&nodes, &[]).unwrap();
        let both = links(std::slice::from_ref(&read), &facts).unwrap();
        assert_eq!((&both[0].from, &both[0].to), (&both[1].to, &both[1].from));
        assert!(links(&[link("desk,nas=1Gbit/1ms").unwrap()], &facts).is_err());
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
