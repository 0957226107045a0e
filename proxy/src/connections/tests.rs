use dataplane::{nft::Element, packet::Protocol};

use super::*;

fn address(ip: &str, packets: u64) -> Counted {
    let key = Key::Service(ip.parse().unwrap(), Protocol::Tcp, 80);
    let element = Element::new(Data::Number(1)).with_comment("shop/web:http");
    Counted { key, element, packets }
}

fn backend(number: u32, packets: u64) -> Counted {
    let key = Key::Number(number);
    let octets = (number / 2).to_be_bytes();
    let element = Element::new(Data::Endpoint(SocketAddr::from(([10, octets[1], octets[2], octets[3]], 80))));
    Counted { key, element, packets }
}

const CLUSTER_IPS: counting::Use = counting::Use::Addresses("cluster-ip");

#[test]
fn a_backend_is_told_once_however_many_services_lead_to_it_and_what_was_never_used_not_at_all() {
    let mut read = Read::default();

    for (number, packets) in [(2, 5), (3, 7), (4, 0), (6, 1)] {
        read.add(counting::Use::Backends, &backend(number, packets));
    }
    read.add(CLUSTER_IPS, &address("10.96.0.1", 3));
    read.add(CLUSTER_IPS, &address("10.96.0.2", 0));

    let text = read.text().unwrap();
    let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let web =
        r#"namespace="shop",service="web",port="http",by="cluster-ip",address="10.96.0.1:80",protocol="tcp""#;
    assert!(samples.contains(&&*format!("fairway_service_connections_total{{{web}}} 3")), "{text}");
    assert!(samples.contains(&r#"fairway_backend_connections_total{backend="10.0.0.1:80"} 12"#), "{text}");
    assert!(samples.contains(&r#"fairway_backend_connections_total{backend="10.0.0.3:80"} 1"#), "{text}");
    assert!(samples.contains(&"fairway_connections_cut 0"), "{text}");
    assert_eq!(samples.len(), 5, "{text}");
}

#[test]
fn of_too_many_the_first_are_told_and_that_there_are_more() {
    let mut read = Read::default();

    for number in 0..20_000 {
        read.add(counting::Use::Backends, &backend(number, 1));
    }
    assert!(!read.is_cut); // two services lead to each
    read.add(counting::Use::Backends, &backend(20_000, 1));
    read.add(counting::Use::Backends, &backend(0, 1));

    let text = read.text().unwrap();
    assert!(text.contains("fairway_connections_cut 1\n"));
    assert!(
        text.contains("fairway_backend_connections_total{backend=\"10.0.0.0:80\"} 3\n"),
        "known ones go on"
    );
    assert_eq!(text.matches("fairway_backend_connections_total{").count(), MOST);
}

#[tokio::test]
async fn without_counters_it_says_so() {
    let settings = Settings { counters: false, ..Settings::default() };

    let error = Connections::new(&Family::ALL, &settings).text().await.unwrap_err();

    assert!(error.to_string().contains("--counters=false"), "{error}");
}
