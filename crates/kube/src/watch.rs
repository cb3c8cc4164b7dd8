//! Watches that bear outages: what they tell, and how long they wait when they fail.

use std::fmt::Debug;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::registry::WATCH;

/// All objects of a kind, listed and then watched.
pub(crate) struct Watch<K> {
    stream: BoxStream<'static, watcher::Result<Event<K>>>,
    /// The part of a new list that has come so far.
    list: Vec<K>,
    /// Whether a list was whole once.
    pub(crate) is_listed: bool,
}

/// Waits for the next change of what may not be watched at all.
pub(crate) async fn next_of<K>(watch: &mut Option<Watch<K>>) -> Change<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// What a watch tells.
pub(crate) enum Change<K> {
    All(Vec<K>),
    Put(K),
    Gone(K),
    Failed(watcher::Error),
}

impl<K> Watch<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    pub(crate) fn new(api: Api<K>) -> Self {
        Self::with(api, watcher::Config::default())
    }

    pub(crate) fn of_one(api: Api<K>, name: &str) -> Self {
        Self::with(api, watcher::Config::default().fields(&format!("metadata.name={name}")))
    }

    fn with(api: Api<K>, config: watcher::Config) -> Self {
        let config = config.timeout(WATCH);
        let stream = watcher(api, config).backoff(Patience::default()).boxed();
        Self { stream, list: Vec::new(), is_listed: false }
    }

    /// Waits for the next change. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Change<K> {
        loop {
            match self.stream.next().await {
                Some(Ok(Event::Init)) => self.list.clear(),
                Some(Ok(Event::InitApply(object))) => self.list.push(object),
                Some(Ok(Event::InitDone)) => {
                    self.is_listed = true;
                    return Change::All(std::mem::take(&mut self.list));
                }
                Some(Ok(Event::Apply(object))) => return Change::Put(object),
                Some(Ok(Event::Delete(object))) => return Change::Gone(object),
                Some(Err(error)) => return Change::Failed(error),
                // A watcher never ends.
                None => std::future::pending().await,
            }
        }
    }
}

/// How long whatever fails waits, such as a watch: twice as long each time, up to a limit, and up to half as long again by chance, so
/// that a thousand agents do not come back at one moment. One that did not fail for a while begins anew.
#[derive(Debug)]
pub(crate) struct Patience {
    failures: u32,
    last: Option<Instant>,
    /// The limit.
    most: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self::up_to(Duration::from_secs(15))
    }
}

impl Patience {
    /// Nothing has failed yet. What fails again and again waits as long as this each time.
    pub(crate) const fn up_to(most: Duration) -> Self {
        Self { failures: 0, last: None, most }
    }

    pub(crate) fn delay(&mut self, now: Instant) -> Duration {
        const FIRST: Duration = Duration::from_millis(500);
        if self.is_calm(now) {
            self.failures = 0;
        }
        self.last = Some(now);
        let delay = FIRST.saturating_mul(1 << self.failures.min(16)).min(self.most);
        self.failures += 1;
        delay.mul_f64(1.0 + random() / 2.0)
    }

    /// Whether it did not fail for a while.
    pub(crate) fn is_calm(&self, now: Instant) -> bool {
        let calm = self.most.saturating_mul(3);
        self.last.is_none_or(|last| now.saturating_duration_since(last) > calm)
    }

    /// Whether it failed more than a few times in a row.
    pub(crate) const fn is_long(&self) -> bool {
        self.failures > 3
    }
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.delay(Instant::now()))
    }
}

impl Backoff for Patience {
    /// Called whenever a watch tells something, its intention to list included, which is no sign that it will succeed.
    fn reset(&mut self) {}
}

/// A number from 0 to 1 that differs from process to process, for times to spread.
pub(crate) fn random() -> f64 {
    f64::from(RandomState::new().build_hasher().finish() as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use http::{Request, Response, header};
    use k8s_openapi::api::coordination::v1::Lease;
    use kube::Client;
    use kube::client::Body;
    use kube::core::PartialObjectMeta;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn where_metadata_suffices_no_more_is_asked_for() {
        let (asked, mut asks) = mpsc::unbounded_channel();
        let server = tower::service_fn(move |request: Request<Body>| {
            let accepts = request.headers()[header::ACCEPT].to_str().unwrap().to_owned();
            asked.send(accepts).unwrap();
            let is_watch = request.uri().query().unwrap_or_default().contains("watch=true");
            let list = r#"{ "metadata": { "resourceVersion": "7" }, "items": [] }"#;
            let answer = if is_watch { Vec::new() } else { list.into() };
            std::future::ready(Ok::<_, kube::Error>(Response::new(Body::from(answer))))
        });
        let client = Client::new(server, "default");
        let mut leases: Watch<PartialObjectMeta<Lease>> =
            Watch::new(Api::default_namespaced(client));
        assert!(matches!(leases.next().await, Change::All(all) if all.is_empty()));
        let watching = tokio::spawn(async move { drop(leases.next().await) });
        for what in ["PartialObjectMetadataList", "PartialObjectMetadata"] {
            let accepts = asks.recv().await.unwrap();
            assert_eq!(accepts, format!("application/json;as={what};g=meta.k8s.io;v=v1"));
        }
        watching.abort();
    }

    #[test]
    fn patience_grows_and_is_not_reset_by_a_mere_try() {
        let start = Instant::now();
        let mut patience = Patience::default();
        assert!(patience.delay(start) < Duration::from_secs(1));
        let delay = (0..12).map(|_| {
            patience.reset();
            patience.delay(start)
        });
        let last = delay.last().unwrap();
        assert!(last >= Duration::from_secs(15) && last < Duration::from_secs(23));
        assert!(patience.delay(start + Duration::from_secs(61)) < Duration::from_secs(1));
    }
}
