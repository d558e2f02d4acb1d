-- Message ids are kept as the first 128 bits of their SHA-256: half the size, and after each
-- checkpoint a fifth less of the index to write to the log whole.
ALTER TABLE message_ids_0
    ALTER COLUMN digest TYPE uuid USING encode(substr(digest, 1, 16), 'hex')::uuid;
ALTER TABLE message_ids_1
    ALTER COLUMN digest TYPE uuid USING encode(substr(digest, 1, 16), 'hex')::uuid;

-- Ends a statement that did its work on a picture of the data that somebody has changed since.
CREATE FUNCTION beckon_lost_race() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RAISE EXCEPTION 'another writer was faster' USING ERRCODE = 'serialization_failure';
END
$$;
