DROP INDEX identities_person_idx;
CREATE INDEX identities_person_idx ON identities (person_id);
