//! A real API server comes, answers, goes away and comes back.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::net::TcpStream;

use serde_json::{Value, json};
use wireloom_cluster::ApiServer;
use wireloom_lab::{Lab, Layout, Region};
use wireloom_testkit::need;

fn node(name: &str) -> String {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } }).to_string()
}

fn names(api: &ApiServer) -> Vec<String> {
    let names = api.kubectl(["get", "nodes", "--output=name"]).unwrap();
    names.lines().map(str::to_owned).collect()
}

#[test]
fn what_it_knows_outlives_an_outage_and_a_compaction() {
    need!(root);
    need!(cluster);
    let mut api = ApiServer::start().unwrap();
    api.apply(&node("one")).unwrap();
    assert_eq!(names(&api), ["node/one"]);

    api.stop();
    let address = api.url().trim_start_matches("https://").to_owned();
    assert!(TcpStream::connect(&address).is_err());
    assert!(api.kubectl(["get", "nodes"]).is_err());

    api.compact().unwrap();
    api.resume().unwrap();
    assert_eq!(names(&api), ["node/one"]);
    let version: Value =
        serde_json::from_str(&api.kubectl(["version", "--output=json"]).unwrap()).unwrap();
    assert_eq!(version["serverVersion"]["gitVersion"], version["clientVersion"]["gitVersion"]);

    drop(api);
    assert!(TcpStream::connect(&address).is_err());
}

#[test]
fn hosts_of_a_lab_reach_it_by_both_families() {
    need!(root);
    need!(cluster);
    let regions =
        vec![Region::new("cloud", &["control"]), Region::new("home", &["pi"]).behind_nat()];
    let lab = Lab::build(&Layout { regions, pods: false }).unwrap();
    let addresses = lab.plan().regions[0].hosts[0].public.unwrap().map(|public| public.address());
    let api = ApiServer::start_on(lab.host("control").unwrap(), &addresses).unwrap();
    assert_eq!(api.url(), format!("https://{}:6443", addresses[0]));

    // Somebody behind NAT, who knows nothing but a kubeconfig.
    let pi = lab.host("pi").unwrap();
    let kubectl = wireloom_testkit::cluster_program("kubectl");
    let [v4, v6] = addresses;
    let by_v6 = api.kubeconfig().replace(&v4.to_string(), &format!("[{v6}]"));
    for kubeconfig in [api.kubeconfig(), by_v6] {
        pi.write("/run/test/kubeconfig", kubeconfig).unwrap();
        let arguments = ["--kubeconfig=/run/test/kubeconfig", "get", "--raw=/readyz"];
        let answer = pi.spawn(&kubectl, arguments).unwrap();
        assert_eq!(answer.success(std::time::Duration::from_secs(60)).unwrap().stdout, "ok");
    }
}
