//! How fast regions reach each other.

use std::io;
use std::net::IpAddr;

use serde::Serialize;

use super::Voice;
use crate::error::Error;
use crate::lab::Lab;
use crate::measure;
use crate::program::Program;

/// What one stream brought from one node to another.
#[derive(Debug, Serialize)]
pub struct Throughput {
    /// The node that sends.
    pub from: String,
    /// The node that receives.
    pub to: String,
    /// In Gbit/s.
    pub gbit: f64,
}

/// A node at which a stream begins or ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its region.
    pub region: String,
    /// Its host in the lab.
    pub node: String,
    /// Its address in the mesh.
    pub address: IpAddr,
}

/// Sends one stream after the other for this many seconds each, from each node to the next and from the last to the
/// first, and tells of it. What can't be measured is told, and left out.
///
/// # Errors
///
/// A node that the lab does not have, or standard output that can't be written.
pub fn between(
    lab: &Lab,
    ends: &[End],
    seconds: u32,
    voice: &Voice,
) -> Result<Vec<Throughput>, Error> {
    if seconds == 0 {
        return Ok(Vec::new());
    }
    let told = |told: io::Result<()>| told.map_err(|e| Error::io("standard output", "write", e));
    if Program::Iperf3.path().is_none() {
        let package = Program::Iperf3.package();
        told(voice.head(&format!("Throughput: skipped, for want of iperf3 (package {package})")))?;
        return Ok(Vec::new());
    }
    told(voice.head(&format!("Throughput between regions, one TCP stream for {seconds} s each")))?;
    let mut found = Vec::new();
    for (from, to) in ends.iter().zip(ends.iter().cycle().skip(1)) {
        let path = format!(" {} to {}, {} to {}:", from.node, to.node, from.region, to.region);
        match measure::throughput(lab.host(&from.node)?, lab.host(&to.node)?, to.address, seconds) {
            Ok(rate) => {
                let gbit = (rate / 1e7).round() / 100.0;
                told(voice.say(&format!("{path:<40} {gbit:.2} Gbit/s")))?;
                found.push(Throughput { from: from.node.clone(), to: to.node.clone(), gbit });
            }
            Err(error) => told(voice.say(&format!("{path:<40} {error}")))?,
        }
    }
    Ok(found)
}
