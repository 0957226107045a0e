//! The routes of a pod, and through whom each goes.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{
    Endpoint, Error,
    bridge::{Bridging, Role},
};
use crate::conf::PodRoute;

/// Gives every route the gateway that it goes through.
///
/// A routed pod that is given none has a default route for each of its families. On a bridge it has one where the bridge is the
/// default gateway, beside those that it is given.
pub(super) fn of(
    wanted: Option<&[PodRoute]>,
    endpoints: &[Endpoint],
    bridging: Option<&Bridging>,
) -> Result<Vec<(PodRoute, IpAddr)>, Error> {
    let gateway_of = |is_ipv4: bool| {
        let mut gateways = endpoints.iter().map(|endpoint| endpoint.gateway);
        gateways.find(|gateway| gateway.is_ipv4() == is_ipv4)
    };
    let is_reached = |gw: IpAddr| {
        endpoints.iter().any(|endpoint| match bridging {
            Some(_) => endpoint.in_subnet().contains(gw),
            None => endpoint.gateway == gw,
        })
    };
    let through = wanted.unwrap_or_default().iter().map(|route| {
        let gateway = gateway_of(route.dst.is_ipv4()).ok_or(Error::NoAddress(route.dst))?;
        match route.gw {
            Some(gw) if !is_reached(gw) => Err(Error::NoGateway { dst: route.dst, gw }),
            given => Ok((route.clone(), given.unwrap_or(gateway))),
        }
    });
    let mut routes: Vec<_> = through.collect::<Result<_, _>>()?;

    let has_default_routes = match bridging {
        Some(bridging) => bridging.role == Role::DefaultGateway,
        None => wanted.is_none(),
    };
    let families = [true, false].into_iter().filter(|_| has_default_routes);
    for gateway in families.filter_map(gateway_of) {
        let default = default_route(gateway);
        if routes.iter().all(|(route, _)| route.dst != default.dst) {
            routes.push((default, gateway));
        }
    }
    Ok(routes)
}

fn default_route(gateway: IpAddr) -> PodRoute {
    let any = match gateway {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    };
    let dst = IpNetwork::new(any, 0).unwrap_or_else(|_| any.into());
    PodRoute { dst, gw: None, mtu: None, priority: None }
}
