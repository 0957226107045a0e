//! What the runtime asks for, read from the environment.
//!
//! In: the variables of the specification. Out: a request in which everything that a verb needs is there and well-formed, or an
//! error that names every variable that is missing. Names that become file and link names are checked here, once.

use std::{ffi::OsString, net::IpAddr, path::PathBuf, time::SystemTime};

use dataplane::rtnl::Mac;

use crate::{
    conf::mode::mac_in,
    failure::{Code, Coded},
    ipam,
};

/// The variables that the plugin reads, and the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`
    pub command: Option<String>,
    /// `CNI_CONTAINERID`
    pub container_id: Option<String>,
    /// `CNI_NETNS`
    pub netns: Option<String>,
    /// `CNI_IFNAME`
    pub ifname: Option<String>,
    /// `CNI_ARGS`
    pub args: Option<String>,
    /// `CNI_NETNS_OVERRIDE`
    pub netns_override: Option<String>,
    /// `CNI_PATH`: where other plugins are.
    pub path: Option<String>,
    /// When the call was made.
    pub now: SystemTime,
    /// This program, to be started once more; nothing where it is part of another.
    pub program: Option<PathBuf>,
}

impl Environment {
    /// Picks the plugin's variables from all there are. An empty one is as good as none.
    pub fn from_vars(vars: impl IntoIterator<Item = (OsString, OsString)>, now: SystemTime) -> Self {
        let none = None::<String>;
        let mut all = Self {
            command: none.clone(),
            container_id: none.clone(),
            netns: none.clone(),
            ifname: none.clone(),
            args: none.clone(),
            netns_override: none.clone(),
            path: none,
            now,
            program: None,
        };
        for (name, value) in vars {
            let place = match name.to_str() {
                Some("CNI_COMMAND") => &mut all.command,
                Some("CNI_CONTAINERID") => &mut all.container_id,
                Some("CNI_NETNS") => &mut all.netns,
                Some("CNI_IFNAME") => &mut all.ifname,
                Some("CNI_ARGS") => &mut all.args,
                Some("CNI_NETNS_OVERRIDE") => &mut all.netns_override,
                Some("CNI_PATH") => &mut all.path,
                _ => continue,
            };
            let value = value.to_string_lossy().into_owned();
            *place = (!value.is_empty()).then_some(value);
        }
        all
    }

    /// The variables, as another plugin is to get them.
    pub fn vars(&self) -> [(&'static str, Option<&str>); 7] {
        [
            ("CNI_COMMAND", self.command.as_deref()),
            ("CNI_CONTAINERID", self.container_id.as_deref()),
            ("CNI_NETNS", self.netns.as_deref()),
            ("CNI_IFNAME", self.ifname.as_deref()),
            ("CNI_ARGS", self.args.as_deref()),
            ("CNI_NETNS_OVERRIDE", self.netns_override.as_deref()),
            ("CNI_PATH", self.path.as_deref()),
        ]
    }

    /// Says whether a configuration is to be read from standard input: not where a person just tries the program.
    pub fn expects_configuration(&self) -> bool {
        self.command.is_some()
    }
}

/// What the runtime asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Nothing: a person wonders what this program is.
    About,
    /// Which versions the plugin speaks.
    Version,
    /// What needs a configuration.
    Verb(Verb),
}

/// What needs a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Give a pod a link.
    Add(Target),
    /// Look whether the pod's link is as it should be.
    Check(Target),
    /// Take the link and its addresses away.
    Del {
        /// Which link of which container.
        attachment: Attachment,
        /// The container's network namespace, where it is still known.
        netns: Option<PathBuf>,
    },
    /// Take away all that the runtime does not know any more.
    Gc,
    /// Say whether an ADD would succeed.
    Status,
}

impl Verb {
    /// Whom it concerns, with a word in front that says what it is; nobody in particular for GC and STATUS.
    pub fn subject(&self) -> Option<String> {
        match self {
            Self::Add(target) | Self::Check(target) => Some(target.subject()),
            Self::Del { attachment, .. } => Some(format!("container {}", attachment.container_id())),
            Self::Gc | Self::Status => None,
        }
    }
}

