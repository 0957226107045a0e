//! Process 1 of the sandbox: starts the cluster, plays, stays.

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use super::Inside;
use crate::{
    binaries::Binaries,
    cluster::{Cluster, Source},
    demo,
    holder::Desk,
    lesson,
    manifest::{Object, parse},
    sandbox,
    screen::{Screen, show},
};

pub(super) fn run(options: &Inside) -> Result<ExitCode> {
    let objects = objects(options)?; // the sandbox covers some of the machine's directories
    let starter = if options.stay { Some(Starter::listen()?) } else { None };
    sandbox::furnish()?;

    let binaries =
        Binaries { fairway: options.fairway.clone(), fairway_proxy: options.fairway_proxy.clone() };
    let screen = Screen { is_coloured: options.colour };
    let source = if options.api { Source::Api } else { Source::Manifests };
    // As in the lesson, in which every packet between nodes is inside another; the files of others say nothing of it.
    let flags: &[&str] = if options.files.is_empty() { &lesson::FLAGS } else { &[] };
    let mut cluster = Cluster::start_on(&binaries, objects, source, flags)?;
    let code = u8::from(options.play && !demo::play(&mut cluster, screen));
    if let Some(starter) = starter {
        let desk = Desk::open().context("open the lab's socket")?;
        show(format_args!("\n{}", invitation()));
        starter.let_go(code)?;
        desk.serve(&mut cluster);
    }
    // Nothing is taken down: with this process, the kernel takes all there is.
    Ok(ExitCode::from(code))
}

fn objects(options: &Inside) -> Result<Vec<Object>> {
    if options.files.is_empty() {
        return Ok(lesson::objects()?);
    }
    let mut objects = Vec::new();
    for file in &options.files {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        objects.extend(parse(&file.display().to_string(), &text)?);
    }
    Ok(objects)
}

fn invitation() -> &'static str {
    "The lab is up. Look around, and end it with `cargo lab down`:
  cargo lab status
  cargo lab curl --from apache-pod -n 6 myweb-service:8001
  cargo lab exec w1 -- nft list ruleset
  cargo lab apply -f conf/lab/service-node-port.yaml"
}

/// The command that started this process and waits for it, at the other end of stdin.
struct Starter {
    socket: UnixStream,
    is_let_go: Arc<AtomicBool>,
}

impl Starter {
    /// Leaves the terminal's session, and ends with the starter from now on.
    fn listen() -> Result<Self> {
        setsid().context("leave the terminal")?;
        let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().context("take stdin")?);
        let is_let_go = Arc::new(AtomicBool::new(false));
        let (mut other, flag) = (socket.try_clone().context("take stdin")?, Arc::clone(&is_let_go));
        thread::spawn(move || {
            let _ = other.read(&mut [0]); // it never says anything: this returns when it ends
            if !flag.load(Ordering::SeqCst) {
                std::process::exit(1);
            }
        });
        Ok(Self { socket, is_let_go })
    }

    /// Tells the starter that the cluster is up, with the exit code it should end with, and lets go of its terminal.
    fn let_go(mut self, code: u8) -> Result<()> {
        let nothing: OwnedFd =
            fs::OpenOptions::new().read(true).write(true).open("/dev/null").context("open /dev/null")?.into();
        let _ = io::stdout().flush(); // nobody may be there to read it
        dup2_stdin(&nothing).context("let go of stdin")?;
        dup2_stdout(&nothing).context("let go of stdout")?;
        dup2_stderr(&nothing).context("let go of stderr")?;
        self.is_let_go.store(true, Ordering::SeqCst);
        writeln!(self.socket, "{code}").context("tell the starter")
    }
}
