//! Who sums up the packets in tunnels: the network card, or the kernel before it gets them.
//!
//! In: what is asked for, the driver of the link that leads to the other nodes, and a device for tunnels. Out: the device is as it should be. Cards that
//! get the checksum of a packet inside another wrong make connections fail, or stall for a minute, while pings pass.

use std::{fs, path::Path};

use dataplane::ethtool::{Error, Features, TX_CHECKSUM};
use tracing::info;

use crate::config::ChecksumOffload;

/// Says what the device should be told; nothing where it may stay as it is.
fn wanted(mode: ChecksumOffload, driver: Option<&str>) -> Option<bool> {
    match mode {
        ChecksumOffload::On => Some(true),
        ChecksumOffload::Off => Some(false),
        ChecksumOffload::Auto => driver.filter(|driver| is_known_to_err(driver)).map(|_| false),
    }
}

/// That of vmxnet3 takes tunnels at ports other than the standard's for plain packets: fixed in the driver by Linux 5.14
/// (b22580233d473dbf7bbfa4f6549c09e2c80e9e64), but not in every host that is below it (flannel pull request 1282, calico issue 9433).
fn is_known_to_err(driver: &str) -> bool {
    driver == "vmxnet3"
}

/// The driver of a link, where it has one.
fn driver_of(link: &str) -> Option<String> {
    let driver = fs::read_link(Path::new("/sys/class/net").join(link).join("device/driver")).ok()?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}

/// Tells the device, if it is to be told something.
pub(super) fn settle(mode: ChecksumOffload, uplink: Option<&str>, device: u32) -> Result<(), Error> {
    let driver = uplink.and_then(driver_of);
    let Some(is_on) = wanted(mode, driver.as_deref()) else { return Ok(()) };
    let features = Features::open()?;
    if features.is_on(device, TX_CHECKSUM)? != is_on {
        features.set(device, TX_CHECKSUM, is_on)?;
        info!(driver, is_on, "set whether checksums in tunnels are left to the network card");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_known_to_err_is_not_left_to_do_it_unless_told_to() {
        assert_eq!(wanted(ChecksumOffload::Auto, Some("vmxnet3")), Some(false));
        assert_eq!(wanted(ChecksumOffload::Auto, Some("virtio_net")), None);
        assert_eq!(wanted(ChecksumOffload::Auto, None), None);
        assert_eq!(wanted(ChecksumOffload::On, Some("vmxnet3")), Some(true));
        assert_eq!(wanted(ChecksumOffload::Off, None), Some(false));
    }
}
