//! What is known of nodes, this one above all.

use super::*;

/// This node, or another, of these pod CIDRs, at that address.
fn node(name: &str, pod_cidrs: &[&str], address: &str) -> Event {
    parse(json!({
        "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": pod_cidrs},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }))
}

#[test]
fn this_node_stays_as_it_was_known_last_while_its_object_is_gone_or_made_anew_without_pod_cidrs() {
    let mut state = State::new("m");
    let name = ObjectName { namespace: "".into(), name: "m".into() };
    let known = |state: &State| {
        let Surroundings { pod_cidrs, node_ips, .. } = state.surroundings();
        (pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), node_ips)
    };
    let [at_50, at_51] = ["192.168.14.50", "192.168.14.51"].map(|ip| vec![ip.parse().unwrap()]);
    state.apply(node("w1", &["10.244.1.0/24"], "192.168.14.60"));
    assert_eq!((known(&state), state.own_as_known()), ((String::new(), vec![]), None));

    state.apply(node("m", &[], "192.168.14.50"));
    assert_eq!(known(&state), (String::new(), at_50.clone()));
    state.apply(node("m", &["10.244.0.0/24"], "192.168.14.50"));
    assert_eq!(known(&state), ("10.244.0.0/24".into(), at_50.clone()));

    let gone = state.apply(Event::gone(Kind::Node, name));
    assert_eq!((gone.nodes, gone.surroundings, state.own()), (true, false, None));
    assert_eq!(known(&state), ("10.244.0.0/24".into(), at_50));
    state.apply(node("m", &[], "192.168.14.51"));
    assert_eq!(known(&state), ("10.244.0.0/24".into(), at_51.clone()));
    state.apply(node("m", &["10.244.7.0/24"], "192.168.14.51"));
    assert_eq!(known(&state), ("10.244.7.0/24".into(), at_51));
}

#[test]
fn a_new_zone_or_address_of_this_node_touches_every_service() {
    let web = || service("web", json!({}));

    for changed in [own_node(Some("west"), "10.2.0.1"), own_node(Some("east"), "10.2.0.2")] {
        let mut state = State::new("m");
        state.apply(web());
        state.apply(own_node(Some("east"), "10.2.0.1"));
        assert_eq!(state.apply(changed).take_service_ports().len(), 1);
        let other = state.apply(parse(json!({"kind": "Node", "metadata": {"name": "w1"}})));
        assert_eq!(
            other,
            Touched { nodes: true, node_names: BTreeSet::from(["w1".into()]), ..Touched::default() }
        );
    }
}
