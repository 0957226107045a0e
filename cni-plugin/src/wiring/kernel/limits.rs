//! How fast a pod receives and sends, kept on the host: what a pod's own link were told, a pod could change.
//!
//! ```text
//! to the pod     ──→ host end: token bucket ──→ pod
//! from the pod   ──→ host end ──→ ifb: token bucket ──→ on as received at the host end
//! ```

use dataplane::rtnl::{self, Kernel, Link, TokenBucket};

use super::{Error, HOST, find, on_host, remove};
use crate::wiring::{Wiring, ifb_of};

/// Sets the limits of a wiring on a host end, and takes away those of ours that it has not.
pub(super) async fn set(wiring: &Wiring, host: &Kernel, host_end: u32) -> Result<(), Error> {
    set_bucket(host, host_end, wiring.ingress_bucket()).await?;
    let redirected = host.redirected(host_end).await.map_err(on_host)?;
    let ifb = match wiring.egress_bucket() {
        Some(bucket) => {
            let ifb = ensure(wiring, host).await?;
            set_bucket(host, ifb.index, Some(bucket)).await?;
            Some(ifb.index)
        }
        None => None,
    };
    if redirected != ifb {
        if redirected.is_some() {
            host.delete_redirection(host_end).await.map_err(on_host)?;
        }
        if let Some(ifb) = ifb {
            host.redirect(host_end, ifb).await.map_err(needs(RECEIVING))?;
        }
    }
    if ifb.is_none() {
        remove_ifb(host, &wiring.host_end.name).await.map_err(on_host)?;
    }
    Ok(())
}

const BUCKETS: &str = "sch_tbf";
const IFB: &str = "ifb";
const RECEIVING: &str = "sch_ingress, cls_u32 or act_mirred";

/// Tells a kernel that cannot do it from one that will not.
fn needs(modules: &'static str) -> impl Fn(rtnl::Error) -> Error {
    move |source| {
        if source.is_unknown_kind() { Error::NoModule { modules, source } } else { on_host(source) }
    }
}

async fn set_bucket(host: &Kernel, link: u32, wanted: Option<TokenBucket>) -> Result<(), Error> {
    let there = host.bucket(link).await.map_err(on_host)?;
    match (wanted, there) {
        (None, None) => Ok(()),
        (None, Some(_)) => host.delete_bucket(link).await.map_err(on_host),
        (Some(wanted), Some(there)) if wanted.is_held_as(&there) => Ok(()),
        (Some(wanted), _) => host.set_bucket(link, &wanted).await.map_err(needs(BUCKETS)),
    }
}

/// Makes the link that what the pod sends is limited on, unless it is there.
async fn ensure(wiring: &Wiring, host: &Kernel) -> Result<Link, Error> {
    let name = ifb_of(&wiring.host_end.name);
    let there = if let Some(there) = find(host, &name).await.map_err(on_host)? {
        there
    } else {
        let (mac, mtu) = (wiring.host_end.mac, wiring.host_end.mtu);
        host.add_ifb(&name, mac, mtu).await.map_err(needs(IFB))?;
        host.link(&name).await.map_err(on_host)?
    };
    if !there.is_ifb() {
        return Err(Error::Foreign { name, place: HOST });
    }
    if !there.is_up {
        host.set_up(there.index, true).await.map_err(on_host)?;
    }
    Ok(there)
}

/// Takes away the link beside a host end that what a pod sends is limited on.
pub(super) async fn remove_ifb(host: &Kernel, host_end: &str) -> Result<(), rtnl::Error> {
    match find(host, &ifb_of(host_end)).await? {
        Some(ifb) if ifb.is_ifb() => remove(host, &ifb).await,
        _ => Ok(()),
    }
}

/// Lists what is not as the wiring has it of the limits. Those of others, where it has none, are theirs.
pub(super) async fn faults(wiring: &Wiring, host: &Kernel, host_end: &Link) -> Result<Vec<String>, Error> {
    let mut faults = Vec::new();
    let to_pod = host.bucket(host_end.index).await.map_err(on_host)?;
    faults.extend(difference("ingressRate", host_end, wiring.ingress_bucket(), to_pod));

    let redirected = host.redirected(host_end.index).await.map_err(on_host)?;
    let name = ifb_of(&host_end.name);
    let ifb = find(host, &name).await.map_err(on_host)?;
    let Some(wanted) = wiring.egress_bucket() else {
        if redirected.is_some() {
            faults.push(format!("link {} {HOST} sends what it receives to link {name}", host_end.name));
        }
        return Ok(faults);
    };
    let Some(ifb) = ifb.filter(Link::is_ifb) else {
        faults.push(format!("link {name} {HOST} is missing"));
        return Ok(faults);
    };
    if !ifb.is_up {
        faults.push(format!("link {name} {HOST} is down"));
    }
    if redirected != Some(ifb.index) {
        faults.push(format!("what link {} {HOST} receives does not pass link {name}", host_end.name));
    }
    let from_pod = host.bucket(ifb.index).await.map_err(on_host)?;
    faults.extend(difference("egressRate", &ifb, Some(wanted), from_pod));
    Ok(faults)
}

fn difference(
    key: &str,
    link: &Link,
    wanted: Option<TokenBucket>,
    there: Option<TokenBucket>,
) -> Option<String> {
    let told = |bucket: TokenBucket| {
        format!("{} bit/s in bursts of {} bytes", u128::from(bucket.rate) * 8, bucket.burst)
    };
    let link = &link.name;
    match (wanted, there) {
        (None, None) => None,
        (Some(wanted), Some(there)) if wanted.is_held_as(&there) => None,
        (Some(wanted), None) => Some(format!("{key} of link {link} {HOST} is missing: {}", told(wanted))),
        (None, Some(there)) => {
            Some(format!("{key} of link {link} {HOST} is {}, and none is asked for", told(there)))
        }
        (Some(wanted), Some(there)) => {
            Some(format!("{key} of link {link} {HOST} is {}, not {}", told(there), told(wanted)))
        }
    }
}

#[cfg(test)]
mod tests;
