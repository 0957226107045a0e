//! What ADD returns, in each version of the specification.
//!
//! In: links, addresses, routes as values, or an earlier result as JSON. Out: the same as JSON, with what the version has.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::spec::SpecVersion;

/// What a list of plugins made: a success result of the specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddResult {
    /// Links, on the host and in the pod.
    #[serde(default, deserialize_with = "none_if_null")]
    pub interfaces: Vec<Interface>,
    /// The pod's addresses.
    #[serde(default, deserialize_with = "none_if_null")]
    pub ips: Vec<Ip>,
    /// The pod's routes.
    #[serde(default, deserialize_with = "none_if_null")]
    pub routes: Vec<Route>,
    /// Name servers and such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Value>,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The largest packet it takes. Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The network namespace that it is in; nothing on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// What earlier plugins said beyond this. Since 1.1.0.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// An address of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// Which of the links has it, by place in the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// The address.
    pub address: IpNetwork,
    /// Through whom it reaches others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: IpNetwork,
    /// Through whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// What else there is to it. Since 1.1.0.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Go prints a list that was never made as `null`.
fn none_if_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(list: D) -> Result<Vec<T>, D::Error> {
    Option::deserialize(list).map(Option::unwrap_or_default)
}

impl AddResult {
    /// Reads a result of any version that the plugin speaks.
    pub fn parse(value: Value) -> Result<Self, serde_json::Error> {
        if value.get("ip4").or(value.get("ip6")).is_some() {
            return serde_json::from_value(value).map(AddressResult::into_result);
        }
        serde_json::from_value(value)
    }

    /// Adds what this plugin made to what the plugins before it made.
    #[must_use]
    pub fn after(self, earlier: Self) -> Self {
        let moved = earlier.interfaces.len();
        let ips = self.ips.into_iter().map(|ip| Ip { interface: ip.interface.map(|i| i + moved), ..ip });
        Self {
            ips: earlier.ips.into_iter().chain(ips).collect(),
            interfaces: earlier.interfaces.into_iter().chain(self.interfaces).collect(),
            routes: earlier.routes.into_iter().chain(self.routes).collect(),
            dns: self.dns.or(earlier.dns),
        }
    }

    /// Prints it in a version.
    pub fn to_json(&self, version: SpecVersion) -> String {
        if version.is_of_addresses_only() {
            return AddressResult::of(self, version).to_json();
        }
        let mut this = self.clone();
        if version < SpecVersion::V1_1_0 {
            for interface in &mut this.interfaces {
                (interface.mtu, interface.rest) = (None, Map::new());
            }
            for route in &mut this.routes {
                route.rest.clear();
            }
        }
        let mut ips: Vec<Value> = this.ips.iter().map(|ip| json!(ip)).collect();
        if version < SpecVersion::V1_0_0 {
            for (value, ip) in ips.iter_mut().zip(&this.ips) {
                let family = if ip.address.is_ipv4() { "4" } else { "6" };
                value.as_object_mut().map(|ip| ip.insert("version".to_owned(), family.into()));
            }
        }
        let mut result = json!(this);
        if let Some(object) = result.as_object_mut() {
            object.insert("cniVersion".to_owned(), version.as_str().into());
            object.insert("ips".to_owned(), ips.into());
        }
        format!("{result:#}\n")
    }
}

/// A result before 0.3.0: one address of each family, each with its routes, and no links.
#[derive(Debug, Deserialize, Serialize)]
struct AddressResult {
    #[serde(rename = "cniVersion", default)]
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip4: Option<Address>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip6: Option<Address>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dns: Option<Value>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Address {
    ip: IpNetwork,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "none_if_null")]
    routes: Vec<Route>,
}

impl AddressResult {
    /// Of several addresses of a family, the first: these versions have no room for more.
    fn of(result: &AddResult, version: SpecVersion) -> Self {
        let address = |is_ipv4: bool| {
            let ip = result.ips.iter().find(|ip| ip.address.is_ipv4() == is_ipv4)?;
            let routes = result.routes.iter().filter(|route| route.dst.is_ipv4() == is_ipv4);
            let routes = routes.map(|route| Route { rest: Map::new(), ..route.clone() });
            Some(Address { ip: ip.address, gateway: ip.gateway, routes: routes.collect() })
        };
        let version = version.as_str().to_owned();
        Self { version, ip4: address(true), ip6: address(false), dns: result.dns.clone() }
    }

    fn to_json(&self) -> String {
        format!("{:#}\n", json!(self))
    }

    fn into_result(self) -> AddResult {
        let mut result = AddResult { dns: self.dns, ..AddResult::default() };
        for Address { ip, gateway, routes } in self.ip4.into_iter().chain(self.ip6) {
            result.ips.push(Ip { interface: None, address: ip, gateway });
            result.routes.extend(routes);
        }
        result
    }
}

#[cfg(test)]
mod tests;
