//! Who sums up the packets in tunnels: the network card, or the kernel before it gets them.
//!
//! In: what is asked for, the links that lead to the other nodes with all that is below them, and a device for tunnels. Out: the device is as it should be. Cards that
//! get the checksum of a packet inside another wrong make connections fail, or stall for a minute, while pings pass.

use std::{collections::BTreeSet, fs, path::Path};

use dataplane::{
    ethtool::{Error, Features, TX_CHECKSUM},
    rtnl::Link,
};
use tracing::info;

use crate::config::ChecksumOffload;

/// Says what the device should be told; nothing where it may stay as it is.
fn wanted(mode: ChecksumOffload, drivers: &BTreeSet<String>) -> Option<bool> {
    match mode {
        ChecksumOffload::On => Some(true),
        ChecksumOffload::Off => Some(false),
        ChecksumOffload::Auto => drivers.iter().any(|driver| is_known_to_err(driver)).then_some(false),
    }
}

/// That of vmxnet3 takes tunnels at ports other than the standard's for plain packets: fixed in the driver by Linux 5.14
/// (b22580233d473dbf7bbfa4f6549c09e2c80e9e64), but not in every host that is below it (flannel pull request 1282, calico issue 9433).
fn is_known_to_err(driver: &str) -> bool {
    driver == "vmxnet3"
}

/// The links that packets leave by which are sent over one: itself, and below it the one that a VLAN is on, the members of a bond, of a team
/// or of a bridge, and so on.
fn beneath(links: &[Link], uplink: u32) -> Vec<&Link> {
    let (mut found, mut open) = (Vec::<&Link>::new(), vec![uplink]);
    while let Some(index) = open.pop() {
        let is_new = found.iter().all(|link| link.index != index);
        let Some(link) = links.iter().find(|link| is_new && link.index == index) else { continue };
        found.push(link);
        open.extend(links.iter().filter(|member| member.master == Some(index)).map(|member| member.index));
        // The other end of a veth is not below it, and what is in another namespace has no name here.
        open.extend(link.peer.filter(|_| !link.is_veth() && link.peer_netns.is_none()));
    }
    found
}

/// The driver of a link, where it has one. What is mounted may tell of the links of another namespace: then it is none of ours that is there
/// under this name.
fn driver_of(sysfs: &Path, link: &Link) -> Option<String> {
    let there = sysfs.join("class/net").join(&link.name);
    let says = |file: &str, what: &str| {
        fs::read_to_string(there.join(file)).is_ok_and(|text| text.trim_end() == what)
    };
    if !says("ifindex", &link.index.to_string()) || !says("address", &link.mac?.to_string()) {
        return None;
    }
    let driver = fs::read_link(there.join("device/driver")).ok()?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}

/// Tells the device, if it is to be told something, for packets that are sent over these links.
pub(super) fn settle(
    mode: ChecksumOffload,
    links: &[Link],
    uplinks: &BTreeSet<u32>,
    device: u32,
) -> Result<(), Error> {
    let beneath = uplinks.iter().flat_map(|uplink| beneath(links, *uplink));
    let drivers: BTreeSet<String> = beneath.filter_map(|link| driver_of(Path::new("/sys"), link)).collect();
    let Some(is_on) = wanted(mode, &drivers) else { return Ok(()) };
    let features = Features::open()?;
    if features.is_on(device, TX_CHECKSUM)? != is_on {
        features.set(device, TX_CHECKSUM, is_on)?;
        info!(?drivers, is_on, "set whether checksums in tunnels are left to the network card");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dataplane::rtnl::Mac;

    use super::*;
    use crate::plan::routes::tests::link;

    #[test]
    fn a_driver_that_is_known_to_err_is_not_left_to_do_it_unless_told_to() {
        let drivers = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(wanted(ChecksumOffload::Auto, &drivers(&["vmxnet3"])), Some(false));
        assert_eq!(wanted(ChecksumOffload::Auto, &drivers(&["virtio_net", "vmxnet3"])), Some(false));
        assert_eq!(wanted(ChecksumOffload::Auto, &drivers(&["virtio_net"])), None);
        assert_eq!(wanted(ChecksumOffload::Auto, &BTreeSet::new()), None);
        assert_eq!(wanted(ChecksumOffload::On, &drivers(&["vmxnet3"])), Some(true));
        assert_eq!(wanted(ChecksumOffload::Off, &BTreeSet::new()), Some(false));
    }

    #[test]
    fn packets_over_a_vlan_on_a_bond_leave_by_the_members_of_the_bond() {
        let vlan = Link { peer: Some(7), kind: Some("vlan".to_owned()), ..link(9, "bond0.14") };
        let member = |index, name| Link { master: Some(7), ..link(index, name) };
        let veth = Link { peer: Some(2), kind: Some("veth".to_owned()), ..link(10, "veth0") };
        let elsewhere = Link { peer: Some(2), peer_netns: Some(0), ..link(11, "macvlan0") };
        let links =
            [link(2, "eth9"), member(3, "eth0"), member(4, "eth1"), link(7, "bond0"), vlan, veth, elsewhere];
        let names = |uplink| beneath(&links, uplink).into_iter().map(|link| &*link.name).collect::<Vec<_>>();

        assert_eq!(names(9), ["bond0.14", "bond0", "eth1", "eth0"]);
        assert_eq!(names(10), ["veth0"]);
        assert_eq!(names(11), ["macvlan0"]);
        assert_eq!(names(99), [""; 0]);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "writes what the kernel would")]
    fn a_driver_is_that_of_our_own_link_and_not_of_another_namespace_s_of_the_same_name() {
        let sysfs = tempfile::tempdir().unwrap();
        let there = sysfs.path().join("class/net/eth0");
        let driver = sysfs.path().join("bus/drivers/vmxnet3");
        fs::create_dir_all(there.join("device")).unwrap();
        fs::create_dir_all(&driver).unwrap();
        std::os::unix::fs::symlink(&driver, there.join("device/driver")).unwrap();
        fs::write(there.join("ifindex"), "2\n").unwrap();
        fs::write(there.join("address"), "02:00:00:00:00:02\n").unwrap();

        assert_eq!(driver_of(sysfs.path(), &link(2, "eth0")), Some("vmxnet3".to_owned()));
        let others = [
            link(3, "eth0"),
            link(2, "eth1"),
            Link { mac: Some(Mac([2, 0, 0, 0, 0, 9])), ..link(2, "eth0") },
        ];
        for other in &others {
            assert_eq!(driver_of(sysfs.path(), other), None);
        }
    }
}
