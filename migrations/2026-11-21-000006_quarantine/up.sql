-- A campaign whose targeting failed again and again is not live until it is saved again.
ALTER TABLE campaigns
    ADD COLUMN quarantined_at timestamptz,
    ADD COLUMN quarantine_reason text CONSTRAINT campaigns_quarantine_reason_check
        CHECK (quarantine_reason IN ('type', 'arithmetic', 'limit', 'other')),
    ADD COLUMN quarantine_failures integer, -- How many evaluations in a row had failed.
    ADD CONSTRAINT campaigns_quarantine_check
        CHECK (num_nulls(quarantined_at, quarantine_reason, quarantine_failures) IN (0, 3));
CREATE INDEX campaigns_quarantined_idx ON campaigns (project_id) WHERE quarantined_at IS NOT NULL;
