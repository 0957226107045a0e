//! Which service ports have endpoints, but none on this node, where a traffic policy asks for some. Pure.
//!
//! Their traffic is dropped here, so somebody may want to know how many there are.

use std::collections::{BTreeMap, BTreeSet};

use crate::service_port::{Family, ServicePort, ServicePortName, TrafficPolicy};

/// Service ports by family and by what is dropped: what is for the cluster IP, what is for other addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WithoutLocal {
    internal: BTreeMap<Family, BTreeSet<ServicePortName>>,
    external: BTreeMap<Family, BTreeSet<ServicePortName>>,
}

impl WithoutLocal {
    /// Takes note of a service port as it is now.
    pub fn set(&mut self, name: &ServicePortName, family: Family, port: Option<&ServicePort>) {
        let lacking = port.filter(|port| port.has_endpoints && port.local_endpoints.is_empty());
        let is_internal = lacking.is_some_and(|port| port.internal_policy == TrafficPolicy::Local);
        let is_external = lacking.is_some_and(ServicePort::is_split);
        for (names, is_one) in [(&mut self.internal, is_internal), (&mut self.external, is_external)] {
            if is_one {
                names.entry(family).or_default().insert(name.clone());
            } else if let Some(names) = names.get_mut(&family) {
                names.remove(name);
            }
        }
    }

    /// How many they are in a family: by internal policy, by external policy.
    pub fn counts(&self, family: Family) -> (usize, usize) {
        let count = |names: &BTreeMap<_, BTreeSet<_>>| names.get(&family).map_or(0, BTreeSet::len);
        (count(&self.internal), count(&self.external))
    }
}

#[cfg(test)]
mod tests {
    use dataplane::packet::Protocol;

    use super::*;
    use crate::service_port::Endpoint;

    #[test]
    fn only_those_count_that_have_endpoints_elsewhere_and_want_local_ones() {
        let name = ServicePortName {
            namespace: "shop".into(),
            name: "web".into(),
            port: "".into(),
            protocol: Protocol::Tcp,
        };
        let remote = Endpoint::new("10.244.2.2:80".parse().unwrap(), false);
        let cluster = ServicePort::new("10.96.0.1".parse().unwrap(), 80, vec![remote]);
        let local = ServicePort {
            internal_policy: TrafficPolicy::Local,
            external_policy: TrafficPolicy::Local,
            node_port: Some(30080),
            ..cluster.clone()
        };
        let here =
            ServicePort { local_endpoints: vec![Endpoint { is_local: true, ..remote }], ..local.clone() };
        let nowhere = ServicePort { has_endpoints: false, ..local.clone() };
        let mut without = WithoutLocal::default();

        let mut counts = |port: Option<&ServicePort>| {
            without.set(&name, Family::Ip, port);
            without.counts(Family::Ip)
        };

        assert_eq!(counts(Some(&cluster)), (0, 0));
        assert_eq!(counts(Some(&local)), (1, 1));
        assert_eq!(counts(Some(&here)), (0, 0));
        assert_eq!(counts(Some(&local)), (1, 1));
        assert_eq!(counts(Some(&nowhere)), (0, 0));
        assert_eq!(counts(Some(&ServicePort { node_port: None, ..local })), (1, 0));
        assert_eq!(counts(None), (0, 0));
    }
}
