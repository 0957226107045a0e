//! The lesson's cluster, as several test programs begin with it.

use fairway_lab::{
    binaries,
    cluster::Cluster,
    lesson::{self, BACKENDS, SERVICE_URL},
};

/// Starts it, and waits until its service has all its backends.
pub(crate) fn lesson() -> Cluster {
    let cluster = Cluster::start(binaries::built().unwrap(), lesson::objects().unwrap()).unwrap();
    cluster.await_backends("apache-pod", SERVICE_URL, &BACKENDS).unwrap();
    cluster
}
