-- The rest of each digest is gone: ids that were seen before count as new afterwards.
DROP FUNCTION beckon_lost_race();
TRUNCATE message_ids_0, message_ids_1;
ALTER TABLE message_ids_0 ALTER COLUMN digest TYPE bytea USING NULL;
ALTER TABLE message_ids_1 ALTER COLUMN digest TYPE bytea USING NULL;
