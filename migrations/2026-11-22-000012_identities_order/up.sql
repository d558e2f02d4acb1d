-- In the order in which a person's identities are read: the oldest user id, which each read of a
-- person's state asks for, is the first entry, however many identities the person has. The old index
-- goes first, so that the one lock which keeps everybody out is taken before the work and not after it.
DROP INDEX identities_person_idx;
CREATE INDEX identities_person_idx ON identities (person_id, kind, created_at, value);
