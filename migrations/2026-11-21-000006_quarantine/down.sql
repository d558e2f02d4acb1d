DROP INDEX campaigns_quarantined_idx;
ALTER TABLE campaigns
    DROP COLUMN quarantine_failures,
    DROP COLUMN quarantine_reason,
    DROP COLUMN quarantined_at;
