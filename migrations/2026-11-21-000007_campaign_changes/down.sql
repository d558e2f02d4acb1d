DROP INDEX campaigns_seq_idx;
DROP TRIGGER campaigns_deleted ON campaigns;
DROP TRIGGER campaigns_updated ON campaigns;
DROP TRIGGER campaigns_inserted ON campaigns;
DROP FUNCTION beckon_note_campaigns();
DROP TABLE campaign_changes;
