//! Host ports in the kernel: what must change so that it serves the claims, and what is wrong where it does not.
//!
//! In: a socket to the tables of host ports, and claims. Out: changes, commits, or faults in words. Call it while the claims are
//! locked.

use super::{claims::Claim, table};
use crate::{
    nft::{Change, Error, Fingerprint, Held, Socket, Table, Transaction, diff},
    owner,
    packet::Family,
};

/// The table of a family with these claims in it.
fn wanted(family: Family, claims: &[Claim]) -> Table {
    table(family, claims.iter().map(|claim| (&claim.host_port, claim.comment())))
}

/// The families that there are claims in.
fn families(claims: &[Claim]) -> impl Iterator<Item = Family> {
    Family::ALL.into_iter().filter(|family| claims.iter().any(|claim| claim.host_port.family() == *family))
}

/// The changes that make both tables serve these claims and no others. A table that is not there and not needed is not made.
pub fn changes(socket: &Socket, all: &[Claim]) -> Result<Transaction, Error> {
    let mut changes = Transaction::default();
    for family in Family::ALL {
        let held = socket.held(family)?;
        if held.is_some() || families(all).any(|needed| needed == family) {
            changes.append(diff(held.as_ref(), &wanted(family, all)));
        }
    }
    Ok(changes)
}

/// Makes the kernel serve claims that are new: by their elements alone, where all else is as it should be.
pub fn add<E: From<Error>>(
    socket: &Socket,
    new: &[Claim],
    all: impl FnOnce() -> Result<Vec<Claim>, E>,
) -> Result<(), E> {
    let mut elements = Transaction::default();
    let mut is_sound = true;
    for family in families(new) {
        let (skeleton, full) = (wanted(family, &[]), wanted(family, new));
        is_sound &= socket.is_outline_of(&skeleton)?;
        for (name, map) in full.maps.into_iter().filter(|(_, map)| !map.elements.is_empty()) {
            let all = map.elements.into_iter().collect();
            elements.push(family, Change::AddElements(name, map.kind, all));
        }
    }
    commit_or_compare(socket, is_sound.then_some(elements), all)
}

/// Makes the kernel forget claims; the others, which `all` lists, stay.
pub fn remove<E: From<Error>>(
    socket: &Socket,
    old: &[Claim],
    all: impl FnOnce() -> Result<Vec<Claim>, E>,
) -> Result<(), E> {
    let mut elements = Transaction::default();
    for family in families(old) {
        for (name, map) in wanted(family, old).maps.into_iter().filter(|(_, map)| !map.elements.is_empty()) {
            let all = map.elements.into_keys().collect();
            elements.push(family, Change::DeleteElements(name, map.kind, all));
        }
    }
    commit_or_compare(socket, Some(elements), all)
}

/// Commits these changes; where they do not fit what the kernel holds, or there are none, all of it is compared.
fn commit_or_compare<E: From<Error>>(
    socket: &Socket,
    elements: Option<Transaction>,
    all: impl FnOnce() -> Result<Vec<Claim>, E>,
) -> Result<(), E> {
    if let Some(elements) = elements {
        match socket.commit(&elements) {
            Err(error) if error.is_not_found() || error.is_exists() => {}
            done => return Ok(done?),
        }
    }
    Ok(socket.commit(&changes(socket, &all()?)?)?)
}

/// Lists what the kernel lacks of these claims: tables, chains, rules, elements, each by name.
pub fn faults(socket: &Socket, claims: &[Claim]) -> Result<Vec<String>, Error> {
    let mut faults = Vec::new();
    for family in families(claims) {
        let name = format!("table {family} {}", owner::HOST_PORTS_TABLE);
        match socket.held(family)? {
            None => faults.push(format!("{name} is missing")),
            Some(held) => {
                let found = differences(&held, &wanted(family, claims));
                faults.extend(found.into_iter().map(|fault| format!("{name}: {fault}")));
            }
        }
    }
    Ok(faults)
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
