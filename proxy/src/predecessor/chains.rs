//! Which chains and rules in a table of iptables are kube-proxy's. Pure.
//!
//! In: a table as the kernel lists it. Out: what to remove, in this order: rules of base chains that lead to kube-proxy's chains, what is in
//! these, the chains themselves. Kubelet's chains are not kube-proxy's; and a chain of kube-proxy's that somebody else's rules lead to
//! (port mapping plugins use `KUBE-MARK-MASQ`) stays, with all that it leads to.

use std::collections::BTreeSet;

use dataplane::nft::foreign::{ForeignTable, Removal};

/// Chains that base chains lead to (kubernetes pkg/proxy/iptables/proxier.go, `iptablesJumpChains`).
const ENTRANCES: [&str; 6] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
];

/// Where packets are marked for masquerading, and where that is looked at.
const MARK: &str = "KUBE-MARK-MASQ";
const MARKED: &str = "KUBE-POSTROUTING";

/// Where kube-proxy watches for somebody who flushes tables.
const CANARY: &str = "KUBE-PROXY-CANARY";

/// First letters of chains of a service or an endpoint; the last one is of before 1.24.
const PREFIXES: [&str; 6] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-", "KUBE-XLB-"];

/// The same names as a pattern, for people to use with grep; without those that port mapping plugins jump to.
pub const PATTERN: &str =
    "KUBE-(SERVICES|EXTERNAL-SERVICES|NODEPORTS|FORWARD|PROXY-|SVC-|SVL-|SEP-|FW-|EXT-|XLB-)";

fn is_kube_proxys(chain: &str) -> bool {
    ENTRANCES.contains(&chain)
        || [MARK, CANARY].contains(&chain)
        || PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

/// What of a table is kube-proxy's and nobody else needs.
pub fn removals(table: &ForeignTable) -> Vec<Removal> {
    let stay = needed_by_others(table);
    let goes = |chain: &str| is_kube_proxys(chain) && !stay.contains(chain);
    let mut removals = Vec::new();
    for (name, chain) in table.chains.iter().filter(|(name, _)| !goes(name)) {
        let leads_away = chain.rules.iter().filter(|rule| rule.target.as_deref().is_some_and(goes));
        removals.extend(leads_away.map(|rule| Removal::Rule(name.clone(), rule.handle)));
    }
    let chains: Vec<_> = table.chains.keys().filter(|name| goes(name)).collect();
    removals.extend(chains.iter().map(|name| Removal::Rules((*name).clone())));
    removals.extend(chains.iter().map(|name| Removal::Chain((*name).clone())));
    removals
}

/// Chains of kube-proxy's that rules of others lead to.
fn needed_by_others(table: &ForeignTable) -> BTreeSet<&str> {
    let mut open = Vec::new();
    for (_, chain) in table.chains.iter().filter(|(name, _)| !is_kube_proxys(name)) {
        let targets = chain.rules.iter().filter_map(|rule| rule.target.as_deref());
        let is_own = |target: &str| !is_kube_proxys(target) || chain.is_base && ENTRANCES.contains(&target);
        open.extend(targets.filter(|target| !is_own(target)));
    }
    let mut needed = BTreeSet::new();
    while let Some(name) = open.pop() {
        if needed.insert(name) {
            let rules = table.chains.get(name).into_iter().flat_map(|chain| &chain.rules);
            open.extend(
                rules.filter_map(|rule| rule.target.as_deref()).filter(|target| is_kube_proxys(target)),
            );
            open.extend((name == MARK).then_some(MARKED));
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use dataplane::{
        nft::foreign::{ForeignChain, ForeignRule},
        packet::Family,
    };

    use super::*;

    /// A table whose base chains are in capitals without a hyphen; each rule has the next handle.
    fn table(chains: &[(&str, &[&str])]) -> ForeignTable {
        let mut handle = 0;
        let chains = chains.iter().map(|(name, targets)| {
            let rules = targets.iter().map(|target| {
                handle += 1;
                ForeignRule { handle, target: Some((*target).to_owned()).filter(|target| !target.is_empty()) }
            });
            let rules = rules.collect();
            ((*name).to_owned(), ForeignChain { is_base: !name.contains('-'), rules })
        });
        ForeignTable { family: Family::Ip, name: "nat".into(), chains: chains.collect() }
    }

    fn rule(chain: &str, handle: u64) -> Removal {
        Removal::Rule(chain.into(), handle)
    }

    fn all_of(chains: &[&str]) -> Vec<Removal> {
        let rules = chains.iter().map(|chain| Removal::Rules((*chain).into()));
        rules.chain(chains.iter().map(|chain| Removal::Chain((*chain).into()))).collect()
    }

    #[test]
    fn what_leads_to_kube_proxy_s_chains_goes_first_and_what_is_others_stays() {
        let table = table(&[
            ("KUBE-KUBELET-CANARY", &[]),
            ("KUBE-PROXY-CANARY", &[]),
            ("KUBE-SEP-X", &["KUBE-MARK-MASQ", ""]),
            ("KUBE-SERVICES", &["KUBE-SVC-X", "KUBE-NODEPORTS"]),
            ("KUBE-SVC-X", &["KUBE-MARK-MASQ", "KUBE-SEP-X"]),
            ("KUBE-NODEPORTS", &[]),
            ("KUBE-MARK-MASQ", &[""]),
            ("KUBE-POSTROUTING", &["", ""]),
            ("OUTPUT", &["DOCKER", "KUBE-SERVICES", ""]),
            ("POSTROUTING", &["KUBE-POSTROUTING"]),
        ]);

        let chains = [
            "KUBE-MARK-MASQ",
            "KUBE-NODEPORTS",
            "KUBE-POSTROUTING",
            "KUBE-PROXY-CANARY",
            "KUBE-SEP-X",
            "KUBE-SERVICES",
            "KUBE-SVC-X",
        ];
        let wanted = [vec![rule("OUTPUT", 11), rule("POSTROUTING", 13)], all_of(&chains)].concat();
        assert_eq!(removals(&table), wanted);
    }

    #[test]
    fn a_chain_that_others_use_stays_with_all_that_it_needs() {
        let table = table(&[
            ("CNI-HOSTPORT-SETMARK", &["KUBE-MARK-MASQ"]),
            ("KUBE-MARK-MASQ", &[""]),
            ("KUBE-POSTROUTING", &[""]),
            ("KUBE-SERVICES", &["KUBE-MARK-MASQ"]),
            ("OUTPUT", &["KUBE-SERVICES"]),
            ("POSTROUTING", &["KUBE-POSTROUTING"]),
        ]);

        assert_eq!(removals(&table), [vec![rule("OUTPUT", 5)], all_of(&["KUBE-SERVICES"])].concat());
    }

    #[test]
    fn a_table_without_kube_proxy_is_left_alone() {
        let chains: [(&str, &[&str]); 3] =
            [("INPUT", &["KUBE-FIREWALL"]), ("KUBE-FIREWALL", &[""]), ("KUBE-IPTABLES-HINT", &[])];

        assert_eq!(removals(&table(&chains)), []);
    }
}
