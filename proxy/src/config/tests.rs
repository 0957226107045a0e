use super::*;

fn parse(arguments: &str) -> Result<Config, String> {
    let arguments = std::iter::once("fairway-proxy").chain(arguments.split_whitespace());
    Config::try_parse_from(arguments).map_err(|error| error.to_string())
}

#[test]
fn defaults_are_the_places_that_users_know() {
    let config = parse("--manifests /etc/fairway").unwrap();

    assert_eq!(config.manifests, Some("/etc/fairway".into()));
    assert_eq!(config.run_dir, PathBuf::from("/run/fairway"));
    assert_eq!(config.cni_conf_dir, PathBuf::from("/etc/cni/net.d"));
    assert_eq!(config.routes, RouteMode::Auto);
    assert!(!config.install_cni && !config.masquerade_all && !config.cleanup);
}

#[test]
fn durations_are_written_as_in_kubernetes() {
    let period = |flag: &str| parse(flag).map(|config| config.audit_period.as_millis());

    assert_eq!(period(""), Ok(600_000));
    assert_eq!(period("--audit-period 0"), Ok(0));
    assert_eq!(period("--audit-period 1h30m"), Ok(5_400_000));
    assert_eq!(period("--audit-period 1s500ms"), Ok(1_500));
    for wrong in ["10", "m", "1d", "-1s", "1.5h"] {
        let said = period(&format!("--audit-period={wrong}")).unwrap_err();
        assert!(said.contains("must be a duration such as 10m"), "{said}");
    }
}

#[test]
fn flags_are_written_as_for_kube_proxy() {
    let config =
        parse("--masquerade-all=true --v=4 --cluster-cidr=10.244.0.0/16,fd00::/56 --install-cni").unwrap();

    assert!(config.masquerade_all && config.install_cni);
    assert_eq!(config.log_level(), Level::DEBUG);
    assert_eq!(config.cluster_cidr, ["10.244.0.0/16".parse().unwrap(), "fd00::/56".parse().unwrap()]);
    assert!(parse("--cleanup").unwrap().cleanup);
    assert_eq!(parse("-v 6").unwrap().log_level(), Level::TRACE);
}

#[test]
fn addresses_of_node_ports_are_written_as_for_kube_proxy() {
    let addresses = |flag: &str| parse(flag).map(|config| config.nodeport_addresses);

    assert_eq!(addresses(""), Ok(NodePortAddresses::All));
    assert_eq!(addresses("--nodeport-addresses=primary"), Ok(NodePortAddresses::Primary));
    let cidrs = ["192.168.14.0/24", "fd00:14::/64"].map(|cidr| cidr.parse().unwrap());
    assert_eq!(
        addresses("--nodeport-addresses=192.168.14.50/24,fd00:14::/64"),
        Ok(NodePortAddresses::Cidrs(cidrs.into()))
    );
    assert!(addresses("--nodeport-addresses=eth0").unwrap_err().contains("must be all, primary, or CIDRs"));
}

#[test]
fn a_way_to_detect_local_pods_needs_what_it_goes_by() {
    let mode = |flags: &str| parse(flags).map(|config| config.detect_local_mode);

    assert_eq!(mode(""), Ok(DetectLocalMode::ClusterCidr));
    assert!(mode("--detect-local-mode=BridgeInterface").unwrap_err().contains("--pod-bridge-interface"));
    assert_eq!(
        mode("--detect-local-mode=InterfaceNamePrefix --pod-interface-name-prefix=fw"),
        Ok(DetectLocalMode::InterfaceNamePrefix)
    );
    assert!(mode("--detect-local-mode=Magic").unwrap_err().contains("must be ClusterCIDR"));
}

#[test]
fn external_ips_can_be_kept_within_networks() {
    let external = |flag: &str| parse(flag).map(|config| config.external_ips);

    assert_eq!(external(""), Ok(ExternalIps::All));
    assert_eq!(external("--external-ips=none"), Ok(ExternalIps::Within(Vec::new())));
    let network = "203.0.113.0/24".parse().unwrap();
    assert_eq!(external("--external-ips=203.0.113.7/24"), Ok(ExternalIps::Within(vec![network])));
    assert!(external("--external-ips=some").unwrap_err().contains("must be all, none, or CIDRs"));
}

#[test]
fn an_empty_name_of_the_node_is_none() {
    assert_eq!(parse("--hostname-override=").unwrap().node_name("w1"), "w1");
}

#[test]
fn the_node_s_name_is_trimmed_and_lower_cased() {
    assert_eq!(parse("").unwrap().node_name("W1\n"), "w1");
    assert_eq!(parse("--hostname-override Node-7").unwrap().node_name("w1"), "node-7");
}

#[test]
fn what_is_not_supported_is_told_clearly() {
    assert!(parse("--routes vxlan").unwrap_err().contains("not supported yet"));
    assert!(parse("--routes sometimes").unwrap_err().contains("must be auto, direct or none"));
    assert!(parse("--cluster-cidr 10.244.0.0").unwrap_err().contains("must be a CIDR"));
    assert!(parse("--proxy-mode iptables").unwrap_err().contains("--proxy-mode"));
}
