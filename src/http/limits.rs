//! Who asks too much: token buckets by key and by address, and of events by project.
//!
//! Every answer carries the draft-06 headers `RateLimit-Limit`, `RateLimit-Remaining`,
//! `RateLimit-Reset` and `RateLimit-Policy` that the seed's server sent. The stores are bounded:
//! once they hold more than their limit, entries whose bucket is full again are dropped.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::dev::Extensions;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::settings::{HttpSettings, Rate};
use crate::error::Error;
use crate::model::{KeyId, ProjectId};

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// How many checks pass between looks at a store's size.
const CHECKS_BETWEEN_SWEEPS: u64 = 1_024;

type Limiter<K> = RateLimiter<K, DashMapStateStore<K>, DefaultClock, StateInformationMiddleware>;

#[derive(Debug)]
struct Buckets<K: Hash + Eq + Clone> {
    limiter: Limiter<K>,
    clock: DefaultClock,
    rate: Rate,
    /// The rate as `RateLimit-Policy` says it.
    policy: HeaderValue,
    entries_max: usize,
    checks: AtomicU64,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new(quota: Quota, rate: Rate, entries_max: usize) -> Self {
        Self {
            limiter: RateLimiter::dashmap(quota).with_middleware(),
            clock: DefaultClock::default(),
            rate,
            policy: HeaderValue::try_from(format!("{};w=1;burst={}", rate.per_second, rate.burst))
                .unwrap_or_else(|_| HeaderValue::from_static("")),
            entries_max,
            checks: AtomicU64::new(0),
        }
    }

    /// Takes so many tokens; says also where the caller stands then.
    fn check(&self, key: &K, count: NonZeroU32) -> (Standing, Result<(), Error>) {
        let left = self.take(key, count);
        let standing = Standing {
            rate: self.rate,
            policy: self.policy.clone(),
            remaining: *left.as_ref().unwrap_or(&0),
        };
        (standing, left.map(drop))
    }

    /// Takes so many tokens at once, or all of a full bucket if there are fewer; says how many are
    /// left.
    fn take(&self, key: &K, count: NonZeroU32) -> Result<u32, Error> {
        let checks = self.checks.fetch_add(1, Ordering::Relaxed);
        if checks.is_multiple_of(CHECKS_BETWEEN_SWEEPS) && self.limiter.len() > self.entries_max {
            self.limiter.retain_recent();
        }
        let burst = NonZeroU32::new(self.rate.burst).unwrap_or(NonZeroU32::MIN);
        let whole_bucket = |_| self.limiter.check_key_n(key, burst);
        let taken = self
            .limiter
            .check_key_n(key, count)
            .or_else(whole_bucket)
            .map_err(|never| Error::Internal(never.to_string()))?;
        match taken {
            Ok(snapshot) => Ok(snapshot.remaining_burst_capacity()),
            Err(not_yet) => Err(Error::RateLimited {
                retry_after: not_yet.wait_time_from(self.clock.now()),
            }),
        }
    }
}

fn per_second(rate: Rate) -> Option<Quota> {
    let per_second = NonZeroU32::new(rate.per_second)?;
    let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
    Some(Quota::per_second(per_second).allow_burst(burst))
}

/// The limits of keys, addresses and projects.
#[derive(Debug)]
pub struct RateLimits {
    keys: Option<Buckets<i64>>,
    projects: Option<Buckets<i64>>,
    addresses: Option<Buckets<IpAddr>>,
}

impl RateLimits {
    /// Full buckets for everybody.
    pub fn new(settings: &HttpSettings) -> Self {
        let entries = settings.rate_entries_max;
        Self {
            keys: per_second(settings.key_rate)
                .map(|quota| Buckets::new(quota, settings.key_rate, entries)),
            projects: per_second(settings.project_rate)
                .map(|quota| Buckets::new(quota, settings.project_rate, entries)),
            addresses: per_second(settings.address_rate)
                .map(|quota| Buckets::new(quota, settings.address_rate, entries)),
        }
    }

    /// Takes a token of a key's bucket, and notes where the key stands then.
    pub(super) fn check_key(&self, key: KeyId, notes: &mut Extensions) -> Result<(), Error> {
        check_noted(self.keys.as_ref(), &key.0, notes)
    }

