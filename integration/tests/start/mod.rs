//! The lesson's cluster, as several test programs begin with it.

use fairway_lab::{
    binaries,
    cluster::Cluster,
    lesson::{self, BACKENDS, SERVICE_URL},
};

/// Starts it, and waits until its service has all its backends.
pub(crate) fn lesson() -> Cluster {
    lesson_with(&[])
}

/// The same, with these flags for the daemons.
pub(crate) fn lesson_with(flags: &[&str]) -> Cluster {
    let objects = lesson::objects().unwrap();
    let cluster = Cluster::start_with(binaries::built().unwrap(), objects, flags).unwrap();
    cluster.await_backends("apache-pod", SERVICE_URL, &BACKENDS).unwrap();
    cluster
}
