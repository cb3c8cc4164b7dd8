//! A kube-apiserver with etcd behind it.

use std::ffi::OsStr;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use wireloom_lab::host::Network;
use wireloom_lab::{Child, Host};
use wireloom_testkit::cluster_program;

use crate::certificates::Authority;
use crate::error::Error;
use crate::etcd::Etcd;

/// The prefixes of a cluster's services.
pub(crate) const SERVICES: [&str; 2] = ["10.96.0.0/16", "fd96::/108"];

/// The first address of each: the service `kubernetes`.
const SERVICE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1)),
];

/// How long a server may take to be ready: 3 seconds on a machine that has nothing else to do.
const START: Duration = Duration::from_secs(120);

/// How long a single kubectl may take.
const KUBECTL: Duration = Duration::from_secs(60);

/// The port on a network where nobody else has it.
const PORT: u16 = 6443;

/// Where the server's host keeps what the server reads.
pub(crate) const FILES: &str = "/run/kubernetes";

/// The user as whom the server asks kubelets, for `exec` and `logs`.
pub(crate) const KUBELET_CLIENT: &str = "api-server";

/// A real API server, for as long as this lives.
///
/// It knows the authorisation modes `Node` and `RBAC`, bootstrap tokens, and the admission plugin `NodeRestriction`.
/// Controllers do not run: no service account comes by itself, and nothing is garbage-collected.
/// If a test panics while it lives, the end of its log is printed.
#[derive(Debug)]
pub struct ApiServer {
    // Dropped in this order.
    server: Option<Child>,
    etcd: Etcd,
    host: Host,
    authority: Authority,
    token: String,
    /// Its listening addresses, the first being the one that clients are told.
    addresses: Vec<SocketAddr>,
    /// How many manifests were applied: each has a file of its own.
    applied: AtomicU32,
}

impl ApiServer {
    /// Starts one on this machine's loopback address, on a port that is free.
    ///
    /// # Errors
    ///
    /// No root, or a server that does not become ready.
    pub fn start() -> Result<Self, Error> {
        let host = Host::start_on("api-server", Network::Ours)?;
        let address = IpAddr::from(Ipv4Addr::LOCALHOST);
        let port = free_port(&host)?;
        Self::run(host, vec![SocketAddr::new(address, port)])
    }

    /// Starts one on a host of a lab, on port 6443 of these addresses of it, none of them loopback and the first IPv4.
    /// Clients are told the first.
    ///
    /// # Errors
    ///
    /// As of [`ApiServer::start`].
    pub fn start_on(host: &Host, addresses: &[IpAddr]) -> Result<Self, Error> {
        let host = Host::start_on("api-server", Network::Of(host))?;
        let addresses = addresses.iter().map(|&address| SocketAddr::new(address, PORT));
        Self::run(host, addresses.collect())
    }

    fn run(host: Host, addresses: Vec<SocketAddr>) -> Result<Self, Error> {
        let authority = Authority::new()?;
        let mut token = [0; 16];
        rustix::rand::getrandom(&mut token, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| Error::system("make a token", errno.into()))?;
        let etcd = Etcd::start(&host)?;
        let mut api = Self {
            server: None,
            etcd,
            host,
            authority,
            token: hex::encode(token),
            addresses,
            applied: AtomicU32::new(0),
        };
        api.write_files()?;
        api.resume()?;
        Ok(api)
    }

    /// Its URL, by the first of its addresses.
    pub fn url(&self) -> String {
        format!("https://{}", self.addresses[0])
    }

    /// The certificate, as PEM, of the authority that signed the server's own.
    pub fn authority(&self) -> &str {
        &self.authority.own.certificate
    }

