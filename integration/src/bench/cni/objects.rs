//! How much the kernel holds of pods: two ways to wire them are compared only if they make the same.

use std::path::Path;

use anyhow::Result;
use dataplane::{
    netns::Netns,
    owner,
    rtnl::{Kernel, Routes as _},
};
use tokio::runtime;

use crate::host::Host;

/// How many of each there are on a host and in its pods together: of IPv4, as the kernel adds those of IPv6 in its own time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Objects {
    links_up: usize,
    aliases: usize,
    addresses: usize,
    routes: usize,
    neighbours: usize,
}

impl Objects {
    pub(super) fn of<'a>(host: &Host, mut pods: impl Iterator<Item = &'a Path> + Send) -> Result<Self> {
        host.run(|| {
            let mut all = Self::default();
            all.count_here()?;
            pods.try_for_each(|pod| Netns::open(pod)?.run(|| all.count_here())?)?;
            Ok(all)
        })?
    }

    /// Counts in the calling thread's network namespace.
    fn count_here(&mut self) -> Result<()> {
        runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
            let kernel = Kernel::open()?;
            for link in kernel.links().await? {
                self.links_up += usize::from(link.is_up);
                self.aliases += usize::from(link.alias.is_some());
            }
            let is_ipv4 = |address: &dataplane::rtnl::Address| address.network.is_ipv4();
            self.addresses += kernel.addresses().await?.iter().filter(|address| is_ipv4(address)).count();
            self.routes += kernel.routes(owner::ROUTE_PROTOCOL).await?.len();
            let neighbours = kernel.neighbours().await?;
            self.neighbours += neighbours.iter().filter(|neighbour| neighbour.address.is_ipv4()).count();
            Ok(())
        })
    }
}
