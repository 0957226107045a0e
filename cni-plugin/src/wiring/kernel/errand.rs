//! Deletes a link without waiting for the kernel to forget it.
//!
//! The kernel takes a link away at once: its name, its other end, addresses and routes are gone before anybody else may change a
//! link. Then it has whoever asked wait until nothing can hold the memory of the link any more, which takes it tens of milliseconds
//! (kernel `net/core/dev.c` `netdev_run_todo`). A runtime need not wait for that. So another process asks, which is this program
//! once more, and this one goes on as soon as the link is gone.
//!
//! In: the name of a host end. Out: nothing. Whatever goes wrong, the link is then still there, and whoever called deletes it
//! itself, as if this had never been tried. The other process ends with this one, unless it has asked already; until it ends, it holds the
//! pod's namespace, for which an ADD waits: a link that a later call makes or keeps is out of its reach.

use std::{
    io,
    path::Path,
    process::{self, Child, Command, Stdio},
    thread,
    time::Duration,
};

use dataplane::{
    netns::Netns,
    process::end_with_parent,
    rtnl::{Kernel, Link},
};

use super::find;
use crate::{Outcome, ops, wiring::ifb_of};

/// The word that this program is started with for the errand; the link's name and index follow, and the number of the process that asks.
pub const WORD: &str = "delete-link";

/// This program, to be started once more.
#[derive(Debug)]
pub(crate) struct Helper<'a> {
    program: &'a Path,
    /// The pod's, held; nothing where it is gone, and no ADD can come.
    netns: Option<Netns>,
}

impl<'a> Helper<'a> {
    /// Nothing where nobody can help: there is no such program, or an ADD in the namespace is not over.
    pub(crate) fn of(program: Option<&'a Path>, netns: Option<&Path>) -> Option<Self> {
        let netns = netns.and_then(|path| Netns::open(path).ok());
        let is_free = netns.as_ref().is_none_or(|netns| netns.try_hold().unwrap_or(false));
        program.filter(|_| is_free).map(|program| Self { program, netns })
    }

    /// Has the host end of that name, and the link that its pod's sending was limited on, deleted. Returns when they are gone or
    /// cannot be.
    pub(crate) async fn delete(&self, host: &Kernel, host_end: &str) {
        const TURN: Duration = Duration::from_micros(200);
        for name in [host_end, &ifb_of(host_end)] {
            let Ok(Some(link)) = find(host, name).await else { continue };
            if !link.is_veth() && !link.is_ifb() {
                continue;
            }
            let Ok(mut other) = self.start(&link) else { return };
            // The kernel answers between changes, not in their midst, so a link that is not found is gone with all that was on it.
            while let (Ok(Some(_)), Ok(None)) = (find(host, name).await, other.try_wait()) {
                thread::sleep(TURN);
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the kernel has a process wait that need not be this one")]
    fn start(&self, link: &Link) -> io::Result<Child> {
        let mut command = Command::new(self.program);
        command.args([WORD, &link.name, &link.index.to_string(), &process::id().to_string()]).env_clear();
        let stdin = match &self.netns {
            Some(netns) => netns.keeper()?.into(),
            None => Stdio::null(),
        };
        command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    }
}

/// Does the errand: deletes the link of that name and index, if it is of a kind that the plugin makes, unless the process of that
/// number has ended.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    let done = || {
        let [name, index, parent] = arguments else { return None };
        let (index, parent): (u32, u32) = (index.parse().ok()?, parent.parse().ok()?);
        if !end_with_parent(parent).ok()? {
            return None;
        }
        let runtime = ops::runtime().ok()?;
        runtime.block_on(async {
            let host = ops::kernel().ok()?;
            let link = find(&host, name).await.ok()??;
            let is_meant = link.index == index && (link.is_veth() || link.is_ifb());
            if is_meant { host.delete_link(index).await.ok() } else { None }
        })
    };
    Outcome { exit_code: u8::from(done().is_none()), ..Outcome::default() }
}
