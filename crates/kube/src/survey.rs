//! What an agent would find at a cluster's API, before it has run there: whether it is answered, what it may do, and the mesh
//! that it would join. Nothing is written.

use std::net::IpAddr;
use std::time::Instant;

use http::{Request, header};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::jiff::fmt::rfc2822;
use kube::api::ListParams;
use kube::client::Body;
use kube::core::{DynamicObject, PartialObjectMetaExt as _};
use kube::{Api, Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use wireloom_model::{Cidr, Snapshot};

use crate::clock;
use crate::cluster::Cluster;
use crate::node::NodeObject;
use crate::own::{self, Facts};
use crate::peer;
use crate::registry::{KubeConfig, MISSES};
use crate::rights::{self, Right};
use crate::write::{self, WriteError, Writer};

/// What was found.
#[derive(Debug, Clone)]
pub struct Survey {
    /// The seconds by which this machine's clock is [ahead](clock::ahead) of the API server's.
    pub clock_ahead: Option<f64>,
    /// What the agent may not do.
    pub lacking: Vec<Right>,
    /// What the API would refuse to have written though there is the right to, and why: by what it was tried.
    pub refused: Vec<(&'static str, String)>,
    /// All Nodes.
    pub nodes: Vec<NodeObject>,
    /// The ranges of the cluster's Services, as far as they may be read.
    pub services: Vec<Cidr>,
    /// Where the API server itself listens, as the Service `kubernetes` has it. `None` if that may not be read.
    pub servers: Option<Vec<IpAddr>>,
    /// Other nodes whose clocks were [apart](clock::apart) from the API server's at their last sign of life, and how.
    pub clocks: Vec<(String, String)>,
    /// The mesh as the agent would have it, with this machine in it. `None` if the Nodes may not be read.
    pub mesh: Option<Snapshot>,
}

/// Asks the API as an agent with these settings, and these facts of its machine.
///
/// # Errors
///
/// If the API does not answer, or does not take the credentials; with why.
pub async fn survey(client: &Client, config: &KubeConfig, facts: &Facts) -> Result<Survey, String> {
    let clock_ahead = greet(client).await?;
    let lacking = rights::lacking(client, rights::needed(config)).await?;
    let all = ListParams::default();
    let backends = all.clone().labels("kubernetes.io/service-name=kubernetes");
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let leases: Api<Lease> = Api::namespaced(client.clone(), &config.namespace);
    let nodes = may_list::<NodeObject>(&Api::all(client.clone()), &all).await;
    let peers: Api<DynamicObject> = Api::all_with(client.clone(), &peer::resource());
    let peers = may_list(&peers, &all).await.unwrap_or_default();
    let leases = may_list(&leases, &all).await.unwrap_or_default();
    let services = may_list::<ServiceCIDR>(&Api::all(client.clone()), &all).await;
    let servers = may_list(&slices, &backends).await;
    let mut survey = Survey {
        clock_ahead,
        lacking,
        refused: Vec::new(),
        nodes: nodes.clone().unwrap_or_default(),
        services: services.unwrap_or_default().iter().flat_map(ranges).collect(),
        servers: servers.map(|slices| slices.iter().flat_map(addresses).collect()),
        clocks: leases.iter().filter_map(|lease| apart(lease, config)).collect(),
        mesh: None,
    };
    let Some(nodes) = nodes else { return Ok(survey) };
    let now = Instant::now();
    let mut cluster = Cluster::new(
        config.node.clone(),
        config.mesh.clone(),
        config.topology_label.clone(),
        config.heartbeat * MISSES,
    );
    cluster.replace_nodes(nodes, now);
    cluster.replace_peers(&peers);
    let leases = leases.into_iter().map(|lease| lease.metadata.into_response_partial::<Lease>());
    cluster.replace_leases(&leases.collect::<Vec<_>>(), now);
    cluster.judge();
    if let Some(own) = cluster.own().cloned() {
        let shall = own::annotations(config, &own, facts, None, None);
        let writer = Writer::new(client, config.node.clone(), &config.namespace, config.heartbeat);
        survey.refused = refused(&writer.rehearsing(), &own.object, &shall, &survey.lacking).await;
        let mut object = own.object;
        object.metadata.annotations.get_or_insert_default().extend(shall);
        cluster.put_node(object, now);
    }
    survey.mesh = Some(cluster.snapshot(now));
    Ok(survey)
}

/// Asks for something that everybody may, and looks at the clock.
async fn greet(client: &Client) -> Result<Option<f64>, String> {
    let request =
        Request::get("/version").body(Body::empty()).map_err(|error| error.to_string())?;
    let before = clock::now();
    let answer = match write::bounded(client.send(request)).await {
        Ok(answer) => answer,
        Err(WriteError::Refused(reason) | WriteError::Unreachable(reason)) => return Err(reason),
    };
    let after = clock::now();
    if answer.status().as_u16() == 401 {
        return Err(
            "the API server does not know who asks: the token or certificate is not valid (401)"
                .to_owned(),
        );
    }
    let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    let stamp = date.and_then(|date| rfc2822::parse(date).ok());
    Ok(stamp.map(|stamp| clock::ahead(before, after, stamp.timestamp().as_second())))
}

/// All objects. `None` if they may not be read, or are not there.
async fn may_list<K>(api: &Api<K>, params: &ListParams) -> Option<Vec<K>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    write::bounded(api.list(params)).await.ok().map(|list| list.items)
}

/// What the API would not have written of a Node that may be written.
async fn refused(
    writer: &Writer,
    node: &NodeObject,
    shall: &std::collections::BTreeMap<String, String>,
    lacking: &[Right],
) -> Vec<(&'static str, String)> {
    let Some(uid) = node.metadata.uid.as_deref() else { return Vec::new() };
    let may = |resource: &str| !lacking.iter().any(|right| right.resource == resource);
    let mut refused = Vec::new();
    if may("nodes")
        && let Err(WriteError::Refused(reason)) = writer.annotate(uid, shall).await
    {
        refused.push(("the annotations of this machine's Node", reason));
    }
    if may("leases")
        && let Err(WriteError::Refused(reason)) = writer.beat(uid).await
    {
        refused.push(("the heartbeat of this machine's Node", reason));
    }
    refused
}

fn ranges(of: &ServiceCIDR) -> Vec<Cidr> {
    let spec = of.spec.as_ref();
    spec.iter()
        .flat_map(|spec| &spec.cidrs)
        .flatten()
        .filter_map(|text| text.parse().ok())
        .collect()
}

fn addresses(slice: &EndpointSlice) -> Vec<IpAddr> {
    let all = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    all.filter_map(|text| text.parse().ok()).collect()
}

/// Another node whose clock was wrong when it gave its last sign of life, and how. The API server notes when it took that.
fn apart(lease: &Lease, config: &KubeConfig) -> Option<(String, String)> {
    /// How long a sign of life may be on its way.
    const UNDER_WAY: f64 = 10.0;
    let name = lease.name_any();
    if name == config.node.as_str() {
        return None;
    }
    let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0;
    let renewed = renewed.as_millisecond() as f64 / 1000.0;
    let ahead = clock::ahead(renewed, renewed + UNDER_WAY, clock::taken(&lease.metadata)?);
    Some((name, clock::apart(ahead)?))
}
