//! A match as kernel expressions: what it looks at is loaded into r0, and compared.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{
    super::super::table::{LinkName, Match, State, network_bits},
    EQUAL, Expressions, L4PROTO, MARK, NOT_EQUAL, PRIORITY, R0,
};
use crate::packet::Family;

/// Keys of `meta`.
const LINK_NAME: u32 = 6;
const KIND_IN: u32 = 26;
const KIND_OUT: u32 = 27;

/// Flags of `fib`: the address that is asked about.
const SOURCE: u32 = 1;
const DESTINATION: u32 = 2;

/// Keys of `ct`.
const STATE: u32 = 0;
const STATUS: u32 = 2;

/// `IFNAMSIZ`, the zero at the end included.
const LINK_NAME_SIZE: usize = 16;

impl Expressions<'_> {
    pub(super) fn condition(&mut self, condition: &Match) {
        match condition {
            Match::Protocol(protocol) => {
                self.load_meta(L4PROTO, R0);
                self.compare(EQUAL, &[protocol.number()]);
            }
            Match::Port(protocol, port) => {
                self.load_meta(L4PROTO, R0);
                self.compare(EQUAL, &[protocol.number()]);
                self.payload(R0, 2, 2, 2);
                self.compare(EQUAL, &port.to_be_bytes());
            }
            Match::ToThisHost => self.is_local(DESTINATION),
            Match::FromThisHost => self.is_local(SOURCE),
            Match::SourceInside(network) => {
                self.load_source(R0);
                self.compare_network(EQUAL, *network);
            }
            Match::SourceOutside(network) => {
                self.load_source(R0);
                self.compare_network(NOT_EQUAL, *network);
            }
            Match::DestinationInside(network) => {
                self.load_destination(R0);
                self.compare_network(EQUAL, *network);
            }
            Match::DestinationOutside(network) => {
                self.load_destination(R0);
                self.compare_network(NOT_EQUAL, *network);
            }
            Match::Link(name) => self.compare_link(EQUAL, name),
            Match::NotLink(name) => self.compare_link(NOT_EQUAL, name),
            Match::State(state) => self.has_connection_bit(STATE, state_bit(*state)),
            Match::EchoRequest => {
                let (protocol, kind) = match self.family {
                    Family::Ip => (1, 8),
                    Family::Ip6 => (58, 128),
                };
                self.load_meta(L4PROTO, R0);
                self.compare(EQUAL, &[protocol]);
                self.payload(R0, 2, 0, 1);
                self.compare(EQUAL, &[kind]);
            }
            Match::Mark(bits) => {
                self.load_meta(MARK, R0);
                self.bitwise(&bits.to_ne_bytes(), &[0; 4]);
                self.compare(EQUAL, &bits.to_ne_bytes());
            }
            Match::Priority(number) => {
                self.load_meta(PRIORITY, R0);
                self.compare(EQUAL, &number.to_ne_bytes());
            }
            Match::PriorityBits { mask, number } => {
                self.load_priority(R0, *mask);
                self.compare(EQUAL, &number.to_ne_bytes());
            }
            Match::OtherPriorityBits { mask, number } => {
                self.load_priority(R0, *mask);
                self.compare(NOT_EQUAL, &number.to_ne_bytes());
            }
            Match::DestinationRewritten => {
                const DST_NAT: u32 = 1 << 5;
                self.has_connection_bit(STATUS, DST_NAT);
            }
            Match::BetweenBridges => {
                for key in [KIND_IN, KIND_OUT] {
                    let mut kind = [0; LINK_NAME_SIZE]; // as long as a link's name
                    kind.iter_mut().zip(b"bridge").for_each(|(to, byte)| *to = *byte);
                    self.load_meta(key, R0);
                    self.compare(EQUAL, &kind);
                }
            }
            Match::ServiceIn(set) => {
                let protocol = self.load_destination(R0);
                self.load_port(protocol);
                self.lookup(set, R0, None);
            }
            Match::SourceIn(set) => {
                self.load_source(R0);
                self.lookup(set, R0, None);
            }
            Match::DestinationIn(set) => {
                self.load_destination(R0);
                self.lookup(set, R0, None);
            }
            Match::DestinationNetworkIn { prefix, set } => {
                self.load_destination(R0);
                // A network as long as an address is that address.
                if let Some((mask, end)) = network_bits(self.family == Family::Ip, *prefix) {
                    self.bitwise(&octets(mask), &octets(end));
                }
                self.lookup(set, R0, None);
            }
            Match::AddressesIn(set) => {
                let second = self.load_source(R0);
                self.load_destination(second);
                self.lookup(set, R0, None);
            }
        }
    }

    /// `fib … type local`.
    fn is_local(&mut self, address: u32) {
        const ADDRESS_TYPE: u32 = 3;
        const LOCAL: u32 = 2;
        self.expression("fib", |w| {
            w.put_u32(1, R0.number());
            w.put_u32(2, ADDRESS_TYPE);
            w.put_u32(3, address);
        });
        self.compare(EQUAL, &LOCAL.to_ne_bytes());
    }

    /// Whether a bit is set in what connection tracking knows of the packet.
    fn has_connection_bit(&mut self, key: u32, bit: u32) {
        self.expression("ct", |w| {
            w.put_u32(1, R0.number());
            w.put_u32(2, key);
        });
        self.bitwise(&bit.to_ne_bytes(), &[0; 4]);
        self.compare(NOT_EQUAL, &[0; 4]);
    }

    /// Compares the link's name whole, or its beginning. A name that is too long for a link fills all bytes, so no link has it.
    fn compare_link(&mut self, operator: u32, name: &LinkName) {
        let (name, size) = match name {
            LinkName::Exact(name) => (name, LINK_NAME_SIZE),
            LinkName::Prefix(beginning) => (beginning, beginning.len().min(LINK_NAME_SIZE)),
        };
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(size, 0);
        self.load_meta(LINK_NAME, R0);
        self.compare(operator, &bytes);
    }

    fn compare_network(&mut self, operator: u32, network: IpNetwork) {
        let (mask, base) = (octets(network.mask()), octets(network.network()));
        self.bitwise(&mask, &vec![0; mask.len()]);
        self.compare(operator, &base);
    }
}

/// `NF_CT_STATE_BIT` (`include/uapi/linux/netfilter/nf_conntrack_common.h`).
fn state_bit(state: State) -> u32 {
    match state {
        State::Invalid => 1,
        State::New => 1 << 3,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
