-- When people were last seen, where that is later than their rows in persons say. It moves every ten
-- minutes for everybody who is active. A row here is a twentieth of a person's, so that many more
-- are on a page, and a new version of it takes as much less of the log.
CREATE TABLE people_seen (
    person_id bigint PRIMARY KEY,
    last_seen_at timestamptz NOT NULL
) WITH (fillfactor = 70);
