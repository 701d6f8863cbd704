-- The role that reads a shard. Run this as a superuser in the database of every shard, with psql.
-- It needs no superuser for itself. Settings of the server: wal_level = logical, max_prepared_transactions above 0 if
-- transactions span shards, room in max_replication_slots and max_wal_senders for one more each.

CREATE ROLE cdc LOGIN REPLICATION;
-- \password cdc        and the same password into the passfile of the user that runs cdcd

-- pg_hba.conf needs a line for this database (replication connections of logical decoding name their database):
--   hostssl  bank  cdc  10.0.0.0/8  scram-sha-256

-- Either: cdcctl create-subscription makes the publication. PostgreSQL lets only the tables' owner publish them, so
-- cdc becomes a member of that role: put its name in place of app_owner.
DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO cdc', current_database()); END $$;
-- GRANT app_owner TO cdc;

-- Or: the owner makes it, and cdcctl create-subscription gets --publication cdc_bank. Then neither GRANT CREATE nor
-- GRANT app_owner is needed, and without SELECT below cdc can read nothing but the publication's changes.
-- CREATE PUBLICATION cdc_bank FOR TABLE public.accounts, public.transfers WITH (publish_via_partition_root = true);

-- The rows that the tables hold are copied (unless --copy-data=false), and cdcctl verify compares rows: both need the first of
-- these (as a member of app_owner cdc has it). The second makes verify faster while long transactions run:
-- GRANT SELECT ON ALL TABLES IN SCHEMA public TO cdc;
-- GRANT pg_read_all_stats TO cdc;

-- --ddl capture makes event triggers, which PostgreSQL lets only superusers do: before that command the first of these, and the
-- second after it.
-- ALTER ROLE cdc SUPERUSER;
-- ALTER ROLE cdc NOSUPERUSER;
