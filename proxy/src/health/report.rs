//! What is said of the proxy as a whole, as kube-proxy says it (`pkg/proxy/healthcheck/proxy_health.go`). Pure.
//!
//! Two questions, two answers: `/healthz` is for load balancers, which are to leave a node that goes; `/livez` is for the kubelet, which
//! is not to end the proxy for that.

use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::{Value, json};

/// What there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// When all changes were served last; when the proxy began, if none has come yet.
    pub last_updated: SystemTime,
    /// When it was asked.
    pub now: SystemTime,
    /// Whether changes are served in time.
    pub is_healthy: bool,
    /// Whether load balancers should send this node anything new.
    pub is_node_eligible: bool,
    /// Whether everything was served once.
    pub has_served: bool,
}

impl Report {
    /// For load balancers: whether to send this node anything, and the words to it.
    pub fn healthz(&self) -> (bool, Value) {
        let mut said = self.said();
        if let Some(said) = said.as_object_mut() {
            said.insert("nodeEligible".into(), self.is_node_eligible.into());
        }
        (self.is_healthy && self.is_node_eligible, said)
    }

    /// For the kubelet: whether this proxy does its work, and the words to it.
    pub fn livez(&self) -> (bool, Value) {
        (self.is_healthy, self.said())
    }

    /// For whoever waits for it: whether all that is known has been served once, in words as [`Report::livez`].
    pub fn readyz(&self) -> (bool, Value) {
        (self.is_healthy && self.has_served, self.said())
    }

    /// For people: all of it at once, with how much is known of what, and how pods on other nodes are reached.
    pub fn status(&self, known: &[(&'static str, i64)], routing: Value) -> Value {
        let mut said = self.said();
        if let Some(said) = said.as_object_mut() {
            said.insert("version".into(), env!("CARGO_PKG_VERSION").into());
            said.insert("ready".into(), self.readyz().0.into());
            said.insert("nodeEligible".into(), self.is_node_eligible.into());
            said.extend(known.iter().map(|(what, count)| ((*what).to_owned(), (*count).into())));
            said.insert("routing".into(), routing);
        }
        said
    }

    fn said(&self) -> Value {
        let last_updated = written(self.last_updated);
        let family = json!({"lastUpdated": last_updated, "healthy": self.is_healthy});
        json!({
            "lastUpdated": last_updated,
            "currentTime": written(self.now),
            "healthy": self.is_healthy,
            "status": {"IPv4": family, "IPv6": family},
        })
    }
}

/// A time as RFC 3339 writes it.
fn written(time: SystemTime) -> String {
    Timestamp::try_from(time).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn report(is_healthy: bool, is_node_eligible: bool) -> Report {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Report {
            last_updated: at(1_700_000_000),
            now: at(1_700_000_060),
            is_healthy,
            is_node_eligible,
            has_served: true,
        }
    }

    #[test]
    fn a_healthy_proxy_says_when_it_served_last() {
        let (is_well, said) = report(true, true).healthz();

        assert!(is_well);
        let family = json!({"lastUpdated": "2023-11-14T22:13:20Z", "healthy": true});
        assert_eq!(
            said,
            json!({
                "lastUpdated": "2023-11-14T22:13:20Z", "currentTime": "2023-11-14T22:14:20Z",
                "healthy": true, "nodeEligible": true, "status": {"IPv4": family, "IPv6": family},
            })
        );
    }

    #[test]
    fn it_is_ready_once_everything_was_served() {
        assert!(report(true, true).readyz().0);
        assert!(!Report { has_served: false, ..report(true, true) }.readyz().0);
    }

    #[test]
    fn people_are_told_all_of_it_at_once() {
        let said = Report { has_served: false, ..report(true, false) }
            .status(&[("services", 3)], json!({"mode": "auto"}));

        assert_eq!(said.get("healthy"), Some(&true.into()));
        assert_eq!((said.get("ready"), said.get("nodeEligible")), (Some(&false.into()), Some(&false.into())));
        assert_eq!(
            (said.get("services"), said.get("version")),
            (Some(&3.into()), Some(&env!("CARGO_PKG_VERSION").into()))
        );
        assert_eq!(said.get("routing"), Some(&json!({"mode": "auto"})));
    }

    #[test]
    fn a_node_that_leaves_is_left_by_load_balancers_and_not_ended_by_the_kubelet() {
        let leaving = report(true, false);

        assert_eq!((leaving.healthz().0, leaving.livez().0), (false, true));
        assert!(leaving.livez().1.get("nodeEligible").is_none());
        assert_eq!((report(false, true).healthz().0, report(false, true).livez().0), (false, false));
    }
}
