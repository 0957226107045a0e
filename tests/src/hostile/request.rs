//! What must hold of all that is pure, for any variables and any configuration.

use std::path::Path;

use cni_plugin::{
    conf::{Conf, Network},
    failure::{Coded, Failure},
    ipam::{Ask, Past, RangeSet},
    request::{Attachment, Request, Verb},
    result::AddResult,
    spec::{SpecVersion, version_to_answer_in},
    wiring::{DEFAULT_MTU, Endpoint, Wiring, Wish},
};
use serde_json::Value;

use super::call::Call;

/// How many addresses of a set are looked at.
const SOME: usize = 20;

/// Tries a call.
pub fn holds(input: &[u8]) {
    let Call { environment, stdin } = Call::parse(input);
    let told_in = version_to_answer_in(&stdin);
    let attachment = told(Request::parse(&environment), &told_in).and_then(|request| match request {
        Request::Verb(Verb::Add(target) | Verb::Check(target)) => Some(target.attachment),
        Request::Verb(Verb::Del { attachment, .. }) => Some(attachment),
        _ => None,
    });
    if let Some(attachment) = &attachment {
        is_one_name(attachment.container_id());
        assert!(!attachment.container_id().contains('@'), "what parts it from the link's name in a record's");
        is_one_name(attachment.ifname());
    }

    let Some(network) = told(Network::parse(&stdin), &told_in) else { return };
    is_one_name(&network.name);
    assert!(network.run_dir.is_absolute(), "{}", network.run_dir.display());
    told(network.valid_attachments(), &told_in);
    if let Some(Some(result)) = told(network.prev_result(), &told_in) {
        is_printed_and_read_again(&result);
    }
    let Some(conf) = told(Conf::parse(network), &told_in) else { return };
    let any = Attachment::new("a", "eth0");
    if let Some(attachment) = attachment.or(any.ok()) {
        is_wired(&conf, &attachment, &told_in);
    }
}

/// What is one component of a path leads nowhere else.
fn is_one_name(name: &str) {
    assert_eq!(Path::new(name).file_name(), Some(name.as_ref()), "{name:?}");
    assert!(!name.contains(['/', '\0']) && name.len() <= 200, "{name:?}");
}

/// An error is told as the specification has it.
fn told<T, E: Coded>(outcome: Result<T, E>, version: &str) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(error) => {
            is_an_error(&Failure::from(error).to_json(version));
            None
        }
    }
}

/// SPEC "Error": a version, a code that is none of success, and a message.
pub(super) fn is_an_error(printed: &str) {
    let error: Value = serde_json::from_str(printed).unwrap_or_default();
    let code = error.get("code").and_then(Value::as_u64);
    let text = |key| error.get(key).and_then(Value::as_str);
    assert!(code.is_some_and(|code| code > 0), "{printed}");
    assert!(text("cniVersion").is_some() && text("msg").is_some_and(|msg| !msg.is_empty()), "{printed}");
}

fn is_printed_and_read_again(result: &AddResult) {
    for version in SpecVersion::ALL.into_iter().filter(|version| !version.is_of_addresses_only()) {
        let printed = result.to_json(version);
        let value: Value = serde_json::from_str(&printed).unwrap_or_default();
        let is_whole = version == SpecVersion::V1_1_0 && is_exact(&value);
        match AddResult::parse(value) {
            Ok(read) if is_whole => assert_eq!(read, *result, "{printed}"),
            Ok(read) => assert_eq!(read.ips, result.ips, "{printed}"),
            Err(error) => panic!("{error}: {printed}"),
        }
    }
}

/// Other numbers than integers may be read a little off. No key that the specification knows has one.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::Array(list) => list.iter().all(is_exact),
        Value::Object(map) => map.values().all(is_exact),
        _ => true,
    }
}

fn is_wired(conf: &Conf, attachment: &Attachment, version: &str) {
    let sets = conf.ranges.clone().unwrap_or_default();
    let sets: Vec<RangeSet> = sets.into_iter().map(|set| set.reserving(&conf.reserved)).collect();
    let Some(ask) = told(Ask::new(sets, &conf.requested), version) else { return };
    let mut endpoints = Vec::new();
    for (set, wish) in ask.wishes() {
        let past = Past { last: *wish, ..Past::default() };
        for address in set.in_turn(&past).take(SOME) {
            assert!(set.range_of(address).is_some(), "{address} of {set}");
            assert!(!conf.reserved.iter().any(|network| network.contains(address)), "{address} of {set}");
        }
        let address = wish.or_else(|| set.in_turn(&past).next());
        endpoints.extend(address.and_then(|address| {
            let range = set.range_of(address)?;
            assert_ne!(address, range.gateway());
            Some(Endpoint { address, gateway: range.gateway(), prefix: range.subnet().prefix() })
        }));
    }
    let wish = Wish {
        network: &conf.network.name,
        attachment,
        run_dir: &conf.network.run_dir,
        alias: attachment.container_id(),
        mtu: conf.mtu.unwrap_or(DEFAULT_MTU),
        mac: conf.mac,
        endpoints,
        bridging: conf.bridging.as_ref(),
        bandwidth: conf.bandwidth,
        routes: conf.routes.as_deref(),
    };
    let Some(wiring) = told(Wiring::of(wish), version) else { return };
    assert!(dataplane::owner::is_host_end(&wiring.host_end.name), "{}", wiring.host_end.name);
    for side in [wiring.host_side(7), wiring.pod_side(7)] {
        assert!(side.addresses.iter().all(|address| address.link == 7));
    }
    let result = wiring.result("/run/netns/a", None);
    is_printed_and_read_again(&result.after(conf.prev_result.clone().unwrap_or_default()));
}
