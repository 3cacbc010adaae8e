//! Which addresses we connect to on behalf of a pipeline, and which only if the configuration says so.
//!
//! A URL in a pipeline is written by people who may not reach everything that this machine reaches: a service that listens on
//! loopback only, a router, the metadata of a cloud. So what we connect to is judged by its address, at the moment we connect,
//! whatever the name was when it was looked up before:
//!
//! ```text
//!   url ─► name ─► addresses ─► each: public, or in network.allow? ─► connect to exactly that address
//!          literal ────────────►                                     redirects begin here again
//! ```
//! An address in another's clothes (IPv4 in IPv6, 6to4, NAT64) is judged by what is inside.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

/// The key of the configuration that allows more.
pub const ALLOW_KEY: &str = "network.allow";
const ALLOW_VARIABLE: &str = "TIDEMILL__NETWORK__ALLOW";

/// Why an address is not for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// This machine.
    Loopback,
    /// This machine as well, on most systems.
    Unspecified,
    /// The same cable.
    LinkLocal,
    /// A network of one's own.
    Private,
    /// The same in IPv6.
    UniqueLocal,
    /// The network of a provider, behind its translation.
    Shared,
    /// What a cloud tells its machines, passwords among it.
    Metadata,
    /// Many machines.
    Multicast,
    /// Addresses that nobody has: documentation, benchmarks, future use.
    Reserved,
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Special::Loopback => "a loopback address",
            Special::Unspecified => "an unspecified address",
            Special::LinkLocal => "a link-local address",
            Special::Private => "a private address",
            Special::UniqueLocal => "a unique local address",
            Special::Shared => "an address of a provider's inner network",
            Special::Metadata => "the address of a cloud's metadata",
            Special::Multicast => "a multicast address",
            Special::Reserved => "a reserved address",
        })
    }
}

/// Addresses where clouds answer their machines, beside those that are link-local: Alibaba, Oracle, Azure, and AWS over IPv6.
const METADATA_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// Says what is special about an address; `None` for one that anybody may have on the internet.
pub fn special(address: IpAddr) -> Option<Special> {
    match address {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

/// By the registry of special addresses that IANA keeps (RFC 6890).
fn special_v4(address: Ipv4Addr) -> Option<Special> {
    if METADATA_V4.contains(&address) {
        return Some(Special::Metadata);
    }
    Some(match address.octets() {
        [0, ..] => Special::Unspecified,
        [127, ..] => Special::Loopback,
        [169, 254, ..] => Special::LinkLocal,
        [10, ..] | [192, 168, ..] | [172, 16..32, ..] => Special::Private,
        [100, 64..128, ..] => Special::Shared,
        [224..240, ..] => Special::Multicast,
        // Protocols, documentation, the old 6to4 relays, benchmarks, future use and broadcast.
        [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] => Special::Reserved,
        [198, 18 | 19, ..] | [240..=255, ..] => Special::Reserved,
        _ => return None,
    })
}

fn special_v6(address: Ipv6Addr) -> Option<Special> {
    if METADATA_V6.contains(&address) {
        return Some(Special::Metadata);
    }
    let inner = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    Some(match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Special::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Special::Loopback,
        // IPv4-mapped, IPv4-translated, and IPv4-compatible, which nobody routes.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
            return special_v4(inner(high, low));
        }
        [0, 0, 0, 0, 0, 0, high, low] => return special_v4(inner(high, low)).or(Some(Special::Reserved)),
        // NAT64, for everybody and for one's own network.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => return special_v4(inner(high, low)),
        [0x64, 0xff9b, ..] => Special::Private,
        // 6to4 has the address of its router inside.
        [0x2002, high, low, ..] => return special_v4(inner(high, low)),
        // Teredo and other protocols, benchmarks, ORCHID; documentation, both old and new.
        [0x2001, 0..0x200, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..0x1000, ..] => Special::Reserved,
        [0xfc00..0xfe00, ..] => Special::UniqueLocal,
        [0xfe80..0xfec0, ..] => Special::LinkLocal,
        // Site-local, which was given up, and is still answered to.
        [0xfec0..0xff00, ..] => Special::Private,
        [0xff00..=0xffff, ..] => Special::Multicast,
        // All that is given out for the internet.
        [0x2000..0x4000, ..] => return None,
        _ => Special::Reserved,
    })
}

