//! The one place where the services are made and handed to each other.

use std::time::Duration;

use crate::clock::Clock;
use crate::config::{Config, CorsOrigins, MetricsSetting, Mode};
use crate::http::{AppState, CorsOrigins as HttpOrigins, HttpSettings, MetricsAccess, Rate};
use crate::ingest::decode::DecodeLimits;
use crate::ingest::{IDENTITIES_MAX, Ingest, IngestMetrics, IngestOptions};
use crate::memory;
use crate::rules::Limits;
use crate::store::{Store, StoreMetrics, StoreOptions};
use crate::targeting::{Targeting, TargetingMetrics, TargetingOptions};
use crate::telemetry::metrics::Metrics;

use super::Failure;

/// Makes every service. The database may be absent: nothing here waits for it.
pub(super) fn compose(config: &Config, url: &str, mode: Mode) -> Result<AppState, Failure> {
    let clock = Clock::system();
    let metrics = Metrics::new().with_process();
    let store = Store::new(StoreOptions {
        url: url.to_owned(),
        pool_size: config.pool_size,
        deadline: config.database_deadline,
    })
    .with_metrics(StoreMetrics::new(&metrics));
    let targeting = Targeting::new(
        store.clone(),
        clock.clone(),
        TargetingOptions {
            people_cache_bytes: config
                .user_cache_bytes
                .unwrap_or_else(memory::usual_cache_bytes),
            rules: Limits {
                max_failures: config.campaign_failures_max,
                ..Limits::default()
            },
            metrics: TargetingMetrics::new(&metrics),
            ..TargetingOptions::default()
        },
    );
    let ingest = Ingest::start(
        targeting.clone(),
        IngestOptions {
            url: url.to_owned(),
            shards: config.ingest_shards,
            batch_rows_max: config.ingest_batch_events,
            batch_bytes_max: config.ingest_batch_bytes,
            queue_rows_max: config.ingest_queue_events,
            queue_bytes_max: config.ingest_queue_bytes,
            deadline: config.database_deadline,
            traits_bytes_max: config.limit_traits_bytes,
            identities_max: IDENTITIES_MAX,
            metrics: IngestMetrics::new(&metrics),
        },
    )?;
    metrics.before_each_scrape({
        let (store, targeting, ingest) = (store.clone(), targeting.clone(), ingest.clone());
        move || {
            store.sample_metrics();
            targeting.sample_metrics();
            ingest.sample_metrics();
        }
    });
    let settings = http_settings(config, mode);
    Ok(AppState::new(
        store, ingest, targeting, clock, settings, metrics,
    ))
}

fn http_settings(config: &Config, mode: Mode) -> HttpSettings {
    let rate = |per_second: u32| Rate {
        per_second,
        burst: per_second.saturating_mul(2).max(1),
    };
    HttpSettings {
        cors_origins: match &config.cors_origins {
            CorsOrigins::All => HttpOrigins::Mirror,
            CorsOrigins::Listed(origins) => HttpOrigins::List(origins.clone()),
        },
        keyless_localhost: mode == Mode::Demo,
        key_rate: rate(config.key_requests_per_second),
        address_rate: rate(config.address_requests_per_second),
        project_rate: rate(config.project_events_per_second),
        key_misses_per_minute: config.key_misses_per_minute,
        trusted_proxy_hops: config.trusted_proxy_hops,
        head_timeout: config.head_timeout,
        body_idle_timeout: config.body_pause,
        body_timeout: config.body_timeout,
        keep_alive: config.keep_alive,
        connections_max: config.connections_max,
        bodies_bytes_max: config.limit_bodies_bytes,
        admin_body_bytes_max: config.limit_admin_body_bytes,
        decode: DecodeLimits {
            event_bytes_max: config.limit_event_bytes,
            body_bytes_max: config.limit_body_bytes,
            batch_events_max: config.limit_batch_events,
            nesting_max: config.limit_nesting,
            message_id_chars_max: config.limit_message_id_chars,
        },
        replay_events_per_second: config.replay_events_per_second,
        docs: config.docs,
        metrics: match config.metrics {
            MetricsSetting::Key => MetricsAccess::Key,
            MetricsSetting::Public => MetricsAccess::Public,
            MetricsSetting::Off => MetricsAccess::Off,
        },
        shutdown_timeout: whole_seconds(config.shutdown_timeout),
        ..HttpSettings::default()
    }
}

/// The framework counts whole seconds. It may have more time than was asked for, which is kept
/// elsewhere, and never less.
fn whole_seconds(duration: Duration) -> Duration {
    let begun = u64::from(duration.subsec_nanos() > 0);
    Duration::from_secs(duration.as_secs().saturating_add(begun))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_framework_has_all_the_time_that_was_asked_for() {
        for (millis, seconds) in [(1_000, 1), (1_001, 2), (1_999, 2), (8_000, 8)] {
            let whole = whole_seconds(Duration::from_millis(millis));
            assert_eq!(whole, Duration::from_secs(seconds), "{millis}");
        }
    }
}
