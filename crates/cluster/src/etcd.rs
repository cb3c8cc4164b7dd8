//! The store behind an API server.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use wireloom_lab::{Child, Host};
use wireloom_testkit::cluster_program;

use crate::api_server::{free_port, tail};
use crate::error::Error;

/// Where its host keeps the data: in memory.
const DATA: &str = "/run/etcd";

/// How long a question to it may take.
const ANSWER: Duration = Duration::from_secs(20);

/// A running etcd, on its host's loopback address.
#[derive(Debug)]
pub(crate) struct Etcd {
    process: Child,
    port: u16,
}

impl Etcd {
    /// Starts one. Whoever connects may have to wait a moment.
    pub(crate) fn start(host: &Host) -> Result<Self, Error> {
        let (port, peers) = (free_port(host)?, free_port(host)?);
        let url = |port| format!("http://127.0.0.1:{port}");
        let arguments = [
            format!("--data-dir={DATA}"),
            format!("--listen-client-urls={}", url(port)),
            format!("--advertise-client-urls={}", url(port)),
            format!("--listen-peer-urls={}", url(peers)),
            format!("--initial-advertise-peer-urls={}", url(peers)),
            format!("--initial-cluster=default={}", url(peers)),
            // The data is gone with the machine in any case.
            "--unsafe-no-fsync".to_owned(),
        ];
        Ok(Self { process: host.spawn(cluster_program("etcd"), arguments)?, port })
    }

    /// Where the API server finds it.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Makes it forget all revisions but the last.
    pub(crate) fn compact(&self, host: &Host) -> Result<(), Error> {
        // Any question's answer names the revision (etcd API reference, `ResponseHeader`).
        let answer = self.ask(host, "/v3/kv/range", &json!({ "key": "YQ==" }))?;
        let revision = &answer["header"]["revision"];
        self.ask(host, "/v3/kv/compaction", &json!({ "revision": revision })).map(drop)
    }

    /// The end of its log.
    pub(crate) fn log(&self) -> String {
        tail(&self.process)
    }

    /// Asks by its JSON gateway (etcd documentation, "gRPC gateway").
    fn ask(&self, host: &Host, path: &str, question: &Value) -> Result<Value, Error> {
        let (port, question) = (self.port, question.to_string());
        let request =
            format!("POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{question}", question.len());
        let talk = move || -> io::Result<String> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.set_read_timeout(Some(ANSWER))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = host.run(talk)?.and_then(|answer| {
            let body = answer.split_once("\r\n\r\n").filter(|_| answer.contains(" 200 OK\r\n"));
            let body = body.and_then(|(_, body)| serde_json::from_str(body).ok());
            body.ok_or_else(|| io::Error::other(answer))
        });
        answer.map_err(|source| Error::system("ask etcd", source))
    }
}
