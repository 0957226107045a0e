//! The bridge that host ends are plugged into: made if it is not there, and never removed.
//!
//! Many ADDs may find it missing at once. One of them makes it; each of them gives it all that it needs, whoever made it.

use std::{thread, time::Duration};

use dataplane::{
    hash,
    rtnl::{self, Address, Kernel, Link, Mac, Uniqueness},
    sysctl,
};

use super::{Error, HOST, allow_ipv6, host_sysctl, in_pod, missing, on_host, refuse_advertisements};
use crate::wiring::{Side, Wiring, bridge::Bridging};

/// Finds the bridge of a wiring that has one.
pub(super) async fn find(wiring: &Wiring, host: &Kernel) -> Result<Option<Link>, Error> {
    match &wiring.bridging {
        Some(bridging) => super::find(host, &bridging.bridge).await.map_err(on_host),
        None => Ok(None),
    }
}

/// Makes the bridge of a wiring that has one, unless it is there, and gives it what it lacks.
pub(super) async fn ensure(wiring: &Wiring, host: &Kernel) -> Result<Option<Link>, Error> {
    let Some(bridging) = &wiring.bridging else { return Ok(None) };
    let mac = mac_of(&bridging.bridge)?;
    let bridge = match find(wiring, host).await? {
        Some(there) => there,
        None => make(wiring, bridging, mac, host).await?,
    };
    if !bridge.is_bridge() {
        return Err(Error::NoBridge(bridge.name));
    }
    if !bridge.is_up {
        host.set_up(bridge.index, true).await.map_err(on_host)?;
    }
    if bridging.is_promiscuous && !bridge.is_promiscuous {
        host.set_promiscuous(bridge.index, true).await.map_err(on_host)?;
    }
    if wiring.has_family(false) {
        allow_ipv6(HOST, &[&bridge.name])?;
    }
    // One that was there before is not ours to tell whom to listen to.
    if bridge.mac == Some(mac) {
        refuse_advertisements(&bridge.name)?;
    }
    give_addresses(wiring, bridging, host, &bridge).await?;
    Ok(Some(bridge))
}

/// The hardware address of a bridge that we make: without one of its own, it would change with every pod that comes and goes. The
/// same name is given on every node, and bridges of several nodes may be one network, so the address depends on the machine.
fn mac_of(bridge: &str) -> Result<Mac, Error> {
    let boot_id = sysctl::read("kernel/random/boot_id").map_err(host_sysctl)?;
    Ok(Mac::locally_administered(hash::stable(boot_id.bytes().chain([0]).chain(bridge.bytes()))))
}

async fn make(wiring: &Wiring, bridging: &Bridging, mac: Mac, host: &Kernel) -> Result<Link, Error> {
    let (name, mtu) = (bridging.bridge.clone(), Some(wiring.host_end.mtu));
    match host.add_bridge(&rtnl::Bridge { name, mac: Some(mac), mtu }).await {
        Err(error) if !error.is_exists() => return Err(on_host(error)),
        _ => {} // one that others made in the same moment is as good
    }
    host.link(&bridging.bridge).await.map_err(on_host)
}

/// Gives the bridge the pods' gateways for addresses, if it is their gateway.
async fn give_addresses(
    wiring: &Wiring,
    bridging: &Bridging,
    host: &Kernel,
    bridge: &Link,
) -> Result<(), Error> {
    let wanted = wiring.bridge_side(bridge.index).addresses;
    if wanted.is_empty() {
        return Ok(());
    }
    let there = host.addresses().await.map_err(on_host)?;
    let there: Vec<&Address> = there.iter().filter(|address| address.link == bridge.index).collect();
    for wanted in &wanted {
        if there.iter().any(|there| there.network == wanted.network) {
            continue;
        }
        for there in there.iter().filter(|there| overlap(there, wanted)) {
            if !bridging.takes_over {
                let (bridge, there) = (bridge.name.clone(), there.network);
                return Err(Error::Occupied { bridge, there, wanted: wanted.network });
            }
            match host.delete_address(there).await {
                Err(error) if !error.is_not_found() => return Err(on_host(error)),
                _ => {}
            }
        }
        match host.add_address(wanted).await {
            Err(error) if !error.is_exists() => return Err(on_host(error)),
            _ => {}
        }
    }
    Ok(())
}