    /// Takes tokens of a project's bucket, one for each event, and notes a refusal. What is left of
    /// it otherwise is not noted: the key's own limit is nearer to a caller.
    pub(super) fn check_events(
        &self,
        project: ProjectId,
        events: usize,
        notes: &mut Extensions,
    ) -> Result<(), Error> {
        let Some(buckets) = &self.projects else {
            return Ok(());
        };
        let Some(count) = NonZeroU32::new(u32::try_from(events).unwrap_or(u32::MAX)) else {
            return Ok(());
        };
        let (standing, checked) = buckets.check(&project.0, count);
        if checked.is_err() {
            notes.insert(standing);
        }
        checked
    }

    /// Takes a token of an address's bucket, and notes where the address stands then.
    pub(super) fn check_address(
        &self,
        address: IpAddr,
        notes: &mut Extensions,
    ) -> Result<(), Error> {
        check_noted(self.addresses.as_ref(), &address, notes)
    }
}

/// The note of a refusal says that nothing is left. It takes the place of another bucket's, which
/// would mislead.
fn check_noted<K: Hash + Eq + Clone>(
    buckets: Option<&Buckets<K>>,
    key: &K,
    notes: &mut Extensions,
) -> Result<(), Error> {
    let Some(buckets) = buckets else {
        return Ok(());
    };
    let (standing, checked) = buckets.check(key, NonZeroU32::MIN);
    notes.insert(standing);
    checked
}

/// How many unknown keys an address has tried lately.
#[derive(Debug)]
pub(super) struct KeyMisses(Option<Buckets<IpAddr>>);

impl KeyMisses {
    pub(super) fn new(settings: &HttpSettings) -> Self {
        let a_minute = NonZeroU32::new(settings.key_misses_per_minute);
        Self(a_minute.map(|count| {
            let rate = Rate {
                per_second: 1,
                burst: count.get(),
            };
            Buckets::new(Quota::per_minute(count), rate, settings.rate_entries_max)
        }))
    }

    pub(super) fn check(&self, address: IpAddr) -> Result<(), Error> {
        match &self.0 {
            Some(buckets) => buckets.take(&address, NonZeroU32::MIN).map(drop),
            None => Ok(()),
        }
    }
}

/// Where a caller stands within its limit.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    rate: Rate,
    policy: HeaderValue,
    remaining: u32,
}

impl Standing {
    /// Writes the standard headers.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        let used = self.rate.burst.max(1).saturating_sub(self.remaining);
        let reset = used.div_ceil(self.rate.per_second.max(1));
        for (name, value) in [
            (LIMIT, self.rate.burst),
            (REMAINING, self.remaining),
            (RESET, reset),
        ] {
            headers.insert(name, HeaderValue::from(value));
        }
        headers.insert(POLICY, self.policy);
    }
}

/// The address a request is counted under: the peer's, or, behind that many trusted proxies, the
/// one the outermost of them saw. Of IPv6 only the network counts, since one customer has 2^64
/// addresses.
pub(super) fn client_address(request: &HttpRequest, trusted_hops: usize) -> Option<IpAddr> {
    let peer = request.peer_addr().map(|address| address.ip());
    address_of(request.headers(), peer, trusted_hops).map(network)
}

/// As [`client_address`], from a request's head.
pub(super) fn address_of(
    headers: &HeaderMap,
    peer: Option<IpAddr>,
    trusted_hops: usize,
) -> Option<IpAddr> {
    if trusted_hops == 0 {
        return peer;
    }
    let lines: Vec<&[u8]> = headers
        .get_all("x-forwarded-for")
        .map(HeaderValue::as_bytes)
        .collect();
    // What a client wrote before the entries of the proxies need not be text.
    let forwarded = lines
        .iter()
        .rev()
        .flat_map(|line| line.rsplit(|byte| *byte == b','))
        .nth(trusted_hops - 1)
        .and_then(|entry| str::from_utf8(entry).ok()?.trim().parse().ok());
    forwarded.or(peer)
}

