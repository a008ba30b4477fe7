--
-- Subscriptions: every check that comes before the broker is asked, and the
-- control functions on definitions put into the tables by hand.  No broker and
-- no shared_preload_libraries needed: nothing here is enabled.
--
\set VERBOSITY default
\t on
\a
CREATE SCHEMA sub_test;
CREATE ROLE regress_kappa_owner;
CREATE ROLE regress_kappa_other;
GRANT ALL ON SCHEMA sub_test TO regress_kappa_owner, regress_kappa_other;
SET search_path = sub_test;
CREATE SERVER sub_main FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '127.0.0.1:1');
CREATE FOREIGN DATA WRAPPER sub_not_kafka;
CREATE SERVER sub_not_kafka FOREIGN DATA WRAPPER sub_not_kafka;
GRANT USAGE ON FOREIGN SERVER sub_main TO regress_kappa_owner;

-- gives 'ok', or SQLSTATE and message, detail, hint of the error
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text; message text; detail text; hint text;
BEGIN
	EXECUTE statement;
	RETURN 'ok';
EXCEPTION WHEN OTHERS OR query_canceled THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat(state, ' ', message, E'\n  ' || nullif(detail, ''), E'\n  ' || nullif(hint, ''));
END $$;
-- kappa.subscribe with these arguments after the first three
CREATE FUNCTION try_subscribe(arguments text) RETURNS text LANGUAGE sql AS $$
	SELECT try('SELECT kappa.subscribe(''s'', ''sub_main'', ''topic'', ' || arguments || ', enabled => false)')
$$;
CREATE FUNCTION try_alter(arguments text) RETURNS text LANGUAGE sql AS $$
	SELECT try('SELECT kappa.alter_subscription(''base'', ' || arguments || ')')
$$;

CREATE TABLE target (
	id integer PRIMARY KEY, a text, b text, n numeric, ts timestamptz, plain timestamp,
	value jsonb, twice integer GENERATED ALWAYS AS (id * 2) STORED,
	UNIQUE (a, b), UNIQUE (n) DEFERRABLE
);
CREATE UNIQUE INDEX target_partial ON target (ts) WHERE ts IS NOT NULL;
CREATE UNIQUE INDEX target_expression ON target (lower(b));
CREATE TABLE keyless (a text, value text);
CREATE TABLE raw (value bytea);
CREATE VIEW target_view AS SELECT id, a FROM target;
CREATE VIEW target_count AS SELECT count(*) FROM target;
CREATE MATERIALIZED VIEW target_matview AS SELECT 1 AS id;
CREATE SEQUENCE target_sequence;

-- a null where it has no meaning
SELECT try('SELECT kappa.subscribe(NULL, ''sub_main'', ''topic'')');
SELECT try_subscribe('format => NULL');
SELECT try_subscribe('batch_rows => NULL');
SELECT try_subscribe('options => NULL');
SELECT try('SELECT kappa.disable(NULL)');
SELECT try('SELECT kappa.skip(''base'', part => NULL, at => 1)');
SELECT try('SELECT kappa.wait_for(''base'', 0, 1, timeout => NULL)');

