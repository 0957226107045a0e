//! STATUS: would an ADD succeed now?

use super::{Error, Plan, kernel, store};
use crate::{
    conf::{Conf, Network},
    delegate::Delegate,
    failure::{Code, Failure},
    spec::SpecVersion,
};

/// Looks at all that an ADD needs before it knows the pod. That all addresses are leased is not looked at: the node is in order
/// then, and so are its pods.
pub(super) async fn run(network: Network, delegate: Option<&Delegate<'_>>) -> Result<(), Failure> {
    network.require("STATUS", SpecVersion::V1_1_0)?;
    let conf = Conf::parse(network)?;
    match look(&conf, delegate).await {
        // 50 and 51 are what another plugin may answer itself.
        Err(failure) if !matches!(failure.code, Code::Passed(50 | 51)) => {
            Err(failure.under(Code::NotAvailable))
        }
        done => done,
    }
}

async fn look(conf: &Conf, delegate: Option<&Delegate<'_>>) -> Result<(), Failure> {
    Plan::of(conf, None)?;
    store(&conf.network)?.probe()?;
    kernel()?.links().await.map_err(Error::Kernel)?;
    if let Some(delegate) = delegate {
        delegate.pass_on()?;
    }
    Ok(())
}
