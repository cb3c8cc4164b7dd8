//! A whole cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::json;
use wireloom_image::Image;
use wireloom_lab::{Child, Lab};
use wireloom_testkit::cluster_program;

use crate::api_server::{ApiServer, FILES, KUBELET_CLIENT, SERVICES, tail};
use crate::error::Error;
use crate::groups::Groups;
use crate::node::{self, Node, Settings};

/// The prefixes from which each node gets a /24 and a /64 for its pods.
pub(crate) const PODS: [&str; 2] = ["10.42.0.0/16", "fd00:42::/56"];

/// Kubernetes on the hosts of a lab: the control plane on one of them, and nodes on others.
///
/// Nothing is simulated but the distance: the programs are Kubernetes' own, containers are run by containerd, and a node
/// joins by a bootstrap token as with kubeadm. Its name is the host's, its label `topology.kubernetes.io/region` the
/// region's. Its addresses are the host's public ones, or the private ones behind NAT, where the API server does not
/// reach it. What is missing for a node to be ready is the configuration of a pod network in `/etc/cni/net.d`, which is
/// a directory of its own on each host.
///
/// Dropping it ends everything in it; so does the end of the process. If a test panics while it lives, the ends of the
/// logs are printed.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: the control groups once nothing runs in them.
    nodes: BTreeMap<String, Node>,
    controllers: [Child; 2],
    api: ApiServer,
    groups: Groups,
    /// The images that each node gets, as archives.
    images: Vec<Arc<[u8]>>,
    token: String,
    lab: Lab,
}

impl Cluster {
    /// Starts the control plane on the host of this name.
    ///
    /// # Errors
    ///
    /// No such host in the lab, or a program of the control plane that does not start.
    pub fn start(lab: Lab, control: &str) -> Result<Self, Error> {
        let (_, addresses) = node::addresses(&lab, control)?;
        let api = ApiServer::start_on(lab.host(control)?, &addresses)?;
        // Six letters that name it, and sixteen that prove it (Kubernetes documentation, "Bootstrap Tokens").
        let (name, secret) = (&api.token()[..6], &api.token()[6..22]);
        let token = format!("{name}.{secret}");
        api.apply(&joining(name, secret))?;
        let controllers = ["kube-controller-manager", "kube-scheduler"];
        let [manager, scheduler] =
            controllers.map(|name| api.host().spawn(cluster_program(name), arguments_of(name)));
        Ok(Self {
            nodes: BTreeMap::new(),
            controllers: [manager?, scheduler?],
            api,
            groups: Groups::new(),
            images: vec![archive(&node::tools()?)?],
            token,
            lab,
        })
    }

    /// Gives an image to every node that joins from now on.
    ///
    /// # Errors
    ///
    /// An image that can't be written.
    pub fn provide(&mut self, image: &Image) -> Result<(), Error> {
        self.images.push(archive(image)?);
        Ok(())
    }

    /// Lets hosts join as nodes, all at the same time, and returns how long each took from the start of its kubelet until
    /// the API server knew it.
    ///
    /// # Errors
    ///
    /// No such host in the lab, or a node of which some program does not start.
    pub fn join(&mut self, hosts: &[&str]) -> Result<Vec<Duration>, Error> {
        let this = &*self;
        let joined: Vec<Result<_, Error>> = thread::scope(|scope| {
            let start = |name| {
                let (region, addresses) = node::addresses(&this.lab, name)?;
                this.start_node(name, region, addresses)
            };
            let running: Vec<_> =
                hosts.iter().map(|&name| scope.spawn(move || start(name))).collect();
            let gone = |name: &str| wireloom_lab::Error::Gone { host: name.to_owned() };
            let ends = running.into_iter().zip(hosts);
            ends.map(|(end, name)| end.join().unwrap_or_else(|_| Err(gone(name).into()))).collect()
        });
        let mut spans = Vec::new();
        for (&name, joined) in hosts.iter().zip(joined) {
            let (node, span) = joined?;
            self.nodes.insert(name.to_owned(), node);
            spans.push(span);
        }
        Ok(spans)
    }

