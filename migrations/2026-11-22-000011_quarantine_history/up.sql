-- The history of a campaign tells when it went out of service, which its row forgets with the next save.
ALTER TABLE campaign_history
    DROP CONSTRAINT campaign_history_action_check,
    ADD CONSTRAINT campaign_history_action_check CHECK
        (action IN ('create', 'update', 'delete', 'import', 'rollback', 'quarantine'));
INSERT INTO campaign_history (project_id, campaign_id, version, action, body, actor, at)
    SELECT c.project_id, c.id, c.version, 'quarantine', c.body, 'beckon', c.quarantined_at
    FROM campaigns c
    WHERE c.quarantined_at IS NOT NULL AND EXISTS (
        SELECT FROM campaign_history h
        WHERE h.project_id = c.project_id AND h.campaign_id = c.id);
