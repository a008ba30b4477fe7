--
-- The statistics views, without a broker.
--
-- Definitions and positions are put into the tables by hand.  All of it happens
-- in one transaction that is rolled back, so no launcher ever sees a definition
-- and the results are the same with and without shared_preload_libraries.
--
\set VERBOSITY terse

-- The columns are a contract: the design's come first and in its order.
SELECT c.relname AS view, a.attnum AS n, a.attname AS "column",
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS type
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
 WHERE c.relnamespace = 'kappa'::regnamespace AND a.attnum > 0
   AND c.relname IN ('subscriptions', 'stat_subscription', 'stat_partition',
                     'balance', 'dead_letters', 'stat_progress')
 ORDER BY c.relname COLLATE "C", a.attnum;

-- Every view is a security barrier, is everybody's to read, and says what it is.
SELECT c.relname AS view, c.reloptions,
       has_table_privilege('public', c.oid, 'SELECT') AS public,
       has_table_privilege('public', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') AS public_writes
  FROM pg_class c
 WHERE c.relnamespace = 'kappa'::regnamespace AND c.relkind = 'v'
   AND c.relname IN ('subscriptions', 'stat_subscription', 'stat_partition',
                     'balance', 'dead_letters', 'stat_progress')
 ORDER BY c.relname COLLATE "C";
SELECT c.relname, a.attname AS without_comment
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
 WHERE c.relnamespace = 'kappa'::regnamespace AND c.relkind = 'v' AND a.attnum > 0
   AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)
   AND c.relname IN ('subscriptions', 'stat_subscription', 'stat_partition',
                     'balance', 'dead_letters', 'stat_progress');
SELECT p.proname AS without_comment
  FROM pg_proc p
 WHERE p.pronamespace = 'kappa'::regnamespace
   AND p.proname IN ('version', 'preloaded', 'made_here', 'worker_slots', 'partition_status')
   AND obj_description(p.oid, 'pg_proc') IS NULL;

-- kappa.version(): which items there are, and that library and script agree.
SELECT item FROM kappa.version() WHERE item <> 'fault points';
SELECT count(DISTINCT value) = 1 AS library_is_extension
  FROM kappa.version() WHERE item IN ('library', 'extension');
SELECT (value = 'yes') = kappa.preloaded() AS preloaded_agrees
  FROM kappa.version() WHERE item = 'preloaded';
SELECT value ~ '^[0-9]+\.[0-9]+\.[0-9]+' AS has_number
  FROM kappa.version() WHERE item = 'librdkafka';

-- No worker slot is known under a number that no subscription has.
SELECT count(*) AS slots FROM kappa.worker_slots() WHERE subscription = -1;
SELECT * FROM kappa.partition_status(subscription => -1, part => 0);

BEGIN;
CREATE ROLE regress_kappa_owner NOLOGIN;
CREATE ROLE regress_kappa_gone NOLOGIN;
CREATE ROLE regress_kappa_member NOINHERIT IN ROLE regress_kappa_owner;
CREATE ROLE regress_kappa_stranger;
CREATE ROLE regress_kappa_monitor IN ROLE pg_monitor;
CREATE SCHEMA "Views test";
CREATE TABLE "Views test".target (value jsonb);
CREATE TABLE "Views test"."Dropped" (value jsonb);

CREATE PROCEDURE pg_temp.define(id integer, name text, enabled boolean DEFAULT true,
	owner text DEFAULT 'regress_kappa_owner', on_error text DEFAULT 'dead_letter',
	workers integer DEFAULT 1, here boolean DEFAULT true,
	target text DEFAULT '"Views test".target')
LANGUAGE sql AS $$
	INSERT INTO kappa.subscription (id, name, owner, server, topic, target, format, mode, search_path,
		start_from, event_time, watermark_delay, idle_timeout, on_error, workers, batch_rows, batch_wait,
		options, enabled, generation, changed_at, system_identifier, database_oid)
	SELECT $1, $2, $4::regrole, 'main', 'orders', $8::regclass, 'json', 'append', 'public',
		'earliest', 'ts', '5 s', '30 s', $5, $6, 10000, '200 ms',
		'{}', $3, 1, '2025-01-01 00:00+00', c.system_identifier, d.oid
	  FROM pg_control_system() c, pg_database d
	 WHERE d.datname = CASE WHEN $7 THEN current_database() ELSE 'template1' END
