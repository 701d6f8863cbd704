-- The role that writes a target. Run this as a superuser in the target's database, with psql, after its tables were made
-- (for example with pg_dump --schema-only of one shard).

CREATE ROLE cdc_apply LOGIN;
-- \password cdc_apply        and the same password into the passfile of the user that runs cdcd

-- Changes arrive with the effects of the source's triggers, so the target's must not fire again (PostgreSQL 15 or newer;
-- before that the role has to be a superuser).
GRANT SET ON PARAMETER session_replication_role TO cdc_apply;

-- The schema cdc keeps the progress. It is made at the first start.
DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO cdc_apply', current_database()); END $$;

-- The tables that are replicated, here all of schema public, those made later too.
GRANT USAGE ON SCHEMA public TO cdc_apply;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO cdc_apply;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON TABLES TO cdc_apply;

-- With --ddl capture statements that change tables run here, too, and only a table's owner may change it:
-- GRANT app_owner TO cdc_apply;
-- GRANT CREATE ON SCHEMA public TO cdc_apply;
