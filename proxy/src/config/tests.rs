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
    assert_eq!(config.cluster_cidr.0, ["10.244.0.0/16".parse().unwrap(), "fd00::/56".parse().unwrap()]);
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
fn networks_may_see_pods_as_they_are() {
    let excepted = |flag: &str| parse(flag).map(|config| config.non_masquerade_cidrs.0);
    let networks = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());

    assert_eq!(excepted(""), Ok(Vec::new()));
    assert_eq!(excepted("--non-masquerade-cidrs=10.1.2.3/8,fd00::/8"), Ok(networks.into()));
    assert!(excepted("--non-masquerade-cidrs=10.0.0.0").unwrap_err().contains("must be a CIDR"));
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
    assert!(parse("--routes sometimes").unwrap_err().contains("must be auto, vxlan, direct or none"));
    assert!(parse("--cluster-cidr 10.244.0.0").unwrap_err().contains("must be a CIDR"));
    assert!(parse("--proxy-mode userspace").unwrap_err().contains("iptables, ipvs, nftables"));
    assert!(parse("--healthz-bind-address 10256").unwrap_err().contains("an address and a port"));
}

fn with_file(arguments: &str, file: &str) -> Result<(Config, Vec<Notice>), Error> {
    let arguments = std::iter::once("fairway-proxy").chain(arguments.split_whitespace()).map(OsString::from);
    Config::of(arguments, |path| {
        assert_eq!(path, Path::new("/conf"));
        Ok(format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{file}"))
    })
}

#[test]
fn a_configuration_file_makes_kube_proxy_s_other_flags_void_and_leaves_ours() {
    let flags = "--config=/conf --cluster-cidr=10.9.0.0/16 --v=4 --routes=none --hostname-override=w1";
    let (config, notices) = with_file(flags, "clusterCIDR: 10.244.0.0/16\nhostnameOverride: other").unwrap();

    assert_eq!(config.cluster_cidr.0, ["10.244.0.0/16".parse().unwrap()]);
    assert_eq!((config.verbosity, config.routes), (4, RouteMode::None));
    assert_eq!(config.node_name("host"), "w1");
    let subjects: Vec<_> = notices.iter().map(|notice| notice.subject.as_str()).collect();
    assert_eq!(subjects, ["cluster-cidr"]);
    assert_eq!(with_file("--config=/conf", "hostnameOverride: other").unwrap().0.node_name("host"), "other");
}

#[test]
fn what_a_configuration_file_does_not_say_is_kube_proxy_s_default() {
    let (config, _) = with_file("--config=/conf --masquerade-all", "mode: nftables").unwrap();

    assert!(!config.masquerade_all);
    assert!(config.cluster_cidr.0.is_empty());
    assert_eq!(config.nodeport_addresses, NodePortAddresses::All);
    assert_eq!(config.access().kubeconfig(), None);
}

#[test]
fn a_field_that_makes_no_sense_is_told_with_the_file() {
    let said = with_file("--config=/conf", "clusterCIDR: everywhere").unwrap_err().to_string();

    assert!(said.starts_with("configuration file /conf: "), "{said}");
    assert!(said.contains("cluster-cidr") && said.contains("must be a CIDR"), "{said}");
}

#[test]
fn kube_proxy_s_flags_that_mean_nothing_here_are_accepted() {
    let flags = "--proxy-mode=iptables --feature-gates=A=true --iptables-min-sync-period=1s --kube-api-qps=5 --bind-address=0.0.0.0";
    assert!(parse(flags).is_ok());
}
