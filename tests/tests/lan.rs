//! The emulated LAN with real sockets: nothing comes early, nothing comes faster, nothing is lost unseen, nothing stays
//! behind. How late frames are is a figure for `lan measure`, not a promise for tests on a busy machine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what fails here is the test"
)]
#![cfg(target_os = "linux")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use tests::lan::measure::{measure, socket};
use tests::lan::relay::Report;
use tests::lan::{Link, Rig, UdpRelay};
use tests::process::DEADLINE;

fn local() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Waits until a report says what is wanted.
fn reported(relay: &UdpRelay, wanted: impl Fn(&Report) -> bool) -> Report {
    let begun = Instant::now();
    loop {
        let report = relay.report();
        if wanted(&report) {
            return report;
        }
        assert!(begun.elapsed() < DEADLINE, "{report:?}");
        std::thread::yield_now();
    }
}

/// Sends numbered datagrams through a relay and gives the numbers that arrived, in their order.
fn numbers(link: Link, seed: u64, count: u32) -> Vec<u32> {
    let server = local();
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let relay = UdpRelay::start(anywhere, server.local_addr().unwrap(), link, seed).unwrap();
    let client = local();
    client.connect(relay.address()).unwrap();
    let mut arrived = Vec::new();
    let mut bytes = [0; 4];
    for number in 0..count {
        client.send(&number.to_le_bytes()).unwrap();
        // One at a time through the sockets, so that no buffer of the system loses any: the relay alone may.
        let sent = u64::from(number) + 1;
        let report = reported(&relay, |report| {
            let past = |c: &[tests::lan::Counts]| {
                c[0].sent == sent && c[0].lost + c[1].lost + c[1].received == sent
            };
            past(&report.counts)
        });
        if report.counts[1].received > arrived.len() as u64 {
            server.recv(&mut bytes).unwrap();
            arrived.push(u32::from_le_bytes(bytes));
        }
    }
    arrived
}

#[test]
fn a_seed_decides_which_datagrams_are_lost() {
    let link: Link = "gigabit,rtt-us=4,loss-ppm=200000".parse().unwrap();
    let first = numbers(link, 11, 500);
    assert!(first.is_sorted());
    // 100 of 500 are expected to be lost; five standard deviations are 45.
    assert!((355..445).contains(&first.len()), "{}", first.len());
    assert_eq!(first, numbers(link, 11, 500));
    assert_ne!(first, numbers(link, 12, 500));
}

#[test]
fn a_loopback_link_answers_no_earlier_than_it_says() {
    let server = local();
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let link = Link::GOOD_WIFI;
    let relay = UdpRelay::start(anywhere, server.local_addr().unwrap(), link, 1).unwrap();
    let client = local();
    client.connect(relay.address()).unwrap();
    for number in 0..20u8 {
        let begun = Instant::now();
        client.send(&[number]).unwrap();
        let mut bytes = [0; 8];
        let (count, from) = server.recv_from(&mut bytes).unwrap();
        server.send_to(&bytes[..count], from).unwrap();
        assert_eq!(client.recv(&mut bytes).unwrap(), 1);
        assert_eq!(bytes[0], number);
        assert!(begun.elapsed() >= link.rtt);
    }
}

#[test]
fn machines_see_the_round_trip_and_the_rate_of_their_link() {
    let link = Link::GIGABIT;
    let Some(rig) = Rig::or_skip(&[link; 2], 1) else {
        return;
    };
    let figures = measure(&rig, &link, 50, Duration::from_millis(100));
    assert_eq!((figures.asked, figures.unanswered), (50, 0));
    assert!(figures.rtt(0.0).unwrap() >= link.rtt, "{figures:?}");
    // 1472 of 1538 bytes on the wire are payload: 957.1 Mbit/s, and no lateness can make it more.
    assert!(
        figures.bits_per_s > 1e6 && figures.bits_per_s < 957.2e6,
        "{figures:?}"
    );
    let report = rig.report();
    assert_eq!(report.counts.iter().map(|c| c.lost).sum::<u64>(), 0);
}

