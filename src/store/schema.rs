//! The tables as the query builder sees them.
//!
//! Written by hand after `migrations/`; columns that only SQL uses (`campaigns.search`) are left
//! out. A test reads every table once through these definitions.

#![expect(missing_docs, reason = "the columns are documented in the migrations")]

diesel::table! {
    projects (id) { id -> Int8, name -> Text, retention_days -> Int4, created_at -> Timestamptz, }
}
diesel::table! {
    project_revisions (project_id) { project_id -> Int8, revision -> Int8, }
}
diesel::table! {
    project_origins (origin) { origin -> Text, project_id -> Int8, }
}
diesel::table! {
    api_keys (id) {
        id -> Int8,
        project_id -> Int8,
        name -> Text,
        scope -> Text,
        prefix -> Text,
        hash -> Bytea,
        created_at -> Timestamptz,
        expires_at -> Nullable<Timestamptz>,
        revoked_at -> Nullable<Timestamptz>,
    }
}
diesel::table! {
    persons (id) {
        id -> Int8,
        project_id -> Int8,
        home -> Int8,
        bucketing_kind -> Int2,
        bucketing_value -> Text,
        traits -> Jsonb,
        merged_into -> Nullable<Int8>,
        created_at -> Timestamptz,
        last_seen_at -> Timestamptz,
    }
}
diesel::table! {
    people_seen (person_id) {
        person_id -> Int8,
        last_seen_at -> Timestamptz,
    }
}
diesel::table! {
    identities (project_id, kind, value) {
        project_id -> Int8,
        kind -> Int2,
        value -> Text,
        person_id -> Int8,
        created_at -> Timestamptz,
    }
}
diesel::table! {
    message_buckets (singleton) {
        singleton -> Bool,
        current_bucket -> Int2,
        rotated_at -> Timestamptz,
    }
}
diesel::table! {
    events (received_on, id) {
        received_on -> Date,
        id -> Uuid,
        project_id -> Int8,
        person_id -> Int8,
        kind -> Int2,
        name -> Text,
        user_id -> Nullable<Text>,
        anonymous_id -> Nullable<Text>,
        message_id -> Nullable<Text>,
        properties -> Nullable<Json>,
        context -> Nullable<Json>,
        timestamp -> Timestamptz,
        received_at -> Timestamptz,
    }
}
diesel::table! {
    rejected_events (id) {
        id -> Int8,
        project_id -> Int8,
        received_at -> Timestamptz,
        code -> Text,
        message -> Text,
        message_id -> Nullable<Text>,
        payload -> Text,
        received_on -> Date,
        route -> Nullable<Text>,
        timestamp -> Nullable<Timestamptz>,
        context -> Nullable<Text>,
        fields -> Json,
        is_cut -> Bool,
        replay_of -> Nullable<Int8>,
        replayed_at -> Nullable<Timestamptz>,
        replayed_as -> Nullable<Uuid>,
    }
}
diesel::table! {
    ingest_ledger (project_id, day, slot) {
        project_id -> Int8,
        day -> Date,
        slot -> Int4,
        received -> Int8,
        stored -> Int8,
        duplicate -> Int8,
        rejected -> Int8,
        last_batch -> Nullable<Uuid>,
    }
}
diesel::table! {
    campaigns (project_id, id) {
        project_id -> Int8,
        id -> Text,
        seq -> Int8,
        name -> Text,
        status -> Nullable<Text>,
        trigger -> Nullable<Text>,
        body -> Json,
        version -> Int8,
        created_at -> Timestamptz,
        updated_at -> Nullable<Timestamptz>,
        quarantined_at -> Nullable<Timestamptz>,
        quarantine_reason -> Nullable<Text>,
        quarantine_failures -> Nullable<Int4>,
    }
}
diesel::table! {
    campaign_history (id) {
        id -> Int8,
        project_id -> Int8,
        campaign_id -> Text,
        version -> Int8,
        action -> Text,
        body -> Json,
        actor -> Text,
        at -> Timestamptz,
    }
}
diesel::table! {
    segments (project_id, id) {
        project_id -> Int8,
        id -> Text,
        seq -> Int8,
        name -> Text,
        body -> Json,
        created_at -> Timestamptz,
        updated_at -> Nullable<Timestamptz>,
    }
}
diesel::table! {
    feature_flags (project_id, key) {
        project_id -> Int8,
        key -> Text,
        enabled -> Bool,
        value -> Nullable<Json>,
        targeting -> Nullable<Json>,
        created_at -> Timestamptz,
        updated_at -> Nullable<Timestamptz>,
    }
}
diesel::table! {
    audit_log (id) {
        id -> Int8,
        project_id -> Int8,
        at -> Timestamptz,
        actor -> Text,
        action -> Text,
        object_kind -> Text,
        object_id -> Text,
        request_id -> Nullable<Text>,
    }
}
