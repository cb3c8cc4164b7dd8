//! The `Peer` of a machine that joins a mesh from outside by itself.

use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use wireloom_model::PeerName;

use super::{Peer, PeerSpec};
use crate::{MANAGER, write};

/// A Peer for as long as its machine is in the mesh.
#[derive(Debug)]
pub struct Guest {
    api: Api<Peer>,
    name: PeerName,
    /// The identifier of the object that was made for it. `None` for one that was there before.
    made: Option<String>,
}

/// Why a Peer could not be made, changed or deleted.
#[derive(Debug, thiserror::Error)]
#[error("the Peer {name} can't be {what}: {reason}")]
pub struct GuestError {
    /// Its name.
    pub name: PeerName,
    /// What was to be done to it.
    pub what: &'static str,
    /// What the API says.
    pub reason: String,
}

impl Guest {
    /// Makes the Peer. One that is there already keeps everything but its key, which becomes this one.
    ///
    /// # Errors
    ///
    /// What the API says.
    pub async fn announce(
        client: &Client,
        name: PeerName,
        wish: PeerSpec,
    ) -> Result<Self, GuestError> {
        let api: Api<Peer> = Api::all(client.clone());
        let params =
            PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let key = wish.public_key.clone();
        match api.create(&params, &Peer::new(name.as_str(), wish)).await {
            Ok(peer) => Ok(Self { api, name, made: peer.uid() }),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let patch = Patch::Merge(json!({ "spec": { "publicKey": key } }));
                let params = PatchParams {
                    field_manager: Some(MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                let guest = Self { api, name, made: None };
                let changed = guest.api.patch(guest.name.as_str(), &params, &patch).await;
                changed.map_err(|error| guest.failed("given this machine's key", &error))?;
                Ok(guest)
            }
            Err(error) => {
                let guest = Self { api, name, made: None };
                Err(guest.failed("made", &error))
            }
        }
    }

    /// Whether the Peer was made for this machine.
    pub const fn is_made(&self) -> bool {
        self.made.is_some()
    }

    /// Deletes the Peer if it was made for this machine and is still that one.
    ///
    /// # Errors
    ///
    /// What the API says.
    pub async fn leave(self) -> Result<(), GuestError> {
        let Some(uid) = self.made.clone() else { return Ok(()) };
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.api.delete(self.name.as_str(), &params).await {
            Ok(_) => Ok(()),
            // Somebody else has deleted it, or made another.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(self.failed("deleted", &error)),
        }
    }

    fn failed(&self, what: &'static str, error: &kube::Error) -> GuestError {
        GuestError { name: self.name.clone(), what, reason: write::text(error) }
    }
}