fn overlap(one: &Address, other: &Address) -> bool {
    one.network.contains(other.network.ip()) || other.network.contains(one.network.ip())
}

/// Plugs the host end in while it is still down, so that no packet passes before all is set.
pub(super) async fn plug(wiring: &Wiring, host: &Kernel, link: u32, bridge: &Link) -> Result<(), Error> {
    let Some(bridging) = &wiring.bridging else { return Ok(()) };
    host.set_master(link, Some(bridge.index)).await.map_err(on_host)?;
    if bridging.port != rtnl::Port::default() {
        host.set_port(link, bridging.port).await.map_err(on_host)?;
    }
    if bridging.port.locked {
        let port = host.link_by_index(link).await.map_err(on_host)?.port;
        if !port.is_some_and(|port| port.locked) {
            return Err(Error::CannotLock);
        }
        host.pin(link, wiring.pod_end.mac).await.map_err(on_host)?;
    }
    Ok(())
}

/// Waits until all addresses of a pod can be used: that nobody else has an IPv6 address takes the kernel a second or two to say.
/// Where it never says so, the pod is wired all the same, as with the reference plugin, whose 10 seconds these are.
pub(super) async fn wait_until_unique(pod: &Kernel, side: &Side) -> Result<(), Error> {
    const TURN: Duration = Duration::from_millis(10);
    let Some(link) = side.addresses.first().map(|address| address.link) else { return Ok(()) };
    for _ in 0..1000 {
        let found = pod.uniqueness(link).await.map_err(in_pod)?;
        let own = found.iter().filter(|(ip, _)| side.addresses.iter().any(|own| own.network.ip() == *ip));
        let worst = own.min_by_key(|(_, uniqueness)| match uniqueness {
            Uniqueness::Refuted => 0,
            Uniqueness::Sought => 1,
            Uniqueness::Taken => 2,
        });
        match worst {
            Some((ip, Uniqueness::Refuted)) => return Err(Error::Duplicate(*ip)),
            Some((_, Uniqueness::Sought)) => thread::sleep(TURN),
            Some((_, Uniqueness::Taken)) | None => return Ok(()),
        }
    }
    Ok(())
}

/// Lists what is not as it should be of the bridge, and of how the host end is plugged into it.
pub(super) async fn faults(wiring: &Wiring, host: &Kernel, host_end: &Link) -> Result<Vec<String>, Error> {
    let Some(bridging) = &wiring.bridging else { return Ok(Vec::new()) };
    let (name, bridge) = (&bridging.bridge, find(wiring, host).await?);
    let Some(bridge) = bridge.filter(Link::is_bridge) else {
        return Ok(vec![format!("bridge {name} {HOST} is missing")]);
    };
    let mut faults = Vec::new();
    if !bridge.is_up {
        faults.push(format!("bridge {name} {HOST} is down"));
    }
    if bridging.is_promiscuous && !bridge.is_promiscuous {
        faults.push(format!("bridge {name} {HOST} is not promiscuous"));
    }
    faults.extend(missing(host, &wiring.bridge_side(bridge.index), HOST).await.map_err(on_host)?);

    let link = &host_end.name;
    if host_end.master != Some(bridge.index) {
        faults.push(format!("link {link} {HOST} is not plugged into bridge {name}"));
        return Ok(faults);
    }
    let (is, should) = (host_end.port.unwrap_or_default(), bridging.port);
    for (setting, is, should) in [
        ("hairpinMode", is.hairpin, should.hairpin),
        ("portIsolation", is.isolated, should.isolated),
        ("macspoofchk", is.locked, should.locked),
    ] {
        if is != should {
            faults.push(format!("link {link} {HOST} has {setting} {is}, not {should}"));
        }
    }
    if should.locked {
        let pinned = host.pinned(host_end.index).await.map_err(on_host)?;
        if !pinned.contains(&wiring.pod_end.mac) {
            faults.push(format!("{} is not pinned to link {link} {HOST}", wiring.pod_end.mac));
        }
    }
    Ok(faults)
}
