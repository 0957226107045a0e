//! The vocabulary of desired kernel state, and the kernel that holds it.
//!
//! Values say what should be there; `diff` says what must change; a socket makes the change.
//! This crate knows no Kubernetes and no CNI: the daemon and the plugin both speak it.

pub mod claims;
pub mod conntrack;
pub mod disk;
pub mod ethtool;
pub mod forwarding;
pub mod hash;
pub mod host_ports;
pub mod masquerade;
pub mod netns;
mod nfnetlink;
pub mod nft;
pub mod owner;
pub mod packet;
pub mod process;
pub mod rtnl;
pub mod sysctl;