$$;
CREATE PROCEDURE pg_temp.stop(subscription integer, part integer, word text, a bigint, b bigint,
	detail text, since timestamptz DEFAULT '2025-01-02 00:00+00')
LANGUAGE sql AS $$
	INSERT INTO kappa.position (subscription, part, start_offset, next_offset, stored, high_watermark,
		stop_word, stop_from, stop_to, stop_detail, stop_since)
	VALUES ($1, $2, 0, 40, 40, 100, $3, $4, $5, $6, $7)
$$;
SET LOCAL TimeZone = 'UTC';
SET LOCAL client_min_messages = warning;

-- Disabled, also with a stop; made elsewhere; each word of a stop.
CALL pg_temp.define(900001, 'views_disabled', enabled => false);
CALL pg_temp.stop(900001, 0, 'gap', 40, 50, 'not shown while it is disabled');
CALL pg_temp.define(900002, 'views_copy', here => false);
CALL pg_temp.stop(900002, 0, 'gap', 40, 50, 'a copy does not get that far');
CALL pg_temp.define(900003, 'views_gap');
CALL pg_temp.stop(900003, 3, 'gap', 40, 50, 'the broker has deleted these messages');
CALL pg_temp.define(900004, 'views_truncated');
CALL pg_temp.stop(900004, 1, 'truncated', 30, 40, 'the log ends before the position');
CALL pg_temp.define(900005, 'views_recreated');
CALL pg_temp.stop(900005, 0, 'recreated', 40, NULL, 'another topic of the same name');
CALL pg_temp.define(900006, 'views_identity');
CALL pg_temp.stop(900006, 0, 'identity', 40, NULL, 'another cluster answers');
CALL pg_temp.define(900007, 'views_schema');
CALL pg_temp.stop(900007, 0, 'schema', 40, 42, 'column "a" of relation "target" does not exist');
CALL pg_temp.define(900008, 'views_rights');
CALL pg_temp.stop(900008, 0, 'rights', NULL, NULL, 'permission denied for table target');
CALL pg_temp.define(900009, 'views_poison');
CALL pg_temp.stop(900009, 0, 'poison', 40, 41, '501 of the last 1000 messages became dead letters');
CALL pg_temp.define(900010, 'views_poison_stop', on_error => 'stop');
CALL pg_temp.stop(900010, 2, 'poison', 40, 41, 'invalid input syntax for type integer');
-- three partitions stopped: the first one by time is told; the name needs quotes
CALL pg_temp.define(900011, 'views_o''neil', workers => 2);
CALL pg_temp.stop(900011, 0, 'schema', 7, 8, 'second', '2025-01-03 00:00+00');
CALL pg_temp.stop(900011, 1, 'gap', 1, 5, 'first', '2025-01-02 00:00+00');
CALL pg_temp.stop(900011, 2, 'schema', 7, 8, 'third', '2025-01-04 00:00+00');

\pset format unaligned
SELECT name, status, since, reason, next_step
  FROM kappa.subscriptions WHERE name LIKE 'views\_%' ORDER BY name COLLATE "C";
\pset format aligned
SELECT name, worker, pid, status, messages, last_error, reason
  FROM kappa.stat_subscription WHERE name LIKE 'views\_%' ORDER BY name COLLATE "C", worker;

-- What next_step says is a statement, whatever the name.
DO $$
DECLARE
	s text;
BEGIN
	FOR s IN SELECT next_step FROM kappa.subscriptions WHERE name LIKE 'views\_%' AND next_step LIKE 'SELECT %'
	LOOP
		EXECUTE 'DO ' || quote_literal('BEGIN IF false THEN ' || replace(s, 'SELECT', 'PERFORM') || E'\nEND IF; END');
	END LOOP;
END $$;

-- Nothing is wrong but there is no worker (the rows are not committed, so no
-- launcher can have made a slot).  One stopped partition does not hide that
-- the other one waits.
CALL pg_temp.define(900020, 'views_waiting', workers => 2);
INSERT INTO kappa.position (subscription, part, start_offset, next_offset, stored, filtered, holes,
	high_watermark, max_event_time, last_message_time, verdict)
VALUES (900020, 0, 100, 160, 50, 8, 2, 200, '2025-01-01 12:00:10+00', '2025-01-01 12:00:11+00', 'ok'),
       (900020, 1, 0, 10, 9, 0, 0, 7, NULL, NULL, 'unverified');
