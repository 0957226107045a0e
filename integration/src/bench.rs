//! Benchmarks: what Fairway costs on this machine's kernel, measured in namespaces of their own.
//!
//! In: a number of services and endpoints, or of pods. Out: a table for people, or one JSON object for programs; the keys are explained in
//! `docs/testing.md`. Nothing here is part of the product, and nothing outside of the sandbox is touched.
//!
//! ```text
//! cargo lab bench …        outside: builds the programs, makes the sandbox
//!   └─ --stage inside      process 1: makes the hosts, asks the others, shows the figures
//!        ├─ --stage engine the measured part in a process of its own, so that its CPU time and peak memory are its own
//!        ├─ fairway-proxy  the real daemon, on manifests, or on the API server's double
//!        ├─ nft            the same services in kube-proxy's layout
//!        └─ fairway, bridge, ptp  pods come and go
//! ```

mod api;
mod churn;
mod cni;
mod connect;
mod daemon;
mod engine;
mod figures;
mod net;
mod peer;
mod routes;
mod sync;
mod workload;

use std::{ffi::OsString, fmt::Display, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, anyhow};
use serde::Serialize;

use self::{api::Spans, cni::Extent, workload::Size};
use crate::{
    binaries,
    harness::report,
    sandbox::{self, Tie},
    screen::show,
};

/// What to measure, and how to show it.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Bench {
    #[command(subcommand)]
    measured: Measured,
    /// Print one JSON object instead of a table
    #[arg(long, global = true)]
    json: bool,
    /// Which of the processes this one is.
    #[arg(long, hide = true, global = true)]
    stage: Option<Stage>,
    /// The daemon.
    #[arg(long, hide = true, global = true)]
    fairway_proxy: Option<PathBuf>,
    /// The plugin.
    #[arg(long, hide = true, global = true)]
    fairway: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
enum Measured {
    /// Full sync, single changes, a burst, a restart; also in kube-proxy's layout where nft is installed
    Sync {
        #[command(flatten)]
        size: Size,
    },
    /// New connections through a service against those to the pod itself
    Connect {
        /// How many services there are besides the one that is connected to
        #[arg(long, default_value_t = 10_000, value_parser = workload::services())]
        services: u32,
    },
    /// Changes per second through the daemon's loop, and how long each takes to the kernel
    Churn {
        #[command(flatten)]
        size: Size,
        /// How long to send changes, half of it as fast as they are taken
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
        seconds: u32,
    },
    /// The daemon on an API server, played by the double of the tests: start, memory, one change, a restart
    Api {
        #[command(flatten)]
        size: Size,
        #[command(flatten)]
        spans: Spans,
    },
    /// How much flows between pods, and how long one waits for the other, by every way that there is
    Net {
        /// How long each stream flows
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600))]
        seconds: u32,
        /// How often each way is measured
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        turns: u32,
    },
    /// Ways to the pods of many nodes: from nothing, after a restart, node by node, and when others interfere
    Routes {
        /// How many other nodes there are
        #[arg(long, default_value_t = 5_000, value_parser = routes::nodes())]
        nodes: u32,
    },
    /// ADD and DEL of pods by the plugin; also by the reference plugins where they are installed, and by the kernel alone
    Cni {
        #[command(flatten)]
        extent: Extent,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Stage {
    Inside,
    Engine,
}

impl Bench {
    /// Measures, and shows what came out.
    pub fn run(&self) -> Result<ExitCode> {
        match (self.stage, &self.measured) {
            (None, measured) => {
                return outside(matches!(measured, Measured::Cni { extent } if extent.plugin.is_none()));
            }
            (Some(Stage::Engine), Measured::Sync { size }) => {
                print(true, &sync::measure_engine(size.checked()?)?)?;
            }
            (Some(_), measured) => {
                sandbox::furnish()?;
                match measured {
                    Measured::Sync { size } => {
                        let proxy = self.fairway_proxy.as_deref().context("which daemon?")?;
                        print(self.json, &sync::measure(size.checked()?, proxy)?)?;
                    }
                    Measured::Connect { services } => print(self.json, &connect::measure(*services)?)?,
                    Measured::Churn { size, seconds } => {
                        print(self.json, &churn::measure(size.checked()?, *seconds)?)?;
                    }
                    Measured::Api { size, spans } => {
                        let proxy = self.fairway_proxy.as_deref().context("which daemon?")?;
                        print(self.json, &api::measure(size.checked()?, *spans, proxy)?)?;
                    }
                    Measured::Routes { nodes } => print(self.json, &routes::measure(*nodes)?)?,
                    Measured::Net { seconds, turns } => {
                        let plugin = self.fairway.as_deref().context("which plugin?")?;
                        let proxy = self.fairway_proxy.as_deref().context("which daemon?")?;
                        print(self.json, &net::measure(*seconds, *turns, plugin, proxy)?)?;
                    }
                    Measured::Cni { extent } => {
                        let plugin = self.fairway.as_deref().context("which plugin?")?;
                        print(self.json, &cni::measure(extent, plugin)?)?;
                    }
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Runs this same command in a sandbox, and with the plugin as users install it where `as_installed` matters.
fn outside(as_installed: bool) -> Result<ExitCode> {
    let built = binaries::built().map_err(|error| anyhow!(report(error)))?;
    let fairway = if as_installed { binaries::as_installed()? } else { None };
    let fairway = fairway.unwrap_or_else(|| built.fairway.clone());
    let mut words: Vec<OsString> = std::env::args_os().skip(1).collect();
    words.extend(["--stage".into(), "inside".into()]);
    words.extend(["--fairway-proxy".into(), built.fairway_proxy.clone().into()]);
    words.extend(["--fairway".into(), fairway.into()]);
    let status = sandbox::attend(&mut sandbox::inner(words, Tie::Lifelong)?)?;
    Ok(ExitCode::from(sandbox::exit_code(status)))
}

fn print(as_json: bool, figures: &(impl Serialize + Display)) -> Result<()> {
    if as_json {
        show(format_args!("{}", serde_json::to_string(figures)?));
    } else {
        show(format_args!("{figures}"));
    }
    Ok(())
}
