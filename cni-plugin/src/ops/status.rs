//! STATUS: would an ADD succeed now?

use dataplane::sysctl;

use super::{Error, Plan, kernel, mtu, store};
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
            let code = if are_pods_cut_off(&conf) { Code::Limited } else { Code::NotAvailable };
            Err(failure.under(code))
        }
        done => done,
    }
}

/// Says whether there are pods, and the node forwards nothing to them. An ADD would mend that, if it could be made.
fn are_pods_cut_off(conf: &Conf) -> bool {
    let has_pods = store(&conf.network)
        .is_ok_and(|store| store.attachments().is_ok_and(|attachments| !attachments.is_empty()));
    let forwards = |key| sysctl::read(key).is_ok_and(|value| value == "1");
    has_pods && !forwards("net/ipv4/ip_forward") && !forwards("net/ipv6/conf/all/forwarding")
}

async fn look(conf: &Conf, delegate: Option<&Delegate<'_>>) -> Result<(), Failure> {
    let plan = Plan::of(conf, None)?;
    store(&conf.network)?.probe()?;
    kernel()?.links().await.map_err(Error::Kernel)?;
    if let Some(delegate) = delegate {
        delegate.pass_on()?;
    }
    mtu::follow(conf, &plan).await;
    Ok(())
}
