-- The lock that keeps everybody out comes first, and nothing is built under it. (But in a database
-- that ran an earlier form of the migration before: it has the index under its last name only.)
DROP INDEX identities_person_idx;
CREATE INDEX IF NOT EXISTS identities_order_idx ON identities (person_id, kind, created_at, value);
ALTER INDEX identities_order_idx RENAME TO identities_person_idx;