SELECT name, status, target, owner, enabled, lag, reason IS NOT NULL AS has_reason, since IS NOT NULL AS has_since
  FROM kappa.subscriptions WHERE name = 'views_waiting';
SELECT (COALESCE(next_step, '') LIKE 'ALTER SYSTEM SET shared_preload_libraries = %''pg_kappa''; -- then restart the server')
       <> kappa.preloaded() AS names_the_setting,
       (reason = 'pg_kappa is not in shared_preload_libraries') <> kappa.preloaded() AS says_why
  FROM kappa.subscriptions WHERE name = 'views_waiting';
SET LOCAL ROLE regress_kappa_owner;	-- who may not see the setting is told whom to ask
SELECT COALESCE(next_step, '') IN ('', '-- ask a superuser to add pg_kappa to shared_preload_libraries and to restart the server') AS asks
  FROM kappa.subscriptions WHERE name = 'views_waiting';
RESET ROLE;
SELECT name, worker, pid, status FROM kappa.stat_subscription WHERE name = 'views_waiting' ORDER BY worker;
SELECT name, topic, part, start_offset AS start, next_offset AS next, high_watermark AS high, lag,
       event_watermark, idle, verdict
  FROM kappa.stat_partition WHERE name IN ('views_waiting', 'views_gap') ORDER BY name COLLATE "C", part;
SELECT * FROM kappa.stat_progress WHERE name LIKE 'views\_%' ORDER BY name COLLATE "C";

-- An end that was never seen makes the lag unknown, not 0.
UPDATE kappa.position SET high_watermark = NULL WHERE subscription = 900020 AND part = 1;
SELECT name, part, high_watermark, lag FROM kappa.stat_partition WHERE name = 'views_waiting' ORDER BY part;
SELECT name, lag FROM kappa.subscriptions WHERE name = 'views_waiting';
-- Everything read: nothing is in progress.
UPDATE kappa.position SET high_watermark = next_offset WHERE subscription = 900020;
SELECT name, lag FROM kappa.subscriptions WHERE name = 'views_waiting';
SELECT count(*) FROM kappa.stat_progress WHERE name = 'views_waiting';

-- One stopped partition stops the subscription's status, not its other worker.
CALL pg_temp.stop(900020, 2, 'gap', 40, 50, 'one of three');
SELECT name, status, next_step FROM kappa.subscriptions WHERE name = 'views_waiting';
SELECT worker, status FROM kappa.stat_subscription WHERE name = 'views_waiting' ORDER BY worker;
UPDATE kappa.position SET stop_word = 'gap' WHERE subscription = 900020 AND part = 0;
SELECT worker, status FROM kappa.stat_subscription WHERE name = 'views_waiting' ORDER BY worker;

-- A worker more than there are partitions has nothing to do; no partition at all: no lag.
CALL pg_temp.define(900021, 'views_more_workers', workers => 3);
SELECT name, status, lag FROM kappa.subscriptions WHERE name = 'views_more_workers';
SELECT worker, status, reason FROM kappa.stat_subscription WHERE name = 'views_more_workers' AND worker > 0 ORDER BY worker;

-- The balance: part 1 of views_waiting lacks one message; a closed account and
-- a record of a skip.
INSERT INTO kappa.closed_account (subscription, part, start_offset, next_offset, stored, dead_lettered,
	filtered, skipped, holes, closed_at, closed_by, reason)
VALUES (900020, 0, 0, 20, 15, 1, 1, 1, 2, '2025-01-05 00:00+00', 'regress_kappa_owner', 'seek to 100'),
       (900020, 0, 100, 101, 0, 0, 0, 1, 0, '2025-01-06 00:00+00', 'regress_kappa_owner', 'skip to 101');
SELECT part, start_offset AS start, next_offset AS next, consumed, stored, dead_lettered AS dead,
       filtered, skipped, holes, balanced, closed_at
  FROM kappa.balance WHERE name = 'views_waiting' ORDER BY part, start_offset;
SELECT DISTINCT balanced FROM kappa.balance WHERE name LIKE 'views\_%' AND name <> 'views_waiting';

