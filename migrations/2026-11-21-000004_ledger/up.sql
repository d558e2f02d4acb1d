-- What ingest did with the events it received: one row a project, day and writer slot, summed on
-- read. `received` is counted where requests are decoded, the other three where they are settled;
-- `beckon doctor` compares. Imports go around ingest and are not in it.
CREATE TABLE ingest_ledger (
    project_id bigint NOT NULL,
    day date NOT NULL, -- The database's date of the commit, in UTC; equals events.received_on.
    slot smallint NOT NULL, -- The writer's; -1 holds what was there before the ledger.
    received bigint NOT NULL,
    stored bigint NOT NULL,
    duplicate bigint NOT NULL,
    rejected bigint NOT NULL,
    PRIMARY KEY (project_id, day, slot)
);

-- What a replay needs to decode the payload as it was decoded first. `route` is absent on rows of
-- earlier versions. A payload that is cut cannot be replayed. A row with `replay_of` is a replay
-- that was refused.
ALTER TABLE rejected_events
    ADD COLUMN received_on date NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date,
    ADD COLUMN route text CONSTRAINT rejected_events_route_check CHECK (route IN
        ('track', 'identify', 'page', 'screen', 'group', 'alias', 'batch', 'leads')),
    ADD COLUMN "timestamp" timestamptz, -- When it happened, settled when it was received.
    ADD COLUMN context text, -- The context of the batch around it.
    ADD COLUMN fields json NOT NULL DEFAULT '[]', -- Each refused field.
    ADD COLUMN is_cut boolean NOT NULL DEFAULT false,
    ADD COLUMN replay_of bigint,
    ADD COLUMN replayed_at timestamptz,
    ADD COLUMN replayed_as uuid;
UPDATE rejected_events SET received_on = (received_at AT TIME ZONE 'UTC')::date;

-- The day of the change begins with what it holds already, so that it can be compared as a whole.
INSERT INTO ingest_ledger (project_id, day, slot, received, stored, duplicate, rejected)
SELECT project_id, (now() AT TIME ZONE 'UTC')::date, -1,
       (sum(stored) + sum(rejected))::bigint, sum(stored)::bigint, 0, sum(rejected)::bigint
FROM (
    SELECT project_id, count(*) AS stored, 0 AS rejected FROM events e
    WHERE received_on = (now() AT TIME ZONE 'UTC')::date
      AND NOT EXISTS (SELECT FROM import_rows r WHERE r.kind = 'event' AND r.key = e.id::text)
    GROUP BY project_id
    UNION ALL
    SELECT project_id, 0, count(*) FROM rejected_events
    WHERE received_on = (now() AT TIME ZONE 'UTC')::date GROUP BY project_id
) AS today
GROUP BY project_id;
