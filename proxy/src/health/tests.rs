use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::watch,
    task::JoinHandle,
    time::advance,
};

use super::{
    Health,
    server::{Asked, answer},
};
use crate::objects::ObjectName;

/// A server of service `shop/web`, with one connection to it.
struct Served {
    health: Arc<Health>,
    local_endpoints: watch::Sender<usize>,
    client: DuplexStream,
    task: JoinHandle<()>,
}

fn served(local_endpoints: usize) -> Served {
    let (client, server) = duplex(64 << 10);
    let (health, local_endpoints) = (Arc::new(Health::default()), watch::Sender::new(local_endpoints));
    let asked = Asked {
        service: ObjectName { namespace: "shop".into(), name: "web".into() },
        local_endpoints: local_endpoints.subscribe(),
        health: Arc::clone(&health),
    };
    let task = tokio::spawn(answer(server, Arc::new(asked)));
    Served { health, local_endpoints, client, task }
}

impl Served {
    /// Asks, and returns all of the answer but its date.
    async fn says(&mut self, request: &str) -> String {
        self.client.write_all(request.as_bytes()).await.unwrap();
        let mut said = String::new();
        loop {
            let mut part = [0; 1024];
            let length = self.client.read(&mut part).await.unwrap();
            said += std::str::from_utf8(&part[..length]).unwrap();
            let is_whole = |(_, body): (&str, &str)| request.starts_with("HEAD") || body.ends_with('}');
            if length == 0 || said.split_once("\r\n\r\n").is_some_and(is_whole) {
                return said
                    .lines()
                    .filter(|line| !line.starts_with("Date: "))
                    .collect::<Vec<_>>()
                    .join("\n");
            }
        }
    }

    async fn status(&mut self) -> String {
        self.says(REQUEST).await.lines().next().unwrap().to_owned()
    }
}

const REQUEST: &str = "GET /healthz HTTP/1.1\r\nHost: w1\r\n\r\n";

#[tokio::test]
async fn the_answer_is_kube_proxy_s_word_for_word() {
    let said = served(2).says(REQUEST).await;

    let expected = "HTTP/1.1 200 OK\n\
        Content-Type: application/json\n\
        X-Content-Type-Options: nosniff\n\
        X-Load-Balancing-Endpoint-Weight: 2\n\
        Content-Length: 111\n\
        \n\
        {\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\
        \"serviceProxyHealthy\": true\n}";
    assert_eq!(said, expected);
}

#[tokio::test(start_paused = true)]
async fn it_is_503_without_endpoints_and_while_the_proxy_does_not_keep_up() {
    let mut served = served(0);
    assert_eq!(served.status().await, "HTTP/1.1 503 Service Unavailable");

    served.local_endpoints.send_replace(1);
    assert_eq!(served.status().await, "HTTP/1.1 200 OK");

    served.health.queued();
    advance(Duration::from_secs(20)).await;
    assert_eq!(served.status().await, "HTTP/1.1 200 OK");
    advance(Duration::from_secs(20)).await;
    assert_eq!(served.status().await, "HTTP/1.1 200 OK");
    advance(Duration::from_secs(20)).await;
    let said = served.says(REQUEST).await;
    assert!(said.starts_with("HTTP/1.1 503 ") && said.contains("\"serviceProxyHealthy\": false"), "{said}");

    served.health.served();
    assert_eq!(served.status().await, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn whatever_is_asked_is_answered_alike() {
    let mut served = served(1);
    for request in
        ["GET / HTTP/1.1\r\nHost: w1\r\n\r\n", "POST /x HTTP/1.1\r\nHost: w1\r\nContent-Length: 0\r\n\r\n"]
    {
        assert!(served.says(request).await.ends_with("true\n}"), "{request}");
    }
    let head = served.says("HEAD / HTTP/1.1\r\nHost: w1\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 200 OK") && head.trim_end().ends_with("Content-Length: 111"),
        "{head}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_or_never_ends_is_hung_up_on() {
    for beginning in ["", "GET / HTTP/1.1\r\nHost: "] {
        let mut served = served(1);
        served.client.write_all(beginning.as_bytes()).await.unwrap();
        served.task.await.unwrap();
    }

    let mut idle = served(1);
    idle.status().await;
    idle.task.await.unwrap();
}

#[tokio::test]
async fn a_request_whose_head_is_too_long_is_refused() {
    let mut served = served(1);
    let request = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));

    let said = served.says(&request).await;

    assert!(said.starts_with("HTTP/1.1 431 "), "{said}");
    served.task.await.unwrap();
}