-- A target and an owner that are gone.
CALL pg_temp.define(900030, 'views_dropped', target => '"Views test"."Dropped"');
SELECT name, target, status FROM kappa.subscriptions WHERE name = 'views_dropped';
DROP TABLE "Views test"."Dropped";
SELECT name, target, status FROM kappa.subscriptions WHERE name = 'views_dropped';
CALL pg_temp.define(900031, 'views_gone', owner => 'regress_kappa_gone');
DROP ROLE regress_kappa_gone;
SELECT name, owner LIKE 'unknown (OID=%' AS owner_unknown, status FROM kappa.subscriptions WHERE name = 'views_gone';

-- Dead letters: bytes as they came.
INSERT INTO kappa.dead_letter (id, subscription, topic, part, kafka_offset, kafka_timestamp, key, value,
	headers, sqlstate, error, account_start, created_at)
VALUES (900001, 900003, 'orders', 3, 17, '2025-01-01 00:00+00', 'k', '\x7b00ff', '{"trace": "abc"}',
	'22P02', 'invalid input syntax for type json', 0, '2025-01-01 00:00:01+00');
SELECT id, name, topic, part, kafka_offset, key, value, headers, sqlstate, attempts, redriven_at
  FROM kappa.dead_letters WHERE name LIKE 'views\_%';

-- Who sees what.
CREATE FUNCTION pg_temp.seen(OUT subscriptions bigint, OUT workers bigint, OUT partitions bigint,
	OUT accounts bigint, OUT dead_letters bigint, OUT progress bigint, OUT gone bigint)
LANGUAGE sql AS $$
	SELECT (SELECT count(*) FROM kappa.subscriptions WHERE name LIKE 'views\_%' AND name <> 'views_gone'),
	       (SELECT count(*) FROM kappa.stat_subscription WHERE name LIKE 'views\_%' AND name <> 'views_gone'),
	       (SELECT count(*) FROM kappa.stat_partition WHERE name LIKE 'views\_%' AND name <> 'views_gone'),
	       (SELECT count(*) FROM kappa.balance WHERE name LIKE 'views\_%' AND name <> 'views_gone'),
	       (SELECT count(*) FROM kappa.dead_letters WHERE name LIKE 'views\_%'),
	       (SELECT count(*) FROM kappa.stat_progress WHERE name LIKE 'views\_%'),
	       (SELECT count(*) FROM kappa.subscriptions WHERE name = 'views_gone')
$$;
GRANT EXECUTE ON FUNCTION pg_temp.seen() TO PUBLIC;
SELECT * FROM pg_temp.seen();
SET LOCAL ROLE regress_kappa_owner;
SELECT * FROM pg_temp.seen();
SET LOCAL ROLE regress_kappa_member;
SELECT * FROM pg_temp.seen();
SET LOCAL ROLE regress_kappa_monitor;
SELECT * FROM pg_temp.seen();
SET LOCAL ROLE regress_kappa_stranger;
SELECT * FROM pg_temp.seen();
SELECT count(*) FROM kappa.worker_slots();
SELECT count(*) > 0 AS version FROM kappa.version();

-- A function that tells what it is given is given no row of others.
RESET ROLE;
CREATE FUNCTION pg_temp.tell(value text) RETURNS boolean COST 0.0001 LANGUAGE plpgsql AS
$$ BEGIN RAISE WARNING 'told: %', value; RETURN true; END $$;
SET LOCAL ROLE regress_kappa_stranger;
SELECT name FROM kappa.subscriptions WHERE pg_temp.tell(reason);
SELECT name FROM kappa.dead_letters WHERE pg_temp.tell(error);
SELECT name FROM kappa.stat_partition WHERE pg_temp.tell(stop_detail);
-- The tables themselves are nobody's.
SAVEPOINT refused;
SELECT count(*) FROM kappa.subscription;
ROLLBACK TO refused;
SELECT count(*) FROM kappa.position;
ROLLBACK TO refused;
SELECT count(*) FROM kappa.closed_account;
ROLLBACK TO refused;
SELECT count(*) FROM kappa.dead_letter;
ROLLBACK TO refused;
RESET ROLE;

-- A hostile search_path changes nothing.
CREATE FUNCTION pg_temp.pg_has_role(oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
SET LOCAL search_path = pg_temp, pg_catalog;
SET LOCAL ROLE regress_kappa_stranger;
SELECT count(*) FROM kappa.subscriptions;
ROLLBACK;
