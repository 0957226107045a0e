//! The lab's own client, so that no `curl` is needed: asks over HTTP or UDP from wherever the calling thread is.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    str::FromStr,
    time::Duration,
};

use crate::answer::{Answer, NoAnswer};

/// How long a single question may take, where there is no reason to say otherwise.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody took the connection.
    #[error("connect to {to}")]
    Connect {
        /// The address asked.
        to: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The connection or the datagram got lost.
    #[error("ask {to}")]
    Ask {
        /// The address asked.
        to: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody answered who speaks otherwise.
    #[error("answer of {to}")]
    Foreign {
        /// The address asked.
        to: SocketAddr,
        /// What it said.
        source: NoAnswer,
    },
}

impl Error {
    /// Says whether the other side refused at once, rather than kept silent.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Connect { source, .. } | Self::Ask { source, .. } => {
                source.kind() == io::ErrorKind::ConnectionRefused
            }
            Self::Foreign { .. } => false,
        }
    }
}

/// Where to ask over HTTP: `http://10.105.77.228:8001/`, the scheme and the path optional.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// An address, or a name that the caller looks up.
    pub host: String,
    /// 80 unless said.
    pub port: u16,
    /// `/` unless said.
    pub path: String,
}

/// The text is no URL the lab can ask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form http://HOST[:PORT][/PATH]")]
pub struct BadUrl(pub String);

impl FromStr for Url {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl(text.to_owned());
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']').ok_or_else(bad)?;
                (host, port.strip_prefix(':'))
            }
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(80), str::parse).map_err(|_| bad())?;
        if host.is_empty() || host.contains(':') && host.parse::<Ipv6Addr>().is_err() {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port, path: path.to_owned() })
    }
}

impl Url {
    /// Where it leads, if its host is an address or one of the names that `look_up` knows.
    pub fn address(&self, look_up: impl Fn(&str) -> Option<IpAddr>) -> Option<SocketAddr> {
        let ip = self.host.parse().ok().or_else(|| look_up(&self.host))?;
        Some(SocketAddr::new(ip, self.port))
    }
}

/// Asks for `path` with one HTTP request over a connection of its own; returns what came back, head and body.
pub fn http_text(to: SocketAddr, path: &str, patience: Duration) -> Result<String, Error> {
    let stream = TcpStream::connect_timeout(&to, patience).map_err(|source| Error::Connect { to, source })?;
    let asked = stream.set_read_timeout(Some(patience)).and_then(|()| ask_over(stream, to, path));
    asked.map_err(|source| Error::Ask { to, source })
}

/// Asks for `path` over a connection that was made before; returns what came back, head and body.
pub fn ask_over(mut stream: TcpStream, to: SocketAddr, path: &str) -> io::Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

/// What follows the head of an HTTP response.
pub fn body_of(response: &str) -> &str {
    response.split_once("\r\n\r\n").map_or(response, |(_, body)| body)
}

/// Asks a pod of the lab over HTTP.
pub fn http(to: SocketAddr, patience: Duration) -> Result<Answer, Error> {
    let response = http_text(to, "/", patience)?;
    body_of(&response).parse().map_err(|source| Error::Foreign { to, source })
}

/// Asks a pod of the lab with one datagram.
pub fn udp(to: SocketAddr, patience: Duration) -> Result<Answer, Error> {
    let any: IpAddr = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let asked = (|| {
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(patience))?;
        socket.connect(to)?;
        socket.send(b"who are you?\n")?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned())
    })();
    let text = asked.map_err(|source| Error::Ask { to, source })?;
    text.parse().map_err(|source| Error::Foreign { to, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, u16, &str)>) {
        let url = text.parse::<Url>().ok();
        let seen = url.as_ref().map(|url| (url.host.as_str(), url.port, url.path.as_str()));
        assert_eq!(seen, expected);
    }

    #[test]
    fn scheme_port_and_path_are_optional() {
        check("http://10.105.77.228:8001/x", Some(("10.105.77.228", 8001, "/x")));
        check("myweb-service:8001", Some(("myweb-service", 8001, "/")));
        check("nginx-pod/", Some(("nginx-pod", 80, "/")));
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        check("http://[fd00::1]:8001", Some(("fd00::1", 8001, "/")));
        check("http://fd00::1:8001", None);
    }

    #[test]
    fn nonsense_is_no_url() {
        check("", None);
        check("host:port", None);
        check("https://x:80", None);
    }
}