    /// The bearer token of a user who may do everything (the group `system:masters`).
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A kubeconfig, in YAML's subset JSON, with the token of [`ApiServer::token`].
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_for(&json!({ "token": self.token }))
    }

    /// A kubeconfig for whoever bears this token, for example of a service account.
    pub fn kubeconfig_of_bearer(&self, token: &str) -> String {
        self.kubeconfig_for(&json!({ "token": token }))
    }

    /// The ConfigMap by which kubeadm tells kube-proxy, whose pods have tokens of their own, the way to the server.
    pub fn way_of_kubeadm(&self) -> serde_json::Value {
        let account = "/var/run/secrets/kubernetes.io/serviceaccount";
        let authority = json!({ "certificate-authority": format!("{account}/ca.crt") });
        let token = json!({ "tokenFile": format!("{account}/token") });
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": "kube-proxy", "namespace": "kube-system" },
            "data": { "kubeconfig.conf": self.kubeconfig_with(authority, &token) },
        })
    }

    fn kubeconfig_for(&self, user: &serde_json::Value) -> String {
        let authority = BASE64_STANDARD.encode(self.authority());
        self.kubeconfig_with(json!({ "certificate-authority-data": authority }), user)
    }

    /// One for this user that knows the server by the authority that is said here.
    fn kubeconfig_with(&self, mut cluster: serde_json::Value, user: &serde_json::Value) -> String {
        cluster["server"] = self.url().into();
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "here", "cluster": cluster }],
            "users": [{ "name": "user", "user": user }],
            "contexts": [{ "name": "here", "context": { "cluster": "here", "user": "user" } }],
            "current-context": "here",
        })
        .to_string()
    }

    /// The host that it runs on: the network of the one given to [`ApiServer::start_on`], with files of its own.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Runs kubectl as a user who may do everything, and returns what it printed.
    ///
    /// # Errors
    ///
    /// What kubectl says if it fails.
    pub fn kubectl<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String, Error> {
        Ok(self.spawn_kubectl(arguments)?.success(KUBECTL)?.stdout)
    }

    /// Applies manifests, given as YAML or JSON, from the server's side, and returns what kubectl printed.
    ///
    /// # Errors
    ///
    /// What kubectl says if it fails.
    pub fn apply(&self, manifests: &str) -> Result<String, Error> {
        let number = self.applied.fetch_add(1, Ordering::Relaxed);
        let file = format!("{FILES}/manifests-{number}.yaml");
        self.host.write(&file, manifests)?;
        self.kubectl(["apply", "--server-side", "-f", &file])
    }

    /// Starts kubectl, for what goes on for a while, such as `get --watch` or `port-forward`.
    ///
    /// # Errors
    ///
    /// Whatever the system says to a new process.
    pub fn spawn_kubectl<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Child, Error> {
        self.spawn("kubectl", arguments)
    }

    /// Starts Helm as a user who may do everything.
    ///
    /// # Errors
    ///
    /// Whatever the system says to a new process.
    pub fn spawn_helm<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Child, Error> {
        self.spawn("helm", arguments)
    }

    fn spawn<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Child, Error> {
        let config = format!("--kubeconfig={FILES}/admin.kubeconfig");
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        let arguments = [config.into()].into_iter().chain(arguments);
        Ok(self.host.spawn(cluster_program(program), arguments)?)
    }

    /// Kills the server, while etcd keeps what it knows: an outage, seen from the nodes.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts the server again where it is stopped, and waits until it is ready.
    ///
    /// It remembers nothing of before but what etcd has: a watch from an older resource version may be refused as gone.
    ///
    /// # Errors
    ///
    /// A server that does not become ready.
    pub fn resume(&mut self) -> Result<(), Error> {
        if self.server.is_none() {
            self.server =
                Some(self.host.spawn(cluster_program("kube-apiserver"), self.arguments())?);
        }
        let deadline = Instant::now() + START;
        loop {
            if self.server.as_mut().map_or(Ok(true), Child::has_ended)? {
                return Err(Error::Ended { program: "kube-apiserver", log: self.log() });
            }
            if self.answers() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let what = "the API server is ready".to_owned();
                return Err(Error::Late { what, seconds: START.as_secs(), log: self.log() });
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Makes etcd forget every revision but the last: a watch that was cut can't go on from where it was.
    ///
    /// # Errors
    ///
    /// Whatever etcd says.
    pub fn compact(&self) -> Result<(), Error> {
        self.etcd.compact(&self.host)
    }

    /// The end of the server's log.
    pub fn log(&self) -> String {
        self.server.as_ref().map(tail).unwrap_or_default()
    }

    /// How a person on its [host](Self::host) runs kubectl: the program and its first argument.
    pub fn kubectl_line(&self) -> String {
        format!("{} --kubeconfig={FILES}/admin.kubeconfig", cluster_program("kubectl").display())
    }

    fn answers(&self) -> bool {
        // Asking by kubectl costs a tenth of a second, and so comes after the port.
        let address = self.addresses[0];
        let open = self.host.run(move || TcpStream::connect(address).is_ok());
        open.unwrap_or_default() && self.kubectl(["get", "--raw=/readyz"]).is_ok()
    }

    fn write_files(&self) -> Result<(), Error> {
        let addresses: Vec<IpAddr> = self.addresses.iter().map(SocketAddr::ip).collect();
        let own = [&addresses[..], &SERVICE].concat();
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let accounts = self.authority.client("service-accounts", None)?;
        let identities = [
            ("authority", &self.authority.own),
            ("server", &self.authority.server(&names, &own)?),
            ("kubelet-client", &self.authority.client(KUBELET_CLIENT, None)?),
            ("accounts", &accounts),
        ];
        for (name, identity) in identities {
            self.host.write(format!("{FILES}/{name}.crt"), &identity.certificate)?;
            self.host.write(format!("{FILES}/{name}.key"), &identity.key)?;
        }
        let tokens = format!("{},admin,1,\"system:masters\"\n", self.token);
        self.host.write(format!("{FILES}/tokens.csv"), tokens)?;
        self.host.write(format!("{FILES}/admin.kubeconfig"), self.kubeconfig())?;
        Ok(())
    }

    fn arguments(&self) -> Vec<String> {
        let address = self.addresses[0];
        let mut arguments: Vec<String> = [
            "--allow-privileged",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--enable-bootstrap-token-auth",
            // Else exec and logs ask a name server for the node's name.
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
        ]
        .map(str::to_owned)
        .to_vec();
        for (flag, file) in [
            ("cert-dir", "certificates"),
            ("client-ca-file", "authority.crt"),
            ("kubelet-client-certificate", "kubelet-client.crt"),
            ("kubelet-client-key", "kubelet-client.key"),
            ("service-account-key-file", "accounts.crt"),
            ("service-account-signing-key-file", "accounts.key"),
            ("tls-cert-file", "server.crt"),
            ("tls-private-key-file", "server.key"),
            ("token-auth-file", "tokens.csv"),
        ] {
            arguments.push(format!("--{flag}={FILES}/{file}"));
        }
        arguments.extend([
            format!("--etcd-servers={}", self.etcd.url()),
            format!("--secure-port={}", address.port()),
            format!("--advertise-address={}", address.ip()),
            format!("--service-cluster-ip-range={}", SERVICES.join(",")),
        ]);
        if address.ip().is_loopback() {
            arguments.push(format!("--bind-address={}", address.ip()));
            // A loopback address is no endpoint for others, and the reconciler refuses it.
            arguments.push("--endpoint-reconciler-type=none".to_owned());
        } else {
            arguments.push("--bind-address=::".to_owned());
        }
        arguments
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the API server's last words:\n{}\netcd's:\n{}", self.log(), self.etcd.log());
        }
    }
}

/// Returns a port of the host's loopback address that nobody listens on at present: one by chance, below those that the
/// kernel gives to connections (ip(7), `ip_local_port_range`), since one of them could take it before its server does.
pub(crate) fn free_port(host: &Host) -> Result<u16, Error> {
    let bound = || {
        let by_chance = std::iter::repeat_with(|| RandomState::new().build_hasher().finish());
        let ports = by_chance.map(|number| 20_000 + (number % 12_000) as u16).take(100);
        let mut tried = ports.map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
        let free = tried.find_map(Result::ok).ok_or(io::ErrorKind::AddrInUse)?;
        io::Result::Ok(free.local_addr()?.port())
    };
    host.run(bound)?.map_err(|source| Error::system("find a free port", source))
}

/// The end of what a program has written.
pub(crate) fn tail(child: &Child) -> String {
    let (stdout, stderr) = child.written().unwrap_or_default();
    let lines: Vec<&str> = stdout.lines().chain(stderr.lines()).collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
