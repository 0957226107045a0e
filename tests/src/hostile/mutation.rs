//! Changes to a call that keep it JSON, so that it gets past the first check: what bytes changed at random hardly ever do.

use std::iter;

use serde_json::{Map, Value, json};

use super::call::split;

/// What every plugin with a parser should have met.
const VALUES: [&str; 60] = [
    "",
    "..",
    "../../x",
    "/etc/x",
    "a/b",
    "a\0b",
    "eth0",
    "lo",
    "all",
    "pod",
    "a",
    "pods",
    "node.json",
    "route_localnet",
    "fairway",
    "bridge",
    "routed",
    "loopback",
    "cat",
    "host-local",
    "cni0",
    "1.1.0",
    "1.0.0",
    "0.4.0",
    "0.3.1",
    "0.1.0",
    "10.1.0.0/24",
    "10.1.0.0/30",
    "10.1.0.2",
    "10.1.0.2/24",
    "10.1.0.255",
    "0.0.0.0/0",
    "0.0.0.0",
    "255.255.255.255/32",
    "fd00::/64",
    "fd00::/126",
    "fd00::2",
    "::/0",
    "::",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "::ffff:10.1.0.2",
    "127.0.0.1",
    "224.0.0.1",
    "169.254.1.1",
    "fe80::1",
    "02:00:00:00:00:01",
    "ff:ff:ff:ff:ff:ff",
    "00:00:00:00:00:00",
    "IP=10.1.0.2",
    "MAC=02:00:00:00:00:01",
    "K8S_POD_NAME=web;K8S_POD_NAMESPACE=default",
    "IgnoreUnknown=1",
    ";;=;",
    "/run/netns/pod",
    "/run/netns/none",
    "/proc/self/ns/net",
    "\u{202e}",
    "é",
    "%n%s",
    "-x",
];

/// The keys that the plugin knows.
const KEYS: [&str; 66] = [
    "ingressRate",
    "ingressBurst",
    "egressRate",
    "egressBurst",
    "sysctl",
    "txQLen",
    "promisc",
    "allmulti",
    "capabilities",
    "cniVersion",
    "name",
    "type",
    "ipam",
    "mtu",
    "mode",
    "dns",
    "runDir",
    "prevResult",
    "runtimeConfig",
    "args",
    "cni",
    "subnet",
    "rangeStart",
    "rangeEnd",
    "gateway",
    "ranges",
    "routes",
    "exclude",
    "dataDir",
    "resolvConf",
    "dst",
    "gw",
    "priority",
    "advmss",
    "table",
    "scope",
    "ips",
    "ipRanges",
    "mac",
    "portMappings",
    "bandwidth",
    "bridge",
    "isGateway",
    "isDefaultGateway",
    "forceAddress",
    "hairpinMode",
    "promiscMode",
    "portIsolation",
    "macspoofchk",
    "vlan",
    "ipMasq",
    "ipMasqBackend",
    "enabledad",
    "interfaces",
    "interface",
    "address",
    "sandbox",
    "nameservers",
    "search",
    "cni.dev/valid-attachments",
    "containerID",
    "ifname",
    "hostPort",
    "containerPort",
    "protocol",
    "hostIP",
];

const VARIABLES: [&str; 7] = [
    "CNI_COMMAND",
    "CNI_CONTAINERID",
    "CNI_NETNS",
    "CNI_IFNAME",
    "CNI_ARGS",
    "CNI_NETNS_OVERRIDE",
    "CNI_PATH",
];

const VERBS: [&str; 7] = ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "add"];

/// Numbers without end, the same for the same seed: xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift
/// generators, scrambled").
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap_or(0).checked_rem(sides).unwrap_or(0)
    }

    fn pick<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all.get(self.throw(all.len())).copied().unwrap_or_default()
    }
}

/// Changes a call in one place or a few. Nothing where it has no JSON.
pub fn mutate(input: &[u8], seed: u32) -> Option<Vec<u8>> {
    let mut dice = Dice(u64::from(seed) + 1);
    let (head, stdin) = split(input);
    let mut conf: Value = serde_json::from_slice(stdin).ok()?;
    let mut lines: Vec<String> = String::from_utf8_lossy(head).lines().map(str::to_owned).collect();
    for _ in 0..=dice.throw(3) {
        if dice.throw(4) == 0 {
            change_variable(&mut lines, &mut dice);
        } else {
            change_value(&mut conf, &mut dice);
        }
    }
    let mut stdin = conf.to_string();
    if dice.throw(8) == 0 && stdin.starts_with("{\"") {
        let (key, value) = (dice.pick(&KEYS), new_value(&mut dice));
        stdin.insert_str(1, &format!("{}:{value},", json!(key))); // a key that is there twice, perhaps
    }
    Some([lines.join("\n").as_bytes(), b"\n\n", stdin.as_bytes()].concat())
}

