-- Which transaction changed each campaign last, gone ones included. Nodes that hold a picture of the
-- campaigns ask for what the picture's snapshot could not see, instead of reading all of them. It is
-- written by triggers, so no way of changing a campaign can forget it, and it is exact whatever the
-- order in which transactions commit. A deleted campaign leaves its row.
CREATE TABLE campaign_changes (
    project_id bigint NOT NULL,
    campaign_id text NOT NULL,
    xid xid8 NOT NULL,
    CONSTRAINT campaign_changes_pkey PRIMARY KEY (project_id, campaign_id)
);
CREATE INDEX campaign_changes_xid_idx ON campaign_changes (project_id, xid);

CREATE FUNCTION beckon_note_campaigns() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO campaign_changes AS known (project_id, campaign_id, xid)
        SELECT project_id, id, pg_current_xact_id() FROM changed ORDER BY project_id, id
        ON CONFLICT (project_id, campaign_id) DO UPDATE SET xid = excluded.xid
        WHERE known.xid <> excluded.xid;
    RETURN NULL;
END
$$;

-- A campaign's id never changes, so the new rows of an update name all that it touched.
CREATE TRIGGER campaigns_inserted AFTER INSERT ON campaigns
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION beckon_note_campaigns();
CREATE TRIGGER campaigns_updated AFTER UPDATE ON campaigns
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION beckon_note_campaigns();
CREATE TRIGGER campaigns_deleted AFTER DELETE ON campaigns
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION beckon_note_campaigns();

-- Reading all campaigns, as at the start, goes by this number.
CREATE UNIQUE INDEX campaigns_seq_idx ON campaigns (project_id, seq);
