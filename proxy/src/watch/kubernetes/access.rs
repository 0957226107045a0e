//! The way to the API server: its address, and who we are to it.
//!
//! In: flags, a kubeconfig file, or what every pod finds in its environment. Out: a client. It is made anew after a failure, so that
//! certificates and files that have been exchanged are read again; a token file is read again every minute in any case.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// Where the API server is.
#[derive(Clone, Default)]
pub struct Access {
    kubeconfig: Option<PathBuf>,
    master: Option<String>,
    given: Option<Client>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("kubeconfig", &self.kubeconfig)
            .field("master", &self.master)
            .finish_non_exhaustive()
    }
}

/// Why the API server cannot be asked. What an exec plugin printed is never told: it may be a token.
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
    /// This is no pod.
    #[error("find the API server: give --kubeconfig FILE or --manifests DIR, unless this runs in a pod")]
    InCluster(#[source] kube::config::InClusterError),
    /// The URL makes no sense.
    #[error("--master {url:?} is no URL")]
    Master {
        /// As given.
        url: String,
    },
    /// The certificates or the way to log in make no sense.
    #[error("prepare to log in at the API server")]
    Client(#[source] Box<kube::Error>),
    /// What says who we are does not.
    #[error(
        "log in at the API server: the kubeconfig's way to do so failed (what it said is not shown: it may be a secret)"
    )]
    LogIn,
}

impl Error {
    /// An error of the kube crate, without what an exec plugin has printed.
    fn of_client(error: kube::Error) -> Self {
        if is_of_login(&error) { Self::LogIn } else { Self::Client(Box::new(error)) }
    }
}

/// Says whether an error is, or comes from, one of logging in: those tell what an exec plugin has printed.
pub(super) fn is_of_login(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        error.is::<kube::client::AuthError>() || matches!(error.downcast_ref(), Some(kube::Error::Auth(_)))
    })
}

impl Access {
    /// As a kubeconfig file says; without one, as every pod is told in its environment. `master` is the API server's URL, in the
    /// place of the one that the kubeconfig has.
    pub fn new(kubeconfig: Option<PathBuf>, master: Option<String>) -> Self {
        Self { kubeconfig, master, given: None }
    }

    /// By a client that is there already.
    pub fn through(client: Client) -> Self {
        Self { given: Some(client), ..Self::default() }
    }

    /// The kubeconfig file, where one is given.
    pub fn kubeconfig(&self) -> Option<&Path> {
        self.kubeconfig.as_deref()
    }

    /// The API server's URL; empty where only a client is given.
    pub async fn server(&self) -> Result<String, Error> {
        match (&self.given, &self.master) {
            (Some(_), _) => Ok(String::new()),
            (None, Some(url)) => Ok(url.clone()),
            (None, None) => Ok(self.config().await?.cluster_url.to_string()),
        }
    }

    /// Makes a client. It connects when it is first used.
    pub async fn client(&self) -> Result<Client, Error> {
        Ok(self.client_and_host().await?.0)
    }

    /// The same, and the host and port that it is for.
    pub(super) async fn client_and_host(&self) -> Result<(Client, Arc<str>), Error> {
        if let Some(client) = &self.given {
            return Ok((client.clone(), Arc::default()));
        }
        let mut config = self.config().await?;
        if let Some(url) = &self.master {
            config.cluster_url = url.parse().map_err(|_| Error::Master { url: url.clone() })?;
        }
        config.default_retry = false; // the feeds do, with an eye on all of it
        let host = config.cluster_url.authority().map(|authority| authority.as_str().into());
        let client = Client::try_from(config).map_err(Error::of_client)?;
        Ok((client, host.unwrap_or_default()))
    }

    async fn config(&self) -> Result<Config, Error> {
        if let Some(path) = &self.kubeconfig {
            let unusable = |source| Error::Kubeconfig { path: path.clone(), source: Box::new(source) };
            let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
            let options = KubeConfigOptions::default();
            return Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(unusable);
        }
        if let Some(url) = &self.master {
            return Ok(Config::new(url.parse().map_err(|_| Error::Master { url: url.clone() })?));
        }
        Config::incluster_env().map_err(Error::InCluster)
    }
}