#[test]
fn what_bad_wifi_loses_is_counted_and_the_rest_arrives_in_order() {
    let Some(rig) = Rig::or_skip(&[Link::BAD_WIFI; 2], 9) else {
        return;
    };
    let (near, far) = (socket(&rig, 0), socket(&rig, 1));
    let there = far.local_addr().unwrap();
    const COUNT: u32 = 2000;
    let mut arrived = Vec::new();
    let mut bytes = [0; 4];
    for number in 0..COUNT {
        near.send_to(&number.to_le_bytes(), there).unwrap();
        // Never more on their way than the receiver's socket holds: the link alone may lose any.
        let last = number + 1 == COUNT;
        if last || number % 100 == 99 {
            let quiet = Duration::from_millis(if last { 1000 } else { 30 });
            far.set_read_timeout(Some(quiet)).unwrap();
            while far.recv(&mut bytes).is_ok() {
                arrived.push(u32::from_le_bytes(bytes));
            }
        }
    }
    assert!(arrived.is_sorted_by(|one, two| one < two));
    let missing = u64::from(COUNT) - arrived.len() as u64;
    let counts = rig.report().counts;
    let gone: u64 = counts.iter().map(|c| c.lost + c.dropped).sum();
    assert!(missing > 0 && missing <= gone, "{missing} {counts:?}");
    assert_eq!(counts.iter().map(|c| c.dropped).sum::<u64>(), 0);
    // 20 are expected; five standard deviations are 22.
    assert!(missing < 43, "{missing}");
}

#[test]
fn groups_reach_every_machine() {
    let Some(rig) = Rig::or_skip(&[Link::GIGABIT; 3], 1) else {
        return;
    };
    let group = Ipv4Addr::new(224, 0, 0, 251);
    let members: Vec<UdpSocket> = (1..3)
        .map(|machine| {
            let address = rig.address(machine);
            let open = || {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5353))?;
                socket.join_multicast_v4(&group, &address)?;
                socket.set_read_timeout(Some(DEADLINE))?;
                std::io::Result::Ok(socket)
            };
            rig.within(machine, open).unwrap().unwrap()
        })
        .collect();
    let speaker = socket(&rig, 0);
    speaker.send_to(b"who is here?", (group, 5353)).unwrap();
    for member in members {
        let mut bytes = [0; 64];
        let (count, from) = member.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..count], b"who is here?");
        assert_eq!(from.ip(), rig.address(0));
    }
}

/// Ids of the processes whose parent we are and whose program has this name.
fn children(name: &str) -> Vec<u32> {
    let me = std::process::id().to_string();
    let ids = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        stat.contains(&format!("({name})")) && rest.split(' ').nth(1) == Some(&me)
    })
    .collect()
}

/// The names of the interfaces in this thread's namespace.
fn interfaces() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = text.lines().filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

#[test]
fn nothing_is_left_after_the_end_or_a_panic() {
    let before = interfaces();
    let Some(rig) = Rig::or_skip(&[Link::GIGABIT; 2], 1) else {
        return;
    };
    let inside = rig.within(1, interfaces).unwrap();
    let has = |list: &[String]| list.iter().any(|name| name == "lan0");
    assert!(has(&inside) && !has(&before), "{inside:?}");
    let mut program = rig.command(1, Path::new("cat"));
    let mut child = program.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let namespace = |id: u32| std::fs::read_link(format!("/proc/{id}/ns/net"));
    let entered = Instant::now();
    while namespace(child.id()).unwrap() == namespace(std::process::id()).unwrap() {
        assert!(entered.elapsed() < DEADLINE);
        std::thread::yield_now();
    }
    let holders = rig.holders();
    assert!(holders.iter().all(|id| children("cat").contains(id)));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _rig = rig;
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert!(holders.iter().all(|id| !children("cat").contains(id)));
    assert!(!has(&interfaces()), "{:?}", interfaces());
    // What somebody else started there is theirs to end; the namespace without a cable goes with it.
    child.kill().unwrap();
    child.wait().unwrap();
}
