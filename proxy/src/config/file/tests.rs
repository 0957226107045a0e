use super::*;

/// As kubeadm writes it.
const KUBEADM: &str = "
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: \"\"
  burst: 0
  contentType: \"\"
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: 12h0m0s
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: \"\"
  interfaceNamePrefix: \"\"
detectLocalMode: \"\"
enableProfiling: false
healthzBindAddress: \"\"
hostnameOverride: \"\"
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  scheduler: \"\"
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options: {json: {infoBufferSize: \"0\"}}
  verbosity: 0
metricsBindAddress: \"\"
mode: \"\"
nftables:
  masqueradeAll: false
  masqueradeBit: null
nodePortAddresses: null
oomScoreAdj: null
portRange: \"\"
showHiddenMetricsForVersion: \"\"
winkernel:
  enableDSR: false
";

fn file(fields: &str) -> Translation {
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    translate(&format!("{head}{fields}")).unwrap()
}

#[track_caller]
fn check_has(translation: &Translation, flags: &[&str]) {
    for flag in flags {
        assert!(translation.flags.iter().any(|found| found == flag), "no {flag} in {:#?}", translation.flags);
    }
}

#[test]
fn kubeadm_s_file_is_taken_as_it_is() {
    let translation = translate(KUBEADM).unwrap();

    assert_eq!((translation.unknown.as_slice(), translation.idle.as_slice()), (&[][..], &[][..]));
    check_has(
        &translation,
        &[
            "--kubeconfig=/var/lib/kube-proxy/kubeconfig.conf",
            "--cluster-cidr=10.244.0.0/16,fd00:10:244::/56",
            "--conntrack-tcp-timeout-established=12h0m0s",
            "--conntrack-max-per-core=32768",
            "--nodeport-addresses=",
            "--localhost-node-ports=true",
            "--healthz-bind-address=0.0.0.0:10256",
        ],
    );
}

#[test]
fn what_is_not_said_is_as_kube_proxy_has_it() {
    check_has(
        &file("mode: nftables"),
        &[
            "--healthz-bind-address=0.0.0.0:10256",
            "--metrics-bind-address=127.0.0.1:10249",
            "--oom-score-adj=-999",
            "--localhost-node-ports=false",
            "--detect-local-mode=ClusterCIDR",
        ],
    );
}

#[test]
fn addresses_get_the_port_and_the_family_that_kube_proxy_gives_them() {
    let six = file("bindAddress: \"::\"\nmetricsBindAddress: 0.0.0.0");
    check_has(&six, &["--healthz-bind-address=[::]:10256", "--metrics-bind-address=0.0.0.0:10249"]);
    check_has(&file("healthzBindAddress: \"::1\""), &["--healthz-bind-address=[::1]:10256"]);
}

#[test]
fn each_mode_has_its_own_way_to_masquerade_all() {
    check_has(&file("mode: nftables\niptables: {masqueradeAll: true}"), &["--masquerade-all=false"]);
    check_has(&file("mode: nftables\nnftables: {masqueradeAll: true}"), &["--masquerade-all=true"]);
    check_has(&file("iptables: {masqueradeAll: true}"), &["--masquerade-all=true"]);
}

#[test]
fn fields_that_nobody_knows_are_named_and_ignored() {
    let translation = file("clusterCIDR: 10.244.0.0/16\nclusterCidr: x\nconntrack: {maxPerCpu: 5}");

    assert_eq!(translation.unknown, ["clusterCidr", "conntrack.maxPerCpu"]);
    check_has(&translation, &["--cluster-cidr=10.244.0.0/16"]);
}

#[test]
fn what_has_no_meaning_here_is_named_with_the_reason() {
    let translation =
        file("mode: ipvs\niptables: {masqueradeBit: 15}\nfeatureGates: {A: true}\nenableProfiling: true");

    let fields: Vec<_> = translation.idle.iter().map(|(field, _)| *field).collect();
    assert_eq!(fields, ["masqueradeBit", "featureGates", "enableProfiling", "mode"]);
}

#[test]
fn what_is_no_such_file_is_an_error_that_says_what_it_is() {
    let said = |text: &str| translate(text).unwrap_err().to_string();

    assert!(said("kind: [").contains("line"), "{}", said("kind: ["));
    let other = said("apiVersion: v1\nkind: ConfigMap");
    assert_eq!(
        other,
        "it is a ConfigMap of v1, not a KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1"
    );
    let wrong = said("conntrack: {min: many}");
    assert!(wrong.contains("many"), "{wrong}");
}