/// What may be connected to: every public address, and what `network.allow` of the configuration adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    allowed: Arc<[IpNet]>,
}

/// An address that we do not connect to, and what would allow it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{address} is {special}, where outgoing requests may not go: if they shall, add \"{address}\" to {ALLOW_KEY} in \
     tidemill.toml, or to {ALLOW_VARIABLE}"
)]
pub struct Forbidden {
    /// Which.
    pub address: IpAddr,
    /// What is special about it.
    pub special: Special,
}

impl AddressPolicy {
    /// Reads a list of addresses and networks, with commas between: `127.0.0.0/8, fd00::/8, 192.168.1.7`.
    ///
    /// # Errors
    /// Says which entry is none.
    pub fn parse(text: &str) -> Result<AddressPolicy, String> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let allowed: Result<Vec<IpNet>, String> = entries.map(parse_network).collect();
        Ok(AddressPolicy { allowed: allowed?.into() })
    }

    /// Says whether an address may be connected to.
    pub fn check(&self, address: IpAddr) -> Result<(), Forbidden> {
        // The IPv4 address within an IPv6 one is what the system would connect to.
        let address = address.to_canonical();
        let Some(special) = special(address) else { return Ok(()) };
        // The metadata of a cloud has to be allowed by itself: who allows a whole network hardly thinks of it.
        let allows = |network: &IpNet| {
            network.contains(&address)
                && (special != Special::Metadata || network.prefix_len() == network.max_prefix_len())
        };
        match self.allowed.iter().any(allows) {
            true => Ok(()),
            false => Err(Forbidden { address, special }),
        }
    }

    /// Says the same of the host of a URL as far as it can be told without asking for its addresses: an address, or a name of
    /// this machine.
    pub fn check_host(&self, host: &str) -> Result<(), Forbidden> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse() {
            return self.check(address);
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        // By RFC 6761 it never is another one's.
        match name == "localhost" || name.ends_with(".localhost") {
            true => self.check(Ipv4Addr::LOCALHOST.into()).or_else(|problem| {
                // Either will do: which one the name gives is seen when it is looked up.
                self.check(Ipv6Addr::LOCALHOST.into()).map_err(|_| problem)
            }),
            false => Ok(()),
        }
    }
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = match text.contains('/') {
        true => text.parse().ok(),
        false => text.parse().ok().map(|address: IpAddr| IpNet::from(address.to_canonical())),
    };
    let network: IpNet = network.ok_or_else(|| format!("{text:?} is no address and no network"))?;
    match network.trunc() == network {
        true => Ok(network),
        false => Err(format!("{text:?} has bits behind its prefix: say \"{}\"", network.trunc())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_judged_by_what_it_reaches() {
        use Special::*;
        for (address, expected) in [
            ("127.0.0.1", Some(Loopback)),
            ("127.255.255.255", Some(Loopback)),
            ("::1", Some(Loopback)),
            ("::ffff:127.0.0.1", Some(Loopback)),
            ("::ffff:0:127.0.0.1", Some(Loopback)),
            ("::127.0.0.1", Some(Loopback)),
            ("64:ff9b::7f00:1", Some(Loopback)),
            ("2002:7f00:1::", Some(Loopback)),
            ("0.0.0.0", Some(Unspecified)),
            ("0.1.2.3", Some(Unspecified)),
            ("::", Some(Unspecified)),
            ("::ffff:0.0.0.0", Some(Unspecified)),
            ("169.254.0.1", Some(LinkLocal)),
            ("fe80::1", Some(LinkLocal)),
            ("febf:ffff::1", Some(LinkLocal)),
            ("10.0.0.1", Some(Private)),
            ("172.15.255.255", None),
            ("172.16.0.0", Some(Private)),
            ("172.31.255.255", Some(Private)),
            ("172.32.0.0", None),
            ("192.168.1.1", Some(Private)),
            ("::ffff:10.1.2.3", Some(Private)),
            ("64:ff9b::a00:1", Some(Private)),
            ("64:ff9b:1::1", Some(Private)),
            ("fec0::1", Some(Private)),
            ("fc00::1", Some(UniqueLocal)),
            ("fdff::1", Some(UniqueLocal)),
            ("100.63.255.255", None),
            ("100.64.0.1", Some(Shared)),
            ("100.127.255.255", Some(Shared)),
            ("100.128.0.0", None),
            ("169.254.169.254", Some(Metadata)),
            ("::ffff:169.254.169.254", Some(Metadata)),
            ("64:ff9b::a9fe:a9fe", Some(Metadata)),
            ("100.100.100.200", Some(Metadata)),
            ("168.63.129.16", Some(Metadata)),
            ("192.0.0.192", Some(Metadata)),
            ("fd00:ec2::254", Some(Metadata)),
            ("224.0.0.1", Some(Multicast)),
            ("239.255.255.255", Some(Multicast)),
            ("ff02::1", Some(Multicast)),
            ("192.0.2.1", Some(Reserved)),
            ("198.18.0.1", Some(Reserved)),
            ("198.51.100.7", Some(Reserved)),
            ("203.0.113.7", Some(Reserved)),
            ("240.0.0.1", Some(Reserved)),
            ("255.255.255.255", Some(Reserved)),
            ("2001:db8::1", Some(Reserved)),
            ("2001:0:1234::1", Some(Reserved)),
            ("3fff:0fff::1", Some(Reserved)),
            ("100::1", Some(Reserved)),
            ("5f00::1", Some(Reserved)),
            ("::8.8.8.8", Some(Reserved)),
            ("1.1.1.1", None),
            ("8.8.8.8", None),
            ("93.184.216.34", None),
            ("198.17.0.1", None),
            ("::ffff:8.8.8.8", None),
            ("64:ff9b::808:808", None),
            ("2002:808:808::1", None),
            ("2606:4700::1111", None),
            ("2a00:1450:4001::1", None),
        ] {
            assert_eq!(special(address.parse().expect(address)), expected, "{address}");
        }
    }

    #[test]
    fn what_the_configuration_allows_may_be_connected_to_and_nothing_else() {
        let policy = AddressPolicy::parse("127.0.0.0/8, fd00::/8,192.168.1.7,169.254.0.0/16").expect("good");
        let check = |address: &str| policy.check(address.parse().expect(address)).is_ok();
        for address in ["127.0.0.1", "::ffff:127.9.9.9", "fd12::1", "192.168.1.7", "169.254.1.1", "8.8.8.8"] {
            assert!(check(address), "{address}");
        }
        for address in ["::1", "192.168.1.8", "10.0.0.1", "fc00::1", "169.254.169.254", "fd00:ec2::254"] {
            assert!(!check(address), "{address}");
        }
        let everything = AddressPolicy::parse("0.0.0.0/0,::/0,169.254.169.254").expect("good");
        for (address, may) in [("10.0.0.1", true), ("::1", true), ("169.254.169.254", true), ("168.63.129.16", false)] {
            assert_eq!(everything.check(address.parse().expect(address)).is_ok(), may, "{address}");
        }
        let problem = AddressPolicy::default().check("10.0.0.1".parse().expect("one")).expect_err("private");
        assert_eq!(
            problem.to_string(),
            "10.0.0.1 is a private address, where outgoing requests may not go: if they shall, add \"10.0.0.1\" to \
             network.allow in tidemill.toml, or to TIDEMILL__NETWORK__ALLOW"
        );
    }

    #[test]
    fn a_host_that_names_this_machine_is_known_without_a_look_up() {
        let nothing = AddressPolicy::default();
        for host in ["127.0.0.1", "[::1]", "localhost", "LocalHost.", "x.localhost", "[::ffff:10.0.0.1]"] {
            assert!(nothing.check_host(host).is_err(), "{host}");
        }
        for host in ["example.com", "8.8.8.8", "localhost.example.com", "[2606:4700::1111]"] {
            assert!(nothing.check_host(host).is_ok(), "{host}");
        }
        for allow in ["127.0.0.0/8", "::1"] {
            assert!(AddressPolicy::parse(allow).expect("good").check_host("localhost").is_ok(), "{allow}");
        }
    }

    #[test]
    fn a_list_that_is_none_is_refused() {
        for (text, words) in [
            ("localhost", "\"localhost\" is no address and no network"),
            ("127.0.0.0/8;10.0.0.0/8", "is no address"),
            ("10.0.0.0/33", "is no address"),
            ("10.0.0.1/8", "has bits behind its prefix: say \"10.0.0.0/8\""),
        ] {
            let problem = AddressPolicy::parse(text).expect_err(text);
            assert!(problem.contains(words), "{text}: {problem}");
        }
        assert_eq!(AddressPolicy::parse(" , "), Ok(AddressPolicy::default()));
    }
}