/// Where a link is to be, or is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which link of which container.
    pub attachment: Attachment,
    /// The container's network namespace.
    pub netns: PathBuf,
    /// The namespace may be the plugin's own.
    pub may_be_own: bool,
    /// The pod, where the runtime says it.
    pub pod: Option<Pod>,
    /// The address that the pod must get, where the runtime says one.
    pub requested: Option<IpAddr>,
    /// The hardware address that the link must have, where the runtime says one.
    pub mac: Option<Mac>,
    /// When the call was made.
    pub now: SystemTime,
}

impl Target {
    /// What people call it: the pod, or else the container.
    pub fn name(&self) -> String {
        match &self.pod {
            Some(pod) => pod.to_string(),
            None => self.attachment.container_id.clone(),
        }
    }

    /// The same, with a word in front that says what it is.
    pub fn subject(&self) -> String {
        let kind = if self.pod.is_some() { "pod" } else { "container" };
        format!("{kind} {}", self.name())
    }
}

/// A link of a container: what the specification calls an attachment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    container_id: String,
    ifname: String,
}

impl Attachment {
    /// Takes a container id and a link name that are fit for files and links.
    pub fn new(container_id: &str, ifname: &str) -> Result<Self, Error> {
        if !is_container_id(container_id) {
            return Err(Error::ContainerId(container_id.to_owned()));
        }
        if !is_link_name(ifname) {
            return Err(Error::Ifname(ifname.to_owned()));
        }
        Ok(Self { container_id: container_id.to_owned(), ifname: ifname.to_owned() })
    }

    /// The container's id.
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// The link's name in the container.
    pub fn ifname(&self) -> &str {
        &self.ifname
    }
}

/// A pod of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for Pod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What is wrong with the environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Variables that the verb needs.
    #[error("{command} needs the environment variables {missing}")]
    Missing {
        /// The verb.
        command: String,
        /// All that are missing.
        missing: String,
    },
    /// A verb that does not exist.
    #[error("unknown CNI_COMMAND {0:?}: ADD, CHECK, DEL, GC, STATUS or VERSION")]
    Command(String),
    /// An id that is no id.
    #[error("CNI_CONTAINERID {0:?}: at most 200 of a-z A-Z 0-9 _ . - and a letter or digit first")]
    ContainerId(String),
    /// A name that the kernel would not take.
    #[error("CNI_IFNAME {0:?}: at most 15 bytes, without / : or space, and not . or ..")]
    Ifname(String),
    /// `CNI_ARGS` is not what it should be.
    #[error("CNI_ARGS: {0:?} is not KEY=VALUE")]
    Args(String),
    /// `CNI_ARGS` asks for an address that is none.
    #[error("CNI_ARGS: IP={0:?} is no address")]
    Address(String),
    /// `CNI_ARGS` asks for a hardware address that no link can have.
    #[error("CNI_ARGS: MAC={0:?}: six pairs of hexadecimal digits with colons between them, and no group's")]
    Mac(String),
}

impl Coded for Error {
    fn code(&self) -> Code {
        Code::InvalidEnvironment
    }
}

impl Request {
    /// Reads a request. The table of the specification, without the variables that this plugin has no use for:
    ///
    /// ```text
    ///                  ADD  CHECK  DEL  GC  STATUS  VERSION
    /// CNI_CONTAINERID   x     x     x
    /// CNI_NETNS         x     x
    /// CNI_IFNAME        x     x     x
    /// ```
    pub fn parse(environment: &Environment) -> Result<Self, Error> {
        let Some(command) = environment.command.as_deref() else { return Ok(Self::About) };
        let verb = match command {
            "VERSION" => return Ok(Self::Version),
            "ADD" => {
                let target = target(environment, command)?;
                Verb::Add(target)
            }
            "CHECK" => Verb::Check(target(environment, command)?),
            "DEL" => {
                let (container_id, ifname) = (&environment.container_id, &environment.ifname);
                let needed = [("CNI_CONTAINERID", container_id), ("CNI_IFNAME", ifname)];
                let [container_id, ifname] = present(command, needed)?;
                let netns = environment.netns.as_deref().map(PathBuf::from);
                Verb::Del { attachment: Attachment::new(container_id, ifname)?, netns }
            }
            "GC" => Verb::Gc,
            "STATUS" => Verb::Status,
            other => return Err(Error::Command(other.to_owned())),
        };
        Ok(Self::Verb(verb))
    }
}

