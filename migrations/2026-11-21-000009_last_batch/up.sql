-- What was counted last, so that a writer that lost its connection during a commit can ask whether
-- that batch is in it. The slot is the writer's process number, which no other writer has meanwhile.
ALTER TABLE ingest_ledger
    ALTER COLUMN slot TYPE integer,
    ADD COLUMN last_batch uuid;
