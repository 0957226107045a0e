//! Host ports, as the runtime asks for them: the capability `portMappings`.
//!
//! In: the whole configuration. Out: mappings that fit together. Nothing is known yet of the pod's addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use dataplane::{host_ports::HostPort, packet::Protocol};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Error, key};

/// A port of the node that is to lead to one of the pod. Also kept in the lease's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The protocol.
    pub protocol: Protocol,
    /// The address that the port is of; nothing: all of both families; `0.0.0.0` or `::`: all of that family.
    #[serde(default, rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeConfig {
    port_mappings: Option<Vec<Raw>>,
}

/// Reference plugins do not tell upper case from lower in keys, and containerd writes them as its fields are called. // go-cni `types.go`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default, alias = "HostPort")]
    host_port: i64,
    #[serde(alias = "ContainerPort")]
    container_port: i64,
    #[serde(alias = "Protocol")]
    protocol: Option<String>,
    #[serde(rename = "hostIP", alias = "HostIP")]
    host_ip: Option<String>,
}

/// Reads the mappings. Those whose host port is 0 are no mappings: kubelet passes all ports of a container on.
pub(super) fn parse(whole: &Value) -> Result<Vec<PortMapping>, Error> {
    let runtime: RuntimeConfig = key(whole, "runtimeConfig")?.unwrap_or_default();
    let mapped = runtime.port_mappings.into_iter().flatten().filter(|raw| raw.host_port != 0);
    let mut mappings: Vec<PortMapping> = Vec::new();
    for raw in mapped {
        let mapping = raw.parse()?;
        if let Some(other) = mappings.iter().find(|other| other.overlaps(&mapping)) {
            return Err(Error::PortMapping(format!("{other} and {mapping} are one host port: name it once")));
        }
        mappings.push(mapping);
    }
    Ok(mappings)
}

impl Raw {
    fn parse(self) -> Result<PortMapping, Error> {
        let port = |what, number: i64| match u16::try_from(number) {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(Error::PortMapping(format!("{what} {number}: 1 to 65535"))),
        };
        let protocol = match self.protocol.unwrap_or_default().to_ascii_lowercase().as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => {
                return Err(Error::Unsupported {
                    key: "runtimeConfig.portMappings.protocol".to_owned(),
                    value: other.to_owned(),
                    reason: "tcp, udp or sctp",
                });
            }
        };
        let address = |value: String| {
            let key = "runtimeConfig.portMappings.hostIP";
            match value.parse() {
                Ok(IpAddr::V6(Ipv6Addr::LOCALHOST)) => Err(Error::Unsupported {
                    key: key.to_owned(),
                    value,
                    reason: "the kernel leads nothing from there to a pod",
                }),
                Ok(address) => Ok(address),
                Err(_) => Err(Error::Address { key, value }),
            }
        };
        Ok(PortMapping {
            protocol,
            host_ip: self.host_ip.filter(|text| !text.is_empty()).map(address).transpose()?,
            host_port: port("hostPort", self.host_port)?,
            container_port: port("containerPort", self.container_port)?,
        })
    }
}

impl PortMapping {
    /// The host ports of a pod that has these addresses: one for its first address of each family that is meant.
    pub fn host_ports(&self, addresses: &[IpAddr]) -> Vec<HostPort> {
        let first = |is_ipv4| addresses.iter().copied().find(|address| address.is_ipv4() == is_ipv4);
        let meant = [true, false].into_iter().filter_map(first).filter(|pod| self.means(*pod));
        let led = meant.map(|pod| HostPort {
            protocol: self.protocol,
            host_ip: self.host_ip.filter(|address| !address.is_unspecified()),
            host_port: self.host_port,
            pod: (pod, self.container_port).into(),
        });
        led.collect()
    }

    fn means(&self, pod: IpAddr) -> bool {
        self.host_ip.is_none_or(|address| address.is_ipv4() == pod.is_ipv4())
    }

