DELETE FROM campaign_history WHERE action = 'quarantine';
ALTER TABLE campaign_history
    DROP CONSTRAINT campaign_history_action_check,
    ADD CONSTRAINT campaign_history_action_check CHECK
        (action IN ('create', 'update', 'delete', 'import', 'rollback'));
