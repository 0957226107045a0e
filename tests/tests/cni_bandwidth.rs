//! Limits on what a pod receives and sends: measured, checked, changed, and gone with the pod.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, measures time, and plays the container runtime"
)]

mod flow;
mod runtime;

use dataplane::rtnl::{Kernel, TokenBucket};
use flow::{Direction, Flow, Transport};
use runtime::{
    Runtime, dual_stack, failure, success,
    traces::{Traces, say, traces},
};
use serde_json::{Value, json};

/// Bits a second, and in a burst.
fn both(rate: u64, burst: u64) -> Value {
    json!({ "ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst })
}

fn limited(bandwidth: &Value) -> Value {
    let mut conf = dual_stack();
    conf["runtimeConfig"] = json!({ "bandwidth": bandwidth });
    conf
}

fn bridged(mut conf: Value) -> Value {
    for (key, value) in
        [("mode", json!("bridge")), ("bridge", json!("br0")), ("isDefaultGateway", json!(true))]
    {
        conf[key] = value;
    }
    conf
}

fn checked(runtime: &Runtime, conf: &Value, result: &Value) -> cni_plugin::Outcome {
    let mut conf = conf.clone();
    conf["prevResult"] = result.clone();
    runtime.call_with("CHECK", "a", &conf)
}

/// The link that what a pod sends is limited on, and the two buckets.
async fn buckets(kernel: &Kernel, result: &Value) -> [Option<TokenBucket>; 2] {
    let links = result["interfaces"].as_array().unwrap().clone();
    let names: Vec<String> = links.iter().map(|link| link["name"].as_str().unwrap().to_owned()).collect();
    let mut found = [None, None];
    for (bucket, prefix) in found.iter_mut().zip(["fw", "fi"]) {
        if let Some(name) = names.iter().find(|name| name.starts_with(prefix)) {
            *bucket = kernel.bucket(kernel.link(name).await.unwrap().index).await.unwrap();
        }
    }
    found
}

/// Measures what a pod receives and sends, one flow after the other.
fn measure(conf: &Value, rate: u64, burst: u64) {
    let runtime = Runtime::new(conf.clone());
    let pod = runtime::addresses(&runtime.add("a"))[0].parse().unwrap();
    let gateway = "10.244.1.1".parse().unwrap();
    for transport in [Transport::Tcp, Transport::Udp] {
        for (direction, receiver) in [(Direction::ToPod, pod), (Direction::FromPod, gateway)] {
            let flow = Flow { pod: "a", receiver, transport, direction, rate: rate / 8, burst: burst / 8 };
            flow.reaches_its_rate(&runtime);
        }
    }
}

fairway_lab::sandbox_tests! {
    fn what_a_pod_receives_and_sends_is_within_a_tenth_of_the_rate() {
        measure(&limited(&both(24_000_000, 1_200_000)), 24_000_000, 1_200_000);
        measure(&bridged(limited(&both(80_000_000, 4_000_000))), 80_000_000, 4_000_000);
    }

    fn limits_are_of_the_host_s_links_and_go_with_the_pod() {
        for shape in [|conf| conf, bridged] {
            let conf = shape(limited(&both(8_000_000, 800_000)));
            let runtime = Runtime::new(conf.clone());

            let result = runtime.add("a");

            let expected = Some(TokenBucket { rate: 1_000_000, burst: 100_000, backlog: 125_000 });
            let found = runtime.on_host(|kernel| async move { buckets(&kernel, &result).await });
            assert_eq!(found, [expected, expected]);
            assert_eq!(say(&runtime, None, "a", "10.244.1.2").0, "hello");

            success(&runtime.call("DEL", "a"));
            let mut left = traces(&runtime);
            left.links.retain(|name| name != "br0");
            assert_eq!(left.links, [""; 0]);
        }
    }

    fn check_names_a_limit_that_is_missing_or_altered_and_the_same_add_mends_it() {
        let conf = limited(&both(8_000_000, 800_000));
        let runtime = Runtime::new(conf.clone());
        let result = runtime.add("a");
        let name = |place: usize| result["interfaces"][place]["name"].as_str().unwrap().to_owned();
        let (host_end, ifb) = (name(0), name(2));
        assert_eq!(result["ips"][0]["interface"], 1, "the pod's link keeps its place");
        success(&checked(&runtime, &conf, &result));
        let wanted = "8000000 bit/s in bursts of 100000 bytes";

        for damage in ["slower", "unlimited", "past", "down", "gone"] {
            let told = runtime.on_host(|kernel| {
                let (host_end, ifb) = (host_end.clone(), ifb.clone());
                async move {
                    let of_host_end = kernel.link(&host_end).await.unwrap().index;
                    let of_ifb = kernel.link(&ifb).await.unwrap().index;
                    match damage {
                        "slower" => {
                            let slow = TokenBucket { rate: 500_000, burst: 100_000, backlog: 125_000 };
                            kernel.set_bucket(of_host_end, &slow).await.unwrap();
                            format!("ingressRate of link {host_end} on the host is 4000000 bit/s in bursts of 100000 bytes, not {wanted}")
                        }
                        "unlimited" => {
                            kernel.delete_bucket(of_ifb).await.unwrap();
                            format!("egressRate of link {ifb} on the host is missing: {wanted}")
                        }
                        "past" => {
                            kernel.delete_redirection(of_host_end).await.unwrap();
                            format!("what link {host_end} on the host receives does not pass link {ifb}")
                        }
                        "down" => {
                            kernel.set_up(of_ifb, false).await.unwrap();
                            format!("link {ifb} on the host is down")
                        }
                        _ => {
                            kernel.delete_link(of_ifb).await.unwrap();
                            format!("link {ifb} on the host is missing")
                        }
                    }
                }
            });

            assert_eq!(failure(&checked(&runtime, &conf, &result)), (102, format!("pod default/a: {told}")));
            assert_eq!(success(&runtime.call("ADD", "a")), result);
            success(&checked(&runtime, &conf, &result));
        }
        assert_eq!(say(&runtime, None, "a", "10.244.1.2").0, "hello");
    }

    fn add_again_with_other_limits_changes_them_and_with_none_takes_them_away() {
        let runtime = Runtime::new(limited(&both(8_000_000, 800_000)));
        runtime.sandbox("a");
        success(&runtime.call("ADD", "a"));
        let index = |runtime: &Runtime| {
            runtime.in_pod("a", |kernel| async move { kernel.link("eth0").await.unwrap().index })
        };
        let before = index(&runtime);
        let again = |conf: &Value| {
            let result = success(&runtime.call_with("ADD", "a", conf));
            success(&checked(&runtime, conf, &result));
            runtime.on_host(|kernel| async move { buckets(&kernel, &result).await })
        };

        let faster = TokenBucket { rate: 2_000_000, burst: 300_000, backlog: 350_000 };
        assert_eq!(again(&limited(&both(16_000_000, 2_400_000))), [Some(faster), Some(faster)]);
        let unsaid = TokenBucket { rate: 2_000_000, burst: 100_000, backlog: 150_000 };
        assert_eq!(again(&limited(&json!({ "ingressRate": 16_000_000, "ingressBurst": u32::MAX }))), [Some(unsaid), None]);
        assert_eq!(again(&dual_stack()), [None, None]);

        assert_eq!(index(&runtime), before, "the pod's link is the same all the time");
        let names = traces(&runtime).links;
        assert!(!names.iter().any(|name| name.starts_with("fi")), "{names:?}");
        success(&runtime.call("DEL", "a"));
        assert_eq!(traces(&runtime), Traces::default());
    }

    fn gc_takes_the_link_of_a_limit_whose_pod_nobody_knows() {
        let runtime = Runtime::new(limited(&both(8_000_000, 800_000)));
        let result = runtime.add("a");
        let host_end = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
        runtime.host.run(|| std::fs::remove_dir_all("/run/fairway/pods").unwrap()).unwrap();
        runtime.on_host(|kernel| async move {
            kernel.delete_link(kernel.link(&host_end).await.unwrap().index).await.unwrap();
            // One that only looks like ours stays.
            kernel.add_ifb("fiaaaaaaaaaaaaa", dataplane::rtnl::Mac::locally_administered(1), 1500).await.unwrap();
        });

        success(&runtime.call_with("GC", "", &runtime.conf_with(&json!({ "cni.dev/valid-attachments": [] }))));

        assert_eq!(traces(&runtime).links, ["fiaaaaaaaaaaaaa"]);
    }

    fn a_limit_that_makes_no_sense_is_refused_before_anything_is_made() {
        let runtime = Runtime::new(dual_stack());
        runtime.sandbox("a");

        let (code, told) = failure(&runtime.call_with("ADD", "a", &runtime.conf_with(&json!({ "egressRate": 8_000_000 }))));

        let expected = "pod default/a: bandwidth: egressRate is set and egressBurst is not: set both, or neither";
        assert_eq!((code, told.as_str()), (7, expected));
        assert_eq!(traces(&runtime), Traces::default());
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}
