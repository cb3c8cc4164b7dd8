//! Endpoints by name.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::json;
use wireloom_lab::{Child, Host};
use wireloom_tests::{eventually, ok};

use crate::rig::{Cluster, complains};
use crate::{need_all, regions};

const NAME: &str = "waw.example.com";

/// Starts a name server on the internet, which knows one name by these addresses.
fn serve(internet: &Host, addresses: &[String; 2]) -> Child {
    let record = format!("--host-record={NAME},{}", addresses.join(","));
    let options = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-hosts",
        "--no-resolv",
        "--user=root",
        "--pid-file=",
        "--local=/example.com/",
        "--local-ttl=1",
        &record,
    ];
    let server = internet.spawn("dnsmasq", options).unwrap();
    eventually("the name server listens", || ok(internet, "ss -Hlun sport = :53").contains(":53"));
    server
}

/// Has a host ask the name server at this address, and no other.
fn ask(host: &Host, server: &str) {
    host.write("/run/test/resolv.conf", format!("nameserver {server}\n")).unwrap();
    let put = || -> io::Result<()> {
        let mut place = PathBuf::from("/etc/resolv.conf");
        // It may be a link into the /run that a host has of its own.
        if let Ok(target) = fs::read_link(&place) {
            place = Path::new("/etc").join(target);
            fs::create_dir_all(place.parent().unwrap())?;
            fs::OpenOptions::new().create(true).append(true).open(&place)?;
        }
        rustix::mount::mount_bind("/run/test/resolv.conf", place)?;
        Ok(())
    };
    host.run(put).unwrap().unwrap();
}

pub(crate) fn a_node_is_found_by_its_name_where_it_has_moved_to() {
    need_all!();
    wireloom_testkit::need!(program "dnsmasq");
    wireloom_testkit::need!(program "ss");
    let nodes = ["ams-1", "waw-1"];
    let mut cluster = Cluster::empty(regions());
    let internet = wireloom_lab::plan::INTERNET;
    let old = cluster.plan("waw-1").public.unwrap();
    let server = serve(cluster.host(internet), &old.map(|public| public.address().to_string()));
    for (name, region) in [("ams-1", 1), ("waw-1", 2)] {
        let at = cluster.lab.plan().regions[region].internet[0].address();
        ask(cluster.host(name), &at.to_string());
        cluster.join(name);
    }
    // Nobody can dial ams-1, so that nobody is told by waw-1 where it is.
    cluster.kubectl("annotate node ams-1 kilo.squat.ai/force-endpoint=-");
    cluster.kubectl(&format!("annotate node waw-1 kilo.squat.ai/force-endpoint={NAME}:51820"));
    for name in nodes {
        cluster.knows(name, &nodes);
    }
    cluster.pods_meet("ams-1", "waw-1");
    let mut open = cluster.connect("ams-1", "waw-1");

    // A name server that is away, or does not know the name any more, takes nothing away.
    drop(server);
    cluster.until("ams-1", "the name can't be resolved", |status| complains(status, &[NAME]));
    cluster.pods_meet("ams-1", "waw-1");

    // The machine gets other addresses while it is off, and knows no more where it heard ams-1.
    cluster.switch_off("waw-1");
    let new = ["203.0.113.44", "2001:db8:3::2c"].map(str::to_owned);
    cluster.readdress("waw-1", &new);
    cluster.kubectl("annotate node waw-1 kilo.squat.ai/discovered-endpoints-");
    ok(cluster.host("waw-1"), "rm -r /run/test/state");
    cluster.start("waw-1");
    cluster.knows("waw-1", &nodes);
    let is_dialled_there = |status: &serde_json::Value| {
        let dialled = status["peers"][0]["endpoint"].as_str().unwrap_or_default();
        new.iter().any(|address| dialled.contains(address))
    };
    assert!(!is_dialled_there(&cluster.status("ams-1")), "it was told by another way");
    let _server = serve(cluster.host(internet), &new);
    cluster.until("ams-1", "it dials where the name says", is_dialled_there);
    cluster.pods_meet("ams-1", "waw-1");
    open.iter_mut().for_each(|connection| connection.goes_on());
    for name in nodes {
        cluster.until(name, "nothing is wrong", |status| status["problems"] == json!([]));
    }
}
