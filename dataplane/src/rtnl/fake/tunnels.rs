//! VXLAN devices without a kernel.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{MutexGuard, PoisonError},
};

use nix::errno::Errno;

use super::Fake;
use crate::rtnl::{Device, Error, Forwarding, Mac, Neighbour, NeighbourState, Operation, Tunnels, Vxlan};

/// Devices, and what each has been told.
#[derive(Debug, Default)]
pub(super) struct Table {
    devices: BTreeMap<u32, Told>,
    /// How many there have been: no index is given twice.
    made: u32,
}

#[derive(Debug)]
struct Told {
    device: Device,
    forwardings: BTreeMap<Mac, IpAddr>,
    neighbours: BTreeMap<IpAddr, Neighbour>,
}

/// The first index of a device; links that the fake was made with have smaller ones.
const FIRST: u32 = 1000;

impl Table {
    pub(super) fn has(&self, index: u32) -> bool {
        self.devices.contains_key(&index)
    }

    fn told(&mut self, index: u32) -> Result<&mut Told, Errno> {
        self.devices.get_mut(&index).ok_or(Errno::ENODEV)
    }

    fn add(&mut self, vxlan: &Vxlan) -> Result<(), Errno> {
        let is_rival = |told: &Told| {
            let there = &told.device.vxlan;
            let is_same_family = there.tunnel.local.is_ipv4() == vxlan.tunnel.local.is_ipv4();
            let is_same_network =
                (there.tunnel.vni, there.tunnel.port) == (vxlan.tunnel.vni, vxlan.tunnel.port);
            there.name == vxlan.name || is_same_family && is_same_network
        };
        if self.devices.values().any(is_rival) {
            return Err(Errno::EEXIST);
        }
        let index = FIRST + self.made;
        self.made += 1;
        let device = Device { index, vxlan: vxlan.clone(), is_up: true };
        let told = Told { device, forwardings: BTreeMap::new(), neighbours: BTreeMap::new() };
        self.devices.insert(index, told);
        Ok(())
    }

    fn put_forwarding(&mut self, entry: &Forwarding) -> Result<(), Errno> {
        let told = self.told(entry.link)?;
        if told.device.vxlan.tunnel.local.is_ipv4() != entry.remote.is_ipv4() {
            return Err(Errno::EAFNOSUPPORT);
        }
        told.forwardings.insert(entry.mac, entry.remote);
        Ok(())
    }
}

impl Fake {
    fn tunnels(&self) -> MutexGuard<'_, Table> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tunnels for Fake {
    async fn device(&self, name: &str) -> Result<Option<Device>, Error> {
        let tunnels = self.tunnels();
        let mut devices = tunnels.devices.values();
        Ok(devices.find(|told| told.device.vxlan.name == name).map(|told| told.device.clone()))
    }

    async fn add_device(&self, vxlan: &Vxlan) -> Result<(), Error> {
        let done = self.tunnels().add(vxlan);
        done.map_err(|errno| Error::refused(Operation::Add, &format!("link {vxlan}"), errno))
    }

    async fn delete_device(&self, index: u32) -> Result<(), Error> {
        if self.tunnels().devices.remove(&index).is_none() {
            return Err(Error::refused(Operation::Delete, &format!("link {index}"), Errno::ENODEV));
        }
        self.table().retain(|_, route| route.link != index);
        Ok(())
    }

    async fn mend_device(&self, index: u32, mac: Option<Mac>, mtu: u32) -> Result<(), Error> {
        let mut tunnels = self.tunnels();
        let told = tunnels.told(index);
        let told =
            told.map_err(|errno| Error::refused(Operation::Change, &format!("link {index}"), errno))?;
        if let Some(mac) = mac {
            told.device.vxlan.mac = mac;
            told.neighbours.clear();
        }
        told.device.vxlan.mtu = mtu;
        told.device.is_up = true;
        Ok(())
    }

    async fn forwardings(&self, device: u32) -> Result<Vec<Forwarding>, Error> {
        let tunnels = self.tunnels();
        let told = tunnels.devices.get(&device).map(|told| &told.forwardings);
        let entries = told.into_iter().flatten();
        Ok(entries.map(|(&mac, &remote)| Forwarding { link: device, mac, remote }).collect())
    }

    async fn put_forwarding(&self, entry: &Forwarding) -> Result<(), Error> {
        let done = self.tunnels().put_forwarding(entry);
        done.map_err(|errno| Error::refused(Operation::Add, &format!("forwarding {entry}"), errno))
    }

    async fn delete_forwarding(&self, entry: &Forwarding) -> Result<(), Error> {
        let refused = |errno| Error::refused(Operation::Delete, &format!("forwarding {entry}"), errno);
        let mut tunnels = self.tunnels();
        let told = tunnels.told(entry.link).map_err(refused)?;
        let remote = *told.forwardings.get(&entry.mac).ok_or_else(|| refused(Errno::ENOENT))?;
        // One that leads elsewhere stays, and that is no error. // kernel vxlan_core.c __vxlan_fdb_delete
        if remote == entry.remote {
            told.forwardings.remove(&entry.mac);
        }
        Ok(())
    }

    async fn permanent_neighbours(&self, device: u32) -> Result<Vec<Neighbour>, Error> {
        let tunnels = self.tunnels();
        let told = tunnels.devices.get(&device).map(|told| &told.neighbours);
        let neighbours = told.into_iter().flat_map(BTreeMap::values);
        Ok(neighbours.filter(|found| found.state == NeighbourState::Permanent).copied().collect())
    }

    async fn put_neighbour(&self, neighbour: &Neighbour) -> Result<(), Error> {
        let refused = |errno| Error::refused(Operation::Add, &format!("neighbour {neighbour}"), errno);
        let mut tunnels = self.tunnels();
        let told = tunnels.told(neighbour.link).map_err(refused)?;
        told.neighbours.insert(neighbour.address, *neighbour);
        Ok(())
    }

    async fn delete_neighbour(&self, neighbour: &Neighbour) -> Result<(), Error> {
        let refused = |errno| Error::refused(Operation::Delete, &format!("neighbour {neighbour}"), errno);
        let mut tunnels = self.tunnels();
        let told = tunnels.told(neighbour.link).map_err(refused)?;
        told.neighbours.remove(&neighbour.address).map(drop).ok_or_else(|| refused(Errno::ENOENT))
    }
}