/// Waits for a turn at what few calls do at a time. After so long they are too many, and the caller may
/// come again later.
pub(in crate::http) async fn turn(
    turns: &Arc<Semaphore>,
    wait: Duration,
    retry_after: Duration,
) -> Result<OwnedSemaphorePermit, Error> {
    timeout(wait, Arc::clone(turns).acquire_owned())
        .await
        .map_err(|_too_long| Error::Overloaded { retry_after })?
        .map_err(|_closed| Error::ShuttingDown)
}

/// The part of an address that one customer has to himself.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// How long the limits advise to wait when they cannot say better.
pub(super) const OVERLOAD_RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a test may fail by panicking"
    )]
    use super::*;

    fn settings(per_second: u32, burst: u32) -> HttpSettings {
        HttpSettings {
            key_rate: Rate { per_second, burst },
            ..HttpSettings::default()
        }
    }

    #[test]
    fn a_burst_passes_and_the_next_waits() {
        let limits = RateLimits::new(&settings(1, 3));
        let ask = |key| {
            let mut notes = Extensions::new();
            let checked = limits.check_key(KeyId(key), &mut notes);
            (checked, notes.get::<Standing>().unwrap().remaining)
        };
        for remaining in [2, 1, 0] {
            let (checked, noted) = ask(1);
            assert!(checked.is_ok());
            assert_eq!(noted, remaining);
        }
        assert!(matches!(ask(1), (Err(Error::RateLimited { .. }), 0)));
        assert!(ask(2).0.is_ok(), "another key has its own");
    }

    #[test]
    fn zero_switches_the_limit_off() {
        let limits = RateLimits::new(&settings(0, 0));
        let mut notes = Extensions::new();
        limits.check_key(KeyId(1), &mut notes).unwrap();
        assert!(!notes.contains::<Standing>());
    }

    #[test]
    fn events_of_a_project_are_counted_and_a_large_batch_is_a_burst() {
        let limits = RateLimits::new(&HttpSettings {
            project_rate: Rate {
                per_second: 1,
                burst: 10,
            },
            ..HttpSettings::default()
        });
        let mut notes = Extensions::new();
        let mut check =
            |project, events| limits.check_events(ProjectId(project), events, &mut notes);
        assert!(check(1, 0).is_ok() && check(1, 4).is_ok() && check(1, 6).is_ok());
        let Err(Error::RateLimited { retry_after }) = check(1, 3) else {
            panic!("the bucket is empty");
        };
        assert!(retry_after > Duration::from_secs(2), "{retry_after:?}");
        assert!(check(2, 1_000).is_ok(), "it could never be sent otherwise");
        assert!(check(2, 1).is_err(), "but it counts");
        let unlimited = RateLimits::new(&HttpSettings::default());
        assert!(
            unlimited
                .check_events(ProjectId(1), usize::MAX, &mut notes)
                .is_ok()
        );
    }

    #[test]
    fn forwarded_addresses_count_only_behind_trusted_proxies() {
        let mut headers = HeaderMap::new();
        headers.append(
            HeaderName::from_static("x-forwarded-for"),
            HeaderValue::from_bytes("é, 6.6.6.6, 1.1.1.1".as_bytes()).unwrap(),
        );
        headers.append(
            HeaderName::from_static("x-forwarded-for"),
            HeaderValue::from_static("2.2.2.2"),
        );
        let peer: Option<IpAddr> = "9.9.9.9".parse().ok();
        let address = |hops| address_of(&headers, peer, hops).unwrap().to_string();
        assert_eq!(address(0), "9.9.9.9");
        assert_eq!(address(1), "2.2.2.2");
        assert_eq!(address(2), "1.1.1.1");
        assert_eq!(address(4), "9.9.9.9");
        assert_eq!(address(9), "9.9.9.9");
    }

    #[test]
    fn one_network_of_version_6_is_one_address() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:1.2.3.4"), of("1.2.3.4"));
    }

    #[test]
    fn full_stores_forget_those_who_wait_for_nothing() {
        let mut small = settings(1_000_000, 1);
        small.rate_entries_max = 10;
        let limits = RateLimits::new(&small);
        for key in 0..10_000 {
            let mut notes = Extensions::new();
            limits.check_key(KeyId(key), &mut notes).unwrap();
        }
        assert!(limits.keys.unwrap().limiter.len() < 5_000);
    }
}
