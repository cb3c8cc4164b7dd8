//! A node of a cluster, on a host of a lab.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount};
use serde_json::json;
use wireloom_image::{Image, Layer, recipe};
use wireloom_lab::{Child, Host, Lab, Output};
use wireloom_testkit::cluster_program;

use crate::api_server::{ApiServer, tail};
use crate::cluster::PODS;
use crate::error::Error;
use crate::groups::{Groups, MOVE};

/// Where a node's containerd listens.
const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// Where Debian has the plugins, and which of them a node gets.
const PLUGINS: (&str, [&str; 6]) =
    ("/usr/lib/cni", ["bridge", "host-local", "loopback", "portmap", "ptp", "static"]);

/// The image of every pod's sandbox, which is good for a pod of one's own too.
pub const TOOLS: &str = "localhost/tools:1";

/// How long each step of a start may take.
const STEP: Duration = Duration::from_secs(180);

/// A machine that runs pods: containerd, kubelet and kube-proxy in one namespace of process numbers, so that whatever
/// they start ends with them.
#[derive(Debug)]
pub struct Node {
    // Dropped in this order.
    proxy: Child,
    kubelet: Child,
    containerd: Child,
    inside: Inside,
}

/// What a node needs to join.
pub(crate) struct Settings<'a> {
    /// The configuration with the bootstrap token.
    pub(crate) bootstrap: String,
    /// Its control groups.
    pub(crate) groups: &'a Groups,
    /// What its label `topology.kubernetes.io/region` says.
    pub(crate) region: String,
    /// Its addresses, of each family.
    pub(crate) addresses: Vec<IpAddr>,
    /// The images that it gets, as archives.
    pub(crate) images: &'a [Arc<[u8]>],
}

impl Node {
    /// Starts one and returns it with the time from the start of its kubelet until the API server knew it.
    pub(crate) fn start(
        api: &ApiServer,
        host: &Host,
        settings: &Settings<'_>,
    ) -> Result<(Self, Duration), Error> {
        for directory in ["/etc", "/opt"] {
            host.own(directory)?;
        }
        host.run(own_directories)?.map_err(|source| Error::system("make a node's disk", source))?;
        host.run(settings.groups.for_node(host.name()))?
            .map_err(|source| Error::system("make a node's control groups", source))?;
        // What kubeadm asks of a machine before it becomes a node.
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            host.write(format!("/proc/sys/net/{setting}"), "1")?;
        }
        let inside = Inside::start(host)?;
        host.write("/etc/containerd/config.toml", containerd())?;
        host.write("/etc/kubernetes/bootstrap.kubeconfig", &settings.bootstrap)?;
        host.write("/etc/kubernetes/authority.crt", api.authority())?;
        host.write("/etc/kubernetes/kubelet.json", kubelet())?;
        host.write("/etc/kubernetes/proxy.kubeconfig", api.kubeconfig())?;
        let containerd =
            inside.spawn(host, "containerd", &["--config=/etc/containerd/config.toml"])?;
        for (number, image) in settings.images.iter().enumerate() {
            let archive = format!("/run/image-{number}.tar");
            let (path, image) = (archive.clone(), Arc::clone(image));
            host.run(move || fs::write(path, image))?
                .map_err(|source| Error::system("write an image", source))?;
            import(host, &inside, &containerd, &archive)?;
            host.run(move || fs::remove_file(archive))?
                .map_err(|source| Error::system("remove an image's archive", source))?;
        }
        let start = Instant::now();
        let name = host.name();
        let addresses: Vec<_> = settings.addresses.iter().map(IpAddr::to_string).collect();
        let kubelet = inside.spawn(
            host,
            cluster_program("kubelet"),
            &[
                "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap.kubeconfig",
                "--kubeconfig=/var/lib/kubelet/kubeconfig",
                "--config=/etc/kubernetes/kubelet.json",
                "--cert-dir=/var/lib/kubelet/pki",
                "--root-dir=/var/lib/kubelet",
                &format!("--hostname-override={name}"),
                &format!("--node-ip={}", addresses.join(",")),
                &format!("--node-labels=topology.kubernetes.io/region={}", settings.region),
            ],
        )?;
        let known = format!("--timeout={}s", STEP.as_secs());
        let known = ["wait", "--for=create", &known, &format!("node/{name}")];
        if let Err(late) = api.spawn_kubectl(known)?.success(STEP + Duration::from_secs(10)) {
            eprintln!("{name}: {late}");
            return Err(Error::Ended { program: "kubelet", log: tail(&kubelet) });
        }
        let span = start.elapsed();
        let proxy = inside.spawn(
            host,
            cluster_program("kube-proxy"),
            &[
                "--kubeconfig=/etc/kubernetes/proxy.kubeconfig",
                "--proxy-mode=nftables",
                "--conntrack-max-per-core=0",
                // As kubeadm and k3s tell it: what comes from elsewhere than pods, such as a node's own programs, gets a
                // source by which answers come back.
                &format!("--cluster-cidr={}", PODS.join(",")),
                &format!("--hostname-override={name}"),
            ],
        )?;
        Ok((Self { proxy, kubelet, containerd, inside }, span))
    }

    /// The ends of the logs of its programs.
    pub fn log(&self) -> String {
        let logs = [
            ("containerd", &self.containerd),
            ("kubelet", &self.kubelet),
            ("kube-proxy", &self.proxy),
        ];
        logs.map(|(name, child)| format!("{name}:\n{}\n", tail(child))).concat()
    }

    /// Runs a program among the node's processes, as somebody who has logged in there would, for at most `limit`.
    ///
    /// # Errors
    ///
    /// As of [`Host::exec`].
    pub fn exec(
        &self,
        host: &Host,
        program: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<Output, Error> {
        Ok(self.inside.spawn(host, program, arguments)?.wait(limit)?)
    }
}