-- name
SELECT try('SELECT kappa.subscribe('''', ''sub_main'', ''topic'')');
SELECT try('SELECT kappa.subscribe(repeat(''x'', 64), ''sub_main'', ''topic'')');
SELECT try('SELECT kappa.subscribe(E''a\nb'', ''sub_main'', ''topic'')');

-- server
SELECT try('SELECT kappa.subscribe(''s'', ''nosuch'', ''topic'', enabled => false)');
SELECT try('SELECT kappa.subscribe(''s'', ''sub_not_kafka'', ''topic'', enabled => false)');
SET ROLE regress_kappa_other;
SELECT try_subscribe('''target''');
RESET ROLE;

-- target
SELECT try_subscribe('''nosuch''');
SELECT try_subscribe('''target_matview''');
SELECT try_subscribe('''target_sequence''');
SELECT try_subscribe('''pg_catalog.pg_class''');
SELECT try_subscribe('''information_schema.sql_features''');
SELECT try_subscribe('''kappa.position''');
SELECT try_subscribe('''target_count''');
CREATE TEMP TABLE sub_temp (value jsonb);
SELECT try_subscribe('''sub_temp''');
SELECT try('SELECT kappa.subscribe(''target'', ''sub_main'', ''topic'', enabled => false)');
SELECT try('SELECT kappa.subscribe(''fresh'', ''sub_main'', ''topic'', format => ''csv'', enabled => false)');
SELECT to_regclass('fresh') IS NULL;

-- rights
SET ROLE regress_kappa_owner;
SELECT try_subscribe('''target''');
RESET ROLE;
GRANT INSERT ON target TO regress_kappa_owner;
SET ROLE regress_kappa_owner;
SELECT try_subscribe('''target'', mode => ''upsert''');
SELECT try_subscribe('''target''') ~ '^42501 role "regress_kappa_owner" cannot set role to the owner of sub_test.target';
CREATE TABLE owned (id integer PRIMARY KEY, value jsonb);
ALTER TABLE owned ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT try_subscribe('''owned''');
RESET ROLE;

-- words
SELECT try_subscribe('''target'', format => ''avro''');
SELECT try_subscribe('''target'', mode => ''merge''');
SELECT try_subscribe('''target'', on_error => ''ignore''');
SELECT try_subscribe('format => ''xml''');

-- key_columns
SELECT try_subscribe('''target'', key_columns => ''{id}''');
SELECT try_subscribe('''keyless'', mode => ''upsert''');
SELECT try_subscribe('''target'', mode => ''upsert'', key_columns => ''{nosuch}''');
SELECT try_subscribe('''target'', mode => ''upsert'', key_columns => ''{a}''');
SELECT try_subscribe('''target'', mode => ''upsert'', key_columns => ''{n}''');
SELECT try_subscribe('''target'', mode => ''upsert'', key_columns => ''{ts}''');
SELECT try_subscribe('''target'', mode => ''upsert'', key_columns => ''{b}''');
SELECT try_subscribe('''target'', mode => ''upsert'', key_columns => ''{id,id}''');
SELECT try_subscribe('''target'', mode => ''upsert'', key_columns => ''{NULL}''');
SELECT try_subscribe('''target_view'', mode => ''upsert''');

-- columns
SELECT try_subscribe('''target'', columns => ''[]''');
SELECT try_subscribe('''target'', columns => ''{"nosuch": "$.a"}''');
SELECT try_subscribe('''target'', columns => ''{"twice": "$.a"}''');
SELECT try_subscribe('''target'', columns => ''{"a": 1}''');
SELECT try_subscribe('''target'', columns => ''{"a": "b"}''');
SELECT try_subscribe('''target'', columns => ''{"a": "$.a["}''');
SELECT try_subscribe('''target'', columns => ''{"a": "kafka.nosuch"}''');
SELECT try_subscribe('''target'', columns => ''{"a": ["$.a"]}''');
SELECT try_subscribe('''target'', columns => ''{"ts": {"unit": "ms"}}''');
SELECT try_subscribe('''target'', columns => ''{"ts": {"path": "$.t", "unit": "h"}}''');
SELECT try_subscribe('''target'', columns => ''{"ts": {"path": "$.t", "unit": "ms", "x": 1}}''');
SELECT try_subscribe('''target'', columns => ''{"a": {"path": "$.t", "unit": "ms"}}''');
SELECT try_subscribe('''keyless'', format => ''text'', columns => ''{"a": "$.a"}''');

-- text and bytea fill column value
SELECT try_subscribe('''target_view'', format => ''text''');
SELECT try_subscribe('''keyless'', format => ''bytea''');

-- event_time
SELECT try_subscribe('''target'', event_time => ''nosuch''');
SELECT try_subscribe('''target'', event_time => ''plain''');

