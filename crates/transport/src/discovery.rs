//! Finding each other on the LAN by multicast DNS (DNS-SD), on all interfaces, IPv4 and IPv6.
//!
//! Owns what is announced and what is asked for. Must never say who somebody is: a proposed address is worth no more than
//! a guess until the key there is proven, and liveness comes from the connection. An announcement carries a service type
//! that is the same for everybody, addresses and a port; its names are random and new at every start.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use mdns_sd::{
    IfKind, Receiver, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo,
};
use rand::RngCore;
use thiserror::Error;

/// What coordinators are announced as.
const SERVICE: &str = "_hearth._udp.local.";
/// How often interfaces are looked at again, in seconds: an address that DHCP has changed is announced soon.
const INTERFACES_S: u32 = 3;
/// Addresses that are believed to be proposals at once; who floods the LAN costs nobody more.
const PROPOSALS_MAX: usize = 64;

/// This machine cannot take part in multicast DNS.
#[derive(Debug, Error)]
#[error("machines of the network cannot be found by multicast DNS: {0}")]
pub struct DiscoveryError(#[from] mdns_sd::Error);

fn random_name() -> String {
    format!("{:016x}", rand::rng().next_u64())
}

fn daemon(local: IpAddr) -> Result<ServiceDaemon, mdns_sd::Error> {
    let daemon = ServiceDaemon::new()?;
    daemon.set_ip_check_interval(INTERFACES_S)?;
    if local.is_unspecified() {
        daemon.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])?;
        if local.is_ipv4() {
            // The socket does not hear it.
            daemon.disable_interface(IfKind::IPv6)?;
        }
    } else {
        daemon.disable_interface(IfKind::All)?;
        daemon.enable_interface(IfKind::Addr(local))?;
    }
    Ok(daemon)
}

fn end(daemon: &ServiceDaemon) {
    // A daemon that has ended by itself is as good.
    let _ended = daemon.shutdown();
}

/// Tells the LAN where a socket is, until it is dropped.
pub struct Announcement {
    daemon: ServiceDaemon,
    name: String,
}

impl fmt::Debug for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Announcement({})", self.name)
    }
}

impl Announcement {
    /// Announces the socket bound to `local`: at its address, or where it listens everywhere at those of all interfaces.
    /// Nothing is announced, and nothing sent, where it is on loopback.
    ///
    /// # Errors
    /// When this machine cannot take part in multicast DNS.
    pub fn start(local: SocketAddr) -> Result<Option<Self>, DiscoveryError> {
        if local.ip().is_loopback() {
            return Ok(None);
        }
        let host = format!("{}.local.", random_name());
        let addresses: &[IpAddr] = match local.ip() {
            ip if ip.is_unspecified() => &[],
            ip => &[ip],
        };
        let none: &[(&str, &str)] = &[];
        let info = ServiceInfo::new(
            SERVICE,
            &random_name(),
            &host,
            addresses,
            local.port(),
            none,
        )?;
        let info = match addresses {
            [] => info.enable_addr_auto(),
            _ => info,
        };
        let name = info.get_fullname().to_owned();
        let daemon = daemon(local.ip())?;
        if let Err(error) = daemon.register(info) {
            end(&daemon);
            return Err(error.into());
        }
        Ok(Some(Self { daemon, name }))
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // Says goodbye where there is time to; who misses it tries an address in vain.
        let _said = self.daemon.unregister(&self.name);
        end(&self.daemon);
    }
}

/// Listens for announced coordinators, until it is dropped.
pub struct Browser {
    daemon: ServiceDaemon,
    events: Receiver<ServiceEvent>,
    proposed: BTreeSet<SocketAddr>,
}

impl fmt::Debug for Browser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Browser({} addresses)", self.proposed.len())
    }
}

impl Browser {
    /// Asks on all interfaces, and goes on listening.
    ///
    /// # Errors
    /// When this machine cannot take part in multicast DNS.
    pub fn start() -> Result<Self, DiscoveryError> {
        let daemon = daemon(IpAddr::from([0u16; 8]))?;
        match daemon.browse(SERVICE) {
            Ok(events) => Ok(Self {
                daemon,
                events,
                proposed: BTreeSet::new(),
            }),
            Err(error) => {
                end(&daemon);
                Err(error.into())
            }
        }
    }

    /// The addresses that were proposed so far, at most 64. Never waits.
    pub fn proposed(&mut self) -> Vec<SocketAddr> {
        while let Ok(event) = self.events.try_recv() {
            if let ServiceEvent::ServiceResolved(service) = event {
                for address in addresses(&service) {
                    if self.proposed.len() >= PROPOSALS_MAX {
                        // Who floods us pushes out others who flood us, and now and then somebody honest for a while.
                        self.proposed.pop_first();
                    }
                    self.proposed.insert(address);
                }
            }
        }
        // Who floods us ends the subscription: a new one hears the next announcements.
        if self.events.is_disconnected()
            && let Ok(events) = self.daemon.browse(SERVICE)
        {
            self.events = events;
        }
        self.proposed.iter().copied().collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        end(&self.daemon);
    }
}

/// The addresses of an announcement that can be dialled.
fn addresses(service: &ResolvedService) -> Vec<SocketAddr> {
    let port = service.port;
    let of = |ip: &ScopedIp| match ip {
        ScopedIp::V6(v6) if v6.addr().is_unicast_link_local() => {
            SocketAddr::V6(SocketAddrV6::new(*v6.addr(), port, 0, v6.scope_id().index))
        }
        other => SocketAddr::new(other.to_ip_addr(), port),
    };
    let all = service.addresses.iter().map(of);
    all.filter(|address| is_dialable(*address)).collect()
}

/// Whether an address from outside may be tried: nobody is to make us talk to ourselves, to everybody or to nobody.
fn is_dialable(address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    let closed = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || broadcast;
    address.port() != 0 && !closed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_on_loopback_is_not_announced() {
        for local in ["127.0.0.1:7411", "[::1]:7411", "127.8.8.8:1"] {
            assert!(
                Announcement::start(local.parse().unwrap())
                    .unwrap()
                    .is_none()
            );
        }
    }

    #[test]
    fn names_are_new_each_time() {
        let names: BTreeSet<String> = (0..100).map(|_| random_name()).collect();
        assert_eq!(names.len(), 100);
    }

    #[test]
    fn only_addresses_of_one_other_machine_are_tried() {
        for (address, tried) in [
            ("192.168.1.5:7411", true),
            ("[fd00::5]:7411", true),
            ("[fe80::5%2]:7411", true),
            ("192.168.1.5:0", false),
            ("127.0.0.1:22", false),
            ("[::1]:22", false),
            ("[::ffff:127.0.0.1]:22", false),
            ("0.0.0.0:1", false),
            ("224.0.0.251:5353", false),
            ("255.255.255.255:1", false),
            ("[ff02::fb]:5353", false),
        ] {
            assert_eq!(is_dialable(address.parse().unwrap()), tried, "{address}");
        }
    }
}
