//! Masquerade: which packets leave with another source address, and why.
//!
//! * Marked ones: their answer must come back through this node (node ports, clients outside the pod networks).
//! * Hairpins: an endpoint that reached itself through its own service would answer itself directly, and never be heard.

use std::{collections::BTreeMap, net::IpAddr};

use dataplane::nft::{Chain, Data, DataType, Element, Hook, Key, KeyType, Match, SetType, Statement};

use super::{
    inheritance::Inheritance,
    journal::Journal,
    layout::{MASQUERADE_MARK, is_marked, kind, rule},
};

/// The endpoints of this node, each paired with itself.
pub(super) const HAIRPIN: &str = "hairpin";

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
    /// Exchanges the local endpoint addresses of one service port.
    pub(super) fn replace(
        &mut self,
        journal: &mut Journal,
        inheritance: &mut Inheritance,
        old: &[IpAddr],
        new: &[IpAddr],
    ) {
        for &address in new {
            let backed = self.backed.entry(address).or_default();
            *backed += 1;
            if *backed == 1 && !inheritance.hairpins.remove(&address) {
                let (map, key, element) = element(address);
                journal.put(map, key, false, element);
            }
        }
        for &address in old {
            if let Some(backed) = self.backed.get_mut(&address) {
                *backed -= 1;
                if *backed == 0 {
                    self.backed.remove(&address);
                    journal.remove(HAIRPIN, Key::Addresses(address, address));
                }
            }
        }
    }

    /// Every hairpin, as the set holds it.
    pub(super) fn elements(&self) -> impl Iterator<Item = (&'static str, Key, Element)> {
        self.backed.keys().copied().map(element)
    }
}

fn element(address: IpAddr) -> (&'static str, Key, Element) {
    (HAIRPIN, Key::Addresses(address, address), Data::None.into())
}
