//! Claims in the kernel: what must change so that it serves them, and what is wrong where it does not.
//!
//! In: claims. Out: changes, commits, or faults in words. There is a pair of tables for each kind of claim, one of each family; a
//! table that is not there and not needed is not made. Call all of it while the claims are locked.

use super::{Claim, Claimed};
use crate::{
    host_ports, masquerade,
    nft::{Change, Error, Fingerprint, Held, Socket, Table, Transaction, diff},
    owner,
    packet::Family,
};

/// What claims may be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    HostPorts,
    Masquerade,
}

impl Kind {
    fn of(claim: &Claim) -> Self {
        match claim.what {
            Claimed::HostPort(_) => Self::HostPorts,
            Claimed::Masquerade(_) => Self::Masquerade,
        }
    }

    /// The table of a family with these claims in it, as far as they are of this kind.
    fn wanted(self, family: Family, claims: &[Claim]) -> Table {
        match self {
            Self::HostPorts => host_ports::table(
                family,
                claims.iter().filter_map(|claim| Some((claim.what.host_port()?, claim.comment()))),
            ),
            Self::Masquerade => masquerade::table(
                family,
                claims.iter().filter_map(|claim| Some((claim.what.masqueraded()?, claim.comment()))),
            ),
        }
    }

    /// The families that there are claims of this kind in.
    fn families(self, claims: &[Claim]) -> impl Iterator<Item = Family> {
        let is_in = move |family: Family| {
            claims.iter().any(|claim| Self::of(claim) == self && claim.what.family() == family)
        };
        Family::ALL.into_iter().filter(move |family| is_in(*family))
    }
}

/// Changes that were made, by the name of the tables.
pub type Taken = Vec<(&'static str, Transaction)>;

/// The tables of all kinds.
#[derive(Debug)]
pub struct Tables([(Kind, Socket); 2]);

impl Tables {
    /// Opens sockets to them in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self([
            (Kind::HostPorts, Socket::open()?.to(owner::HOST_PORTS_TABLE)),
            (Kind::Masquerade, Socket::open()?.to(owner::MASQUERADE_TABLE)),
        ]))
    }

    /// Makes the tables serve these claims and no others. Returns what that took.
    pub fn serve(&self, all: &[Claim]) -> Result<Taken, Error> {
        let mut taken = Vec::new();
        for (kind, socket) in &self.0 {
            let changes = changes(*kind, socket, all)?;
            socket.commit(&changes)?;
            if !changes.is_empty() {
                taken.push((socket.table(), changes));
            }
        }
        Ok(taken)
    }

    /// Makes the kernel serve claims that are new: by their elements alone, where all else is as it should be.
    pub fn add<E: From<Error>>(
        &self,
        new: &[Claim],
        all: impl Fn() -> Result<Vec<Claim>, E>,
    ) -> Result<(), E> {
        for (kind, socket) in &self.0 {
            let mut elements = Transaction::default();
            let mut is_sound = true;
            for family in kind.families(new) {
                let (skeleton, full) = (kind.wanted(family, &[]), kind.wanted(family, new));
                is_sound &= socket.is_outline_of(&skeleton)?;
                for (name, map) in full.maps.into_iter().filter(|(_, map)| !map.elements.is_empty()) {
                    let all = map.elements.into_iter().collect();
                    elements.push(family, Change::AddElements(name, map.kind, all));
                }
            }
            commit_or_compare(*kind, socket, is_sound.then_some(elements), &all)?;
        }
        Ok(())
    }

    /// Makes the kernel forget claims; the others, which `all` lists, stay.
    pub fn remove<E: From<Error>>(
        &self,
        old: &[Claim],
        all: impl Fn() -> Result<Vec<Claim>, E>,
    ) -> Result<(), E> {
        for (kind, socket) in &self.0 {
            let mut elements = Transaction::default();
            for family in kind.families(old) {
                let maps = kind.wanted(family, old).maps.into_iter();
                for (name, map) in maps.filter(|(_, map)| !map.elements.is_empty()) {
                    let all = map.elements.into_keys().collect();
                    elements.push(family, Change::DeleteElements(name, map.kind, all));
                }
            }
            commit_or_compare(*kind, socket, Some(elements), &all)?;
        }
        Ok(())
    }

    /// Lists what the kernel lacks of these claims: tables, chains, rules, elements, each by name.
    pub fn faults(&self, claims: &[Claim]) -> Result<Vec<String>, Error> {
        let mut faults = Vec::new();
        for (kind, socket) in &self.0 {
            for family in kind.families(claims) {
                let name = format!("table {family} {}", socket.table());
                match socket.held(family)? {
                    None => faults.push(format!("{name} is missing")),
                    Some(held) => {
                        let found = differences(&held, &kind.wanted(family, claims));
                        faults.extend(found.into_iter().map(|fault| format!("{name}: {fault}")));
                    }
                }
            }
        }
        Ok(faults)
    }
}

fn changes(kind: Kind, socket: &Socket, all: &[Claim]) -> Result<Transaction, Error> {
    let mut changes = Transaction::default();
    for family in Family::ALL {
        let held = socket.held(family)?;
        if held.is_some() || kind.families(all).any(|needed| needed == family) {
            changes.append(diff(held.as_ref(), &kind.wanted(family, all)));
        }
    }
    Ok(changes)
}

/// Commits these changes; where they do not fit what the kernel holds, or there are none, all of it is compared.
fn commit_or_compare<E: From<Error>>(
    kind: Kind,
    socket: &Socket,
    elements: Option<Transaction>,
    all: impl Fn() -> Result<Vec<Claim>, E>,
) -> Result<(), E> {
    if let Some(elements) = elements {
        match socket.commit(&elements) {
            Err(error) if error.is_not_found() || error.is_exists() => {}
            done => return Ok(done?),
        }
    }
    Ok(socket.commit(&changes(kind, socket, &all()?)?)?)
}

fn differences(held: &Held, wanted: &Table) -> Vec<String> {
    let mut faults = Vec::new();
    if held.is_dormant {
        faults.push("it is switched off".to_owned());
    }
    for (name, chain) in &Held::from(wanted).chains {
        match held.chains.get(name) {
            None => faults.push(format!("chain {name} is missing")),
            Some(there) if there.hook != chain.hook => {
                faults.push(format!("chain {name} is of another kind"));
            }
            Some(there) if there.rules != chain.rules => {
                let missing = chain.rules.iter().filter(|rule: &&Fingerprint| !there.rules.contains(rule));
                faults.push(match missing.count() {
                    0 => format!("chain {name} has rules that are not ours"),
                    missing => format!("chain {name} lacks {missing} of its rules"),
                });
            }
            Some(_) => {}
        }
    }
    for (name, map) in &wanted.maps {
        let Some(there) = held.maps.get(name) else {
            faults.push(format!("map {name} is missing"));
            continue;
        };
        for (key, element) in &map.elements {
            match there.elements.get(key) {
                None => faults.push(format!("{name} lacks {key}")),
                Some(other) if other.data != element.data => {
                    faults.push(format!("{name} has {key} leading to {}", other.data));
                }
                Some(_) => {}
            }
        }
    }
    faults
}
