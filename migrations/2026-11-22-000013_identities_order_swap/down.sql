ALTER INDEX identities_person_idx RENAME TO identities_order_idx;
CREATE INDEX identities_person_idx ON identities (person_id);
