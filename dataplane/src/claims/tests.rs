use super::*;
use crate::{disk::Durability, packet::Protocol};

fn claim(container: &str, host_ip: Option<&str>, port: u16) -> Claim {
    let network = "pods".to_owned();
    let owner = Owner { network, container_id: container.to_owned(), ifname: "eth0".to_owned() };
    let host_port = HostPort {
        protocol: Protocol::Tcp,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_port: port,
        pod: ([10, 244, 1, 2], 80).into(),
    };
    of(owner, container, Claimed::HostPort(host_port))
}

fn of(owner: Owner, container: &str, what: Claimed) -> Claim {
    Claim { owner, pod: Some(format!("default/{container}")), boot_id: "this".to_owned(), what }
}

/// A claim to be masqueraded.
fn masquerade(container: &str, address: &str) -> Claim {
    let network = "10.1.0.0/16".parse().unwrap();
    let what = Claimed::Masquerade(Masqueraded { address: address.parse().unwrap(), network });
    of(claim(container, None, 80).owner, container, what)
}

/// Claims in a place of their own, which goes with the first value.
fn claims() -> (tempfile::TempDir, Claims) {
    let place = tempfile::tempdir().unwrap();
    let claims = Claims::of(&Directory::new(place.path(), Durability::Volatile)).unwrap();
    (place, claims)
}

#[test]
fn claims_are_kept_until_they_are_given_up() {
    let (_place, claims) = claims();
    assert!(!claims.are_there());
    let (all, one) = (claim("a", None, 80), claim("a", Some("192.0.2.1"), 81));

    claims.lock().unwrap().make(&[all.clone(), one.clone()]).unwrap();
    assert!(claims.are_there());
    assert_eq!(claims.lock().unwrap().all().unwrap(), [all.clone(), one.clone()]);
    assert_eq!(claims.lock().unwrap().held_by(&all.owner, &[one.what]).unwrap(), std::slice::from_ref(&one));

    claims.lock().unwrap().give_up([&all, &one]).unwrap();
    assert_eq!(claims.lock().unwrap().all().unwrap(), []);
}

#[test]
fn a_claim_on_all_addresses_and_one_on_some_are_in_each_other_s_way() {
    let (_place, claims) = claims();
    let locked = claims.lock().unwrap();
    locked.make(&[claim("all", None, 80), claim("one", Some("192.0.2.1"), 8080)]).unwrap();
    let holder = |wanted: Claim| -> Vec<String> {
        let found = locked.in_the_way(&[wanted]).unwrap();
        found.into_iter().map(|(_, claim)| claim.owner.container_id).collect()
    };

    assert_eq!(holder(claim("b", None, 80)), ["all"]);
    assert_eq!(holder(claim("b", Some("192.0.2.1"), 80)), ["all"]);
    assert_eq!(holder(claim("b", None, 8080)), ["one"]);
    assert_eq!(holder(claim("b", Some("192.0.2.2"), 8080)), [""; 0]);
    assert_eq!(holder(claim("all", None, 80)), [""; 0], "its own");
    assert_eq!(holder(claim("b", None, 808)), [""; 0]);
}

#[test]
fn a_pod_s_address_is_masqueraded_for_one() {
    let (_place, claims) = claims();
    let locked = claims.lock().unwrap();
    let all = [masquerade("a", "10.1.0.2"), masquerade("b", "10.1.0.21"), claim("c", None, 80)];
    locked.make(&all).unwrap();
    let in_the_way = |wanted: Claim| {
        let found = locked.in_the_way(&[wanted]).unwrap();
        found.into_iter().map(|(what, by)| format!("{what}: {by}")).collect::<Vec<_>>()
    };

    let told = "the masquerade of 10.1.0.2: pod default/a, container a, link eth0 of network pods";
    assert_eq!(in_the_way(masquerade("d", "10.1.0.2")), [told]);
    assert_eq!(in_the_way(masquerade("a", "10.1.0.2")), [""; 0]);
    assert_eq!(in_the_way(masquerade("d", "10.1.0.3")), [""; 0]);
    locked.give_up(&all[..1]).unwrap();
    assert_eq!(locked.all().unwrap(), all[1..]);
}

#[test]
fn what_cannot_be_read_is_nobody_s_and_is_swept() {
    let (place, claims) = claims();
    let locked = claims.lock().unwrap();
    locked.make(&[claim("a", None, 80)]).unwrap();
    let files = place.path().join(DIRECTORY);
    Directory::new(&files, Durability::Volatile).replace("tcp-81-ip", b"{").unwrap();
    std::fs::copy(files.join("tcp-80-ip"), files.join("tcp-82-ip")).unwrap(); // says another port than its name

    assert_eq!(locked.all().unwrap(), [claim("a", None, 80)]);
    assert_eq!(locked.in_the_way(&[claim("b", None, 81), claim("b", None, 82)]).unwrap(), []);
    locked.sweep().unwrap();
    let mut left: Vec<_> = files.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["lock", "tcp-80-ip"]);
}

#[test]
fn a_claim_says_whose_it_is() {
    let claim = claim("web", Some("192.0.2.1"), 80);
    assert_eq!(claim.to_string(), "pod default/web, container web, link eth0 of network pods");
    assert_eq!(
        (claim.what.to_string(), claim.comment()),
        ("host port 80/tcp on 192.0.2.1".to_owned(), "default/web")
    );
    assert_eq!(Claim { pod: None, ..claim }.comment(), "web");
}

#[test]
fn a_claim_is_read_as_it_was_written() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&claim("web", None, 80)).unwrap(), @r#"
    {
      "network": "pods",
      "containerID": "web",
      "ifname": "eth0",
      "pod": "default/web",
      "bootID": "this",
      "hostPort": {
        "protocol": "tcp",
        "hostPort": 80,
        "pod": "10.244.1.2:80"
      }
    }
    "#);
    insta::assert_snapshot!(serde_json::to_string_pretty(&masquerade("web", "10.1.0.2")).unwrap(), @r#"
    {
      "network": "pods",
      "containerID": "web",
      "ifname": "eth0",
      "pod": "default/web",
      "bootID": "this",
      "masquerade": {
        "address": "10.1.0.2",
        "network": "10.1.0.0/16"
      }
    }
    "#);
    for claim in [claim("web", Some("192.0.2.1"), 80), masquerade("web", "10.1.0.2")] {
        let written = serde_json::to_string(&claim).unwrap();
        assert_eq!(serde_json::from_str::<Claim>(&written).unwrap(), claim);
    }
}
