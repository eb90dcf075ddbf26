//! Households on LANs of network namespaces: found by multicast, paired by code, found again elsewhere, and never mixed.
//!
//! Each test says why and does nothing where this machine cannot make namespaces.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what fails here is the test"
)]

mod house;

use serde_json::json;
use tests::namespaces::{Lan, containing};

use house::House;

/// A LAN, or nothing where this machine cannot have one.
fn lan() -> Option<Lan> {
    match Lan::new() {
        Ok(lan) => Some(lan),
        Err(why) => {
            eprintln!("skipped: no network namespaces here ({why})");
            None
        }
    }
}

const PROMPT: &str = "the lighthouse keeper whispers seventeen violet riddles";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_machines_find_the_household_pair_by_code_and_nobody_reads_along() {
    let Some(mut lan) = lan() else { return };
    let ear = lan.listen();
    let at = lan.host("10.77.0.1/24");
    let mut house = House::start(&at, "0.0.0.0:7411", &["--expect", "3"]).await;
    for (number, name) in (2..).zip(["den-of-ada", "attic-of-ada", "cellar-of-ada"]) {
        let host = lan.host(&format!("10.77.0.{number}/24"));
        let code = house.code().await;
        house.join(&host, name, &[&code]);
        house.paired(name).await;
    }
    let answer = house.complete(&at, PROMPT).await;
    assert_eq!(answer["usage"]["completion_tokens"], json!(8), "{answer}");
    // Strangers, each with its message.
    let stranger = lan.host("10.77.0.9/24");
    let spent = house.last_code();
    let refused = house.attempt(&stranger, "s1", &[&spent]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.err.contains("waits for a short code"),
        "{refused:?}"
    );
    let open = house.code().await;
    let refused = house
        .attempt(&stranger, "s2", &[&house::wrong(&open)])
        .await;
    assert!(
        refused.err.contains("the short code was wrong"),
        "{refused:?}"
    );
    let url = house.used_url();
    let refused = house.attempt(&stranger, "s3", &[&url]).await;
    assert!(refused.err.contains("used already"), "{refused:?}");
    house.told(&["kick", "den-of-ada"]).await;
    let kicked = house.ended("den-of-ada").await;
    assert!(kicked.err.contains("removed"), "{kicked:?}");

    // A packet in the open is heard, so silence about the others means something.
    let shout = stranger.run(async {
        let socket = tokio::net::UdpSocket::bind("10.77.0.9:0").await.unwrap();
        socket.send_to(b"in the open", "10.77.0.1:9").await.unwrap();
    });
    shout.join().unwrap();
    let coordinator = house.id.clone();
    drop(house);
    let packets = ear.end();
    assert!(containing(&packets, "in the open") > 0);
    assert!(packets.len() > 200, "{} packets", packets.len());
    assert!(
        containing(&packets, "_hearth") > 0,
        "announcements were heard"
    );
    for secret in [
        "lighthouse",
        "violet riddles",
        "of-ada",
        &coordinator,
        &open,
    ] {
        assert_eq!(containing(&packets, secret), 0, "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_households_on_one_lan_never_mix() {
    let Some(mut lan) = lan() else { return };
    let (first, second) = (lan.host("10.77.0.1/24"), lan.host("10.77.0.2/24"));
    let mut ada = House::start(&first, "0.0.0.0:7411", &[]).await;
    let mut ben = House::start(&second, "0.0.0.0:7411", &[]).await;
    let host = lan.host("10.77.0.3/24");
    // One that has nothing in hand is told of both.
    let told = ada.attempt(&host, "new", &[]).await;
    assert_eq!(told.code, Some(2), "{told:?}");
    let (adas, bens) = (ada.words().await, ben.words().await);
    for part in [
        adas.as_str(),
        &bens,
        "10.77.0.1:7411",
        "10.77.0.2:7411",
        "node join CODE",
    ] {
        assert!(told.err.contains(part), "{part}: {told:?}");
    }
    // Both wait for a code now (`words` has opened one): it is not tried until somebody says where.
    let code = ada.last_code();
    let unclear = ada.attempt(&host, "new", &[&code]).await;
    assert_eq!(unclear.code, Some(2), "{unclear:?}");
    assert!(unclear.err.contains("--coordinator"), "{unclear:?}");
    // Said where, the code is right there and wrong at the other.
    let refused = ada
        .attempt(&host, "new", &[&code, "--coordinator", "10.77.0.2:7411"])
        .await;
    assert!(
        refused.err.contains("the short code was wrong"),
        "{refused:?}"
    );
    // That has closed the other's code, so now it is clear which household waits.
    ada.join(&host, "den", &[&code]);
    ada.paired("den").await;
    let other = lan.host("10.77.0.4/24");
    let code = ben.code().await;
    ben.join(&other, "attic", &[&code]);
    ben.paired("attic").await;
    ada.nodes(1).await;
    ben.nodes(1).await;
    // A member of one is a stranger to the other, whatever address it goes to.
    let home = ada.home("den");
    let lost = ben.visit(&lan.host("10.77.0.5/24"), "den", &home).await;
    assert_eq!(lost.code, Some(1), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_finds_its_household_wherever_the_two_were_moved() {
    let Some(mut lan) = lan() else { return };
    let (at, host) = (lan.host("10.77.0.1/24"), lan.host("10.77.0.2/24"));
    let mut house = House::start(&at, "0.0.0.0:7411", &[]).await;
    let code = house.code().await;
    house.join(&host, "den", &[&code]);
    house.nodes(1).await;
    // Both are switched off and come back with other addresses; somebody else's household has the old one.
    house.stop().await;
    house.kill("den").await;
    at.readdress("10.77.0.1/24", "10.77.0.31/24");
    host.readdress("10.77.0.2/24", "10.77.0.32/24");
    let usurper = lan.host("10.77.0.1/24");
    let mut other = House::start(&usurper, "0.0.0.0:7411", &[]).await;
    house.restart().await;
    house.join(&host, "den", &[]);
    house.nodes(1).await;
    house.remembers("den", "10.77.0.31:7411").await;
    // Moved while everything runs: found again as well.
    house.stop().await;
    at.readdress("10.77.0.31/24", "10.77.0.41/24");
    house.restart().await;
    house.nodes(1).await;
    other.nodes(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_household_is_found_by_ipv6_alone() {
    let Some(mut lan) = lan() else { return };
    let (at, host) = (lan.host("fd77::1/64"), lan.host("fd77::2/64"));
    let mut house = House::start(&at, "[::]:7411", &[]).await;
    let code = house.code().await;
    house.join(&host, "den", &[&code]);
    house.nodes(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_announced_where_the_owner_does_not_want_it() {
    let Some(mut lan) = lan() else { return };
    let ear = lan.listen();
    let (at, host) = (lan.host("10.77.0.1/24"), lan.host("10.77.0.2/24"));
    let mut house = House::start(&at, "0.0.0.0:7411", &["--discovery", "off"]).await;
    let code = house.code().await;
    let refused = house.attempt(&host, "den", &[&code]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("--coordinator"), "{refused:?}");
    house.join(&host, "den", &[&code, "--coordinator", "10.77.0.1:7411"]);
    house.nodes(1).await;
    drop(house);
    let packets = ear.end();
    let answers = packets.iter().filter(|packet| is_announcement(packet));
    assert_eq!(answers.count(), 0);
}

/// Whether a packet carries an answer about our service: a DNS message with its response bit, from the port of multicast DNS.
fn is_announcement(packet: &[u8]) -> bool {
    // Ethernet and IPv4 without options, then UDP.
    let udp = packet.get(34..);
    let Some([0x14, 0xe9, _, _, _, _, _, _, _, _, flags, ..]) = udp else {
        return false;
    };
    flags & 0x80 != 0 && containing(&[packet.to_vec()], "_hearth") > 0
}
