//! The way to the API server: its address, and who we are to it.
//!
//! In: flags, a kubeconfig file, or what every pod finds in its environment. Out: a client. It is made anew after a failure, so that
//! certificates and files that have been exchanged are read again; a token file is read again every minute in any case. An exec plugin that
//! hangs holds up nothing but its own client, and is not followed by others. What it printed is never told, nor what stands in a kubeconfig
//! file: there may be tokens.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dataplane::hash;
use kube::{
    Client, Config,
    client::AuthError,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

/// How long an exec plugin may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the API server is.
#[derive(Clone, Default)]
pub struct Access {
    kubeconfig: Option<PathBuf>,
    master: Option<String>,
    given: Option<Client>,
    /// Whose turn it is to run an exec plugin.
    turn: Arc<Mutex<()>>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("kubeconfig", &self.kubeconfig)
            .field("master", &self.master)
            .finish_non_exhaustive()
    }
}

/// Why the API server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig is not usable.
    #[error("use kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<kube::config::KubeconfigError>,
    },
    /// The kubeconfig is something else.
    #[error("read kubeconfig {path}: it makes no sense in line {line}")]
    Senseless {
        /// The file.
        path: PathBuf,
        /// Where, from 1; 0 where the reader does not say.
        line: u64,
    },
    /// This is no pod.
    #[error("find the API server: give --kubeconfig FILE or --manifests DIR, unless this runs in a pod")]
    InCluster(#[source] kube::config::InClusterError),
    /// The URL makes no sense.
    #[error("--master {url:?} is no URL")]
    Master {
        /// As given.
        url: String,
    },
    /// The certificates make no sense.
    #[error("prepare to log in at the API server")]
    Client(#[source] Box<kube::Error>),
    /// We cannot say who we are.
    #[error("log in at the API server: {reason}")]
    LogIn {
        /// Why.
        reason: String,
    },
    /// An exec plugin does not end.
    #[error("log in at the API server: the exec plugin has not ended after {} s: end it, and it is run again", PATIENCE.as_secs())]
    Hanging,
}

impl Access {
    /// As a kubeconfig file says; without one, as every pod is told in its environment. `master` is the API server's URL, in the
    /// place of the one that the kubeconfig has.
    pub fn new(kubeconfig: Option<PathBuf>, master: Option<String>) -> Self {
        Self { kubeconfig, master, ..Self::default() }
    }

    /// By a client that is there already.
    pub fn through(client: Client) -> Self {
        Self { given: Some(client), ..Self::default() }
    }

    /// The kubeconfig file, where one is given.
    pub fn kubeconfig(&self) -> Option<&Path> {
        self.kubeconfig.as_deref()
    }

    /// The API server's URL, and whom it has its certificate from: a cluster that is made anew has another authority at the same URL. Empty
    /// where only a client is given.
    pub async fn server(&self) -> Result<String, Error> {
        if self.given.is_some() {
            return Ok(String::new());
        }
        let config = self.config().await?;
        let authority = config.root_cert.map(|certificates| hash::stable(certificates.into_iter().flatten()));
        let authority = authority.map(|hash| format!(" (certificate authority {hash:016x})"));
        Ok(format!("{}{}", config.cluster_url, authority.unwrap_or_default()))
    }

    /// Looks whether all of it makes sense, as far as that can be said without asking anybody: no exec plugin is run.
    pub async fn check(&self) -> Result<(), Error> {
        if self.given.is_some() {
            return Ok(());
        }
        let config = self.config().await?;
        let user = &config.auth_info;
        if user.exec.is_none() && user.auth_provider.is_none() {
            Client::try_from(config).map_err(Error::of_client)?;
        }
        Ok(())
    }

    /// Makes a client, and names the host and port that it is for. It connects when it is first used.
    pub(super) async fn client_and_host(&self) -> Result<(Client, Arc<str>), Error> {
        if let Some(client) = &self.given {
            return Ok((client.clone(), Arc::default()));
        }
        let mut config = self.config().await?;
        config.default_retry = false; // the feeds do, with an eye on all of it
        let host = config.cluster_url.authority().map(|authority| authority.as_str().into());
        let made = async {
            let turn = Arc::clone(&self.turn).lock_owned().await;
            spawn_blocking(move || {
                let client = Client::try_from(config); // runs an exec plugin, and waits for its end
                drop(turn);
                client
            })
            .await
        };
        let client = match timeout(PATIENCE, made).await {
            Ok(Ok(client)) => client.map_err(Error::of_client)?,
            Ok(Err(ended)) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return Err(Error::Hanging), // this program ends
            },
            Err(_) => return Err(Error::Hanging),
        };
        Ok((client, host.unwrap_or_default()))
    }

    /// What the flags and the kubeconfig file come to.
    async fn config(&self) -> Result<Config, Error> {
        let mut config = self.config_of_file().await?;
        if let Some(url) = &self.master {
            config.cluster_url = url.parse().map_err(|_| Error::Master { url: url.clone() })?;
        }
        Ok(config)
    }

    async fn config_of_file(&self) -> Result<Config, Error> {
        if let Some(path) = &self.kubeconfig {
            let path = || path.clone();
            let unusable = |error| match error {
                // The reader's own words have lines of the file in them.
                KubeconfigError::Parse(error) => {
                    let line = error.location().map_or(0, |location| location.line());
                    Error::Senseless { path: path(), line }
                }
                source => Error::Kubeconfig { path: path(), source: Box::new(source) },
            };
            let kubeconfig = Kubeconfig::read_from(path()).map_err(unusable)?;
            let options = KubeConfigOptions::default();
            return Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(unusable);
        }
        if let Some(url) = &self.master {
            return Ok(Config::new(url.parse().map_err(|_| Error::Master { url: url.clone() })?));
        }
        Config::incluster_env().map_err(Error::InCluster)
    }
}

