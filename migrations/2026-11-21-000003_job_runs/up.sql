-- The last time each scheduled job was due and taken on, so that of several nodes with the same
-- schedule one runs it.
CREATE TABLE job_runs (
    job text PRIMARY KEY,
    due_at timestamptz NOT NULL,
    started_at timestamptz NOT NULL
);
