//! A file like `/etc/resolv.conf` as the `dns` of a result: what host-local's `resolvConf` asks for. Pure.

use serde_json::{Map, Value};

/// Reads name servers, domain, search list and options, as resolv.conf(5) has them: of `domain` and `search` the last counts.
pub fn dns_in(text: &str) -> Value {
    let mut dns = Map::new();
    let mut add = |key: &str, words: Vec<&str>| {
        let words = words.into_iter().map(Value::from);
        if let Some(list) = dns.entry(key).or_insert_with(|| Value::Array(Vec::new())).as_array_mut() {
            if key == "search" {
                list.clear();
            }
            list.extend(words);
        }
    };
    let mut domain = None;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => add("nameservers", words.take(1).collect()),
            Some("search") => add("search", words.collect()),
            Some("options") => add("options", words.collect()),
            Some("domain") => domain = words.next(),
            _ => {}
        }
    }
    dns.extend(domain.map(|domain| ("domain".to_owned(), domain.into())));
    Value::Object(dns)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resolv_conf_becomes_dns() {
        let text = "# made by hand\nnameserver 10.0.0.53 \nnameserver\tfd00::53\n;nameserver 9.9.9.9\ndomain old.example\n\
            search a.example\nsearch b.example c.example\noptions ndots:5\noptions rotate\n\nnonsense";
        assert_eq!(
            dns_in(text),
            json!({
                "nameservers": ["10.0.0.53", "fd00::53"], "domain": "old.example",
                "search": ["b.example", "c.example"], "options": ["ndots:5", "rotate"],
            })
        );
        assert_eq!(dns_in(""), json!({}));
    }
}