/// The same within a buffer of which `size` bytes are the call; says how many are then. Of two seeds, one is left to others.
pub fn mutate_within(buffer: &mut [u8], size: usize, seed: u32) -> Option<usize> {
    let changed = seed.is_multiple_of(2).then(|| mutate(buffer.get(..size)?, seed / 2))??;
    buffer.get_mut(..changed.len())?.copy_from_slice(&changed);
    Some(changed.len())
}

fn change_variable(lines: &mut Vec<String>, dice: &mut Dice) {
    let name = dice.pick(&VARIABLES);
    lines.retain(|line| !line.starts_with(&format!("{name}=")));
    let value = match name {
        "CNI_COMMAND" => dice.pick(&VERBS).to_owned(),
        "CNI_ARGS" => format!("{};{}", dice.pick(&VALUES), dice.pick(&VALUES)),
        _ if dice.throw(16) == 0 => dice.pick(&VALUES).repeat(300),
        _ => dice.pick(&VALUES).to_owned(),
    };
    if dice.throw(8) > 0 {
        lines.push(format!("{name}={}", value.replace('\n', "")));
    }
}

/// Goes down a random way and changes what is at its end.
fn change_value(value: &mut Value, dice: &mut Dice) {
    let deeper = dice.throw(4) > 0;
    match value {
        Value::Object(map) if deeper && !map.is_empty() => {
            let place = dice.throw(map.len());
            if let Some(below) = map.values_mut().nth(place) {
                change_value(below, dice);
            }
        }
        Value::Array(list) if deeper && !list.is_empty() => {
            let place = dice.throw(list.len());
            if let Some(below) = list.get_mut(place) {
                change_value(below, dice);
            }
        }
        Value::Object(map) => change_object(map, dice),
        Value::Array(list) => match dice.throw(4) {
            0 => drop(list.pop()),
            1 => list.extend(list.last().cloned()),
            2 => list.reverse(),
            _ => list.push(new_value(dice)),
        },
        leaf => *leaf = new_value(dice),
    }
}

fn change_object(map: &mut Map<String, Value>, dice: &mut Dice) {
    let there = dice.throw(map.len());
    let key = map.keys().nth(there).cloned().unwrap_or_default();
    match dice.throw(4) {
        0 => drop(map.remove(&key)),
        1 => drop(map.insert(key, new_value(dice))),
        2 => {
            let value = map.remove(&key).unwrap_or_default();
            map.insert(dice.pick(&KEYS).to_owned(), value);
        }
        _ => drop(map.insert(dice.pick(&KEYS).to_owned(), new_value(dice))),
    }
}

fn new_value(dice: &mut Dice) -> Value {
    match dice.throw(12) {
        0 => Value::Null,
        1 => json!({}),
        2 => json!([]),
        3 => json!(dice.throw(2) == 0),
        4 => {
            [json!(0), json!(-1), json!(1280), json!(65_535), json!(u32::MAX), json!(u64::MAX), json!(1e300)]
                .get(dice.throw(7))
                .cloned()
                .unwrap_or_default()
        }
        5 => json!([new_value(dice)]),
        6 => json!({ dice.pick(&KEYS): new_value(dice), dice.pick(&KEYS): new_value(dice) }),
        7 => json!(dice.pick(&VALUES).repeat(1 + dice.throw(200))),
        8 => {
            let depth = dice.throw(140);
            iter::repeat_n((), depth).fold(json!("deep"), |inner, ()| json!({ "a": inner }))
        }
        _ => json!(dice.pick(&VALUES)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: &[u8] =
        b"CNI_COMMAND=ADD\nCNI_IFNAME=eth0\n\n{\"name\":\"pods\",\"ipam\":{\"subnet\":\"10.1.0.0/24\"}}";

    #[test]
    fn a_changed_call_is_another_and_still_json() {
        let changed: Vec<Vec<u8>> = (0..1000).filter_map(|seed| mutate(CALL, seed)).collect();

        assert_eq!(changed.len(), 1000);
        let others = changed.iter().filter(|changed| *changed != CALL).count();
        assert!(others > 900, "{others}");
        // What is nested too deeply is no JSON for our reader, and that is tried as well.
        let read =
            changed.iter().filter(|call| serde_json::from_slice::<Value>(split(call).1).is_ok()).count();
        assert!(read > 900, "{read}");
        assert_eq!(mutate(CALL, 7), mutate(CALL, 7));
    }

    #[test]
    fn what_is_no_json_is_left_to_others() {
        assert_eq!(mutate(b"CNI_COMMAND=ADD\n\n{", 1), None);
    }
}
