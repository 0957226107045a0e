//! Flags of the overlay: what VXLAN calls itself, which must be the same on all nodes, and who sums up its packets.

/// How VXLAN is spoken between the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct Overlay {
    /// Number of the VXLAN network, the same on all nodes
    #[arg(id = "vxlan_vni", long = "vxlan-vni", value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    pub vni: u32,

    /// UDP port that VXLAN is received on, the same on all nodes
    #[arg(id = "vxlan_port", long = "vxlan-port", value_name = "PORT", default_value_t = 8472)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,

    /// Whether checksums of packets in tunnels are left to the network card: on, off or auto (off where its driver is known to get them wrong)
    #[arg(id = "vxlan_checksum_offload", long = "vxlan-checksum-offload", value_name = "MODE")]
    #[arg(default_value = "auto")]
    pub checksum_offload: ChecksumOffload,
}

/// Whether checksums of packets in tunnels are left to the network card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ChecksumOffload {
    /// Unless its driver is known to get them wrong.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}
