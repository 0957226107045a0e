//! What a pod has got, whoever leased it, as the wiring wants it.

use std::net::IpAddr;

use crate::{
    conf::{self, PodRoute, pod_route},
    failure::{Code, Coded},
    result::AddResult,
    wiring::Endpoint,
};

/// Addresses, and routes if others than a default route are wished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leased {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) routes: Option<Vec<PodRoute>>,
}

/// What another plugin leased and a pod cannot be wired with.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(
        "ipam.type={name}: {address} came without a gateway, and its network has no other address for one"
    )]
    NoGateway { name: String, address: IpAddr },
    #[error("ipam.type={name}: its routes")]
    Route { name: String, source: conf::Error },
}

impl Coded for Error {
    fn code(&self) -> Code {
        Code::InvalidConfiguration
    }
}

impl Leased {
    /// Takes what another plugin leased. An address without a gateway gets the first of its network for one, which only the
    /// host end has. All routes of a routed pod lead to the host, which knows the way on: a gateway of theirs that is no host end's is
    /// left out.
    pub(super) fn by_another(name: &str, result: &AddResult, is_bridged: bool) -> Result<Self, Error> {
        let endpoints = result.ips.iter().map(|ip| {
            let (address, network) = (ip.address.ip(), ip.address);
            let first = network.iter().find(|first| *first != network.network() && *first != address);
            let gateway = ip.gateway.or(first);
            let none = || Error::NoGateway { name: name.to_owned(), address };
            Ok(Endpoint { address, gateway: gateway.ok_or_else(none)?, prefix: network.prefix() })
        });
        let endpoints = endpoints.collect::<Result<Vec<Endpoint>, Error>>()?;
        let routes = result.routes.iter().map(|route| {
            let value = serde_json::to_value(route).unwrap_or_default();
            let route = pod_route(value).map_err(|source| Error::Route { name: name.to_owned(), source })?;
            let is_reached =
                |gw: &IpAddr| is_bridged || endpoints.iter().any(|endpoint| endpoint.gateway == *gw);
            Ok(PodRoute { gw: route.gw.filter(is_reached), ..route })
        });
        let routes = routes.collect::<Result<Vec<PodRoute>, Error>>()?;
        Ok(Self { routes: (!routes.is_empty()).then_some(routes), endpoints })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn leased(result: serde_json::Value) -> Result<Leased, Error> {
        Leased::by_another("other", &AddResult::parse(result).unwrap(), false)
    }

    #[test]
    fn an_address_without_a_gateway_gets_the_first_other_one_of_its_network() {
        let ips = json!({ "ips": [
            { "address": "10.0.0.1/24" }, { "address": "10.1.0.9/24" }, { "address": "fd00::9/64", "gateway": "fd00::fe" },
        ] });
        let gateways: Vec<String> =
            leased(ips).unwrap().endpoints.iter().map(|endpoint| endpoint.gateway.to_string()).collect();
        assert_eq!(gateways, ["10.0.0.2", "10.1.0.1", "fd00::fe"]);

        let alone = leased(json!({ "ips": [{ "address": "10.0.0.1/32" }] })).unwrap_err();
        assert_eq!(
            alone.to_string(),
            "ipam.type=other: 10.0.0.1 came without a gateway, and its network has no other address for one"
        );
    }

    #[test]
    fn routes_lead_to_the_host_and_without_any_there_is_a_default_route() {
        let ips = json!([{ "address": "10.0.0.9/24", "gateway": "10.0.0.1" }]);
        let routes =
            json!([{ "dst": "0.0.0.0/0", "gw": "10.0.0.1" }, { "dst": "10.9.0.0/16", "gw": "10.0.0.7" }]);

        let with = leased(json!({ "ips": ips, "routes": routes })).unwrap().routes.unwrap();

        assert_eq!([with[0].gw, with[1].gw], [Some("10.0.0.1".parse().unwrap()), None]);
        assert_eq!(leased(json!({ "ips": ips })).unwrap().routes, None);
    }
}