-- numbers and options
SELECT try_subscribe('''target'', watermark_delay => ''-1 s''');
SELECT try_subscribe('''target'', idle_timeout => ''1 day -25 hours''');
SELECT try_subscribe('''target'', batch_wait => ''-1 ms''');
SELECT try_subscribe('''target'', workers => 0');
SELECT try_subscribe('''target'', workers => 65');
SELECT try_subscribe('''target'', batch_rows => 0');
SELECT try_subscribe('''target'', options => ''[]''');
SELECT left(try_subscribe('''target'', options => ''{"delimiter": ";"}'''), 5);
SELECT left(try_subscribe('''target'', options => ''{"plugin_library_paths": "x"}'''), 5);
SELECT try_subscribe('''target'', format => ''csv'', options => ''{"delimiter": ";;"}''');
SELECT try_subscribe('''target'', format => ''csv'', options => ''{"quote": ","}''');
SELECT try_subscribe('''target'', format => ''csv'', options => ''{"null": "a,b"}''');
SELECT try_subscribe('''target'', format => ''csv'', options => ''{"header": "yes"}''');

-- nothing is left of a refused subscription
SELECT count(*) FROM kappa.subscription WHERE name = 's';

--
-- A definition put in by hand; alter_subscription checks as subscribe does.
--
CREATE FUNCTION put(name text, owner regrole, target regclass) RETURNS void LANGUAGE sql AS $$
	INSERT INTO kappa.subscription (name, owner, server, topic, target, format, mode, search_path,
		start_from, watermark_delay, idle_timeout, on_error, workers, batch_rows, batch_wait, options,
		enabled, generation, changed_at, system_identifier, database_oid)
	SELECT put.name, put.owner, 'sub_main', 'topic', put.target, 'json', 'append', 'sub_test',
		'earliest', '5 s', '30 s', 'dead_letter', 1, 10000, '20 ms', '{}',
		false, 1, 'epoch', system_identifier, oid
	FROM pg_control_system(), pg_database WHERE datname = current_database();
	INSERT INTO kappa.position (subscription, part, start_offset, next_offset)
	SELECT id, part, 10, 20 FROM kappa.subscription s, generate_series(0, 1) AS part WHERE s.name = put.name;
$$;
CREATE VIEW definition AS
	SELECT name, target, format, mode, key_columns, columns, transform, event_time, watermark_delay,
		idle_timeout, on_error, workers, batch_rows, batch_wait, options, enabled, generation
	FROM kappa.subscription;
SELECT put('base', current_user::regrole, 'target');

SELECT try('SELECT kappa.subscribe(''base'', ''sub_main'', ''topic'', enabled => false)');
SELECT try_alter('start_from => ''latest''');
SELECT try_alter('target => ''nosuch''');
SELECT try_alter('format => ''avro''');
SELECT try_alter('workers => 1000');
SELECT try_alter('key_columns => ''{id}''');
SELECT try('SELECT kappa.alter_subscription(''nosuch'', workers => 1)');
SELECT * FROM definition WHERE name = 'base';

-- what is not named stays
SELECT kappa.alter_subscription('base', workers => 3, batch_rows => 7, batch_wait => '1 s', on_error => 'stop');
SELECT * FROM definition WHERE name = 'base';
SELECT changed_at > 'epoch' FROM kappa.subscription WHERE name = 'base';
-- upsert takes the primary key; append forgets it
SELECT kappa.alter_subscription('base', mode => 'upsert');
SELECT mode, key_columns FROM definition WHERE name = 'base';
SELECT kappa.alter_subscription('base', key_columns => '{b,a}');
SELECT mode, key_columns FROM definition WHERE name = 'base';
SELECT kappa.alter_subscription('base', key_columns => '{}');
SELECT mode, key_columns FROM definition WHERE name = 'base';
SELECT kappa.alter_subscription('base', mode => 'append');
SELECT mode, key_columns FROM definition WHERE name = 'base';
-- columns and event_time come and go
SELECT kappa.alter_subscription('base', event_time => 'ts', columns =>
	'{"id": "$.id", "a": "$[''a b''].c[0]", "b": "kafka.key", "ts": {"path": "$.t", "unit": "ms"}, "plain": {"path": "$.p"}}');
SELECT columns, event_time FROM definition WHERE name = 'base';
SELECT kappa.alter_subscription('base', columns => '{}', event_time => '');
SELECT columns, event_time FROM definition WHERE name = 'base';
-- text, bytea and csv
SELECT kappa.alter_subscription('base', target => 'raw', format => 'bytea');
SELECT kappa.alter_subscription('base', target => 'keyless', format => 'text');
SELECT kappa.alter_subscription('base', format => 'csv',
	options => '{"delimiter": ";", "quote": "''", "escape": "\\", "null": "NULL", "header": true}');
SELECT target, format, options FROM definition WHERE name = 'base';
SELECT kappa.alter_subscription('base', target => 'target', format => 'json', options => '{}');
-- a view takes rows
SELECT kappa.alter_subscription('base', target => 'target_view');
SELECT kappa.alter_subscription('base', target => 'target');
-- an unlogged table is warned of
CREATE UNLOGGED TABLE volatile (id integer);
SELECT kappa.alter_subscription('base', target => 'volatile');
-- a dropped target
DROP TABLE volatile;
SELECT try_alter('workers => 1') ~ '^42P01 the target of the subscription does not exist';
SELECT kappa.alter_subscription('base', target => 'target');
-- it rolls back with its transaction
BEGIN;
SELECT kappa.alter_subscription('base', workers => 9);
ROLLBACK;
SELECT workers FROM definition WHERE name = 'base';

--
-- Transform
--
CREATE TABLE dim (a text PRIMARY KEY, b text);
CREATE FUNCTION try_transform(query text) RETURNS text LANGUAGE sql AS $$
	SELECT try_alter('transform => ' || quote_literal(query))
$$;
-- good ones
SELECT try_transform('SELECT (value->>''id'')::integer AS id, headers->>''h'' AS a, kafka_timestamp AS ts FROM message');
SELECT try_transform('SELECT part AS id, d.b FROM message m LEFT JOIN dim d ON d.a = m.value->>''a'' WHERE topic <> '''' ORDER BY kafka_offset');
SELECT try_transform('SELECT (i->>''id'')::int AS id FROM message, jsonb_array_elements(value->''items'') AS i');
SELECT try_transform('WITH d AS (SELECT * FROM dim) SELECT (SELECT count(*) FROM d)::int AS id FROM message');
SELECT try_transform('SELECT x.id FROM message m CROSS JOIN LATERAL (SELECT max((i->>''id'')::int) AS id FROM jsonb_array_elements(m.value) i) x');
SELECT transform, search_path FROM kappa.subscription WHERE name = 'base';
-- bad ones
SELECT try_transform('SELEC 1');
SELECT try_transform('SELECT 1; SELECT 2');
SELECT try_transform('DELETE FROM dim');
SELECT try_transform('SELECT 1 AS id INTO x FROM message');
SELECT try_transform('VALUES (1)');
SELECT try_transform('SELECT 1 AS id');
SELECT try_transform('SELECT 1 AS id FROM message, message AS other');
SELECT try_transform('SELECT (SELECT count(*) FROM message)::int AS id FROM dim');
SELECT try_transform('SELECT id FROM (SELECT part AS id FROM message) AS x');
SELECT try_transform('WITH message AS (SELECT 1 AS id) SELECT id FROM message');
SELECT try_transform('SELECT m.part AS id FROM dim LEFT JOIN message m ON true');
SELECT try_transform('SELECT count(*)::int AS id FROM message');
SELECT try_transform('SELECT part AS id FROM message GROUP BY part');
SELECT try_transform('SELECT row_number() OVER ()::int AS id FROM message');
SELECT try_transform('SELECT DISTINCT part AS id FROM message');
SELECT try_transform('SELECT part AS id FROM message LIMIT 1');
SELECT try_transform('SELECT part AS id FROM message UNION ALL SELECT 1');
SELECT try_transform('SELECT part AS id FROM message, dim FOR UPDATE OF dim');
SELECT try_transform('WITH d AS (DELETE FROM dim RETURNING *) SELECT part AS id FROM message, d');
SELECT try_transform('SELECT value AS id FROM message');
SELECT try_transform('SELECT part AS nosuch FROM message');
SELECT try_transform('SELECT part FROM message');
SELECT try_transform('SELECT part AS id, part AS id FROM message');
SELECT try_transform('SELECT part AS twice FROM message');
SELECT try_transform('SELECT nosuch AS id FROM message');
SELECT try_transform('SELECT $1 AS id FROM message');
SELECT try_transform('SELECT part AS id FROM message, sub_temp');
SELECT try_alter('columns => ''{"id": "$.id"}''');
-- the position of an error is one in the transform
SELECT kappa.alter_subscription('base', transform => 'SELECT nosuch AS id FROM message');
-- value is text or bytea by format
SELECT try_alter('format => ''text'', transform => ''SELECT length(value) AS id FROM message''');
SELECT try_alter('format => ''bytea'', transform => ''SELECT get_byte(value, 0) AS id FROM message''');
SELECT kappa.alter_subscription('base', format => 'json', transform => '');
SELECT transform IS NULL FROM definition WHERE name = 'base';

--
-- Who may
--
GRANT SELECT ON owned TO regress_kappa_other;
SELECT put('theirs', 'regress_kappa_owner', 'owned');
SET ROLE regress_kappa_other;
SELECT try('SELECT kappa.alter_subscription(''theirs'', workers => 2)');
SELECT left(try(c), 5) FROM (VALUES
	('SELECT kappa.enable(''theirs'')'), ('SELECT kappa.disable(''theirs'')'),
	('SELECT kappa.unsubscribe(''theirs'')'), ('SELECT * FROM kappa.seek(''theirs'', ''latest'')'),
	('SELECT kappa.skip(''theirs'', 0, 20)'), ('SELECT kappa.drain(''theirs'')'),
	('SELECT kappa.purge_dead_letters(''theirs'')')) v(c);
-- whoever may read the target may wait for what he has written
SELECT try('SELECT kappa.wait_for(''theirs'', 0, 1, timeout => ''1 ms'')');
RESET ROLE;
REVOKE SELECT ON owned FROM regress_kappa_other;
SET ROLE regress_kappa_other;
SELECT left(try('SELECT kappa.wait_for(''theirs'', 0, 1)'), 5);
RESET ROLE;
GRANT SELECT ON owned TO regress_kappa_other;
-- the owner's rights count, not those of who alters it
SELECT try('SELECT kappa.alter_subscription(''theirs'', workers => 2)') ~ '^0A000 row-level security';
ALTER TABLE owned DISABLE ROW LEVEL SECURITY;
GRANT regress_kappa_owner TO regress_kappa_other;
SET ROLE regress_kappa_other;
SELECT kappa.alter_subscription('theirs', workers => 2);
SELECT kappa.disable('theirs');
SELECT kappa.unsubscribe('theirs');
RESET ROLE;
SELECT count(*) FROM kappa.subscription WHERE name = 'theirs';
-- nobody reads or writes the tables but through the functions
SET ROLE regress_kappa_owner;
SELECT try('SELECT * FROM kappa.subscription');
SELECT try('UPDATE kappa.position SET next_offset = 0');
RESET ROLE;

--
-- Missing ones
--
SELECT try('SELECT kappa.enable(''nosuch'')');
SELECT left(try(c), 5) FROM (VALUES
	('SELECT kappa.disable(''nosuch'')'), ('SELECT kappa.unsubscribe(''nosuch'')'),
	('SELECT * FROM kappa.seek(''nosuch'', ''latest'')'), ('SELECT kappa.skip(''nosuch'', 0, 20)'),
	('SELECT kappa.drain(''nosuch'')'), ('SELECT kappa.wait_for(''nosuch'', 0, 1)'),
	('SELECT kappa.purge_dead_letters(''nosuch'')')) v(c);

--
-- Stops, skip, waits
--
UPDATE kappa.position SET stop_word = CASE part WHEN 0 THEN 'schema' ELSE 'gap' END,
	stop_from = 20, stop_to = 25, stop_detail = 'test', stop_since = now(), recent_messages = 5
	FROM kappa.subscription WHERE subscription = id AND name = 'base';
CREATE VIEW stops AS SELECT part, stop_word, stop_from, stop_to, stop_detail, stop_since IS NULL AS clear
	FROM kappa.position JOIN kappa.subscription ON subscription = id WHERE name = 'base' ORDER BY part;
SELECT try('SELECT kappa.wait_for(''base'', 1, 19)');
SELECT try('SELECT kappa.wait_for(''base'', 1, 20)');
SELECT try('SELECT kappa.wait_for(''base'', 0, -1)');
SELECT kappa.alter_subscription('base', workers => 1);
SELECT * FROM stops;
SELECT try('SELECT kappa.wait_for(''base'', 0, 19)');
SELECT try('SELECT kappa.wait_for(''base'', 0, 20)');
UPDATE kappa.subscription SET enabled = true, database_oid = 1 WHERE name = 'base';
SELECT try('SELECT kappa.wait_for(''base'', 0, 20)');
SELECT kappa.disable('base');
SELECT enabled FROM definition WHERE name = 'base';
BEGIN;
SELECT kappa.disable('base');
SELECT try('SELECT kappa.wait_for(''base'', 0, 1)');
SELECT try('SELECT kappa.drain(''base'')');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT try('SELECT kappa.wait_for(''base'', 0, 1)');
SELECT try('SELECT kappa.drain(''base'')');
ROLLBACK;
SELECT try('SELECT kappa.skip(''base'', part => 0, at => 19)');
SELECT try('SELECT kappa.skip(''base'', part => 7, at => 19)');
BEGIN READ ONLY;
SELECT try('SELECT kappa.disable(''base'')');
ROLLBACK;

--
-- Dead letters and the end
--
INSERT INTO kappa.dead_letter (subscription, topic, part, kafka_offset, sqlstate, error, account_start, created_at, redriven_at)
	SELECT id, 'topic', 0, 10 + n, '22P02', 'test', 10, '2020-01-01'::timestamptz + n * interval '1 day',
		CASE WHEN n = 0 THEN now() END
	FROM kappa.subscription, generate_series(0, 3) AS n WHERE name = 'base';
SELECT try('SELECT kappa.unsubscribe(''base'')');
SELECT try('SELECT kappa.purge_dead_letters(''base'', before => NULL)');
SELECT kappa.purge_dead_letters('base', before => '2020-01-03');
SELECT try('SELECT kappa.unsubscribe(''base'')') ~ '2 messages';
BEGIN;
SELECT kappa.purge_dead_letters('base');
SELECT kappa.unsubscribe('base');
ROLLBACK;
SELECT kappa.unsubscribe('base', force => true);
SELECT count(*) FROM kappa.subscription WHERE name = 'base';
SELECT (SELECT count(*) FROM kappa.position p WHERE NOT EXISTS (SELECT FROM kappa.subscription WHERE id = p.subscription))
	+ (SELECT count(*) FROM kappa.dead_letter p WHERE NOT EXISTS (SELECT FROM kappa.subscription WHERE id = p.subscription))
	+ (SELECT count(*) FROM kappa.closed_account p WHERE NOT EXISTS (SELECT FROM kappa.subscription WHERE id = p.subscription));
SELECT to_regclass('target') IS NOT NULL;

RESET search_path;
\set VERBOSITY terse
SET client_min_messages = warning;
DROP SCHEMA sub_test CASCADE;
DROP TABLE sub_temp;
DROP SERVER sub_main;
DROP FOREIGN DATA WRAPPER sub_not_kafka CASCADE;
DROP ROLE regress_kappa_owner, regress_kappa_other;
RESET client_min_messages;