/// A namespace of process numbers whose first process ends with the host, and everything else with that.
#[derive(Debug)]
struct Inside {
    first: Child,
}

impl Inside {
    fn start(host: &Host) -> Result<Self, Error> {
        let begin = format!("g=\n{MOVE}exec unshare --cgroup sh -c \"$0\"");
        let go_on = format!(
            "g=/programs\n{MOVE}exec unshare --pid --fork --mount-proc --kill-child=KILL \
             sh -c 'echo up; exec sleep infinity'"
        );
        let mut first = host.spawn("sh", ["-c", &begin, &go_on])?;
        let deadline = Instant::now() + STEP;
        while first.written()?.0.is_empty() {
            if first.has_ended()? || Instant::now() > deadline {
                return Err(Error::Ended { program: "unshare", log: tail(&first) });
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { first })
    }

    /// Starts a program in it, which is killed with the [`Child`] returned.
    fn spawn(
        &self,
        host: &Host,
        program: impl Into<PathBuf>,
        arguments: &[&str],
    ) -> Result<Child, Error> {
        let namespaces = format!("/proc/{}/ns", self.first.id());
        let begin = format!("g=/programs\n{MOVE}exec nsenter \"$@\"");
        let enter = [
            "-c".to_owned(),
            begin,
            "nsenter".to_owned(),
            format!("--cgroup={namespaces}/cgroup"),
            // Those that the first process has; `unshare` itself stays outside.
            format!("--pid={namespaces}/pid_for_children"),
            format!("--mount={namespaces}/mnt"),
            "setpriv".to_owned(),
            "--pdeathsig=KILL".to_owned(),
            program.into().display().to_string(),
        ];
        let arguments = arguments.iter().map(|&argument| argument.to_owned());
        Ok(host.spawn("sh", enter.into_iter().chain(arguments))?)
    }
}

/// The addresses that a host has as a node: its public ones, else the private ones.
pub(crate) fn addresses(lab: &Lab, name: &str) -> Result<(String, Vec<IpAddr>), Error> {
    let mut hosts = lab
        .plan()
        .regions
        .iter()
        .flat_map(|region| region.hosts.iter().map(move |host| (region.name.clone(), host)));
    let missing = || wireloom_lab::Error::NoHost { name: name.to_owned() };
    let (region, host) = hosts.find(|(_, host)| host.name == name).ok_or_else(missing)?;
    let addresses = host.public.unwrap_or(host.private).map(|address| address.address());
    Ok((region, addresses.to_vec()))
}

/// Gives the host what a machine has on a disk of its own, in memory: an empty `/var/lib` and `/var/log`, and in its own
/// `/etc` and `/opt` what belongs there.
fn own_directories() -> io::Result<()> {
    for path in ["/var/lib", "/var/log"] {
        mount("wireloom-cluster", path, "tmpfs", MountFlags::empty(), c"mode=755")?;
    }
    for directory in ["/etc/cni/net.d", "/opt/cni/bin", "/var/lib/wireloom", "/run/wireloom"] {
        fs::create_dir_all(directory)?;
    }
    // What another plugin has left on the machine that we run on is not the node's.
    for entry in fs::read_dir("/etc/cni/net.d")? {
        fs::remove_file(entry?.path())?;
    }
    for name in PLUGINS.1 {
        fs::copy(Path::new(PLUGINS.0).join(name), Path::new("/opt/cni/bin").join(name))?;
    }
    Ok(())
}

fn import(host: &Host, inside: &Inside, containerd: &Child, archive: &str) -> Result<(), Error> {
    let address = format!("--address={CONTAINERD}");
    let deadline = Instant::now() + STEP;
    loop {
        let arguments = [&*address, "--namespace=k8s.io", "images", "import", archive];
        let done = inside.spawn(host, "ctr", &arguments)?.wait(STEP)?;
        if done.status.success() {
            return Ok(());
        }
        // Its socket takes a moment to come.
        if Instant::now() > deadline {
            eprintln!("ctr: {}", done.stderr);
            return Err(Error::Ended { program: "containerd", log: tail(containerd) });
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// An image with a shell, which does nothing until it is told to.
pub(crate) fn tools() -> Result<Image, Error> {
    let layer: Layer = recipe::system()?;
    let idle = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done";
    Ok(Image::new(TOOLS).layer(layer).entrypoint(&["/bin/sh", "-c", idle]))
}

/// containerd's configuration (containerd documentation, "CRI Plugin Config Guide").
fn containerd() -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{CONTAINERD}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{TOOLS}"
# Where the capability to lower the score is missing, runc can't start anything.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "/etc/cni/net.d"
bin_dir = "/opt/cni/bin"
"#
    )
}

/// kubelet's configuration (Kubernetes documentation, "Kubelet Configuration (v1beta1)").
fn kubelet() -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": "/etc/kubernetes/authority.crt" },
        },
        "authorization": { "mode": "Webhook" },
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
        // No more control groups than the containers' own: which kinds there are differs from machine to machine.
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        "makeIPTablesUtilChains": false,
        "evictionHard": { "memory.available": "1Mi" },
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": "/var/log/pods",
        "resolvConf": "",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    })
    .to_string()
}
