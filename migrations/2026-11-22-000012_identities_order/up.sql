-- In the order in which a person's identities are read: the oldest user id, which each read of a
-- person's state asks for, is the first entry, however many identities the person has. It takes the
-- place of the old index in a migration of its own: that keeps everybody out, and building only keeps
-- writers out.
CREATE INDEX identities_order_idx ON identities (person_id, kind, created_at, value);
