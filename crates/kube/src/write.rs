//! What a node writes to the cluster: its annotations and its heartbeat, each by server-side apply.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{Client, Error};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use wireloom_model::NodeName;
use wireloom_model::annotations::{OWN_PREFIX, key};

use crate::node::NodeObject;
use crate::{MANAGER, clock};

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);

/// Why something was not written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The API refuses it, and would again.
    Refused(String),
    /// The API does not answer.
    Unreachable(String),
}

/// Writes to this machine's Node and to its Lease.
pub(crate) struct Writer {
    node: NodeName,
    nodes: Api<NodeObject>,
    leases: Api<Lease>,
    /// Seconds without a heartbeat after which this node is taken for dead.
    span: u64,
    params: PatchParams,
}

impl Writer {
    pub(crate) fn new(client: &Client, node: NodeName, namespace: &str, span: Duration) -> Self {
        Self {
            node,
            nodes: Api::all(client.clone()),
            leases: Api::namespaced(client.clone(), namespace),
            span: span.as_secs(),
            params: PatchParams::apply(MANAGER).force(),
        }
    }

    /// The same, whose writes the API judges and does not carry out.
    pub(crate) fn rehearsing(mut self) -> Self {
        self.params = self.params.dry_run();
        self
    }

    /// Has the Node say this, and nothing else of what we said before. The identifier keeps it from being made anew,
    /// and from being said of another Node of the same name.
    pub(crate) async fn annotate(
        &self,
        uid: &str,
        annotations: &BTreeMap<String, String>,
    ) -> Result<NodeObject, WriteError> {
        let patch = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": self.node, "uid": uid, "annotations": annotations },
        });
        self.apply(&self.nodes, &patch).await
    }

    /// Gives a sign of life. The time in it is for people; whoever reads it by program sees only that it changed. It
    /// goes when the Node does.
    ///
    /// Returns the seconds by which this machine's clock is [ahead](clock::ahead) of the API server's.
    pub(crate) async fn beat(&self, uid: &str) -> Result<Option<f64>, WriteError> {
        let patch = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self.node,
                "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": self.node, "uid": uid }],
            },
            "spec": {
                "holderIdentity": self.node,
                "leaseDurationSeconds": self.span,
                "renewTime": humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
            },
        });
        let before = clock::now();
        let lease = self.apply(&self.leases, &patch).await?;
        let taken = clock::taken(&lease.metadata);
        Ok(taken.map(|stamp| clock::ahead(before, clock::now(), stamp)))
    }

    /// Takes back all that was written of this Node: what agents have its annotations say, and its signs of life. What
    /// another agent wrote too, such as Kilo's before ours, would stay if we merely applied it no longer. `to_kilo` leaves
    /// what Kilo's agents go by: one of them may be the next on this node.
    pub(crate) async fn withdraw(&self, uid: &str, to_kilo: bool) -> Result<(), WriteError> {
        let goes = |key: &&str| !to_kilo || key.starts_with(OWN_PREFIX);
        let nothing: BTreeMap<_, _> =
            written_by_agents().filter(goes).map(|key| (key, Value::Null)).collect();
        let patch = json!({ "metadata": { "uid": uid, "annotations": nothing } });
        let params =
            PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        bounded(self.nodes.patch(self.node.as_str(), &params, &Patch::Merge(&patch))).await?;
        match bounded(self.leases.delete(self.node.as_str(), &DeleteParams::default())).await {
            Ok(_) | Err(WriteError::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn apply<K>(&self, api: &Api<K>, patch: &Value) -> Result<K, WriteError>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let patch = Patch::Apply(patch);
        bounded(api.patch(self.node.as_str(), &self.params, &patch)).await
    }
}

/// The annotations that agents write of their own Nodes.
pub(crate) fn written_by_agents() -> impl Iterator<Item = &'static str> {
    [
        key::ENDPOINT,
        key::ENDPOINTS,
        key::INTERNAL_IP,
        key::INTERNAL_IPS,
        key::KEY,
        key::LAST_SEEN,
        key::WIREGUARD_IP,
        key::DISCOVERED_ENDPOINTS,
        key::GRANULARITY,
        key::CNI_COMPATIBILITY_IP,
        key::ALGORITHM,
        key::HELD,
        key::MESH,
    ]
    .into_iter()
}

/// Makes a request of the API, which may not take for ever.
pub(crate) async fn bounded<T>(
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, WriteError> {
    match tokio::time::timeout(REQUEST, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(match refusal(&error) {
            Some(reason) => WriteError::Refused(reason),
            None => WriteError::Unreachable(text(&error)),
        }),
        Err(_) => Err(WriteError::Unreachable(format!("no answer within {} s", REQUEST.as_secs()))),
    }
}

/// What the API says if it understood a request and won't have it, so that the same one would fare no better: no right,
/// no such resource, no such object. A wrong or expired token is no such case, for it is renewed.
pub(crate) fn refusal(error: &Error) -> Option<String> {
    match error {
        Error::Api(status) if matches!(status.code, 400 | 403 | 404 | 409 | 422) => {
            Some(status.message.clone())
        }
        _ => None,
    }
}

/// An error as one sentence.
pub(crate) fn text(error: &Error) -> String {
    match error {
        Error::Api(status) => status.message.clone(),
        Error::Service(source) => format!("the API can't be reached: {source}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_refusal_is_told_from_an_outage() {
        let answer = |code| Error::Api(Box::new(Status::failure("no", "Reason").with_code(code)));
        for code in [400, 403, 404, 409, 422] {
            assert_eq!(refusal(&answer(code)).as_deref(), Some("no"), "{code}");
        }
        for code in [401, 410, 429, 500, 503, 504] {
            assert_eq!(refusal(&answer(code)), None, "{code}");
        }
        assert_eq!(text(&answer(503)), "no");
    }
}
