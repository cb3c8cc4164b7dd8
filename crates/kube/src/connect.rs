//! How the cluster's API is reached.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{ClientBuilder, ConfigExt as _};
use kube::config::{Config, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, error};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a connection may be silent. More than a [watch](crate::registry::WATCH) lasts, so one that is silent longer
/// leads nowhere.
const READ: Duration = Duration::from_secs(150);

/// After how much silence the other end of a connection is asked whether it is there.
const SILENT: Duration = Duration::from_secs(10);

/// How often it is asked again before the connection is taken for dead.
const AGAIN: Duration = Duration::from_secs(5);

/// Where the cluster's API is, and who asks. With neither of the two, a pod's service account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// A kubeconfig file.
    pub kubeconfig: Option<PathBuf>,
    /// The URL of the API, whatever the kubeconfig or the cluster says. One that is reached without the mesh: the
    /// service address inside a cluster may lead through it.
    pub master: Option<String>,
}

/// Why the API can't be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The credentials can't be used.
    #[error("the API's credentials are of no use: {0}")]
    Client(#[source] Box<kube::Error>),
    /// There is no service account.
    #[error("this is no pod with a service account, so say --kubeconfig FILE ({0})")]
    InCluster(#[from] InClusterError),
    /// The kubeconfig can't be used.
    #[error("kubeconfig {}: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<KubeconfigError>,
    },
    /// The URL is none.
    #[error("--master {url:?} is no URL, such as https://203.0.113.1:6443: {reason}")]
    Master {
        /// The text that was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Connection {
    /// Makes a client. Connects to nothing yet. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// If there are no credentials, or none that can be used.
    pub async fn client(&self) -> Result<Client, ConnectError> {
        Ok(self.open().await?.0)
    }

    /// The same, and the URL that the client asks.
    ///
    /// # Errors
    ///
    /// If there are no credentials, or none that can be used.
    pub async fn open(&self) -> Result<(Client, Uri), ConnectError> {
        let mut config = match &self.kubeconfig {
            None => Config::incluster()?,
            Some(path) => {
                let failed = |source| ConnectError::Kubeconfig {
                    path: path.clone(),
                    source: Box::new(source),
                };
                let file = Kubeconfig::read_from(path).map_err(failed)?;
                let options = KubeConfigOptions::default();
                Config::from_custom_kubeconfig(file, &options).await.map_err(failed)?
            }
        };
        if let Some(url) = &self.master {
            config.cluster_url = url.parse().map_err(|error: http::uri::InvalidUri| {
                ConnectError::Master { url: url.clone(), reason: error.to_string() }
            })?;
        }
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(READ);
        let url = config.cluster_url.clone();
        let client = client(config).map_err(|error| ConnectError::Client(Box::new(error)))?;
        Ok((client, url))
    }
}

/// As kube makes one, with connections that the kernel ends when nothing comes back: those that began at an address
/// which this machine has no longer, above all. Behind a proxy, kube's own.
fn client(config: Config) -> Result<Client, error::Error> {
    if config.proxy_url.is_some() {
        return Client::try_from(config);
    }
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_keepalive(Some(SILENT));
    http.set_keepalive_interval(Some(AGAIN));
    http.set_keepalive_retries(Some(2));
    http.set_tcp_user_timeout(Some(SILENT + 2 * AGAIN));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(http)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    let retry = config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry()));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(retry)
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(
            hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector),
        );
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}
