//! `wireloom agent`: a node of the mesh that a Kubernetes cluster makes.

pub(crate) mod facts;
pub(crate) mod settings;

use std::convert::Infallible;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use wireloom_agent::handover::Legacy;
use wireloom_agent::http::Listen;
use wireloom_agent::remember::{self, Remembering};
use wireloom_agent::{Config, Identity, control};
use wireloom_file::key;
use wireloom_kube::{KubeConfig, KubeRegistry};
use wireloom_model::PrivateKey;

use crate::logging::Said;
use crate::{keys, signals};

use settings::{Resolved, SettingsArgs};

/// The file in the state directory with the last mesh.
pub(crate) const MESH: &str = "mesh.json";

/// Where Kilo's agents keep the private key.
pub(crate) const KILOS_KEY: &str = "/var/lib/kilo/key";

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

impl AgentArgs {
    /// What is said of logging beside the flags of every command.
    pub(crate) fn logging(&self) -> anyhow::Result<Said> {
        self.settings.logging()
    }
}

pub(crate) fn run(args: &AgentArgs) -> anyhow::Result<ExitCode> {
    let settings = args.settings.resolve()?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let private_key = private_key(&settings.key, Path::new(KILOS_KEY))?;
    let public_key = private_key.public_key();
    let (interface, mark) = (settings.interface.clone(), settings.mark);
    let opener = settings.device.opener(interface, public_key, mark, settings.carrier);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("agent")
        .enable_all()
        .build()
        .context("start the agent's threads")?;
    runtime.block_on(async {
        let mut stop = pin!(signals::stop()?);
        let control = control::socket_path(&settings.run_dir, &settings.interface);
        let legacy = tokio::select! {
            legacy = Legacy::await_from(&control) => legacy?,
            never = stand_by(settings.listen.as_ref()) => match never {},
            () = &mut stop => return Ok(ExitCode::SUCCESS),
        };
        tracing::info!(node = %settings.node, %public_key, "this machine");
        let client = settings.connection.client().await?;
        let facts = facts::follow(public_key, settings.interface.clone(), settings.mark)?;
        let path = settings.state.join(MESH);
        let (inherited, kept) =
            (legacy.as_ref().and_then(Legacy::mesh), remember::load(&path).ok());
        let last = inherited.or(kept.as_ref());
        let registry = KubeRegistry::start(client, settings.registry(), facts, last);
        let registry = Remembering::new(registry, &path).going_on(inherited);
        let config = Config {
            identity: Identity::Name(settings.node.clone()),
            private_key,
            mark: settings.mark,
            metric: settings.metric,
            control,
            legacy,
            interface: settings.interface,
            planner: settings.planner,
            listen: settings.listen,
            resync: settings.resync,
            clean_up: settings.clean_up,
            pods: Some(settings.pods),
        };
        wireloom_agent::run(config, registry, opener, || {}, stop).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Answers for this agent's health while it waits for another one to end.
async fn stand_by(listen: Option<&Listen>) -> Infallible {
    match listen {
        Some(listen) => listen.stand_by().await,
        None => std::future::pending().await,
    }
}

impl Resolved {
    pub(crate) fn registry(&self) -> KubeConfig {
        KubeConfig {
            node: self.node.clone(),
            mesh: self.mesh.clone(),
            topology_label: self.topology_label.clone(),
            granularity: self.granularity,
            addresses: self.addresses.clone(),
            namespace: self.namespace.clone(),
            heartbeat: KubeConfig::HEARTBEAT,
            daemon_set: self.daemon_set.clone(),
        }
    }
}

/// This machine's private key: ours, else Kilo's, which becomes ours, so that a machine that is moved stays who it is;
/// else a new one.
fn private_key(ours: &Path, kilos: &Path) -> anyhow::Result<PrivateKey> {
    let random = if !ours.exists() && kilos.exists() {
        let kilos = key::load(kilos).context("take over Kilo's key")?;
        tracing::info!(key = %kilos.public_key(), "Kilo's key is taken over");
        zeroize::Zeroizing::new(*kilos.as_bytes())
    } else {
        zeroize::Zeroizing::new(keys::random_bytes()?)
    };
    Ok(key::load_or_create(ours, || *random)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn kilos_key_is_taken_over_once_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, kilos) = (folder.path().join("w/key"), folder.path().join("kilo"));
        let key = PrivateKey::from_random([7; 32]);
        fs::write(&kilos, &*key.to_text()).unwrap();
        fs::set_permissions(&kilos, fs::Permissions::from_mode(0o600)).unwrap();
        let public = |kilos: &Path| private_key(&ours, kilos).unwrap().public_key();
        assert_eq!(public(&kilos), key.public_key());
        assert_eq!(fs::read_to_string(&kilos).unwrap(), *key.to_text());
        fs::write(&kilos, &*PrivateKey::from_random([8; 32]).to_text()).unwrap();
        assert_eq!(public(&kilos), key.public_key(), "ours stays");
    }

    #[test]
    fn a_bad_key_of_kilos_is_nobodys_to_replace() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, kilos) = (folder.path().join("key"), folder.path().join("kilo"));
        fs::write(&kilos, "foo").unwrap();
        fs::set_permissions(&kilos, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(private_key(&ours, &kilos).is_err());
        assert!(!ours.exists());
    }

    #[test]
    fn without_any_a_new_one_is_made_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let ours = folder.path().join("key");
        let public = || private_key(&ours, Path::new("/nonexistent")).unwrap().public_key();
        assert_eq!(public(), public());
    }
}
