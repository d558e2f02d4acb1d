-- Writers' rows are summed on read, so they can be put together where their slots do not fit.
CREATE TEMPORARY TABLE summed ON COMMIT DROP AS
    SELECT project_id, day, CASE WHEN slot < 0 THEN -1 ELSE slot & 32767 END AS slot,
           sum(received) AS received, sum(stored) AS stored,
           sum(duplicate) AS duplicate, sum(rejected) AS rejected
    FROM ingest_ledger GROUP BY 1, 2, 3;
TRUNCATE ingest_ledger;
ALTER TABLE ingest_ledger
    DROP COLUMN last_batch,
    ALTER COLUMN slot TYPE smallint;
INSERT INTO ingest_ledger (project_id, day, slot, received, stored, duplicate, rejected)
    SELECT project_id, day, slot, received, stored, duplicate, rejected FROM summed;