    /// Lets one host join that calls other addresses its own than the API server reaches it at today, such as one that it
    /// will have in a mesh. See [`Cluster::join`].
    ///
    /// # Errors
    ///
    /// As of [`Cluster::join`].
    pub fn join_at(&mut self, host: &str, addresses: &[IpAddr]) -> Result<Duration, Error> {
        let (region, _) = node::addresses(&self.lab, host)?;
        let (node, span) = self.start_node(host, region, addresses.to_vec())?;
        self.nodes.insert(host.to_owned(), node);
        Ok(span)
    }

    fn start_node(
        &self,
        name: &str,
        region: String,
        addresses: Vec<IpAddr>,
    ) -> Result<(Node, Duration), Error> {
        let settings = Settings {
            bootstrap: self.api.kubeconfig_of_bearer(&self.token),
            groups: &self.groups,
            region,
            addresses,
            images: &self.images,
        };
        Node::start(&self.api, self.lab.host(name)?, &settings)
    }

    /// Its API server.
    pub const fn api(&self) -> &ApiServer {
        &self.api
    }

    /// Its API server, to stop and resume it.
    pub const fn api_mut(&mut self) -> &mut ApiServer {
        &mut self.api
    }

    /// Its lab.
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Its nodes, by name.
    pub const fn nodes(&self) -> &BTreeMap<String, Node> {
        &self.nodes
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            for (name, node) in &self.nodes {
                eprintln!("== {name}\n{}", node.log());
            }
            for controller in &self.controllers {
                eprintln!("== control plane\n{}", tail(controller));
            }
        }
    }
}

fn archive(image: &Image) -> Result<Arc<[u8]>, Error> {
    let archive = image.archive().map_err(|source| Error::system("build an image", source))?;
    Ok(archive.into())
}

/// What lets a kubelet in by its bootstrap token, and the API server into kubelets (Kubernetes documentation, "TLS
/// bootstrapping").
fn joining(name: &str, secret: &str) -> String {
    const BOOTSTRAPPERS: &str = "system:bootstrappers:kubeadm:default-node-token";
    let binding = |name: &str, role: &str, kind: &str, subject: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": subject }],
        })
    };
    let approver = "system:certificates.k8s.io:certificatesigningrequests:nodeclient";
    let token = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": format!("bootstrap-token-{name}"), "namespace": "kube-system" },
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": name,
            "token-secret": secret,
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "auth-extra-groups": BOOTSTRAPPERS,
        },
    });
    let items = [
        token,
        binding("bootstrap", "system:node-bootstrapper", "Group", BOOTSTRAPPERS),
        binding("approve-bootstrap", approver, "Group", BOOTSTRAPPERS),
        binding("api-server-to-kubelet", "system:kubelet-api-admin", "User", KUBELET_CLIENT),
    ];
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

fn arguments_of(controller: &str) -> Vec<String> {
    let mut arguments = [
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--kubeconfig={FILES}/admin.kubeconfig"),
        format!("--cert-dir={FILES}/{controller}"),
    ]
    .to_vec();
    if controller == "kube-controller-manager" {
        arguments.extend([
            "--controllers=*,bootstrapsigner,tokencleaner".to_owned(),
            "--allocate-node-cidrs".to_owned(),
            format!("--cluster-cidr={}", PODS.join(",")),
            format!("--service-cluster-ip-range={}", SERVICES.join(",")),
            format!("--service-account-private-key-file={FILES}/accounts.key"),
            format!("--root-ca-file={FILES}/authority.crt"),
            format!("--cluster-signing-cert-file={FILES}/authority.crt"),
            format!("--cluster-signing-key-file={FILES}/authority.key"),
        ]);
    }
    arguments
}

#[cfg(test)]
mod tests;