    fn overlaps(&self, other: &Self) -> bool {
        let is_one_address = match (self.host_ip, other.host_ip) {
            (Some(one), Some(other)) => {
                one == other
                    || one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified())
            }
            _ => true,
        };
        is_one_address && (self.protocol, self.host_port) == (other.protocol, other.host_port)
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host_port, self.protocol)?;
        self.host_ip.map_or(Ok(()), |address| write!(f, " on {address}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(mappings: &Value) -> Result<Vec<PortMapping>, Error> {
        parse(&json!({ "runtimeConfig": { "portMappings": mappings } }))
    }

    /// What the host ports of a pod with an address of each family are.
    fn mapped(mapping: &Value) -> Vec<String> {
        let addresses = ["10.0.0.2", "fd00::2"].map(|address| address.parse().unwrap());
        let mappings = parsed(&json!([mapping])).unwrap();
        let all = mappings.iter().flat_map(|mapping| mapping.host_ports(&addresses));
        all.map(|port| format!("{port} to {}", port.pod)).collect()
    }

    fn refused(mappings: &Value) -> String {
        parsed(mappings).unwrap_err().to_string()
    }

    #[test]
    fn a_host_port_is_of_all_addresses_of_a_family_or_of_one() {
        let with =
            |ip: &str| json!({ "hostPort": 80, "containerPort": 8080, "protocol": "TCP", "hostIP": ip });

        let both = ["80/tcp to 10.0.0.2:8080", "80/tcp to [fd00::2]:8080"];
        assert_eq!(mapped(&json!({ "hostPort": 80, "containerPort": 8080 })), both);
        assert_eq!(mapped(&with("")), both);
        assert_eq!(mapped(&with("0.0.0.0")), both[..1]);
        assert_eq!(mapped(&with("::")), both[1..]);
        assert_eq!(mapped(&with("192.0.2.1")), ["80/tcp on 192.0.2.1 to 10.0.0.2:8080"]);
        assert_eq!(mapped(&with("2001:db8::1")), ["80/tcp on 2001:db8::1 to [fd00::2]:8080"]);
    }

    #[test]
    fn a_mapping_is_read_as_containerd_writes_it() {
        let mapping =
            json!({ "HostPort": 80, "ContainerPort": 8080, "Protocol": "udp", "HostIP": "192.0.2.1" });

        assert_eq!(mapped(&mapping), ["80/udp on 192.0.2.1 to 10.0.0.2:8080"]);
    }

    #[test]
    fn a_container_s_port_without_a_host_port_is_no_mapping() {
        assert_eq!(
            parsed(&json!([{ "hostPort": 0, "containerPort": 80 }, { "containerPort": 81 }])).unwrap(),
            []
        );
        assert_eq!(parsed(&Value::Null).unwrap(), []);
    }

    #[test]
    fn what_is_no_port_is_refused() {
        let with = |host: i64, pod: i64| json!([{ "hostPort": host, "containerPort": pod }]);

        assert_eq!(refused(&with(65_536, 80)), "runtimeConfig.portMappings: hostPort 65536: 1 to 65535");
        assert_eq!(refused(&with(-1, 80)), "runtimeConfig.portMappings: hostPort -1: 1 to 65535");
        assert_eq!(refused(&with(80, 0)), "runtimeConfig.portMappings: containerPort 0: 1 to 65535");
        assert_eq!(
            refused(&json!([{ "hostPort": 80, "containerPort": 80, "protocol": "icmp" }])),
            "runtimeConfig.portMappings.protocol=icmp: tcp, udp or sctp"
        );
        assert_eq!(
            refused(&json!([{ "hostPort": 80, "containerPort": 80, "hostIP": "here" }])),
            "runtimeConfig.portMappings.hostIP: \"here\" is no address"
        );
        assert_eq!(
            refused(&json!([{ "hostPort": 80, "containerPort": 80, "hostIP": "::1" }])),
            "runtimeConfig.portMappings.hostIP=::1: the kernel leads nothing from there to a pod"
        );
    }

    #[test]
    fn a_host_port_is_named_once() {
        let pair = |one: &str, other: &str| {
            let with = |ip: &str, to| json!({ "hostPort": 80, "containerPort": to, "hostIP": ip });
            parsed(&json!([with(one, 8080), with(other, 8081)]))
        };

        assert_eq!(
            pair("", "192.0.2.1").unwrap_err().to_string(),
            "runtimeConfig.portMappings: 80/tcp and 80/tcp on 192.0.2.1 are one host port: name it once"
        );
        assert!(pair("0.0.0.0", "192.0.2.1").is_err());
        assert!(pair("192.0.2.1", "192.0.2.1").is_err());
        assert!(pair("192.0.2.1", "192.0.2.2").is_ok());
        assert!(pair("0.0.0.0", "::").is_ok());
    }
}
