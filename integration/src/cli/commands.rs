//! The commands, as the person's side of them: start a sandbox, or find the one that is up and ask it.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufRead, BufReader},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use dataplane::disk::{Directory, Durability};

use super::foreground;
use crate::{
    binaries,
    client::{self, Url},
    harness::report,
    holder::{Holder, INSIDE, Namespaces, Reply, Request},
    image::Image,
    process::program,
    sandbox::{self, Tie},
    screen::{Screen, show},
};

/// Plays the lesson in a sandbox that ends with it, or with this process.
pub(super) fn demo(screen: Screen) -> Result<ExitCode> {
    let mut inner = sandbox::inner(arguments(&["--play"], screen, &[])?, Tie::Lifelong)?;
    let status = sandbox::attend(&mut inner)?;
    Ok(ExitCode::from(sandbox::exit_code(status)))
}

/// Starts a sandbox that stays, and returns when its cluster is up. While it is not, the end of this process is its end.
/// `flags` say what else the inner program is to do.
pub(super) fn stay(flags: &[&str], screen: Screen, files: &[PathBuf]) -> Result<ExitCode> {
    Holder::require_none()?;
    let flags = [&["--stay"], flags].concat();
    let arguments = arguments(&flags, screen, files)?; // building the programs may have taken its time
    // Of several that start at once, one comes first; the others wait until its lab is up, and find that.
    let _turn = own_file_locked().context("wait for others that start a lab")?;
    Holder::require_none()?;
    let mut inner = sandbox::inner(arguments, Tie::Loose)?;
    let (ours, theirs) = UnixStream::pair().context("make a socket for the sandbox")?;
    let mut child = inner.stdin(OwnedFd::from(theirs)).spawn().context("start process 1 of the sandbox")?;
    drop(inner); // and with it this process's copy of the other end

    let mut word = String::new();
    BufReader::new(ours).read_line(&mut word).context("wait for the cluster")?;
    let Ok(code) = word.trim_end().parse::<u8>() else {
        // It went without a word, and has said why on stderr.
        let status = child.wait().context("wait for the sandbox")?;
        return Ok(ExitCode::from(sandbox::exit_code(status).max(1)));
    };
    Ok(ExitCode::from(code))
}

/// Waits until no other process has this program's file locked, and locks it.
fn own_file_locked() -> io::Result<File> {
    let file = File::open(std::env::current_exe()?)?;
    file.lock()?;
    Ok(file)
}

fn arguments(flags: &[&str], screen: Screen, files: &[PathBuf]) -> Result<Vec<OsString>> {
    let built = binaries::built().map_err(|error| anyhow::anyhow!(report(error)))?;
    let mut words: Vec<OsString> = vec![INSIDE.into()];
    words.extend(flags.iter().map(Into::into));
    words.extend(screen.is_coloured.then(|| "--colour".into()));
    words.extend(["--fairway".into(), built.fairway.clone().into()]);
    words.extend(["--fairway-proxy".into(), built.fairway_proxy.clone().into()]);
    words.extend(files.iter().flat_map(|file| ["--file".into(), file.into()]));
    Ok(words)
}

pub(super) fn apply(files: &[PathBuf]) -> Result<ExitCode> {
    each_file(files, |file, text| Request::Apply { file, text })
}

pub(super) fn delete(files: &[PathBuf]) -> Result<ExitCode> {
    each_file(files, |file, text| Request::Delete { file, text })
}

fn each_file(files: &[PathBuf], request: impl Fn(String, String) -> Request) -> Result<ExitCode> {
    let holder = Holder::find()?;
    for file in files {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        if let Reply::Done(lines) = holder.ask(&request(file.display().to_string(), text))? {
            for line in lines {
                show(format_args!("{line}"));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn exec(place: &str, command: &[String]) -> Result<ExitCode> {
    let holder = Holder::find()?;
    holder.enter(&namespaces(holder, place)?)?;
    let shell = ["sh".to_owned()];
    let command = if command.is_empty() { &shell } else { command };
    let Some((file, arguments)) = command.split_first() else { bail!("no program to run") };
    let ended = foreground::run(program(file).args(arguments));
    Ok(ExitCode::from(ended.with_context(|| format!("run {file} in {place}"))?))
}

pub(super) fn curl(from: &str, count: u32, url: &str) -> Result<ExitCode> {
    let url: Url = url.parse()?;
    let holder = Holder::find()?;
    let name = Request::LookUp(url.host.clone());
    let looked_up = match url.address(|_| None) {
        Some(_) => None,
        None => match holder.ask(&name)? {
            Reply::Address(address) => Some(address),
            _ => None,
        },
    };
    let Some(to) = url.address(|_| looked_up) else { bail!("{:?} has no address", url.host) };

    holder.enter(&namespaces(holder, from)?)?;
    let mut code = ExitCode::SUCCESS;
    for _ in 0..count {
        match client::http_text(to, &url.path, client::PATIENCE) {
            Ok(response) => show(format_args!("{}", client::body_of(&response).trim_end())),
            Err(error) => {
                eprintln!("{}", report(&error));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn namespaces(holder: Holder, place: &str) -> Result<Namespaces> {
    match holder.ask(&Request::Namespaces(place.to_owned()))? {
        Reply::Namespaces(namespaces) => Ok(namespaces),
        other => bail!("the lab answered {other:?}"),
    }
}

pub(super) fn status() -> Result<ExitCode> {
    if let Reply::Status(status) = Holder::find()?.ask(&Request::Status)? {
        show(format_args!("{status}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the container image.
pub(super) fn image(output: &Path, name: &str) -> Result<ExitCode> {
    let built = binaries::for_an_image().map_err(|error| anyhow::anyhow!(report(&error)))?;
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let image = Image { fairway: read(&built.fairway)?, fairway_proxy: read(&built.fairway_proxy)? };
    let archive = image.archive(name).context("pack the image")?;

    let file = output.file_name().and_then(OsStr::to_str).context("--output must name a file")?;
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Directory::new(parent, Durability::Durable).replace(file, &archive)?;
    show(format_args!("{}: {name}, {} bytes", output.display(), archive.len()));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn down() -> Result<ExitCode> {
    Holder::find()?.end()?;
    Ok(ExitCode::SUCCESS)
}
