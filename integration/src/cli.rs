//! The command line of the lab: what `cargo lab` understands, and what each command does.

mod commands;
mod foreground;
mod inside;

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{bench::Bench, cluster::OUTSIDE, image, screen::Screen};

/// A cluster of network namespaces on this machine, by the real plugin and the real daemon.
#[derive(Debug, Clone, PartialEq, Eq, clap::Parser)]
#[command(name = "lab", bin_name = "cargo lab", max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
enum Command {
    /// Play the lesson: pods, services, a node port, session affinity; then clean up
    Demo {
        /// Leave the cluster up afterwards, as `up` does
        #[arg(long)]
        keep: bool,
    },
    /// Start a cluster and leave it up
    Up {
        /// Start with the objects in these files, nodes among them, rather than with the lesson's
        #[arg(short, long = "file", value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Have the daemons follow an API server, played by the double of the tests, rather than files
        #[arg(long)]
        api: bool,
    },
    /// Make the cluster have the objects in these files
    Apply {
        /// YAML or JSON, as for kubectl
        #[arg(short, long = "file", value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Take the objects in these files away
    Delete {
        /// YAML or JSON, as for kubectl
        #[arg(short, long = "file", value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Run a program in a pod, on a node, or outside
    Exec {
        /// A pod, a node, or `outside`
        place: String,
        /// The program and its arguments; a shell if there are none
        #[arg(last = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Ask over HTTP; needs no curl
    Curl {
        /// Where to ask from: a pod, a node, or `outside`
        #[arg(long, value_name = "WHERE", default_value = OUTSIDE)]
        from: String,
        /// How many times, each over a connection of its own
        #[arg(short = 'n', long, default_value_t = 1)]
        count: u32,
        /// `http://HOST[:PORT][/PATH]`; HOST is an address, or the name of a service, pod or node
        url: String,
    },
    /// Show nodes, pods and services
    Status,
    /// End the cluster and everything in it
    Down,
    /// Measure what Fairway costs here
    Bench(Bench),
    /// Build the two programs as nodes run them, and write them as a container image
    Image {
        /// Where to; `docker load`, `podman load`, `nerdctl load` and `ctr image import` take it
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// The image's name there
        #[arg(long, value_name = "NAME", default_value = image::NAME)]
        name: String,
    },
    /// What runs inside the sandbox
    #[command(hide = true)]
    Inside(Inside),
}

/// What the inner program needs to know.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "switches on a command line are independent of each other")]
struct Inside {
    /// Plays the lesson.
    #[arg(long)]
    play: bool,
    /// Stays until `down`.
    #[arg(long)]
    stay: bool,
    /// Has the daemons follow an API server.
    #[arg(long)]
    api: bool,
    /// Colours what it shows.
    #[arg(long)]
    colour: bool,
    /// The plugin.
    #[arg(long)]
    fairway: PathBuf,
    /// The daemon.
    #[arg(long)]
    fairway_proxy: PathBuf,
    /// What to start with.
    #[arg(long = "file")]
    files: Vec<PathBuf>,
}

impl Cli {
    /// Does what was asked. `no_colour` is what the environment says (<https://no-color.org>).
    pub fn run(self, no_colour: bool) -> Result<ExitCode> {
        let screen = Screen { is_coloured: !no_colour && std::io::stdout().is_terminal() };
        match self.command {
            Command::Demo { keep: false } => commands::demo(screen),
            Command::Demo { keep: true } => commands::stay(&["--play"], screen, &[]),
            Command::Up { files, api: false } => commands::stay(&[], screen, &files),
            Command::Up { files, api: true } => commands::stay(&["--api"], screen, &files),
            Command::Apply { files } => commands::apply(&files),
            Command::Delete { files } => commands::delete(&files),
            Command::Exec { place, command } => commands::exec(&place, &command),
            Command::Curl { from, count, url } => commands::curl(&from, count, &url),
            Command::Status => commands::status(),
            Command::Down => commands::down(),
            Command::Bench(bench) => bench.run(),
            Command::Image { output, name } => commands::image(&output, &name),
            Command::Inside(inside) => inside::run(&inside),
        }
    }
}
