# What an operator asks: indexes, slots, standbys, locks, settings, an upgrade; and the history
# that rates come from.  Each view is compared with what the server then does, or with what was
# planted; its advice is run, and the finding has to go.  No broker is needed.

use strict;
use warnings;

use IPC::Run ();
use KappaTest qw(kappa_node poll_until);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = kappa_node('operations', 'wal_level = logical', 'max_prepared_transactions = 10', 'max_wal_size = 64MB',
	'min_wal_size = 32MB', 'kappa.history_interval = 0', 'autovacuum = on', 'autovacuum_naptime = 1h', 'synchronous_commit = on',
	'max_wal_senders = 5', 'hot_standby = on', 'log_min_duration_statement = -1', "listen_addresses = ''");

sub sql { my ($query, $database) = @_; return $node->safe_psql($database // 'postgres', $query); }

# ERROR of a statement, with HINT
sub error_of
{
	my (undef, undef, $err) = $node->psql('postgres', $_[0]);

	return $err;
}

# In effect for all sessions that begin from now on
sub setting
{
	my ($name, $value) = @_;
	my $loaded = sql('SELECT pg_conf_load_time()');

	sql(defined $value ? "ALTER SYSTEM SET $name = '$value'" : "ALTER SYSTEM RESET $name");
	sql('SELECT pg_reload_conf()');
	poll_until(10, sub { sql('SELECT pg_conf_load_time()') ne $loaded });
}

# ---------------------------------------------------------------- indexes

sql(<<'END');
CREATE SCHEMA "Shop";
CREATE TABLE "Shop".customer (id int PRIMARY KEY, email text UNIQUE, code int, note text);
CREATE UNIQUE INDEX customer_code ON "Shop".customer (code);
CREATE TABLE "Shop"."Order" (id int PRIMARY KEY, customer int REFERENCES "Shop".customer, email text REFERENCES "Shop".customer (email), a int, b text);
CREATE INDEX order_customer ON "Shop"."Order" (customer);
CREATE INDEX order_ab ON "Shop"."Order" (a, b);
CREATE INDEX order_ab_again ON "Shop"."Order" (a, b);
CREATE INDEX order_a ON "Shop"."Order" (a);
CREATE INDEX order_b_pattern ON "Shop"."Order" (b text_pattern_ops, a);
CREATE INDEX order_b_collation ON "Shop"."Order" (b COLLATE "C", a);
CREATE INDEX order_b_desc ON "Shop"."Order" (b DESC, a);
CREATE INDEX order_b ON "Shop"."Order" (b, a);
CREATE INDEX order_b_include ON "Shop"."Order" (b, a) INCLUDE (id);
CREATE INDEX order_b_partial ON "Shop"."Order" (b, a) WHERE a > 0;
CREATE INDEX "order Expr" ON "Shop"."Order" (lower(b)) WHERE a > 1;
CREATE INDEX order_expr2 ON "Shop"."Order" (lower(b)) WHERE a > 1;
CREATE INDEX order_expr3 ON "Shop"."Order" (lower(b)) WHERE a > 2;
CREATE UNIQUE INDEX order_id_again ON "Shop"."Order" (id);
CREATE INDEX order_hash ON "Shop"."Order" USING hash (a);
CREATE TABLE ident (k int NOT NULL, v int);
CREATE UNIQUE INDEX ident_k ON ident (k);
CREATE INDEX ident_v ON ident (v);
ALTER TABLE ident REPLICA IDENTITY USING INDEX ident_k;
CREATE TABLE meeting (during int4range, EXCLUDE USING gist (during WITH &&));
CREATE TABLE booked (k int, EXCLUDE USING btree (k WITH =));
CREATE UNIQUE INDEX booked_k ON booked (k);
CREATE TABLE part (id int, t int) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (1000);
CREATE INDEX part_t ON part (t);
CREATE TABLE arbiter (k int PRIMARY KEY, v int);
INSERT INTO arbiter SELECT g, g FROM generate_series(1, 5000) g;
CREATE TABLE twice (v int);
INSERT INTO twice VALUES (1), (1);
END
$node->psql('postgres', 'CREATE UNIQUE INDEX CONCURRENTLY twice_v ON twice (v)');
sql('SELECT kappa.record_history()');

sub index_finding { return sql("SET kappa.unused_after = '@{[ $_[1] // '7d' ]}'; SELECT coalesce(finding, severity) FROM kappa.index_advice WHERE index_name = '$_[0]'"); }

my %wanted = (
	'"Shop"."Order_pkey"' => 'ok', '"Shop".customer_pkey' => 'ok', '"Shop".customer_email_key' => 'ok', '"Shop".customer_code' => 'ok',
	'"Shop".order_customer' => 'ok', '"Shop".order_ab' => 'unused', '"Shop".order_ab_again' => 'duplicate', '"Shop".order_a' => 'unused',
	'"Shop".order_b_pattern' => 'unused', '"Shop".order_b_collation' => 'unused', '"Shop".order_b_desc' => 'unused', '"Shop".order_b' => 'unused',
	'"Shop".order_b_include' => 'unused', '"Shop".order_b_partial' => 'unused', '"Shop"."order Expr"' => 'unused', '"Shop".order_expr2' => 'duplicate',
	'"Shop".order_expr3' => 'unused', '"Shop".order_id_again' => 'duplicate', '"Shop".order_hash' => 'unused', 'public.ident_k' => 'ok',
	'public.ident_v' => 'unused', 'public.meeting_during_excl' => 'ok', 'public.booked_k_excl' => 'ok', 'public.booked_k' => 'ok', 'public.part_t' => 'ok', 'public.part_1_t_idx' => 'ok', 'public.arbiter_pkey' => 'ok',
	'public.twice_v' => 'invalid');
is(sql("SET kappa.unused_after = 0; SELECT string_agg(index_name || ' ' || coalesce(finding, severity), E'\\n' ORDER BY index_name COLLATE \"C\")
		FROM kappa.index_advice WHERE index_name IS NOT NULL"),
	join("\n", map { "$_ $wanted{$_}" } sort keys %wanted), 'each index: what it serves as, or what is wrong with it');
is(index_finding('"Shop".order_hash'), 'young', 'not called unused within seven days');
is(index_finding('"Shop".order_a'), 'prefix', 'but told to be the beginning of another');
is(sql('SELECT severity FROM kappa.index_advice WHERE finding = \'prefix\' GROUP BY 1'), 'info', 'which is an info');
sql("UPDATE kappa.index_seen SET first_seen = now() - interval '30 days'");
is(index_finding('"Shop".order_hash'), 'young', 'nor where the statistics are younger than that');
sql("DELETE FROM kappa.index_seen WHERE indexrelid = 'ident_v'::regclass");
is(index_finding('public.ident_v', 0), 'age unknown', 'nor where nobody knows its age');
sql('SELECT kappa.record_history()');
is(sql("SELECT table_name || ' ' || advice FROM kappa.index_advice WHERE finding = 'missing'"),
	'"Shop"."Order" CREATE INDEX CONCURRENTLY ON "Shop"."Order" (email);', 'a foreign key without an index');

# uniqueness counts no scan, ON CONFLICT one a row
is(sql("SELECT scans FROM kappa.index_advice WHERE index_name = 'public.arbiter_pkey'"), 0, '5,000 inserts are no scan of a primary key');
sql("INSERT INTO kappa.subscription (name, owner, server, topic, target, format, mode, search_path, start_from, watermark_delay, idle_timeout,
		on_error, workers, batch_rows, batch_wait, options, enabled, generation, changed_at, system_identifier, database_oid)
	SELECT 'up', current_user::regrole, 'main', 't', 'arbiter', 'json', 'upsert', 'public', 'earliest', '5 s', '30 s', 'stop', 1, 1000, '10 ms', '{}', false, 1,
		now(), c.system_identifier, d.oid FROM pg_control_system() c, pg_database d WHERE d.datname = current_database()");
sql('INSERT INTO arbiter SELECT g, 0 FROM generate_series(1, 2000) g ON CONFLICT (k) DO UPDATE SET v = 0; SELECT pg_stat_force_next_flush()');
is(sql("SELECT scans, roles, severity, reason LIKE 'Arbiter of upserts (subscription up)%' FROM kappa.index_advice WHERE index_name = 'public.arbiter_pkey'"),
	'2000|{"primary key","ON CONFLICT arbiter"}|ok|t', 'ON CONFLICT counts one scan a row, and the view says so');
sql("DELETE FROM kappa.subscription WHERE name = 'up'");

# all advice at once: what enforces something is still there, and the undo brings the rest back
my $constraints = 'SELECT string_agg(conrelid::regclass || conname, \' \' ORDER BY conrelid::regclass::text, conname) FROM pg_constraint';
my $before = sql($constraints);
my $definitions = "SELECT string_agg(indexdef, E'\\n' ORDER BY indexdef) FROM pg_indexes WHERE schemaname IN ('public', 'Shop') AND indexname <> 'twice_v'";
my $indexes = sql($definitions);
my $undo = sql("SET kappa.unused_after = 0; SELECT string_agg(undo, E'\\n') FROM kappa.index_advice WHERE undo IS NOT NULL");
for (split /\n/, sql("SET kappa.unused_after = 0; SELECT advice FROM kappa.index_advice WHERE advice LIKE 'DROP%'"))
{
	sql($_);
}
is(sql($constraints), $before, 'the advice touches no constraint');
is(sql('SELECT relreplident FROM pg_class WHERE relname = \'ident\''), 'i', 'and no replica identity');
like(error_of('INSERT INTO "Shop".customer (id, code) VALUES (1, 7), (2, 7)'), qr/customer_code/, 'and no uniqueness');
is(sql("SET kappa.unused_after = 0; SELECT count(*) FROM kappa.index_advice WHERE advice LIKE 'DROP%'"), 0, 'afterwards nothing is left to drop');
sql($undo);
is(sql($definitions), $indexes, 'undo makes the same indexes again');

# behind a lock nobody waits
{
	my $holder = $node->background_psql('postgres');

	$holder->query_safe('BEGIN; LOCK TABLE "Shop"."Order" IN ACCESS EXCLUSIVE MODE');
	my $start = time();
	is(sql("SELECT count(*), count(bytes) FROM kappa.index_advice WHERE table_name = '\"Shop\".\"Order\"' AND index_name IS NOT NULL"), '16|16',
		'sizes of indexes are read while their table is locked');
	is(sql("SELECT count(*) FROM kappa.index_advice WHERE index_name = '\"Shop\".order_ab_again' AND undo IS NULL AND finding = 'duplicate'"), 1,
		'definitions are not: NULL');
	cmp_ok(time() - $start, '<', 5, 'without waiting');
	$holder->query_safe('ROLLBACK');
	$holder->quit;
}

# ---------------------------------------------------------------- history and rates

{
	sql('CREATE TABLE rated (id int PRIMARY KEY) WITH (autovacuum_enabled = off)');
	is(sql("SELECT dead_per_s IS NULL, reason FROM kappa.table_rate('rated')"), 't|rates are unknown: fewer than two samples have this table', 'no rate without samples');
	sql('SELECT kappa.record_history()');
	sql('INSERT INTO rated SELECT g FROM generate_series(1, 1000) g; DELETE FROM rated WHERE id <= 300; UPDATE rated SET id = id + 10000 WHERE id > 900; SELECT pg_stat_force_next_flush()');
	sql('SELECT kappa.record_history()');
	is(sql("SELECT round(inserted_per_s * s), round(deleted_per_s * s), round(updated_per_s * s), round(dead_per_s * s), round(mods_per_s * s), reason
			FROM kappa.table_rate('rated') r, extract(epoch FROM r.measured) AS s"), '1000|300|100|400|1400|', 'rate times span is what was done');
	sql('CREATE TABLE due (id int); INSERT INTO due SELECT generate_series(1, 1000); VACUUM ANALYZE due; SELECT kappa.record_history()');
	is(sql("SELECT due_since IS NULL FROM kappa.table_rate('due')"), 't', 'nothing is due for autovacuum');
	sql('DELETE FROM due WHERE id <= 300; SELECT pg_stat_force_next_flush(); SELECT kappa.record_history(); SELECT kappa.record_history()');
	is(sql("SELECT due_since = (SELECT until FROM kappa.server_history ORDER BY until DESC OFFSET 1 LIMIT 1) FROM kappa.table_rate('due')"), 't', 'due since the first sample that found it so');
	is(sql("SELECT due, round(f.rate::numeric, 3) = round(r.dead_per_s::numeric, 3), f.rate > 0, eta IS NOT NULL FROM kappa.vacuum_forecast f CROSS JOIN LATERAL kappa.table_rate(f.rel) r WHERE f.rel = 'due'::regclass"),
		't|t|t|t', 'vacuum_forecast has the rate');
	sql('DROP TABLE due');
	sql('VACUUM rated; SELECT pg_stat_force_next_flush()');
	sql('DELETE FROM rated WHERE id BETWEEN 301 AND 350; SELECT pg_stat_force_next_flush(); SELECT kappa.record_history()');
	is(sql("SELECT count(*) FROM kappa.table_history WHERE relid = 'rated'::regclass AND since IS NOT NULL AND dead IS NULL AND deleted = 50"), 1,
		'a VACUUM between two samples hides the dead, not the deleted');
	sql("SELECT pg_stat_reset()");
	sql('SELECT kappa.record_history()');
	is(sql("SELECT since IS NULL FROM kappa.server_history ORDER BY until DESC LIMIT 1"), 't', 'a reset begins a new window');
	sql('INSERT INTO rated SELECT generate_series(20001, 20100); SELECT pg_stat_force_next_flush(); SELECT kappa.record_history()');
	is(sql("SELECT round(inserted_per_s * s) FROM kappa.table_rate('rated') r, extract(epoch FROM r.measured) AS s"), 100, 'which knows nothing of the time before');
	is(sql('SELECT kappa.record_history(interval \'1 hour\')'), 'f', 'a young sample is enough');

	# two slices take turns; a full one is truncated, unless somebody reads it
	my $count = 'SELECT string_agg(slice || \':\' || n, \' \' ORDER BY slice) FROM (SELECT slice, count(*) AS n FROM kappa.server_history GROUP BY slice) x';
	sql("DO \$\$ BEGIN FOR i IN 1 .. 3 LOOP UPDATE kappa.server_history SET until = until - interval '13 hours', since = since - interval '13 hours'; PERFORM kappa.record_history(); END LOOP; END \$\$");
	like(sql($count), qr/^(0:1 1:1)$/, 'each holds what fits into 12 hours');
	my $reader = $node->background_psql('postgres');
	$reader->query_safe('BEGIN; SELECT count(*) FROM kappa.table_history');
	sql("UPDATE kappa.server_history SET until = until - interval '13 hours', since = since - interval '13 hours'");
	is(sql('SELECT kappa.record_history()'), 'f', 'nothing is written while the older one is read');
	$reader->query_safe('ROLLBACK');
	$reader->quit;
	is(sql('SELECT kappa.record_history()'), 't', 'and again afterwards');

	# of a standby that was promoted: its counters began before the last sample, which saw others
	sql("UPDATE kappa.index_seen SET first_seen = now() - interval '10 days'");
	sql("UPDATE kappa.server_history SET stats_reset = stats_reset - interval '1 day'");
	is(sql('SELECT kappa.record_history()'), 't', 'a sample after a promotion');
	is(sql("SELECT min(first_seen) > now() - interval '1 hour' FROM kappa.index_seen"), 't', 'what used an index on the old primary is not known: all are seen anew');
	sql("UPDATE kappa.index_seen SET first_seen = now() - interval '10 days'; SELECT kappa.record_history(); SELECT pg_stat_reset()");
	sql('SELECT kappa.record_history()');
	is(sql("SELECT max(first_seen) < now() - interval '9 days' FROM kappa.index_seen"), 't', 'a reset is none');

	# two writers
	my $writer = $node->background_psql('postgres');
	$writer->query_safe('BEGIN; SELECT kappa.record_history()');
	like(error_of("SET lock_timeout = '100ms'; SELECT kappa.record_history()"), qr/lock timeout/, 'one writer at a time');
	$writer->query_safe('ROLLBACK');
	$writer->quit;

	# the launcher's turn
	my $last = sql('SELECT max(until) FROM kappa.server_history');
	setting('kappa.history_interval', '1s');
	ok(poll_until(20, sub { sql("SELECT count(*) FROM kappa.server_history WHERE until > '$last'") >= 3 }), 'the launcher takes samples every kappa.history_interval');
	setting('kappa.history_interval', '0');
}

# ---------------------------------------------------------------- slots

# bytes of WAL, at least
sub write_wal
{
	my ($bytes) = @_;
	my $end = sql("SELECT pg_current_wal_lsn() + $bytes");

	sql("INSERT INTO wal_filler SELECT repeat('x', 1000) FROM generate_series(1, 4000)") until sql("SELECT pg_current_wal_lsn() >= '$end'") eq 't';
}

{
	my $dir = PostgreSQL::Test::Utils::tempdir();

	sql('CREATE TABLE wal_filler (t text)');
	sql("SELECT pg_create_physical_replication_slot('receiver', true)");
	my $receiver = IPC::Run::start([ 'pg_receivewal', '-D', $dir, '-S', 'receiver', '-s', '1', '-d', $node->connstr('postgres') ], '>', \my $out, '2>', \my $err);
	ok(poll_until(20, sub { sql("SELECT active FROM kappa.slot_status WHERE slot_name = 'receiver'") eq 't' }), 'a consumer is seen');
	write_wal(4_000_000);
	is(sql("SELECT severity FROM kappa.slot_status WHERE slot_name = 'receiver'"), 'ok', 'a slot with a consumer is ok');
	$receiver->kill_kill;
	ok(poll_until(20, sub { sql("SELECT active FROM kappa.slot_status WHERE slot_name = 'receiver'") eq 'f' }), 'it is stopped');
	my ($retained, $lsn) = split /\|/, sql("SELECT retained, pg_current_wal_lsn() FROM kappa.slot_status WHERE slot_name = 'receiver'");
	write_wal(20_000_000);
	my ($grown, $wal) = split /\|/, sql("SELECT retained - $retained, pg_wal_lsn_diff(pg_current_wal_lsn(), '$lsn') FROM kappa.slot_status WHERE slot_name = 'receiver'");
	cmp_ok(abs($grown - $wal), '<=', 100_000, "retained grows as WAL does ($grown of $wal bytes)");
	is(sql("SELECT severity FROM kappa.slot_status WHERE slot_name = 'receiver'"), 'info', 'inactive');
	is(sql("SELECT severity || ' ' || scope FROM kappa.config_traps WHERE setting = 'max_slot_wal_keep_size'"), 'warn server', 'and without a limit a trap');

	setting('max_slot_wal_keep_size', '48MB');
	sql('SELECT kappa.record_history()');
	write_wal(3_000_000);
	sql('SELECT kappa.record_history()');
	is(sql("SELECT safe_wal_size > 0, eta_lost IS NOT NULL AND eta_lost < interval '10 minutes', severity, advice LIKE 'SELECT pg_catalog.pg_drop_replication_slot(''receiver'')%', inputs_age < interval '1 minute'
			FROM kappa.slot_status WHERE slot_name = 'receiver'"), 't|t|critical|t|t', 'with a limit: when it will be lost, at the rate of WAL');
	my ($safe) = split /\|/, sql("SELECT safe_wal_size FROM kappa.slot_status WHERE slot_name = 'receiver'");
	write_wal($safe + 20_000_000);
	sql('CHECKPOINT');
	is(sql("SELECT wal_status, severity, retained IS NULL FROM kappa.slot_status WHERE slot_name = 'receiver'"), 'lost|critical|t', 'and lost it is, behind safe_wal_size');
	is(sql("SELECT count(*) FROM kappa.health WHERE area = 'slots' AND object = 'receiver' AND severity = 'critical'"), 1, 'health has it');
	sql(sql("SELECT advice FROM kappa.slot_status WHERE slot_name = 'receiver'"));
	is(sql('SELECT count(*) FROM kappa.slot_status'), 0, 'its advice ends it');
	setting('max_slot_wal_keep_size');
}

# ---------------------------------------------------------------- a standby

# The copies that a standby keeps of logical slots (from 17 on) have no consumer, and need none.
sub slot_copies
{
	my ($standby) = @_;

	sql("SELECT pg_create_physical_replication_slot('feeds'), pg_create_logical_replication_slot('copied', 'pgoutput', failover => true)");
	$standby->append_conf('postgresql.conf', "primary_slot_name = 'feeds'\nhot_standby_feedback = on\nprimary_conninfo = 'host="
		. $node->host . ' port=' . $node->port . " dbname=postgres'");
	$standby->restart;
	# the copy must not be ahead of the slot
	ok(poll_until(60, sub {
		sql("SELECT pg_log_standby_snapshot()");
		sql("SELECT pg_replication_slot_advance('copied', pg_current_wal_lsn())");
		$standby->psql('postgres', 'SELECT pg_sync_replication_slots()');
		$standby->safe_psql('postgres', "SELECT synced AND NOT temporary FROM pg_replication_slots WHERE slot_name = 'copied'") eq 't' }), 'a slot is copied');
	like($standby->safe_psql('postgres', "SELECT active, severity, advice, inactive, reason FROM kappa.slot_status WHERE slot_name = 'copied'"),
		qr/^f\|ok\|\|\|Synchronized slot, /, 'a copy of a slot is no idle slot');
	$standby->stop;
	poll_until(10, sub { sql('SELECT count(*) FROM pg_replication_slots WHERE active') eq '0' });
	sql("SELECT pg_drop_replication_slot(name) FROM unnest('{feeds,copied}'::text[]) AS name");
}

{
	sql('CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY)');
	$node->backup('base');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->append_conf('postgresql.conf', "primary_slot_name = ''");
	$standby->start;
	$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
	ok(poll_until(10, sub { sql("SELECT severity || replay_lag || coalesce(replay_time::text, '-') FROM kappa.replication_lag") eq 'ok0-' }), 'a standby that has replayed all: no bytes, no time');
	is(sql("SELECT severity FROM kappa.config_traps WHERE setting = 'wal_keep_size'"), 'warn', 'which has no slot');
	sql('CREATE TABLE committed ()');
	$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
	$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
	write_wal(4_000_000);
	my $end = sql('SELECT pg_current_wal_lsn()');
	ok(poll_until(20, sub { $standby->safe_psql('postgres', "SELECT pg_last_wal_receive_lsn() >= '$end'") eq 't' }), 'WAL is sent');
	my $replayed = $standby->safe_psql('postgres', 'SELECT pg_last_wal_replay_lsn()');
	ok(poll_until(10, sub { sql("SELECT replay_lag = pg_wal_lsn_diff(pg_current_wal_lsn(), '$replayed') AND replay_lag >= 4000000 FROM kappa.replication_lag") eq 't' }), 'bytes behind are what the standby says');
	is($standby->safe_psql('postgres', "SELECT standby, severity, replay_lag >= 4000000, replay_time > interval '0', advice FROM kappa.replication_lag"),
		'this server|warn|t|t|SELECT pg_catalog.pg_wal_replay_resume();', 'the standby sees itself');
	for my $view (qw(index_advice slot_status lock_waits config_traps health stream_findings table_rates))
	{
		is($standby->psql('postgres', "SELECT * FROM kappa.$view"), 0, "$view works in recovery");
	}
	is($standby->safe_psql('postgres', "SELECT count(*) FROM kappa.health WHERE object = 'this server'"), 1, 'and health has it');
	is($standby->safe_psql('postgres', "SELECT count(*) FROM kappa.health WHERE severity = 'unknown' AND area = 'indexes'"), 0, 'an index without a file, of an unlogged table, is no obstacle');
	$standby->safe_psql('postgres', $standby->safe_psql('postgres', 'SELECT advice FROM kappa.replication_lag'));
	ok(poll_until(20, sub { $standby->safe_psql('postgres', 'SELECT severity FROM kappa.replication_lag') eq 'ok' }), 'its advice mends it');
	slot_copies($standby) if sql("SELECT current_setting('server_version_num')::int") >= 170000;
	$standby->stop('immediate');
}

# ---------------------------------------------------------------- locks

{
	my ($holder, $first, $second) = map { $node->background_psql('postgres') } 1 .. 3;
	my $pid = $holder->query_safe('SELECT pg_backend_pid()');
	my @waiters = map { $_->query_safe('SELECT pg_backend_pid()') } $first, $second;

	sql('CREATE TABLE "Locked t" (id int PRIMARY KEY, v int); INSERT INTO "Locked t" VALUES (1, 1)');
	$holder->query_safe('BEGIN; UPDATE "Locked t" SET v = 2');
	$first->query_until(qr/begun/, "\\echo begun\nUPDATE \"Locked t\" SET v = 3;\n");
	ok(poll_until(10, sub { sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == 1 }), 'one waits');
	my $clock = time();
	$second->query_until(qr/begun/, "\\echo begun\nALTER TABLE \"Locked t\" ADD x int;\n");
	ok(poll_until(10, sub { sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == 2 }), 'and another');
	is(sql("SELECT locktype, mode, relation, blockers, chain, root, root_state, severity FROM kappa.lock_waits WHERE waiter = $waiters[0]"),
		"transactionid|ShareLock|public.\"Locked t\"|{$pid}|{$waiters[0],$pid}|$pid|idle in transaction|ok", 'who waits for a row, and for whom');
	is(sql("SELECT locktype, mode, relation, root, (SELECT array_agg(b ORDER BY b) FROM unnest(blockers) b) = (SELECT array_agg(b ORDER BY b) FROM unnest(ARRAY[$pid, $waiters[0]]) b)
			FROM kappa.lock_waits WHERE waiter = $waiters[1]"),
		"relation|AccessExclusiveLock|public.\"Locked t\"|$pid|t", 'the chain ends at who waits for nobody');
	poll_until(10, sub { time() - $clock > 5.3 });
	my ($waited, $severity, $advice) = split /\|/, sql("SELECT extract(epoch FROM waited), severity, advice FROM kappa.lock_waits WHERE waiter = $waiters[1]");
	my $real = time() - $clock;
	cmp_ok(abs($waited - $real), '<', 0.2, "waited is what the clock says ($waited, $real)");
	is($severity, 'warn', 'a warning from 5 s on');
	is($advice, "SELECT pg_catalog.pg_terminate_backend($pid);", 'end who idles in his transaction');
	is(sql("SELECT count(*) FROM kappa.health WHERE area = 'locks'"), 2, 'health has both');
	sql('CREATE ROLE nobody LOGIN');
	is(sql("SET ROLE nobody; SELECT root, root_state IS NULL, advice IS NULL, confidence FROM kappa.lock_waits WHERE waiter = $waiters[1]"),
		"$pid|t|t|medium", 'who may not see the state is not told one');
	sql($advice);
	ok(poll_until(10, sub { sql('SELECT count(*) FROM kappa.lock_waits') == 0 }), 'its advice mends it');
	eval { $_->quit } for $holder, $first, $second;

	sql("BEGIN; INSERT INTO \"Locked t\" (id) VALUES (77); PREPARE TRANSACTION 'forgotten'");
	my $third = $node->background_psql('postgres');
	$third->query_until(qr/begun/, "\\echo begun\nINSERT INTO \"Locked t\" (id) VALUES (77);\n");
	ok(poll_until(20, sub { sql("SELECT advice FROM kappa.lock_waits WHERE root = 0") eq "ROLLBACK PREPARED 'forgotten';" }), 'a prepared transaction is found and named');
	sql("ROLLBACK PREPARED 'forgotten'");
	$third->quit;
}

# ---------------------------------------------------------------- settings

sub trap { return sql("SELECT severity || '|' || scope || '|' || coalesce(value, '') FROM kappa.config_traps WHERE setting = '$_[0]' ORDER BY scope"); }

# Set it, see it, do as advised, see it gone.
sub trap_ends
{
	my ($name, $seen, $setting) = @_;

	is(trap($setting), $seen, "trap: $name");
	sql($_) for split /(?<=;) /, sql("SELECT regexp_replace(advice, ' --.*', '') FROM kappa.config_traps WHERE setting = '$setting'");
	ok(poll_until(10, sub { trap($setting) eq '' }), "$name: its advice ends it");
}

{
	sql('SELECT pg_stat_reset()');
	sql('SELECT kappa.record_history()');
	is(sql('SELECT setting FROM kappa.config_traps WHERE severity <> \'info\''), '', 'no trap but infos before');
	setting('autovacuum', 'off');
	trap_ends('autovacuum off', 'critical|server|off', 'autovacuum');
	setting('track_counts', 'off');
	trap_ends('track_counts off', 'critical|server|off', 'track_counts');
	setting('full_page_writes', 'off');
	trap_ends('full_page_writes off', 'critical|server|off', 'full_page_writes');
	setting('fsync', 'off');
	trap_ends('fsync off', 'critical|server|off', 'fsync');
	is(trap('idle_in_transaction_session_timeout'), 'info|server|0', 'no timeout for idle transactions is an info');
	sql('ALTER SYSTEM SET idle_in_transaction_session_timeout = \'10min\'; ') and sql('SELECT pg_reload_conf()');

	sql('CREATE TABLE busy (id int) WITH (autovacuum_enabled = false); INSERT INTO busy SELECT generate_series(1, 1000); ANALYZE busy');
	sql('DELETE FROM busy WHERE id <= 250; SELECT pg_stat_force_next_flush()');
	is(trap('autovacuum_enabled'), "info|table public.busy|off\ninfo|table public.rated|off", 'autovacuum off for a table with 250 dead rows of 1,000: not due yet');
	sql('DELETE FROM busy WHERE id = 251; SELECT pg_stat_force_next_flush()');
	is(trap('autovacuum_enabled'), "warn|table public.busy|off\ninfo|table public.rated|off", 'with one more it is');
	sql('DROP TABLE rated');
	trap_ends('autovacuum_enabled', 'warn|table public.busy|off', 'autovacuum_enabled');

	sql('CREATE TABLE frozen_trap (id int) WITH (autovacuum_freeze_max_age = 1e5); INSERT INTO frozen_trap VALUES (1)');
	is(trap('autovacuum_freeze_max_age'), 'info|table public.frozen_trap|100000', 'trap: freeze_max_age below freeze_min_age');
	sql(sql("SELECT advice FROM kappa.config_traps WHERE setting = 'autovacuum_freeze_max_age'"));
	is(trap('autovacuum_freeze_max_age'), '', 'its advice ends it');

	# the counter of autovacuum workers is read, so this one is an info here
	sql('ALTER SYSTEM SET autovacuum_max_workers = 8');
	$node->restart;
	like(sql("SELECT severity || proof FROM kappa.config_traps WHERE setting = 'autovacuum_max_workers'"), qr/^info8 workers, 0 of them at work, share a cost limit of 200: together they read at most 391 MB/,
		'trap: 8 workers, one cost limit');
	sql(sql("SELECT split_part(advice, ';', 1) FROM kappa.config_traps WHERE setting = 'autovacuum_max_workers'"));
	sql('SELECT pg_reload_conf()');
	ok(poll_until(10, sub { trap('autovacuum_max_workers') eq '' }), 'its advice ends it');

	sql("SELECT pg_stat_reset_shared('bgwriter')");
	sql("SELECT pg_switch_wal(); CHECKPOINT") for 1 .. 11;
	like(trap('max_wal_size'), qr/^warn\|server\|64 MB/, 'trap: most checkpoints are requested');
	sql("SELECT pg_stat_reset_shared('bgwriter')");

	sql('SELECT pg_stat_reset()');
	is(sql("SELECT severity, scope FROM kappa.config_traps WHERE setting = 'pg_stat_reset()'"), 'info|database postgres', 'a reset is told');

	sql("INSERT INTO kappa.subscription (name, owner, server, topic, target, format, mode, search_path, start_from, watermark_delay, idle_timeout,
			on_error, workers, batch_rows, batch_wait, options, enabled, generation, changed_at, system_identifier, database_oid)
		SELECT 'async', 'nobody'::regrole, 'main', 't', 'busy', 'json', 'append', 'public', 'earliest', '5 s', '30 s', 'stop', 1, 1000, '10 ms', '{}', false, 1,
			now(), c.system_identifier, d.oid FROM pg_control_system() c, pg_database d WHERE d.datname = current_database()");
	is(trap('synchronous_commit'), '', 'commits are waited for');
	sql('ALTER ROLE nobody IN DATABASE postgres SET synchronous_commit = off');
	trap_ends('synchronous_commit off for a stream\'s owner', 'info|role nobody|off', 'synchronous_commit');
	sql('ALTER DATABASE postgres SET synchronous_commit = off');
	trap_ends('synchronous_commit off for the database', 'info|database postgres|off', 'synchronous_commit');
	sql("DELETE FROM kappa.subscription WHERE name = 'async'");

	# naptime against the rate of dead rows
	sql('CREATE TABLE hot (id int) WITH (autovacuum_enabled = true); INSERT INTO hot SELECT generate_series(1, 100); ANALYZE hot; SELECT kappa.record_history()');
	sql('DELETE FROM hot; SELECT pg_stat_force_next_flush(); SELECT kappa.record_history()');
	is(sql("SELECT severity, scope FROM kappa.config_traps WHERE setting = 'autovacuum_naptime'"), 'warn|table hot', 'trap: more rows die between two looks than a vacuum is due after');
}

# ---------------------------------------------------------------- an upgrade

{
	my $check = "SELECT line FROM (SELECT check_name || ': ' || object || CASE WHEN blocking THEN '!' ELSE '' END FROM kappa.upgrade_check(%d) WHERE severity <> 'info') AS x(line) ORDER BY line COLLATE \"C\"";
	my @all = (
		'NOT NULL inheritance: public.child.a!', 'aclitem columns: public.rights.a!', 'data checksums: cluster!', 'databases without connections: closed!',
		'extensions: adminpack!', 'invalid databases: broken!', 'logical slots: logical', 'md5 passwords: Old pw', 'other databases: broken, postgres',
		q(prepared transactions: it's open!),
		'reg* columns: public."Bad one".a!', 'reg* columns: public.cached.bad!', 'reg* columns: public.nested.h!',
		'removed settings: vacuum_defer_cleanup_age', 'removed system columns: public.watch!', 'removed system columns: public.watch_wal!',
		'system-defined composite types: public.of_catalog.s!');
	my $version = sql('SELECT current_setting(\'server_version_num\')::int / 10000');
	SKIP:
	{
		skip 'the obstacles are those of 15', 4 unless $version == 15;
	sql(<<'END', 'postgres');
CREATE DATABASE old;
END
	sql(<<'END', 'old');
CREATE EXTENSION pg_kappa CASCADE;
CREATE TABLE fine (a regclass, b regrole, c regtype, d int NOT NULL);
CREATE TABLE "Bad one" (a regprocedure, b int);
CREATE DOMAIN proc AS regproc;
CREATE TYPE holder AS (x int, y proc[]);
CREATE TABLE nested (h holder);
CREATE TABLE rights (a aclitem[]);
CREATE TABLE of_catalog (s pg_catalog.pg_class);
CREATE MATERIALIZED VIEW cached AS SELECT 'pg_class'::regclass AS ok, 'now'::regproc AS bad FROM pg_class WHERE false;
CREATE TABLE parent (a int NOT NULL);
CREATE TABLE child () INHERITS (parent);
ALTER TABLE child ALTER a DROP NOT NULL;
CREATE VIEW watch AS SELECT checkpoints_req FROM pg_stat_bgwriter;
CREATE VIEW watch_wal AS SELECT wal_sync FROM pg_stat_wal;
CREATE EXTENSION adminpack;
SET password_encryption = 'md5';
CREATE ROLE "Old pw" PASSWORD 'x';
RESET password_encryption;
ALTER SYSTEM SET vacuum_defer_cleanup_age = 0;
SELECT pg_reload_conf();
SELECT pg_create_logical_replication_slot('logical', 'test_decoding');
CREATE DATABASE closed;
ALTER DATABASE closed ALLOW_CONNECTIONS false;
CREATE DATABASE broken;
UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'broken';
BEGIN;
CREATE TABLE in_doubt (a int);
PREPARE TRANSACTION 'it''s open';
END
		is(sql(sprintf($check, 18), 'old'), join("\n", sort @all), 'to 18: each planted obstacle, and nothing else');
		my %since = (18 => qr/^(NOT NULL|data checksums|md5|removed system columns: public.watch_wal)/, 17 => qr/adminpack|public\.watch!/);
		is(sql(sprintf($check, 17), 'old'), join("\n", sort grep { $_ !~ $since{18} } @all), 'to 17: without those of 18');
		is(sql(sprintf($check, 16), 'old'), join("\n", sort grep { $_ !~ $since{18} && $_ !~ $since{17} } @all), 'to 16: nor those of 17');
		is(sql("SET ROLE nobody; SELECT object, severity, advice FROM kappa.upgrade_check(18) WHERE check_name = 'md5 passwords'", 'old'),
			'cluster|unknown|GRANT pg_monitor TO nobody;', 'who may not see passwords is told so');
		# the advice of all that blocks; comments and psql commands are for people
		for my $database ('postgres', 'old')
		{
			for (split /\n/, sql("SELECT regexp_replace(advice, ' --.*', '') FROM kappa.upgrade_check(18) WHERE blocking AND advice !~ '^--'" . ($database eq 'postgres' ? " AND check_name LIKE '%databases%'" : ''), $database))
			{
				s/TYPE text;/TYPE text USING NULL;/;
				sql($_, $database);
			}
		}
		is(sql('SELECT check_name FROM kappa.upgrade_check(18) WHERE blocking', 'old'), 'data checksums', 'the advice mends all that can be mended by SQL');
	}
	like(error_of('SELECT * FROM kappa.upgrade_check(14)'), qr/cannot check an upgrade .*HINT:  Name a later major version/s, 'not backwards');
	is(sql("SELECT severity FROM kappa.upgrade_check($version)"), 'ok', 'a minor version');
}

# ---------------------------------------------------------------- roles

sql('CREATE ROLE watcher IN ROLE pg_monitor');
for my $role (qw(watcher nobody))
{
	for my $what (qw(index_advice slot_status replication_lag lock_waits config_traps stream_findings table_rates health), 'upgrade_check(18)', 'server_rate()', "table_rate('busy')")
	{
		is($node->psql('postgres', "SET ROLE $role; SELECT * FROM kappa.$what"), 0, "$role: $what answers");
	}
}
is(sql('SET ROLE nobody; SELECT severity, area, advice FROM kappa.health WHERE severity = \'unknown\''), 'unknown|rights|GRANT pg_monitor TO nobody;', 'health says what this role does not see');
is(sql('SET ROLE watcher; SELECT count(*) FROM kappa.health WHERE severity = \'unknown\''), 0, 'and pg_monitor sees all');
like(error_of("SET ROLE nobody; SELECT kappa.record_history()"), qr/permission denied/, 'nobody writes the history');
like(error_of("SET ROLE watcher; SELECT kappa.record_history()"), qr/permission denied/, 'nor who watches');
sql('CREATE SCHEMA evil; CREATE FUNCTION evil.age(xid) RETURNS int LANGUAGE sql AS \'SELECT 1/0\'; CREATE FUNCTION evil.max(timestamptz) RETURNS int LANGUAGE sql AS \'SELECT 1/0\'; GRANT USAGE ON SCHEMA evil TO PUBLIC');
is($node->psql('postgres', 'SET search_path = evil, pg_catalog; SELECT * FROM kappa.health; SELECT * FROM kappa.upgrade_check(18)'), 0, 'a hostile search_path changes nothing');

# ---------------------------------------------------------------- a crash, and no preload

{
	sql('SELECT kappa.record_history()');
	$node->stop('immediate');
	$node->start;
	sql('SELECT kappa.record_history()');
	is(sql('SELECT since IS NULL FROM kappa.server_history ORDER BY until DESC LIMIT 1'), 't', 'a crash discards statistics: a new window');
	$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
	$node->restart;
	sql('TRUNCATE kappa.server_history, kappa.table_history');
	like(sql("SELECT reason FROM kappa.table_rate('busy')"), qr/^rates are unknown: pg_kappa is not in shared_preload_libraries/, 'without preload rates are unknown');
	like(sql('SELECT reason FROM kappa.server_rate()'), qr/not in shared_preload_libraries/, 'of the server, too');
	is($node->psql('postgres', 'SELECT * FROM kappa.health'), 0, 'health works without preload');
}

$node->stop;
done_testing();
