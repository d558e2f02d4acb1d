//! Every metric there is. `docs/metrics.md` is checked against this list.

use super::{Described, Kind};

macro_rules! described {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Described = Described {
                name: $name,
                help: $help,
                kind: Kind::$kind,
                labels: &[$($label),*],
            };
        )*

        /// The list.
        pub const ALL: &[Described] = &[$($constant),*];
    };
}

described! {
    BUILD_INFO: Gauge "beckon_build_info" ["version", "commit"]
        "Always 1; the labels tell the version and the commit it was built from.";
    READY: Gauge "beckon_ready" []
        "1 when the server is ready as far as it knows without asking the database.";

    HTTP_REQUESTS: Counter "beckon_http_requests_total" ["method", "route", "status"]
        "Requests that were answered; status none is a caller that was hung up on or left.";
    HTTP_DURATION: Seconds "beckon_http_request_duration_seconds" ["method", "route"]
        "Time from a request's head to its answer, with the reading of its body.";
    HTTP_IN_FLIGHT: Gauge "beckon_http_requests_in_flight" []
        "Requests that wait for their answer.";

    INGEST_RECEIVED: Counter "beckon_ingest_received_events_total" ["project"]
        "Events as decoded from requests, good and bad.";
    INGEST_STORED: Counter "beckon_ingest_stored_events_total" ["project"]
        "Events answered as stored.";
    INGEST_DUPLICATE: Counter "beckon_ingest_duplicate_events_total" ["project"]
        "Events answered as stored before.";
    INGEST_REJECTED: Counter "beckon_ingest_rejected_events_total" ["project", "code"]
        "Events answered as rejected, by the reason's code.";
    INGEST_FAILED: Counter "beckon_ingest_failed_events_total" ["project", "code"]
        "Events of requests that were answered with an error, by its code, or, abandoned, with nothing.";
    INGEST_IN_FLIGHT: Gauge "beckon_ingest_in_flight_events" ["project"]
        "Events that were received and not answered yet.";
    INGEST_UNACCOUNTED: Counter "beckon_ingest_unaccounted_events_total" ["project"]
        "Events whose request was answered without telling what became of them; a defect.";

    LEDGER_DIFFERENCE: Gauge "beckon_ledger_difference_events" ["project"]
        "Events that the database's ledger of yesterday and today has as received and as nothing else; anything but 0 is a defect.";

    INGEST_QUEUE_EVENTS: Gauge "beckon_ingest_queue_events" ["shard"]
        "Events a shard holds, waiting or being written.";
    INGEST_QUEUE_BYTES: Gauge "beckon_ingest_queue_bytes" ["shard"]
        "Their size as received.";
    INGEST_QUEUE_OLDEST: Gauge "beckon_ingest_queue_oldest_seconds" ["shard"]
        "Age of the oldest event a shard holds, waiting or being written; 0 without any.";
    INGEST_QUEUE_EVENTS_MAX: Gauge "beckon_ingest_queue_events_max" []
        "Events a shard may hold.";
    INGEST_QUEUE_BYTES_MAX: Gauge "beckon_ingest_queue_bytes_max" []
        "Bytes of events a shard may hold.";
    INGEST_QUEUE_WAIT: Seconds "beckon_ingest_queue_wait_seconds" []
        "How long the first event of a batch had waited when its shard took the batch.";
    INGEST_BATCH: Events "beckon_ingest_batch_events" []
        "Events of a transaction that was committed.";
    INGEST_COMMIT: Seconds "beckon_ingest_commit_duration_seconds" []
        "Time of a whole transaction that was committed, retries included.";
    INGEST_RETRIES: Counter "beckon_ingest_batch_retries_total" []
        "Transactions that lost a race with another writer and were tried again.";
    INGEST_BISECTIONS: Counter "beckon_ingest_batch_bisections_total" []
        "Batches that were halved because the database refused an event in them.";
    INGEST_FAILURES: Counter "beckon_ingest_batch_failures_total" []
        "Batches that were given up; their callers heard 503.";
    INGEST_CONNECTS: Counter "beckon_ingest_connects_total" []
        "Connections shards opened; beyond one a shard, each replaces one that was lost.";
    INGEST_PANICS: Counter "beckon_ingest_shard_panics_total" []
        "Panics a shard caught; a defect.";
    INGEST_AHEAD: Counter "beckon_ingest_decided_ahead_total" []
        "Decisions made before their event was queued that still held when a shard came to it.";

    CACHE_REQUESTS: Counter "beckon_people_cache_requests_total" ["cache", "result"]
        "Look-ups in what is remembered of people, by their result (hit or miss).";
    CACHE_ENTRIES: Gauge "beckon_people_cache_entries" ["cache"]
        "Entries remembered.";
    CACHE_BYTES: Gauge "beckon_people_cache_bytes" ["cache"]
        "About how much memory they take.";

    SNAPSHOT_REVISION: Gauge "beckon_snapshot_revision" ["project"]
        "The revision of the campaigns decisions are made on.";
    SNAPSHOT_CAMPAIGNS: Gauge "beckon_snapshot_campaigns" ["project"]
        "Live campaigns among them.";
    SNAPSHOT_UNINDEXED: Gauge "beckon_snapshot_unindexed_campaigns" ["project"]
        "Live campaigns without a condition that the index can use; each is evaluated at every event that is its trigger, and at every fetch if it mentions no event.";
    SNAPSHOT_COST: Gauge "beckon_snapshot_cost_max" ["project"]
        "The most steps that an evaluation of one live campaign can take.";
    SNAPSHOT_QUARANTINED: Gauge "beckon_snapshot_quarantined_campaigns" ["project"]
        "Campaigns that failed again and again and are out of service until they are saved again.";
    SNAPSHOT_SEGMENTS: Gauge "beckon_snapshot_segments" ["project"]
        "Segments among them.";
    SNAPSHOT_LOADED: Gauge "beckon_snapshot_loaded_timestamp_seconds" ["project"]
        "When this revision was loaded.";
    SNAPSHOT_RELOADS: Counter "beckon_snapshot_reloads_total" ["result"]
        "Attempts to load a project's campaigns, by their result (ok or failed).";
    SNAPSHOT_RELOAD_DURATION: Seconds "beckon_snapshot_reload_duration_seconds" []
        "Time of a load.";
    DECISIONS: Counter "beckon_decisions_total" []
        "Decisions that were made on campaigns; events without a campaign of their trigger need none, and repeated ones are not counted.";
    MATCHES: Counter "beckon_matches_total" []
        "Campaigns that matched in them.";
    RULE_ERRORS: Counter "beckon_rule_errors_total" []
        "Conditions of campaigns, segments and flags that failed and counted as false.";
    DECISION_PANICS: Counter "beckon_decision_panics_total" ["decision"]
        "Decisions that panicked, by what they were about (event, fetch, flag or segments); a defect.";
    STALENESS: Gauge "beckon_staleness_seconds" []
        "Time since the campaigns were last known to be current; it grows when the database is gone.";
    HUB_CONNECTED: Gauge "beckon_hub_connected" []
        "1 while changes of campaigns are listened for.";
    NODES: Gauge "beckon_nodes" []
        "Servers on the database, this one included, when last counted.";

    POOL_CONNECTIONS: Gauge "beckon_pool_connections" []
        "Open connections of the pool that reads and admin writes share.";
    POOL_IN_USE: Gauge "beckon_pool_connections_in_use" []
        "Those that somebody uses.";
    POOL_MAX: Gauge "beckon_pool_connections_max" []
        "How many there may be.";
    POOL_WAITING: Gauge "beckon_pool_waiting" []
        "Callers that wait for one.";
    POOL_WAIT: Seconds "beckon_pool_wait_seconds" []
        "How long callers waited until they had one.";
    POOL_TIMEOUTS: Counter "beckon_pool_timeouts_total" []
        "Callers that got none, or no answer, by their deadline.";

    PARTITION_HORIZON: Gauge "beckon_partition_horizon_seconds" []
        "Time until the last day ends that has its partition, without a gap from today.";
    PARTITIONS_AHEAD: Gauge "beckon_partitions_ahead_seconds" []
        "How far ahead of today partitions are made, by the settings.";
    RETENTION_LAG: Gauge "beckon_retention_lag_seconds" []
        "How long ago the oldest partition became due to be dropped; 0 when it is not.";
    RETENTION_PAUSE: Gauge "beckon_retention_pause_seconds" []
        "The longest time between two runs that drop what is due, by their schedule.";
    DATABASE_SIZE: Gauge "beckon_database_size_bytes" []
        "Size of the database on its disk.";
    JOB_RUNS: Counter "beckon_job_runs_total" ["task", "result"]
        "Runs of background jobs on this node, by their result (ok or failed).";
    JOB_SUCCESS: Gauge "beckon_job_last_success_timestamp_seconds" ["task"]
        "When the job last succeeded on this node; 0 when it has not yet.";
    JOB_DURATION: Gauge "beckon_job_last_duration_seconds" ["task"]
        "How long its last run took.";

    PROCESS_CPU: Counter "process_cpu_seconds_total" []
        "Total user and system CPU time spent in seconds.";
    PROCESS_FDS: Gauge "process_open_fds" []
        "Number of open file descriptors.";
    PROCESS_FDS_MAX: Gauge "process_max_fds" []
        "Maximum number of open file descriptors.";
    PROCESS_MEMORY: Gauge "process_resident_memory_bytes" []
        "Resident memory size in bytes.";
    PROCESS_VIRTUAL_MEMORY: Gauge "process_virtual_memory_bytes" []
        "Virtual memory size in bytes.";
    PROCESS_START: Gauge "process_start_time_seconds" []
        "Start time of the process since unix epoch in seconds.";
    PROCESS_THREADS: Gauge "process_threads" []
        "Number of OS threads in the process.";
}
