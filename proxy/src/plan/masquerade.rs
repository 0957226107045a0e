//! Masquerade: which packets leave with another source address, and why.
//!
//! * Marked ones: their answer must come back through this node (node ports, clients outside the pod networks).
//! * Hairpins: an endpoint that reached itself through its own service would answer itself directly, and never be heard.

use std::{collections::BTreeMap, net::IpAddr};

use dataplane::nft::{Chain, Data, DataType, Hook, Key, KeyType, Match, SetType, Statement};

use super::{
    layout::{MASQUERADE_MARK, is_marked, kind, rule},
    table::Journal,
};
use crate::service_port::Endpoint;

/// The endpoints of this node, each paired with itself.
const HAIRPIN: &str = "hairpin";

/// The set of hairpins.
pub(super) const HAIRPIN_SET: (&str, SetType) = (HAIRPIN, kind(KeyType::Addresses, DataType::None));

/// What happens to packets that leave.
pub(super) fn postrouting() -> Chain {
    let rules = vec![
        // meta mark & 0x4000 == 0x4000 meta mark set meta mark & 0xffffbfff masquerade fully-random
        rule([is_marked(), Statement::ClearMark(MASQUERADE_MARK), Statement::Masquerade]),
        // ct status dnat ip saddr . ip daddr @hairpin masquerade fully-random
        rule([
            Statement::Match(Match::DestinationRewritten),
            Statement::Match(Match::AddressesIn(HAIRPIN.into())),
            Statement::Masquerade,
        ]),
    ];
    Chain { hook: Some(Hook::Postrouting), rules }
}

/// Counts how many service ports each local endpoint address backs.
#[derive(Debug, Default)]
pub(super) struct Hairpins {
    backed: BTreeMap<IpAddr, usize>,
}

impl Hairpins {
    /// Exchanges the endpoints of one service port.
    pub(super) fn replace(&mut self, journal: &mut Journal, old: &[Endpoint], new: &[Endpoint]) {
        for address in local(new) {
            let backed = self.backed.entry(address).or_default();
            *backed += 1;
            if *backed == 1 {
                journal.set(HAIRPIN, Key::Addresses(address, address), Some(Data::None.into()));
            }
        }
        for address in local(old) {
            if let Some(backed) = self.backed.get_mut(&address) {
                *backed -= 1;
                if *backed == 0 {
                    self.backed.remove(&address);
                    journal.set(HAIRPIN, Key::Addresses(address, address), None);
                }
            }
        }
    }
}

fn local(endpoints: &[Endpoint]) -> impl Iterator<Item = IpAddr> {
    endpoints.iter().filter(|endpoint| endpoint.is_local).map(|endpoint| endpoint.address.ip())
}
