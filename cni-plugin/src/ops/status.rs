//! STATUS: would an ADD succeed now?

use super::{Error, Plan, kernel, store};
use crate::{
    conf::{Conf, Network},
    failure::{Code, Failure},
    spec::SpecVersion,
};

/// Looks at all that an ADD needs before it knows the pod. That all addresses are leased is not looked at: the node is in order
/// then, and so are its pods.
pub(super) async fn run(network: Network) -> Result<(), Failure> {
    network.require("STATUS", SpecVersion::V1_1_0)?;
    let conf = Conf::parse(network)?;
    look(&conf).await.map_err(|failure| failure.under(Code::NotAvailable))
}

async fn look(conf: &Conf) -> Result<(), Failure> {
    Plan::of(conf, None)?;
    store(&conf.network)?.make()?;
    kernel()?.links().await.map_err(Error::Kernel)?;
    Ok(())
}
