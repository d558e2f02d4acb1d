-- What was counted last, so that a writer that lost its connection during a commit can ask whether
-- that batch is in it. The slot is a number that the writer has drawn, wide enough to be its alone.
ALTER TABLE ingest_ledger
    ALTER COLUMN slot TYPE integer,
    ADD COLUMN last_batch uuid;