fn target(environment: &Environment, command: &str) -> Result<Target, Error> {
    let needed = [
        ("CNI_CONTAINERID", &environment.container_id),
        ("CNI_NETNS", &environment.netns),
        ("CNI_IFNAME", &environment.ifname),
    ];
    let [container_id, netns, ifname] = present(command, needed)?;
    // The values that Go's strconv.ParseBool takes for true, as the reference implementation does.
    let override_ = environment.netns_override.as_deref();
    Ok(Target {
        attachment: Attachment::new(container_id, ifname)?,
        netns: PathBuf::from(netns),
        may_be_own: override_.is_some_and(|v| ["1", "t", "T", "TRUE", "true", "True"].contains(&v)),
        pod: pod_of(environment.args.as_deref())?,
        requested: requested_in(environment.args.as_deref())?,
        mac: mac_of(environment.args.as_deref())?,
        now: environment.now,
    })
}

/// Takes variables that must all be there, or names those that are not.
fn present<'a, const N: usize>(
    command: &str,
    variables: [(&str, &'a Option<String>); N],
) -> Result<[&'a str; N], Error> {
    let missing: Vec<&str> =
        variables.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        return Err(Error::Missing { command: command.to_owned(), missing: missing.join(", ") });
    }
    Ok(variables.map(|(_, value)| value.as_deref().unwrap_or_default()))
}

fn pairs(args: &str) -> impl Iterator<Item = Result<(&str, &str), Error>> {
    let pairs = args.split(';').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').ok_or_else(|| Error::Args(pair.to_owned())))
}

fn pod_of(args: Option<&str>) -> Result<Option<Pod>, Error> {
    let (mut namespace, mut name) = (None, None);
    for pair in pairs(args.unwrap_or_default()) {
        match pair? {
            ("K8S_POD_NAMESPACE", value) if !value.is_empty() => namespace = Some(value.to_owned()),
            ("K8S_POD_NAME", value) if !value.is_empty() => name = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok(namespace.zip(name).map(|(namespace, name)| Pod { namespace, name }))
}

fn requested_in(args: Option<&str>) -> Result<Option<IpAddr>, Error> {
    for pair in pairs(args.unwrap_or_default()) {
        if let ("IP", value) = pair?
            && !value.is_empty()
        {
            return ipam::address_in(value).map(Some).ok_or_else(|| Error::Address(value.to_owned()));
        }
    }
    Ok(None)
}

fn mac_of(args: Option<&str>) -> Result<Option<Mac>, Error> {
    for pair in pairs(args.unwrap_or_default()) {
        if let ("MAC", value) = pair?
            && !value.is_empty()
        {
            return mac_in(value).map(Some).ok_or_else(|| Error::Mac(value.to_owned()));
        }
    }
    Ok(None)
}

/// SPEC "Parameters": alphanumeric first. The length is ours: an id is part of a file's name.
fn is_container_id(text: &str) -> bool {
    text.len() <= 200 && is_identifier(text)
}

/// What the specification asks of container ids and network names.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// What the kernel takes: `dev_valid_name` of `net/core/dev.c`.
pub(crate) fn is_link_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 15
        && !matches!(text, "." | "..")
        && !text.chars().any(|c| matches!(c, '/' | ':' | '\0') || c.is_whitespace())
}

#[cfg(test)]
mod tests;
