//! `wireloom webhook`: what the cluster's API asks before it takes a `Peer`. The contract is that of `kg webhook`.

mod tls;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use clap::Args;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry, TextEncoder};
use wireloom_agent::http::Place;
use wireloom_kube::peer::review;

use crate::signals;

#[derive(Debug, Args)]
pub(crate) struct WebhookArgs {
    /// The file with the certificate, in PEM, and those that vouch for it. Read again when it changes.
    #[arg(long, env = "WIRELOOM_CERT_FILE", value_name = "FILE")]
    cert_file: PathBuf,
    /// The file with the certificate's private key, in PEM.
    #[arg(long, env = "WIRELOOM_KEY_FILE", value_name = "FILE")]
    key_file: PathBuf,
    /// Where to answer the API: an address and a port, or a colon and a port for all addresses.
    #[arg(long, env = "WIRELOOM_LISTEN", default_value = ":8443", value_name = "ADDRESS:PORT")]
    listen: Place,
    /// Where to answer Prometheus, without encryption.
    #[arg(
        long,
        env = "WIRELOOM_LISTEN_METRICS",
        default_value = ":1107",
        value_name = "ADDRESS:PORT"
    )]
    listen_metrics: Place,
}

pub(crate) fn run(args: &WebhookArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = signals::stop()?;
        let counts = Arc::new(Counts::new()?);
        let certificate = tls::Certificate::load(&args.cert_file, &args.key_file)?;
        let bound = args.listen.bind().await;
        let bound = bound.with_context(|| format!("listen on {}", args.listen))?;
        let listener = tls::Listener::new(bound, certificate)?;
        let metrics = args.listen_metrics.bind().await;
        let metrics = metrics.with_context(|| format!("listen on {}", args.listen_metrics))?;
        tracing::info!(
            address = %axum::serve::Listener::local_addr(&listener)?,
            metrics = %metrics.local_addr()?,
            "answering"
        );
        let questions =
            Router::new().route("/validate", post(validate)).with_state(Arc::clone(&counts));
        let numbers = Router::new()
            .route("/metrics", get(numbers))
            .route("/healthz", get(async || "ok\n"))
            .with_state(counts);
        tokio::select! {
            () = stop => {}
            ended = async { axum::serve(listener, questions).await } => ended?,
            ended = async { axum::serve(metrics, numbers).await } => ended?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// What was asked and answered, by Kilo's names (`cmd/kg/webhook.go`).
struct Counts {
    registry: Registry,
    requests: IntCounterVec,
    admissions: IntCounterVec,
    errors: IntCounter,
}

impl Counts {
    fn new() -> Result<Self, prometheus::Error> {
        let counts = Self {
            registry: Registry::new(),
            requests: IntCounterVec::new(
                Opts::new("http_requests_total", "Requests over HTTP."),
                &["handler", "method"],
            )?,
            admissions: IntCounterVec::new(
                Opts::new("admission_requests_total", "Questions, by what was asked and answered."),
                &["operation", "response"],
            )?,
            errors: IntCounter::new("errors_total", "Requests that were no questions.")?,
        };
        counts.registry.register(Box::new(counts.requests.clone()))?;
        counts.registry.register(Box::new(counts.admissions.clone()))?;
        counts.registry.register(Box::new(counts.errors.clone()))?;
        Ok(counts)
    }
}

async fn validate(State(counts): State<Arc<Counts>>, headers: HeaderMap, body: Bytes) -> Response {
    counts.requests.with_label_values(&["/validate", "POST"]).inc();
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if kind != Some("application/json") {
        counts.errors.inc();
        return (StatusCode::BAD_REQUEST, "send Content-Type: application/json\n").into_response();
    }
    match review(&body) {
        Ok(review) => {
            let answer = if review.is_allowed { "allowed" } else { "denied" };
            counts.admissions.with_label_values(&[review.operation.as_str(), answer]).inc();
            ([(header::CONTENT_TYPE, "application/json")], review.body).into_response()
        }
        Err(error) => {
            counts.errors.inc();
            (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response()
        }
    }
}

async fn numbers(State(counts): State<Arc<Counts>>) -> Response {
    match TextEncoder::new().encode_to_string(&counts.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