impl Error {
    fn of_client(error: kube::Error) -> Self {
        match of_login(&error) {
            Some(reason) => Self::LogIn { reason },
            None => Self::Client(Box::new(error)),
        }
    }
}

/// Why we cannot say who we are, if that is what an error is or comes from; without what an exec plugin was given or has printed, which may
/// be a token.
pub(super) fn of_login(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| {
        let error = match error.downcast_ref() {
            Some(kube::Error::Auth(error)) => Some(error),
            _ => error.downcast_ref(),
        };
        error.map(told)
    })
}

fn told(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecRun { out, .. } => format!("the exec plugin ended with {}", out.status),
        AuthError::AuthExecParse(_) | AuthError::ExecPluginFailed => {
            "what the exec plugin printed is no ExecCredential with a status".into()
        }
        AuthError::ParseTokenKey(_) => "what the auth provider printed makes no sense".into(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What is said of a kubeconfig file, with all causes.
    #[expect(clippy::disallowed_methods, reason = "plays the user")]
    async fn said_of(text: &str) -> String {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("kubeconfig");
        fs::write(&path, text).unwrap();

        let error = Access::new(Some(path), None).check().await.unwrap_err();

        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "plays the user")]
    async fn a_cluster_that_is_made_anew_at_the_same_address_is_another() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("kubeconfig");
        let mut servers = Vec::new();
        for authority in ["AAAA", "BBBB"] {
            let authority = format!("-----BEGIN CERTIFICATE-----\n{authority}\n-----END CERTIFICATE-----\n");
            fs::write(place.path().join("ca.crt"), authority).unwrap();
            let text = "{kind: Config, apiVersion: v1, current-context: c, users: [{name: u, user: {}}],\n\
                        clusters: [{name: k, cluster: {server: 'https://192.168.14.50:6443', certificate-authority: ca.crt}}],\n\
                        contexts: [{name: c, context: {cluster: k, user: u}}]}";
            fs::write(&path, text).unwrap();
            servers.push(Access::new(Some(path.clone()), None).server().await.unwrap());
        }

        assert!(
            servers.iter().all(|server| server.starts_with("https://192.168.14.50:6443/ (")),
            "{servers:?}"
        );
        assert_ne!(servers[0], servers[1]);
    }

    #[tokio::test]
    async fn nothing_of_a_kubeconfig_that_makes_no_sense_is_told() {
        for text in [
            "users:\n- name: u\n  user: s3cret\n",
            "users:\n- name: u\n  user: {token: s3cret\n",
            "s3cret: [}",
        ] {
            let said = said_of(text).await;

            assert!(said.contains("it makes no sense in line "), "{said}");
            assert!(!said.contains("s3cret"), "{said}");
        }
    }
}
