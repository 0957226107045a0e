//! Our devices for tunnels, all together.
//!
//! In: those that there should be. Out: they are there, each as well as it could be made; which nobody needs, and what is wrong. None
//! is deleted here that nothing takes the place of: packets go through it until that stands.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::rtnl::{self, Kernel, Tunnels as _, Vxlan};
use ipnetwork::IpNetwork;
use tracing::info;

use super::{commit, said};
use crate::{
    health::{About, Complaint},
    plan::routes::tunnel,
    service_port::Family,
};

/// What there is.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// Those that should be there and are, with what the kernel calls them.
    pub(super) there: BTreeMap<Family, u32>,
    /// Those that nobody needs.
    pub(super) obsolete: Vec<u32>,
    /// What is wrong with those that should be there.
    pub(super) complaints: BTreeSet<Complaint>,
    /// Those that were not as they should be, and are.
    pub(super) mended: BTreeSet<Family>,
    /// Whether one of them was not as it should be.
    pub(super) is_one_changed: bool,
    /// Whether one that should be there is not, so that nothing can be planned that goes through it.
    pub(super) is_one_missing: bool,
}

impl Devices {
    /// Makes them be there.
    pub(super) async fn settle(
        kernel: &Kernel,
        wanted: &BTreeMap<Family, Vxlan>,
        pod_cidrs: &[IpNetwork],
    ) -> Result<Self, rtnl::Error> {
        let mut devices = Self::default();
        for family in Family::ALL {
            let Some(vxlan) = wanted.get(&family) else {
                let there = kernel.device(tunnel::name(family)).await?;
                devices.obsolete.extend(there.map(|device| device.index));
                continue;
            };
            match commit::device(kernel, vxlan, pod_cidrs).await {
                Ok(settled) => {
                    devices.is_one_changed |= settled.is_changed;
                    if settled.is_changed {
                        info!(device = %vxlan, "made a VXLAN device what it should be");
                        if settled.failure.is_none() {
                            devices.mended.insert(family);
                        }
                    }
                    devices.there.insert(family, settled.index);
                    let failure = settled.failure.map(|error| About::Device.complaint(said(&error)));
                    devices.complaints.extend(failure);
                }
                Err(error) => {
                    devices.is_one_missing = true;
                    devices.complaints.insert(About::Device.complaint(said(&error)));
                }
            }
        }
        Ok(devices)
    }
}
