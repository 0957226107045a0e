//! The configuration that is in force, as kube-proxy's configuration file says it: the way back from [`super::file`].
//!
//! In: a configuration. Out: YAML, and what the format has no words for. Flags that are Fairway's own are not in it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Config, DetectLocalMode, ListenAddress, NodePortAddresses, Notice};

/// Writes it down.
pub fn write(config: &Config) -> Result<(String, Vec<Notice>), serde_saphyr::SerializeError> {
    let yaml = serde_saphyr::to_string(&file(config))?;
    let addresses = [
        ("healthzBindAddress", config.healthz_bind_address),
        ("metricsBindAddress", config.metrics_bind_address),
    ];
    let unsaid = addresses.into_iter().filter(|(_, address)| address.0.is_none());
    let notices = unsaid.map(|(field, _)| Notice {
        subject: field.into(),
        reason: "not written: the file has no word for none, and an empty one is the default".into(),
    });
    Ok((yaml, notices.collect()))
}

fn file(config: &Config) -> Value {
    let conntrack = &config.conntrack;
    let address = |address: ListenAddress| address.0.map(|address| address.to_string()).unwrap_or_default();
    let node_port_addresses = match &config.nodeport_addresses {
        NodePortAddresses::All => Vec::new(),
        NodePortAddresses::Primary => vec!["primary".to_owned()],
        NodePortAddresses::Cidrs(cidrs) => cidrs.iter().map(ToString::to_string).collect(),
    };
    let cluster_cidrs: Vec<_> = config.cluster_cidr.0.iter().map(ToString::to_string).collect();
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": "0.0.0.0",
        "bindAddressHardFail": config.bind_address_hard_fail,
        "clientConnection": { "kubeconfig": config.kubeconfig.as_deref().unwrap_or_default() },
        "clusterCIDR": cluster_cidrs.join(","),
        "conntrack": {
            "maxPerCore": conntrack.max_per_core,
            "min": conntrack.min,
            "tcpBeLiberal": conntrack.tcp_be_liberal,
            "tcpCloseWaitTimeout": duration(conntrack.tcp_timeout_close_wait),
            "tcpEstablishedTimeout": duration(conntrack.tcp_timeout_established),
            "udpStreamTimeout": duration(conntrack.udp_timeout_stream),
            "udpTimeout": duration(conntrack.udp_timeout),
        },
        "detectLocal": {
            "bridgeInterface": config.pod_bridge_interface.as_deref().unwrap_or_default(),
            "interfaceNamePrefix": config.pod_interface_name_prefix.as_deref().unwrap_or_default(),
        },
        "detectLocalMode": match config.detect_local_mode {
            DetectLocalMode::ClusterCidr => "ClusterCIDR",
            DetectLocalMode::NodeCidr => "NodeCIDR",
            DetectLocalMode::BridgeInterface => "BridgeInterface",
            DetectLocalMode::InterfaceNamePrefix => "InterfaceNamePrefix",
        },
        "healthzBindAddress": address(config.healthz_bind_address),
        "hostnameOverride": config.hostname_override.as_deref().unwrap_or_default(),
        "iptables": { "localhostNodePorts": config.localhost_node_ports, "masqueradeAll": config.masquerade_all },
        "metricsBindAddress": address(config.metrics_bind_address),
        "mode": mode(config),
        "nftables": { "masqueradeAll": config.masquerade_all },
        "nodePortAddresses": node_port_addresses,
        "oomScoreAdj": config.oom_score_adj,
    })
}

/// The mode of kube-proxy's that does the same: only that of iptables serves node ports on localhost.
fn mode(config: &Config) -> &str {
    match config.proxy_mode.as_str() {
        _ if config.localhost_node_ports => "iptables",
        "" => "nftables",
        mode => mode,
    }
}

/// A duration as Go writes it, but whole milliseconds in a word of their own.
fn duration(duration: Duration) -> String {
    let (seconds, milliseconds) = (duration.as_secs(), duration.subsec_millis());
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let parts = [
        (hours > 0).then(|| format!("{hours}h")),
        (hours > 0 || minutes > 0).then(|| format!("{minutes}m")),
        Some(format!("{seconds}s")),
        (milliseconds > 0).then(|| format!("{milliseconds}ms")),
    ];
    parts.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of(flags: &str, file: Option<&str>) -> Config {
        let flags = std::iter::once("fairway-proxy").chain(flags.split_whitespace()).map(Into::into);
        let read = |path: &Path| {
            assert_eq!(path, Path::new("/conf"));
            Ok(file.unwrap().to_owned())
        };
        Config::of(flags, read).unwrap().0
    }

    #[test]
    fn what_is_written_is_read_as_what_was_meant() {
        for flags in [
            "",
            "--masquerade-all --cluster-cidr=10.244.0.0/16,fd00::/56 --hostname-override=w1 --kubeconfig=/k",
            "--localhost-node-ports --nodeport-addresses=192.168.14.0/24,10.0.0.0/8 --oom-score-adj=-5",
            "--detect-local-mode=BridgeInterface --pod-bridge-interface=cni0 --nodeport-addresses=primary",
            "--detect-local-mode=InterfaceNamePrefix --pod-interface-name-prefix=fw --bind-address-hard-fail",
            "--conntrack-min=0 --conntrack-max-per-core=7 --conntrack-tcp-be-liberal --conntrack-udp-timeout=90s500ms",
            "--conntrack-tcp-timeout-established=25h --conntrack-tcp-timeout-close-wait=0 --proxy-mode=ipvs",
            "--healthz-bind-address=[::]:1 --metrics-bind-address=127.0.0.1:2",
        ] {
            let meant = of(flags, None);

            let (yaml, notices) = write(&meant).unwrap();

            let read = of("--config=/conf", Some(&yaml));
            let same = |config: &Config| Config {
                config: None,
                proxy_mode: String::new(),
                kubeconfig: config.kubeconfig.clone().filter(|path| !path.is_empty()),
                ..config.clone()
            };
            assert_eq!(same(&read), same(&meant), "{flags}\n{yaml}");
            assert!(notices.is_empty());
        }
    }

    #[test]
    fn what_a_file_cannot_say_is_told() {
        let (_, notices) = write(&of("--healthz-bind-address=", None)).unwrap();

        let subjects: Vec<_> = notices.iter().map(|notice| notice.subject.as_str()).collect();
        assert_eq!(subjects, ["healthzBindAddress"]);
    }

    #[test]
    fn durations_are_written_as_go_does() {
        let text = |seconds| duration(Duration::from_secs(seconds));

        assert_eq!([text(0), text(61), text(86_400)], ["0s", "1m1s", "24h0m0s"]);
    }
}
