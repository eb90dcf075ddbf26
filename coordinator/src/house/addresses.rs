//! Where other machines can reach this one.

use std::net::{IpAddr, SocketAddr};

use proto::limits::ADDRESSES_MAX;

/// Names of interfaces that usually lead to containers or virtual machines of this machine only.
const INNER: [&str; 6] = ["docker", "br-", "veth", "virbr", "vmnet", "cni"];

/// An address of this machine and the interface that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub name: String,
    pub ip: IpAddr,
}

/// The addresses of this machine's interfaces; empty where the system does not tell.
pub(super) fn interfaces() -> Vec<Interface> {
    match if_addrs::get_if_addrs() {
        Ok(found) => found
            .into_iter()
            .map(|i| Interface {
                ip: i.ip(),
                name: i.name,
            })
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "the addresses of this machine cannot be listed");
            Vec::new()
        }
    }
}

/// Addresses at which a socket bound to `local` is reached: itself, or where it listens everywhere those of all
/// interfaces, the likeliest first. Loopback only where there is nothing else. At most [`ADDRESSES_MAX`].
pub(super) fn reachable(local: SocketAddr, interfaces: &[Interface]) -> Vec<SocketAddr> {
    if !local.ip().is_unspecified() {
        return vec![local];
    }
    let heard = |ip: IpAddr| local.is_ipv6() || ip.is_ipv4();
    let mut found: Vec<(u8, IpAddr)> = interfaces
        .iter()
        .filter(|interface| heard(interface.ip))
        .filter_map(|interface| Some((rank(interface)?, interface.ip)))
        .collect();
    found.sort_by_key(|(rank, _)| *rank);
    found.dedup_by_key(|(_, ip)| *ip);
    let mut addresses: Vec<SocketAddr> = found
        .into_iter()
        .map(|(_, ip)| SocketAddr::new(ip, local.port()))
        .collect();
    if addresses.is_empty() {
        let loopback = if local.is_ipv6() {
            IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16])
        } else {
            IpAddr::from([127, 0, 0, 1])
        };
        addresses.push(SocketAddr::new(loopback, local.port()));
    }
    addresses.truncate(ADDRESSES_MAX);
    addresses
}

/// The likelier, the lower; none for addresses that no other machine can use.
fn rank(interface: &Interface) -> Option<u8> {
    let rank = match interface.ip {
        ip if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() => return None,
        // Without a scope these lead nowhere.
        IpAddr::V6(ip) if ip.is_unicast_link_local() => return None,
        IpAddr::V4(ip) if ip.is_link_local() => 3,
        IpAddr::V4(ip) if ip.is_private() => 0,
        IpAddr::V6(ip) if ip.is_unique_local() => 1,
        _ => 2,
    };
    let inner = INNER
        .iter()
        .any(|prefix| interface.name.starts_with(prefix));
    Some(if inner { 4 } else { rank })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, ip: &str) -> Interface {
        Interface {
            name: name.to_owned(),
            ip: ip.parse().unwrap(),
        }
    }

    #[test]
    fn an_invite_names_what_others_can_dial() {
        let all = [
            interface("lo", "127.0.0.1"),
            interface("lo", "::1"),
            interface("docker0", "172.17.0.1"),
            interface("eth1", "8.8.4.4"),
            interface("eth0", "192.168.1.20"),
            interface("eth0", "fe80::1"),
            interface("eth0", "fd00::20"),
        ];
        let cases: [(&str, &[Interface], &[&str]); 5] = [
            ("10.0.0.7:1", &all, &["10.0.0.7:1"]),
            ("127.0.0.1:2", &all, &["127.0.0.1:2"]),
            (
                "0.0.0.0:3",
                &all,
                &["192.168.1.20:3", "8.8.4.4:3", "172.17.0.1:3"],
            ),
            (
                "[::]:4",
                &all,
                &[
                    "192.168.1.20:4",
                    "[fd00::20]:4",
                    "8.8.4.4:4",
                    "172.17.0.1:4",
                ],
            ),
            ("0.0.0.0:5", &all[..2], &["127.0.0.1:5"]),
        ];
        for (local, interfaces, expected) in cases {
            let got = reachable(local.parse().unwrap(), interfaces);
            let got: Vec<String> = got.iter().map(ToString::to_string).collect();
            assert_eq!(got, expected, "{local}");
        }
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let many: Vec<Interface> = (0..40)
            .map(|n| interface("eth0", &format!("10.0.0.{n}")))
            .collect();
        let got = reachable("0.0.0.0:1".parse().unwrap(), &many);
        assert_eq!(got.len(), ADDRESSES_MAX);
    }

    #[test]
    fn this_machine_tells_its_addresses() {
        assert!(!interfaces().is_empty());
    }
}
