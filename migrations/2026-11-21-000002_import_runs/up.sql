-- One row a file and project. `started_at` counts as the time its events were received, so a rerun
-- meets the rows of the first run.
CREATE TABLE import_runs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id bigint NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    file_sha256 bytea NOT NULL CHECK (octet_length(file_sha256) = 32),
    file_name text NOT NULL,
    started_at timestamptz NOT NULL,
    verified_at timestamptz,
    rolled_back_at timestamptz,
    CONSTRAINT import_runs_file_key UNIQUE (project_id, file_sha256)
);

-- The rows a run created, for its rollback. `digest` is the content as it was created; it tells
-- what has been changed since. Events are immutable and need none.
CREATE TABLE import_rows (
    run_id bigint NOT NULL REFERENCES import_runs (id) ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('campaign', 'segment', 'flag', 'person', 'event')),
    key text NOT NULL,
    digest bytea,
    PRIMARY KEY (run_id, kind, key)
);
