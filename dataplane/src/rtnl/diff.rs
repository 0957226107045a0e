//! What must change for one set of routes to become another.
//!
//! In: what is there and what should be. Out: changes in an order that leaves no destination unreachable on the way.
//! Routes that are not ours are neither changed nor deleted, whatever the sets hold.

use std::collections::BTreeMap;

use super::{Route, route::Key};

/// A change of one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// No route of ours has its destination and metric yet.
    Add(Route),
    /// One of ours has them, and differs.
    Replace(Route),
    /// It is not wanted any more.
    Delete(Route),
}

/// Lists the changes from `old` to `new`: first what gateways stand on, then what goes through them; deletions last, and in
/// the opposite order.
pub fn diff<'a>(
    old: impl IntoIterator<Item = &'a Route>,
    new: impl IntoIterator<Item = &'a Route>,
) -> Vec<Change> {
    let old = ours_by_key(old);
    let new = ours_by_key(new);

    let mut put: Vec<Change> = Vec::new();
    for (key, route) in &new {
        match old.get(key) {
            Some(there) if there == route => {}
            Some(_) => put.push(Change::Replace(**route)),
            None => put.push(Change::Add(**route)),
        }
    }
    let gone = old.iter().filter(|(key, _)| !new.contains_key(key));
    let mut gone: Vec<Change> = gone.map(|(_, route)| Change::Delete(**route)).collect();

    put.sort_by_key(goes_through_a_gateway);
    gone.sort_by_key(|change| !goes_through_a_gateway(change));
    put.extend(gone);
    put
}

fn ours_by_key<'a>(routes: impl IntoIterator<Item = &'a Route>) -> BTreeMap<Key, &'a Route> {
    routes.into_iter().filter(|route| route.is_ours()).map(|route| (route.key(), route)).collect()
}

fn goes_through_a_gateway(change: &Change) -> bool {
    let (Change::Add(route) | Change::Replace(route) | Change::Delete(route)) = change;
    route.gateway.is_some()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::btree_map, prelude::*};

    use super::{super::Scope, *};

    /// Any set of routes that the kernel could hold, on two links, through gateways that are on them.
    fn routes() -> impl Strategy<Value = BTreeSet<Route>> {
        let route = (0..2u32, any::<bool>(), proptest::option::of(1280..1500u32), prop::bool::weighted(0.8));
        btree_map((0..6u8, proptest::option::of(1..3u32)), route, 0..12).prop_map(|routes| {
            let made = routes.into_iter().map(|((net, metric), (link, gateway, mtu, ours))| {
                let destination = format!("10.244.{net}.0/24").parse().unwrap();
                Route {
                    metric,
                    mtu,
                    gateway: gateway.then(|| format!("192.168.{link}.1").parse().unwrap()),
                    scope: if gateway { Scope::Universe } else { Scope::Link },
                    protocol: if ours { 70 } else { 4 },
                    ..Route::on_link(destination, link)
                }
            });
            made.collect()
        })
    }

    fn ours(routes: &BTreeSet<Route>) -> BTreeSet<Route> {
        routes.iter().filter(|route| route.is_ours()).copied().collect()
    }

    fn foreign(routes: &BTreeSet<Route>) -> BTreeSet<Route> {
        routes.iter().filter(|route| !route.is_ours()).copied().collect()
    }

    fn apply(changes: &[Change], routes: &BTreeSet<Route>) -> BTreeSet<Route> {
        let mut result = routes.clone();
        for change in changes {
            match change {
                Change::Add(route) => assert!(result.insert(*route), "{route} was there"),
                Change::Replace(route) => {
                    let before = result.len();
                    result.retain(|there| !there.is_ours() || there.key() != route.key());
                    assert_eq!(result.len() + 1, before, "nothing to replace by {route}");
                    result.insert(*route);
                }
                Change::Delete(route) => assert!(result.remove(route), "{route} was not there"),
            }
        }
        result
    }

    proptest! {
        #[test]
        fn the_changes_make_one_set_the_other(old in routes(), new in routes()) {
            let after = apply(&diff(&old, &new), &old);

            prop_assert_eq!(ours(&after), ours(&new));
            prop_assert_eq!(foreign(&after), foreign(&old));
        }

        #[test]
        fn what_is_as_it_should_be_stays_untouched(routes in routes()) {
            prop_assert_eq!(diff(&routes, &routes), []);
        }
    }

    #[test]
    fn a_gateway_s_link_route_comes_before_the_route_through_it_and_goes_after_it() {
        let near = Route::on_link("10.0.0.1/32".parse().unwrap(), 7);
        let far = Route::through("0.0.0.0/0".parse().unwrap(), "10.0.0.1".parse().unwrap(), 7);

        assert_eq!(diff(&[], &[far, near]), [Change::Add(near), Change::Add(far)]);
        assert_eq!(diff(&[far, near], &[]), [Change::Delete(far), Change::Delete(near)]);
    }
}
