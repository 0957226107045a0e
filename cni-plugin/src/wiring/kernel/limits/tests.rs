use std::io;

use super::*;
use crate::failure::Failure;

fn refused(errno: i32) -> rtnl::Error {
    rtnl::Error::Refused {
        operation: rtnl::Operation::Add,
        object: "queue tbf of link 7".to_owned(),
        source: io::Error::from_raw_os_error(errno),
    }
}

#[test]
fn a_kernel_that_lacks_a_module_is_told_by_the_module() {
    // ENOENT: no such queue. EOPNOTSUPP: no such link, or no queues at all. EPERM: something else.
    for (errno, expected) in [
        (
            2,
            "2 bandwidth: the kernel lacks sch_tbf: load it (modprobe), or leave the limits out: add queue tbf of link 7: No such file or directory (os error 2)",
        ),
        (
            95,
            "2 bandwidth: the kernel lacks sch_tbf: load it (modprobe), or leave the limits out: add queue tbf of link 7: Operation not supported (os error 95)",
        ),
        (1, "101 wire the pod on the host: add queue tbf of link 7: Operation not permitted (os error 1)"),
    ] {
        let failure = Failure::from(needs(BUCKETS)(refused(errno)));
        assert_eq!(format!("{} {}", failure.code.number(), failure.on_one_line()), expected);
    }
}
