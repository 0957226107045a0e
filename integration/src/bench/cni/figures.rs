//! What came out of `bench cni`, by key and as a table.

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::contestant::Took;
use crate::bench::figures::rounded;

/// What `bench cni` prints.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::bench) struct CniFigures {
    pub(super) pods: u32,
    pub(super) parallel: u32,
    pub(super) binary_bytes: u64,
    pub(super) routed: Took,
    pub(super) bridged: Took,
    /// Bridge and ptp, unless they were left out.
    pub(super) peers: Option<(Took, Took)>,
    pub(super) peer_skipped: Option<String>,
    /// Medians of ADD and DEL.
    pub(super) floor: (f64, f64),
    pub(super) with_leases: WithLeases,
}

/// Medians of ADD.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct WithLeases {
    pub(super) few: u32,
    pub(super) few_add_median_us: f64,
    pub(super) many: u32,
    pub(super) many_add_median_us: f64,
}

/// How many times better ours is than the reference bridge, in ADD, in DEL, and with many at once.
type Ratios = (f64, f64, f64);

impl CniFigures {
    fn ratios(&self) -> Option<Ratios> {
        let (ours, (theirs, _)) = (&self.routed, self.peers?);
        let add = theirs.add_median_us / ours.add_median_us;
        let del = theirs.del_median_us / ours.del_median_us;
        let parallel = ours.parallel_adds_per_s / theirs.parallel_adds_per_s;
        Some((rounded(add, 100.0), rounded(del, 100.0), rounded(parallel, 100.0)))
    }

    /// How many times as long as the kernel alone ADD takes.
    fn floor_ratio(&self) -> f64 {
        rounded(self.routed.add_median_us / self.floor.0, 100.0)
    }
}

impl Serialize for CniFigures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("pods", &self.pods)?;
        map.serialize_entry("parallel", &self.parallel)?;
        map.serialize_entry("binary_bytes", &self.binary_bytes)?;
        let (bridge, ptp) = self.peers.unzip();
        for (prefix, took) in [
            ("", Some(self.routed)),
            ("bridge_", Some(self.bridged)),
            ("peer_bridge_", bridge),
            ("peer_ptp_", ptp),
        ] {
            for (key, value) in took.unwrap_or_default().entries() {
                map.serialize_entry(&format!("{prefix}{key}"), &took.map(|_| value))?;
            }
        }
        map.serialize_entry("peer_skipped", &self.peer_skipped)?;
        map.serialize_entry("floor_add_median_us", &self.floor.0)?;
        map.serialize_entry("floor_del_median_us", &self.floor.1)?;
        map.serialize_entry("with_leases", &self.with_leases)?;
        let ratios = self.ratios();
        map.serialize_entry("add_ratio", &ratios.map(|(add, ..)| add))?;
        map.serialize_entry("del_ratio", &ratios.map(|(_, del, _)| del))?;
        map.serialize_entry("parallel_ratio", &ratios.map(|(.., parallel)| parallel))?;
        map.serialize_entry("floor_ratio", &self.floor_ratio())?;
        map.end()
    }
}

impl fmt::Display for CniFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pods, parallel) = (self.pods, self.parallel);
        let at_once = format!("ADD/s, {parallel} at once");
        writeln!(
            f,
            "{pods} pods              ADD median       p99       CPU   DEL median       p99   {at_once}"
        )?;
        let mut row = |name: &str, took: &Took| {
            let [add, p99, cpu, del, del_p99, per_s] = took.entries().map(|(_, value)| value);
            writeln!(f, "  {name:<22}{add:>9}{p99:>10}{cpu:>10}{del:>13}{del_p99:>10}{per_s:>16}")
        };
        row("fairway", &self.routed)?;
        row("fairway, bridge", &self.bridged)?;
        if let Some((bridge, ptp)) = &self.peers {
            row("bridge, host-local", bridge)?;
            row("ptp, host-local", ptp)?;
        }
        let (add, del) = self.floor;
        writeln!(f, "  {:<22}{add:>9}{:>20}{del:>13}   µs", "the kernel alone", "")?;
        if let Some(why) = &self.peer_skipped {
            writeln!(f, "  left out: {why}")?;
        }
        if let Some((add, del, parallel)) = self.ratios() {
            writeln!(
                f,
                "ours is faster than bridge with host-local: ADD {add} ×, DEL {del} ×, many at once {parallel} ×"
            )?;
        }
        writeln!(f, "ADD takes {} × as long as the kernel alone", self.floor_ratio())?;
        let WithLeases { few, few_add_median_us, many, many_add_median_us } = self.with_leases;
        writeln!(
            f,
            "ADD with {few} leases {few_add_median_us} µs, with {many} leases {many_add_median_us} µs"
        )?;
        write!(f, "the plugin's file has {} bytes", self.binary_bytes)
    }
}
