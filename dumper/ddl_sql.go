package dumper

// installDDL makes the functions and triggers of one subscription.
//
// The trigger's function runs as its owner, so that it may call the other one, and everything in it, operators too, is
// qualified: it sees the caller's search_path, which it has to tell, and must not find the caller's functions there. The owner
// was a superuser when it made the triggers, and need not be one any more: nothing in here may need that, or every statement
// of the users would fail. A name in PG_CONTEXT has its schema unless the path finds it without, as "$user" does for an owner
// called cdc. The note's search_path makes the names of catalogs the same everywhere.
//
// sql_drop comes before ddl_command_end of the same statement; what it saw waits in a setting of the transaction, together
// with the number of statements of each tag that the client's message ran so far. A subtransaction that is rolled back
// takes both back.
//
// What is about the subscription: tables that its publications hold, directly or as partitions; tables that its patterns
// match, published or not yet; indexes on those; types and schemas where such tables may be. Of a table that is dropped
// only sql_drop still knows that it was published.
//
// The message is written outside of the block that catches errors, which is a subtransaction, and something stands behind
// it: PostgreSQL orders a message of a subtransaction by the end of its record, and rows by the beginning of theirs. So a
// message whose record is followed by a row of the transaction around it ties with the row, and comes behind it.
//
// BUG(ddl): with publications that were given, and list their tables, DROP TABLE of a partition is not captured.
const installDDL = `BEGIN;
SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('cdc.ddl', 0));
CREATE SCHEMA IF NOT EXISTS cdc;
DROP TABLE IF EXISTS cdc.@token@;
CREATE TABLE cdc.@token@ AS SELECT @secret@::text AS token;
REVOKE ALL ON cdc.@token@ FROM PUBLIC;
CREATE OR REPLACE FUNCTION cdc.@note@(event text, tag text, path text, role text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $cdc$
DECLARE
  content jsonb;
  publications CONSTANT text[] := @publications@;
  in_schema CONSTANT text[] := @in_schema@;
  in_table CONSTANT text[] := @in_table@;
  out_schema CONSTANT text[] := @out_schema@;
  out_table CONSTANT text[] := @out_table@;
  note jsonb;    -- "at": time of the client's message; "n": statements by tag; "dropped": objects
  objects jsonb := '[]';
  filled jsonb := '[]';
  statement text := current_query();
  nested boolean;
  inexact text;
  context text;
  at CONSTANT text := extract(epoch FROM statement_timestamp())::text;
  o record;
  ours boolean;
  published boolean;
BEGIN
BEGIN
  note := coalesce(nullif(current_setting(@setting@, true), ''), '{}')::jsonb;
  IF note->>'at' IS DISTINCT FROM at THEN
    note := jsonb_build_object('at', at, 'n', '{}'::jsonb, 'dropped', '[]'::jsonb);
  END IF;
  IF event = 'ddl_command_end' THEN
    -- What stands behind the frames of our own is what called the statement.
    IF current_setting('lc_messages') ~ '^(C|POSIX|en_.*)$' THEN
      GET DIAGNOSTICS context = PG_CONTEXT;
    ELSE
      BEGIN
        PERFORM set_config('lc_messages', 'C', true);
        GET DIAGNOSTICS context = PG_CONTEXT;
        RAISE EXCEPTION SQLSTATE 'CDC00'; -- takes the setting back
      EXCEPTION WHEN SQLSTATE 'CDC00' THEN NULL;
      WHEN insufficient_privilege THEN -- in another language it is not understood, and the mark says inexact
        GET DIAGNOSTICS context = PG_CONTEXT;
      END;
    END IF;
    context := regexp_replace(context, '^.*?PL/pgSQL function (?:cdc\.)?@name@\(\) line [0-9]+ at PERFORM(?:\n|$)', '');
    nested := context <> '';
    IF NOT nested THEN
      note := jsonb_set(note, ARRAY['n', tag], to_jsonb(coalesce((note #>> ARRAY['n', tag])::int, 0) + 1));
    END IF;
    objects := note->'dropped';
    note := jsonb_set(note, '{dropped}', '[]');
  END IF;
  FOR o IN
    SELECT 0::oid AS rel, d.objid, true AS dropped,
      CASE d.object_type WHEN 'table column' THEN 'column' WHEN 'composite type' THEN 'type' WHEN 'domain' THEN 'type' ELSE d.object_type END AS kind,
      CASE d.object_type WHEN 'schema' THEN d.object_name ELSE d.schema_name END AS schema,
      CASE d.object_type WHEN 'table column' THEN d.address_names[2] ELSE coalesce(d.object_name, d.address_names[cardinality(d.address_names)]) END AS name,
      CASE d.object_type WHEN 'table column' THEN d.address_names[3] END AS col
    FROM pg_event_trigger_dropped_objects() d
    WHERE event = 'sql_drop' AND NOT d.is_temporary AND d.object_type IN ('table', 'table column', 'index', 'type', 'composite type', 'domain', 'schema')
      AND (d.original OR d.object_type IN ('table', 'table column'))
  LOOP
    published := o.kind = 'table' AND (EXISTS (SELECT FROM pg_event_trigger_dropped_objects() d
        WHERE d.object_type = 'publication relation' AND d.address_names = ARRAY[o.schema, o.name] AND d.address_args[1] = ANY (publications))
      OR EXISTS (SELECT FROM pg_publication p WHERE p.pubname = ANY (publications) AND (p.puballtables
        OR EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = to_regnamespace(quote_ident(o.schema))))));
    ours := published OR cardinality(in_schema) > 0
      AND EXISTS (SELECT FROM unnest(in_schema, in_table) p(s, t) WHERE o.schema ~ p.s AND (o.kind NOT IN ('table', 'column') OR o.name ~ p.t))
      AND (o.kind NOT IN ('table', 'column') OR NOT EXISTS (SELECT FROM unnest(out_schema, out_table) p(s, t) WHERE o.schema ~ p.s AND o.name ~ p.t))
      OR o.kind = 'column' AND EXISTS (SELECT FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
        WHERE p.pubname = ANY (publications) AND r.prrelid IN (SELECT o.objid UNION ALL SELECT relid FROM pg_partition_ancestors(o.objid)))
      OR EXISTS (SELECT FROM pg_publication p WHERE p.pubname = ANY (publications) AND (p.puballtables
        OR EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = to_regnamespace(quote_ident(o.schema)))))
      OR o.kind NOT IN ('table', 'column', 'schema') AND EXISTS (SELECT FROM pg_publication_tables p
        WHERE p.pubname = ANY (publications) AND p.schemaname = o.schema);
    IF ours AND o.schema !~ '^pg_' AND o.schema NOT IN ('information_schema', 'cdc') THEN
      objects := objects || jsonb_build_array(jsonb_strip_nulls(jsonb_build_object('type', o.kind, 'schema', o.schema, 'name', o.name, 'column', o.col, 'dropped', true, 'published', nullif(published, false))));
    END IF;
  END LOOP;
  IF event = 'sql_drop' THEN
    PERFORM set_config(@setting@, jsonb_set(note, '{dropped}', objects)::text, true);
    RETURN;
  END IF;
  PERFORM set_config(@setting@, note::text, true);
  FOR o IN
    SELECT k.kind, k.rel, CASE k.kind WHEN 'schema' THEN n2.nspname ELSE n.nspname END AS schema,
      CASE k.kind WHEN 'type' THEN t.typname WHEN 'schema' THEN n2.nspname WHEN 'index' THEN ic.relname ELSE c.relname END AS name,
      a.attname AS col, c.relkind, c.oid AS tab, c.relname AS tabname
    FROM (SELECT d.*, CASE
        WHEN d.classid = 'pg_class'::regclass AND x.relkind IN ('r', 'p') AND d.objsubid > 0 THEN 'column'
        WHEN d.classid = 'pg_class'::regclass AND x.relkind IN ('r', 'p') THEN 'table'
        WHEN d.classid = 'pg_class'::regclass AND x.relkind IN ('i', 'I') THEN 'index'
        WHEN d.classid = 'pg_class'::regclass AND x.relkind = 'c' THEN 'type'
        WHEN d.classid = 'pg_constraint'::regclass AND y.conrelid <> 0 THEN 'table'
        WHEN d.classid = 'pg_constraint'::regclass AND y.contypid <> 0 THEN 'type'
        WHEN d.classid = 'pg_type'::regclass THEN 'type'
        WHEN d.classid = 'pg_namespace'::regclass THEN 'schema' END AS kind,
        CASE WHEN d.classid = 'pg_constraint'::regclass THEN y.conrelid WHEN x.relkind IN ('i', 'I') THEN i.indrelid WHEN x.relkind IN ('r', 'p') THEN x.oid END AS rel,
        CASE WHEN d.classid = 'pg_constraint'::regclass THEN y.contypid WHEN x.relkind = 'c' THEN x.reltype WHEN d.classid = 'pg_type'::regclass THEN d.objid END AS typ
      FROM pg_event_trigger_ddl_commands() d
      LEFT JOIN pg_class x ON d.classid = 'pg_class'::regclass AND x.oid = d.objid
      LEFT JOIN pg_index i ON i.indexrelid = x.oid
      LEFT JOIN pg_constraint y ON d.classid = 'pg_constraint'::regclass AND y.oid = d.objid
      WHERE NOT d.in_extension) k
    LEFT JOIN pg_class c ON c.oid = k.rel
    LEFT JOIN pg_class ic ON k.kind = 'index' AND ic.oid = k.objid
    LEFT JOIN pg_type t ON t.oid = k.typ
    LEFT JOIN pg_namespace n ON n.oid = coalesce(c.relnamespace, t.typnamespace)
    LEFT JOIN pg_namespace n2 ON k.kind = 'schema' AND n2.oid = k.objid
    LEFT JOIN pg_attribute a ON k.kind = 'column' AND a.attrelid = k.rel AND a.attnum = k.objsubid
    WHERE k.kind IS NOT NULL AND coalesce(c.relpersistence, 'p') = 'p' AND tag NOT IN ('COMMENT', 'SECURITY LABEL')
  LOOP
    ours := EXISTS (SELECT FROM unnest(in_schema, in_table) p(s, t) WHERE o.schema ~ p.s AND (o.tab IS NULL OR o.tabname ~ p.t))
      AND (o.tab IS NULL OR NOT EXISTS (SELECT FROM unnest(out_schema, out_table) p(s, t) WHERE o.schema ~ p.s AND o.tabname ~ p.t))
      OR EXISTS (SELECT FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
        WHERE p.pubname = ANY (publications) AND r.prrelid IN (SELECT o.tab UNION ALL SELECT relid FROM pg_partition_ancestors(o.tab)))
      OR EXISTS (SELECT FROM pg_publication p WHERE p.pubname = ANY (publications) AND (p.puballtables
        OR EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = to_regnamespace(quote_ident(o.schema)))))
      OR o.tab IS NULL AND o.kind = 'type' AND EXISTS (SELECT FROM pg_publication_tables p
        WHERE p.pubname = ANY (publications) AND p.schemaname = o.schema);
    CONTINUE WHEN NOT ours OR o.schema ~ '^pg_' OR o.schema IN ('information_schema', 'cdc');
    objects := objects || jsonb_build_array(jsonb_strip_nulls(jsonb_build_object('type', o.kind, 'schema', o.schema, 'name', o.name, 'column', o.col)));
    IF o.relkind = 'p' AND tag = 'ALTER TABLE' AND o.kind = 'table' THEN
      filled := filled || cdc.@filled@(o.tab);
    END IF;
  END LOOP;
  IF jsonb_array_length(objects) = 0 THEN
    RETURN;
  END IF;
  IF nested THEN
    IF context ~ '^SQL statement "' THEN
      statement := (regexp_match(context, '^SQL statement "(.*?)"(?:\n(?:PL/pgSQL function |SQL function |SQL statement "|PL/)|$)'))[1];
    ELSE
      inexact := 'it was run by something that does not show its statements: ' || split_part(context, E'\n', 1);
    END IF;
  END IF;
  -- Somebody else may run the same statement on another shard: a schema that is not there must not tell them apart.
  IF to_regnamespace(quote_ident(role)) IS NULL THEN
    path := regexp_replace(regexp_replace(path, '"\$user"\s*,\s*', '', 'g'), ',?\s*"\$user"', '', 'g');
  END IF;
  path := replace(path, '"$user"', quote_ident(role));
  content := jsonb_strip_nulls(jsonb_build_object(
    'subscription', @subscription@, 'token', (SELECT token FROM cdc.@token@), 'statement', statement, 'tag', tag, 'nth', CASE WHEN nested THEN 0 ELSE (note #>> ARRAY['n', tag])::int END,
    'search_path', path, 'nested', nullif(nested, false), 'inexact', inexact,
    'settings', jsonb_build_object('TimeZone', current_setting('TimeZone'), 'DateStyle', current_setting('DateStyle'),
      'IntervalStyle', current_setting('IntervalStyle'), 'standard_conforming_strings', current_setting('standard_conforming_strings')),
    'objects', objects, 'filled', filled));
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING 'cdc: this statement could not be written into the stream of subscription %: %', @subscription@, SQLERRM
    USING HINT = 'Targets will stop there and ask for it.';
  content := jsonb_build_object(
    'subscription', @subscription@, 'token', (SELECT token FROM cdc.@token@), 'statement', current_query(), 'tag', tag, 'nth', 1, 'search_path', path,
    'inexact', 'the event trigger failed: ' || SQLERRM);
END;
  PERFORM pg_logical_emit_message(true, 'cdc.ddl', convert_to(content::text, 'UTF8')),
    pg_logical_emit_message(true, 'cdc.after', '');
END$cdc$;
CREATE OR REPLACE FUNCTION cdc.@filled@(root oid) RETURNS jsonb LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $cdc$
DECLARE
  filled jsonb := '[]';
  p record;
  holds boolean;
BEGIN
  FOR p IN SELECT n.nspname, c.relname FROM pg_partition_tree(root) t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE t.relid <> root AND c.relkind IN ('r', 'p')
  LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM %I.%I)', p.nspname, p.relname) INTO holds;
    IF holds THEN
      filled := filled || jsonb_build_array(jsonb_build_object('schema', p.nspname, 'table', p.relname));
    END IF;
  END LOOP;
  RETURN filled;
END$cdc$;
CREATE OR REPLACE FUNCTION cdc.@function@() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $cdc$
BEGIN
  PERFORM cdc.@note@(tg_event, tg_tag, pg_catalog.current_setting('search_path'),
    CASE WHEN pg_catalog.current_setting('role') OPERATOR(pg_catalog.=) 'none' THEN session_user::pg_catalog.text ELSE pg_catalog.current_setting('role') END);
END$cdc$;
REVOKE ALL ON FUNCTION cdc.@note@(text, text, text, text), cdc.@filled@(oid), cdc.@function@() FROM PUBLIC;
DO $do$BEGIN
  IF (SELECT count(*) FROM pg_catalog.pg_event_trigger WHERE evtname IN (@drop_name@, @end_name@) AND evtenabled = 'A'
      AND evtfoid = pg_catalog.to_regprocedure(@signature@)) = 2 THEN
    RETURN; -- making them needs a superuser
  END IF;
  DROP EVENT TRIGGER IF EXISTS @drop@;
  DROP EVENT TRIGGER IF EXISTS @end@;
  CREATE EVENT TRIGGER @drop@ ON sql_drop EXECUTE FUNCTION cdc.@function@();
  CREATE EVENT TRIGGER @end@ ON ddl_command_end EXECUTE FUNCTION cdc.@function@();
  ALTER EVENT TRIGGER @drop@ ENABLE ALWAYS;
  ALTER EVENT TRIGGER @end@ ENABLE ALWAYS;
END$do$;
COMMIT`
