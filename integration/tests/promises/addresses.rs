//! Where a service answers besides its cluster IP.

use dataplane::packet::Family;

use crate::bed::{Bed, on};

const NODE_PORT: &str = "spec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}";

fairway_lab::sandbox_tests! {
    fn an_address_that_a_node_gets_serves_node_ports_at_once_and_no_longer_than_it_is_there() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", NODE_PORT, &[on("a")]);
        bed.add_stranger("stranger", &["192.168.14.90", "fd00:192:168:14::90"]);
        bed.name("new", &["192.168.14.151", "fd00:192:168:14::151"]);

        bed.add_addresses("w1", "new");
        bed.check("stranger", "new:30080", ["a sees w1"]);
        bed.check("client", "new:30080", ["a sees w1"]);

        bed.remove_addresses("w1", "new");
        for family in Family::ALL {
            assert_ne!(bed.ask(family, "client", "new:30080"), "a sees w1");
        }
        bed.check("stranger", "w1:30080", ["a sees w1"]);
    }
}
