//! Leases as people and programs read them. Pure.
//!
//! In: rows. Out: a table with aligned columns, or JSON.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::json;

use crate::ipam::{standing::Standing, store::Record};

/// An attachment with its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) network: String,
    pub(super) addresses: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pod: Option<String>,
    #[serde(rename = "containerID")]
    pub(super) container_id: String,
    pub(super) ifname: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) netns: String,
    /// In seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) time: Option<u64>,
    /// The plugin that leased the addresses, if not this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) delegate: Option<String>,
    #[serde(serialize_with = "in_words")]
    pub(super) standing: Standing,
    pub(super) is_stale: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn in_words<S: serde::Serializer>(standing: &Standing, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(standing)
}

impl Row {
    /// Takes what the record says, where it can be read.
    pub(super) fn of(
        network: &str,
        owner: (&str, &str),
        record: Option<&Record>,
        standing: Standing,
    ) -> Self {
        Self {
            network: network.to_owned(),
            addresses: record.map(|record| record.addresses.clone()).unwrap_or_default(),
            pod: record.and_then(|record| record.pod.clone()),
            container_id: owner.0.to_owned(),
            ifname: owner.1.to_owned(),
            netns: record.map(|record| record.netns.clone()).unwrap_or_default(),
            time: record.map(|record| record.time),
            delegate: record.and_then(|record| Some(record.delegated.as_ref()?.name.clone())),
            standing,
            is_stale: standing.is_stale(),
        }
    }

    fn cells(&self, now: u64) -> [String; 7] {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        [
            self.network.clone(),
            addresses.join(", "),
            self.pod.clone().unwrap_or_default(),
            self.container_id.chars().take(13).collect(), // as crictl cuts them
            self.ifname.clone(),
            self.time.map(|time| age(now.saturating_sub(time))).unwrap_or_default(),
            match &self.delegate {
                Some(name) => format!("{}, leased by {name}", self.standing),
                None => self.standing.to_string(),
            },
        ]
    }
}

/// Prints rows for people.
pub(super) fn table(rows: &[Row], now: u64) -> String {
    let head = ["NETWORK", "ADDRESSES", "POD", "CONTAINER", "LINK", "AGE", "STATE"].map(str::to_owned);
    let lines: Vec<[String; 7]> =
        std::iter::once(head).chain(rows.iter().map(|row| row.cells(now))).collect();
    let mut widths = [0; 7];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let print = |line: &[String; 7]| {
        let cells = line.iter().zip(widths).map(|(cell, width)| {
            let cell = if cell.is_empty() { "-" } else { cell };
            format!("{cell:width$}")
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    lines.iter().map(print).collect()
}

/// Prints rows, and files without an owner, for programs.
pub(super) fn as_json(rows: &[Row], orphans: &[String]) -> String {
    format!("{:#}\n", json!({ "leases": rows, "orphans": orphans }))
}

/// As kubectl prints ages: in the largest unit of which there are two.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_cuts_container_ids() {
        let row = |container: &str, address: &str, pod: Option<&str>, standing| Row {
            network: "pods".to_owned(),
            addresses: vec![address.parse().unwrap()],
            pod: pod.map(str::to_owned),
            container_id: container.to_owned(),
            ifname: "eth0".to_owned(),
            netns: String::new(),
            time: Some(1_000),
            delegate: None,
            standing,
            is_stale: false,
        };
        let rows = [
            row("0123456789abcdef", "10.244.1.2", Some("default/web"), Standing::InUse),
            row("c", "fd00::2", None, Standing::Gone),
        ];

        insta::assert_snapshot!(table(&rows, 1_000 + 7_300), @r"
        NETWORK  ADDRESSES   POD          CONTAINER      LINK  AGE  STATE
        pods     10.244.1.2  default/web  0123456789abc  eth0  2h   in use
        pods     fd00::2     -            c              eth0  2h   namespace gone
        ");
    }

    #[test]
    fn ages_are_in_the_largest_unit_of_which_there_are_two() {
        let ages = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(age);
        assert_eq!(ages, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
    }
}
