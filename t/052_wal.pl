# What the WAL was written for, HOT updates and the buffer pool, compared with
# pg_walinspect, pg_prewarm and the server's own counters; the WAL of an ingest
# stream compared with what stands in the WAL of an otherwise idle server.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Nobody but the test writes: no autovacuum, no checkpoint by time.
my $node = kappa_node('wal', 'autovacuum = off', 'checkpoint_timeout = 1h', 'max_wal_size = 4GB',
	'shared_buffers = 128MB', 'wal_keep_size = 1GB', 'wal_level = replica', 'max_wal_senders = 5');

sub sql { return $node->safe_psql('postgres', $_[0]); }

# (what it printed, its ERROR with SQLSTATE and hint), as another role
sub as_role
{
	my ($role, $statement) = @_;
	my ($code, $out, $error) = $node->psql('postgres', "SET ROLE $role; $statement",
		extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	return ($out, $error);
}

# The end of the WAL, flushed: a record of ours that waits for the disk comes last.
sub lsn
{
	sql('SELECT pg_logical_emit_message(true, \'t\', \'\')');
	return sql('SELECT pg_current_wal_flush_lsn()');
}

sub hot_counts { return sql("SELECT upd, hot FROM kappa.hot_status WHERE rel = '$_[0]'::regclass"); }

sql('CREATE EXTENSION pg_walinspect; CREATE EXTENSION pg_prewarm; CREATE EXTENSION pageinspect');
sql('CREATE ROLE monitor IN ROLE pg_monitor; CREATE ROLE nobody_at_all');
seed();

# ---------------------------------------------------------------- wal_volume

# Of all kinds: several relations, forks and indexes, images, TOAST, a rewrite, a dropped table,
# a transaction that is rolled back, another database.
my $n = 3000 + pick(3000);
my $start = lsn();
sql(qq{
	CREATE TABLE "Odd Name" (id bigint PRIMARY KEY, a integer, b text) WITH (fillfactor = 90);
	CREATE INDEX odd_a ON "Odd Name" (a);
	INSERT INTO "Odd Name" SELECT g, g % 100, repeat('x', g % 90) FROM generate_series(1, $n) g;
	INSERT INTO "Odd Name" SELECT -g, g, (SELECT string_agg(md5((g * i)::text), '') FROM generate_series(1, 300) i) FROM generate_series(1, 20) g;
	CREATE TABLE gone AS SELECT generate_series(1, 1000) AS g;
	CREATE TABLE rewritten AS SELECT generate_series(1, 1000) AS g;
});
sql('CHECKPOINT');
sql("UPDATE \"Odd Name\" SET b = 'y' WHERE id % 9 = 0; UPDATE \"Odd Name\" SET a = a + 1 WHERE id % 7 = 0; DELETE FROM \"Odd Name\" WHERE id % 13 = 0");
sql('BEGIN; INSERT INTO "Odd Name" SELECT g FROM generate_series(1000000, 1000500) g; ROLLBACK');
sql('VACUUM (FREEZE) "Odd Name"');
sql('DROP TABLE gone');
sql('VACUUM FULL rewritten');
sql('CREATE DATABASE other');
$node->safe_psql('other', 'CREATE TABLE elsewhere AS SELECT generate_series(1, 2000) AS g');
my $end = lsn();

is( sql("SELECT sum(records), sum(bytes), sum(fpi_bytes) FROM kappa.wal_volume('$start', '$end')"),
	sql("SELECT sum(count), sum(combined_size), sum(fpi_size) FROM pg_get_wal_stats('$start', '$end')"),
	'sums are those of pg_get_wal_stats, to the byte');
is( sql(qq{
	WITH ours AS (SELECT record_type, sum(records) AS n, sum(bytes) AS b, sum(fpi_bytes) AS f FROM kappa.wal_volume('$start', '$end') GROUP BY 1),
	theirs AS (SELECT "resource_manager/record_type", count, combined_size, fpi_size FROM pg_get_wal_stats('$start', '$end', true))
	SELECT count(*) FROM ((TABLE ours EXCEPT TABLE theirs) UNION ALL (TABLE theirs EXCEPT TABLE ours)) x}), 0, 'and so for each record type');
is( sql("SELECT d.n - sum(bytes) BETWEEN 0 AND 7 * sum(records) + 40 * (d.n / 8192 + 1) FROM kappa.wal_volume('$start', '$end'), pg_wal_lsn_diff('$end', '$start') d(n) GROUP BY d.n"),
	't', 'the rest to the distance of the positions is page headers and padding to 8 bytes');

# Records of one relation, told by pg_walinspect's text of the block references
for my $rel ('"Odd Name"', 'odd_a', 'pg_class')
{
	is( sql("SELECT sum(records) FROM kappa.wal_volume('$start', '$end') WHERE rel = '$rel'::regclass"),
		sql(qq{SELECT count(*) FROM pg_get_wal_records_info('$start', '$end')
			WHERE block_ref LIKE (SELECT format('%%rel %s/%s/%s %%', CASE reltablespace WHEN 0 THEN d.dattablespace ELSE reltablespace END, d.oid,
				pg_relation_filenode(c.oid)) FROM pg_class c, pg_database d WHERE c.oid = '$rel'::regclass AND datname = current_database())}),
		"records of $rel");
}
is( sql("SELECT sum(records), sum(bytes) FROM kappa.wal_volume('$start', '$end') WHERE object = 'no relation'"),
	sql("SELECT count(*), sum(record_length) FROM pg_get_wal_records_info('$start', '$end') WHERE coalesce(block_ref, '') = ''"),
	'records without a block have rows of their own');
is(sql("SELECT count(*) FROM (SELECT object, record_type FROM kappa.wal_volume('$start', '$end') GROUP BY 1, 2 HAVING count(*) > 1) x"), 0,
	'no relation and type comes twice');
like(sql("SELECT object FROM kappa.wal_volume('$start', '$end') WHERE rel IS NULL AND object LIKE 'database other,%' LIMIT 1"), qr/^database other, tablespace pg_default, file \d+$/,
	'relations of other databases by their numbers');
is(sql("SELECT count(*) FROM kappa.wal_volume('$start', '$end') WHERE severity = 'warn' AND (fpi_share <= 0.5 OR advice IS NULL)"), 0,
	'warned of for images, with advice');

# Images right after a checkpoint
sql('CHECKPOINT');
my $images = lsn();
sql('UPDATE "Odd Name" SET b = b WHERE id % 100 = 1');
my $images_end = lsn();
is( sql("SELECT sum(fpi_bytes) FROM kappa.wal_volume('$images', '$images_end') WHERE rel = '\"Odd Name\"'::regclass"),
	sql("SELECT sum(fpi_length) FROM pg_get_wal_records_info('$images', '$images_end') WHERE resource_manager LIKE 'Heap%'
		AND block_ref LIKE (SELECT '%/' || pg_relation_filenode('\"Odd Name\"'::regclass) || ' %')"), 'image bytes of a table');
is(sql("SELECT DISTINCT severity, advice FROM kappa.wal_volume('$images', '$images_end') WHERE rel = '\"Odd Name\"'::regclass AND severity <> 'ok'"),
	"warn|ALTER SYSTEM SET wal_compression = 'on';\nSELECT pg_reload_conf();", 'most of it images: a warning, and what to do');

# The bound, and what cannot be read
is(sql("SELECT bool_and(cut) AND bool_and(confidence = 'medium') AND sum(bytes) BETWEEN 90000 AND 100000 AND bool_and(reason LIKE '%max_bytes ended the scan at%')
	FROM kappa.wal_volume('$start', '$end', 100000)"), 't', 'max_bytes cuts, and each row says so');
is( sql("SELECT sum(bytes) FROM kappa.wal_volume('$start', '$end', 100000)"),
	sql("SELECT sum(combined_size) FROM pg_get_wal_stats('$start', (SELECT max(to_lsn) FROM kappa.wal_volume('$start', '$end', 100000)))"),
	'to_lsn is where it ended');
is(sql('SELECT count(*) FROM kappa.wal_volume(pg_current_wal_flush_lsn())'), 0, 'nothing written, no rows');
cmp_ok(sql("SELECT sum(bytes) FROM kappa.wal_volume('$images')"), '>=', sql("SELECT sum(bytes) FROM kappa.wal_volume('$images', '$images_end')"), 'lsn2 left out is now');
for my $case (
	[ "'FFFF/0'",          '22023', 'in the future',   'pg_current_wal_flush_lsn' ],
	[ "'$start', 'FFFF/0'", '22023', 'in the future',  'leave lsn2 out' ],
	[ "'$end', '$start'",  '22023', 'behind lsn2',     '' ],
	[ "'0/0'",             '58P01', 'is not there',    'wal_keep_size' ],
	[ 'NULL',              '22004', 'must not be NULL', 'pg_current_wal_lsn' ],
	[ "'$start', '$end', 0", '22023', 'max_bytes',     '' ])
{
	my ($arguments, $state, $words, $hint) = @$case;
	my (undef, $error) = as_role('postgres', "SELECT count(*) FROM kappa.wal_volume($arguments)");

	like($error, qr/ERROR:  $state: [^\n]*$words.*$hint/s, "wal_volume($arguments)");
}

# ---------------------------------------------------------------- HOT

# fillfactor 100: no room; an index on what changes: blocked; room and none: HOT
sql(qq{
	CREATE TABLE full_pages (id integer PRIMARY KEY, v text) WITH (fillfactor = 100);
	CREATE TABLE roomy (id integer PRIMARY KEY, v text) WITH (fillfactor = 50);
	CREATE TABLE indexed (id integer PRIMARY KEY, v text, w integer) WITH (fillfactor = 50);
	CREATE INDEX indexed_v ON indexed (v);
	CREATE TABLE "No Index" (id integer, v text);
	INSERT INTO full_pages SELECT g, repeat('x', 40) FROM generate_series(1, 12000) g;
	INSERT INTO roomy SELECT g, repeat('x', 40) FROM generate_series(1, 12000) g;
	INSERT INTO indexed SELECT g, repeat('x', 40), 0 FROM generate_series(1, 12000) g;
	INSERT INTO "No Index" SELECT g, repeat('x', 40) FROM generate_series(1, 12000) g;
});
my $hot_start = lsn();
sql("$_; SELECT pg_stat_force_next_flush()") for
  "UPDATE full_pages SET v = repeat('y', 40)", "UPDATE roomy SET v = repeat('y', 40)",
  "UPDATE indexed SET v = repeat('y', 40) WHERE id <= 8000", "UPDATE indexed SET w = 1 WHERE id > 8000",
  "UPDATE \"No Index\" SET v = repeat('y', 40)", 'BEGIN; UPDATE roomy SET v = v WHERE id <= 100; ROLLBACK';
my $hot_end = lsn();

for my $table ('full_pages', 'roomy', 'indexed', '"No Index"')
{
	my $wal = sql(qq{SELECT count(*), count(*) FILTER (WHERE record_type = 'HOT_UPDATE') FROM pg_get_wal_records_info('$hot_start', '$hot_end')
		WHERE resource_manager = 'Heap' AND record_type IN ('UPDATE', 'UPDATE+INIT', 'HOT_UPDATE')
		AND block_ref LIKE '%/' || pg_relation_filenode('$table') || ' %'});

	is(hot_counts($table), $wal, "$table: hot_status counts what the WAL has, $wal");
	is(sql("SELECT upd, hot FROM kappa.hot_misses('$hot_start', '$hot_end') WHERE rel = '$table'::regclass"), $wal, "$table: and so does hot_misses");
}
# two block references: the new version went to another page
is( sql("SELECT newpage, blocked_by_index FROM kappa.hot_misses('$hot_start', '$hot_end') WHERE rel = 'indexed'::regclass"),
	sql(qq{SELECT count(*) FILTER (WHERE block_ref LIKE '%blkref #1%'), count(*) FILTER (WHERE block_ref NOT LIKE '%blkref #1%')
		FROM pg_get_wal_records_info('$hot_start', '$hot_end') WHERE resource_manager = 'Heap' AND record_type LIKE 'UPDATE%'
		AND block_ref LIKE '%/' || pg_relation_filenode('indexed') || ' %'}), 'causes as pg_walinspect shows them');
is(sql("SELECT newpage > 8000, blocked_by_index FROM kappa.hot_misses('$hot_start') WHERE rel = 'full_pages'::regclass"), 't|0', 'full pages: no room, never an index');
is(sql("SELECT hot_pct > 90, blocked_by_index FROM kappa.hot_misses('$hot_start') WHERE rel = 'roomy'::regclass"), 't|0', 'roomy pages: nearly all are HOT');
is(sql("SELECT m.blocked_by_index > 6000, s.culprit_indexes FROM kappa.hot_misses('$hot_start') m JOIN kappa.hot_status s USING (rel) WHERE rel = 'indexed'::regclass"),
	't|{indexed_v}', 'an index on what changes: blocked, and it is named');

# 15 does not count the causes, later versions do: what is said must be true in both
my $counted = sql("SELECT current_setting('server_version_num')::integer >= 160000") eq 't';
is( sql("SELECT newpage, blocked_by_index FROM kappa.hot_status WHERE rel = 'indexed'::regclass"),
	$counted ? sql("SELECT newpage, blocked_by_index FROM kappa.hot_misses('$hot_start', '$hot_end') WHERE rel = 'indexed'::regclass") : '|',
	'causes where they are counted, else NULL');
is(sql("SELECT blocked_by_index, newpage = upd - hot, severity FROM kappa.hot_status WHERE rel = '\"No Index\"'::regclass"), '0|t|warn',
	'without an index there is only one cause');
is(sql("SELECT count(*) FROM kappa.hot_status WHERE severity = 'warn' AND advice IS NULL"), 0, 'each warning has advice');

# the advice works: new pages filled by it take the next updates in place
my $advice = sql("SELECT advice FROM kappa.hot_misses('$hot_start') WHERE rel = 'full_pages'::regclass");
is($advice, 'ALTER TABLE full_pages SET (fillfactor = 85);', 'no room: leave room');
sql($advice);
sql('VACUUM FULL full_pages');
$hot_start = lsn();
sql("UPDATE full_pages SET v = repeat('z', 40) WHERE id % 10 = 0");
cmp_ok(sql("SELECT hot_pct FROM kappa.hot_misses('$hot_start') WHERE rel = 'full_pages'::regclass"), '>', 99, 'and it has the next updates HOT');

# ---------------------------------------------------------------- buffers

$node->restart;
sql("SELECT pg_prewarm('roomy'), pg_prewarm('pg_authid')");
is(sql("SELECT pct_of_rel, dirty FROM kappa.buffer_usage WHERE rel = 'roomy'::regclass"), '100|0', 'all of a table after pg_prewarm');
is( sql("SELECT buffers FROM kappa.buffer_usage WHERE rel = 'roomy'::regclass"),
	sql("SELECT count(*) FROM pg_buffercache WHERE relfilenode = pg_relation_filenode('roomy') AND reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database())"),
	'buffers as pg_buffercache has them');
is(sql("SELECT pct_of_rel FROM kappa.buffer_usage WHERE rel = 'pg_authid'::regclass"), '100', 'shared relations too');
sql("SELECT pg_prewarm('indexed', 'buffer', 'main', 0, 9)");
is(sql("SELECT abs(pct_of_rel - 100.0 * 10 * 8192 / pg_relation_size('indexed')) < 1e-6 FROM kappa.buffer_usage WHERE rel = 'indexed'::regclass"), 't', 'a part of one');
sql('UPDATE roomy SET v = v WHERE id = 1');
cmp_ok(sql("SELECT dirty FROM kappa.buffer_usage WHERE rel = 'roomy'::regclass"), '>=', 1, 'a changed page is dirty');

# files of another database may have the same number: they are not counted
$node->safe_psql('other', 'SELECT count(*) FROM elsewhere');
is(sql("SELECT sum(buffers) <= (SELECT count(*) FROM pg_buffercache WHERE reldatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))) FROM kappa.buffer_usage"),
	't', 'other databases are left out');

# somebody has it locked: nobody waits
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE roomy IN ACCESS EXCLUSIVE MODE');
is(sql("SET lock_timeout = '1ms'; SELECT severity, pct_of_rel IS NULL, buffers > 10 FROM kappa.buffer_usage WHERE rel = 'roomy'::regclass"), 'unknown|t|t', 'locked: its size is not known');
is(sql("SET lock_timeout = '1ms'; SELECT count(*) FROM kappa.hot_status WHERE rel = 'roomy'::regclass"), 1, 'hot_status asks for no lock');
$locker->query_safe('ROLLBACK');
$locker->quit;

# ---------------------------------------------------------------- roles

for my $call ("kappa.wal_volume('$start')", "kappa.hot_misses('$start')")
{
	my ($out, $error) = as_role('monitor', "SELECT count(*) > 0 FROM $call");
	is($out, 't', "pg_monitor: $call");
	(undef, $error) = as_role('nobody_at_all', "SELECT count(*) FROM $call");
	like($error, qr/ERROR:  42501: .*HINT:  GRANT pg_stat_scan_tables TO nobody_at_all/s, "nobody: $call");
}
is((as_role('monitor', "SELECT pct_of_rel FROM kappa.buffer_usage WHERE rel = 'pg_authid'::regclass"))[0], '100', 'pg_monitor: buffer_usage');
is((as_role('nobody_at_all', 'SELECT severity, advice FROM kappa.buffer_usage'))[0], 'unknown|GRANT pg_monitor TO nobody_at_all;', 'nobody: buffer_usage says that it does not know');
for my $role ('monitor', 'nobody_at_all')
{
	is((as_role($role, "SELECT upd FROM kappa.hot_status WHERE rel = 'indexed'::regclass"))[0], 12000, "$role: hot_status, counters are everybody's");
}

# ---------------------------------------------------------------- in recovery

sql('CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY); INSERT INTO unlogged VALUES (1)');
$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
my $seen = lsn();
sql('INSERT INTO "Odd Name" SELECT g FROM generate_series(2000000, 2000500) g');
my $seen_end = lsn();
$node->wait_for_catchup($standby, 'replay', $seen_end);
is( $standby->safe_psql('postgres', "SELECT sum(records), sum(bytes) FROM kappa.wal_volume('$seen', '$seen_end')"),
	sql("SELECT sum(count), sum(combined_size) FROM pg_get_wal_stats('$seen', '$seen_end')"), 'a standby reads what it has replayed');
(undef, undef, my $future) = $standby->psql('postgres', q{SELECT * FROM kappa.wal_volume('FFFF/0')});
like($future, qr/in the future.*HINT:  In recovery WAL can be read up to pg_last_wal_replay_lsn/s, 'and says how far that is');
is($standby->safe_psql('postgres', "SELECT DISTINCT severity, reason FROM kappa.hot_status"), 'unknown|a standby counts no updates of its own: ask the primary', 'hot_status on a standby');
is($standby->safe_psql('postgres', "SELECT severity FROM kappa.buffer_usage WHERE rel = 'pg_class'::regclass"), 'ok', 'buffer_usage on a standby');
is($standby->safe_psql('postgres', "SELECT string_agg(severity, ',') FROM kappa.stats_staleness('pg_class') WHERE col IN ('relname', 'relkind') AND mods_ratio IS NULL AND ks < 0.5"),
	$standby->safe_psql('postgres', "SELECT string_agg(severity, ',') FROM kappa.stats_staleness('pg_class') WHERE col IN ('relname', 'relkind')"), 'stats_staleness on a standby: no mods_ratio');
is($standby->safe_psql('postgres', "SELECT DISTINCT severity, reason FROM kappa.stats_staleness('unlogged')"), 'unknown|it is unlogged and has no contents during recovery', 'nor what is unlogged');
is($standby->safe_psql('postgres', "SELECT kappa.pages_unless_locked('unlogged')"), '', 'which has no pages');
$standby->stop('immediate');

# ---------------------------------------------------------------- storage parameters

# a number is what the server takes for one
sql(q{CREATE TABLE hexed (id int) WITH (fillfactor = '0x46'); CREATE TABLE exponent (id int) WITH (fillfactor = '5e1')});
is(sql("SELECT rel, fillfactor FROM kappa.hot_status WHERE rel IN ('hexed'::regclass, 'exponent'::regclass) ORDER BY rel::text"), "exponent|50\nhexed|70", 'fillfactor in any spelling');

# ---------------------------------------------------------------- which index is in the way

# The causes of misses as 16 and later count them, and statistics of a year: in a database of its own
sql('CREATE DATABASE later');
$node->safe_psql('later', q{
	CREATE EXTENSION pg_kappa CASCADE;
	CREATE OR REPLACE FUNCTION kappa.newpage_updates(rel oid) RETURNS bigint LANGUAGE sql AS 'SELECT 0';
	CREATE OR REPLACE FUNCTION kappa.statistics_since() RETURNS timestamptz LANGUAGE sql AS 'SELECT now() - interval ''1 year''';
	CREATE TABLE often (id int PRIMARY KEY, v int);
	CREATE INDEX often_v ON often (v);
	INSERT INTO often SELECT g, g FROM generate_series(1, 100) g;
	SET enable_seqscan = off;
	DO $$ BEGIN FOR i IN 1..120 LOOP UPDATE often SET v = v + 1; END LOOP; END $$;
	SELECT pg_stat_force_next_flush()});
my $advice_later = "SELECT severity, advice FROM kappa.hot_status WHERE rel = 'often'::regclass";
my $look = q{warn|SELECT * FROM pg_catalog.pg_stat_user_indexes WHERE relid = 'often'::regclass ORDER BY idx_scan;};
is($node->safe_psql('later', $advice_later), $look, 'an index of unknown age is not to be dropped');
$node->safe_psql('later', "DELETE FROM kappa.index_seen; INSERT INTO kappa.index_seen VALUES ('often_v'::regclass, now() - interval '6 days')");
is($node->safe_psql('later', $advice_later), $look, 'nor a young one, however old the statistics');
$node->safe_psql('later', "UPDATE kappa.index_seen SET first_seen = now() - interval '8 days'");
is($node->safe_psql('later', $advice_later), 'warn|DROP INDEX CONCURRENTLY often_v;', 'one that nobody scanned for a week is');
$node->safe_psql('later', 'CREATE TABLE parent (v int PRIMARY KEY); INSERT INTO parent SELECT v FROM often; ALTER TABLE often ADD FOREIGN KEY (v) REFERENCES parent');
is($node->safe_psql('later', $advice_later), $look, 'unless a foreign key needs it');

# ---------------------------------------------------------------- streams

# Three targets: all by multi-insert, by the key's index, by SQL (a BEFORE trigger).  Each is idle, gets messages,
# is idle again; what lies in the WAL between is the stream's, but for the background writer's notes of running
# transactions.  Only shared memory is looked at meanwhile: a look at a table could tidy one of its pages.
my $address = broker_start();
kappa_server($node, $address);
sql(q{
	CREATE TABLE fast (n bigint, seed bigint, pad text, kafka_partition integer, kafka_offset bigint, PRIMARY KEY (kafka_partition, kafka_offset));
	CREATE INDEX "Fast pad" ON fast (pad);
	CREATE INDEX fast_expression ON fast ((n % 10));
	CREATE TABLE keyed (n bigint PRIMARY KEY, seed bigint, pad text);
	CREATE TABLE triggered (n bigint, pad text);
	CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
	CREATE TRIGGER before BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION nothing();
});

sub counters
{
	return split /\|/, sql("SELECT coalesce(sum(rows), 0), coalesce(sum(row_bytes), 0), coalesce(sum(wal_records), 0), coalesce(sum(wal_fpi), 0), coalesce(sum(wal_bytes), 0) FROM kappa.worker_wal() WHERE subscription = $_[0]");
}

# The end of the WAL, once all of it is flushed
sub quiet_lsn
{
	my $lsn;

	poll_until(10, sub { ($lsn, my $same) = split /\|/, sql('SELECT pg_current_wal_flush_lsn(), pg_current_wal_flush_lsn() = pg_current_wal_insert_lsn()'); $same eq 't' })
	  or die 'the WAL is not flushed';
	return $lsn;
}

for my $case ([ 'fast', 2, '' ], [ 'keyed', 1, q{, mode => 'upsert'} ], [ 'triggered', 1, '' ])
{
	my ($table, $workers, $options) = @$case;
	my $messages = 3000 + pick(2000);

	tool('create', $table, 2);
	sql("SELECT kappa.subscribe('$table', 'main', '$table', '$table', workers => $workers$options)");
	my $id = sql("SELECT id FROM kappa.subscription WHERE name = '$table'");

	# the first message shows that the workers are there; then they are silent
	tool('send', $table, $_, '-', '{"n": -1, "seed": 1, "pad": "first"}') for 0, 1;
	poll_until(30, sub { (counters($id))[0] == 2 }) or die 'the first messages did not arrive';
	sql('CHECKPOINT');
	my @before = counters($id);
	my $from = quiet_lsn();
	my (@after, $upto, $written);

	tool('produce', '--seed', pick(1_000_000), '--topic', $table, '--kind', 'plain', '--messages', $messages);
	ok(poll_until(40, sub {
		@after = counters($id);
		return 0 if $after[0] - $before[0] < $messages;
		$upto = quiet_lsn();
		$written = sql("SELECT sum(count), sum(fpi_size) > 0, sum(combined_size) FROM pg_get_wal_stats('$from', '$upto', true) WHERE \"resource_manager/record_type\" NOT LIKE 'Standby/%'");
		return $written eq join('|', $after[2] - $before[2], ($after[3] > $before[3] ? 't' : 'f'), $after[4] - $before[4]); }),
		"$table: the stream's WAL is what lies in the WAL, to the byte")
	  or diag("counted @after less @before, written $written");
	note("$table: $written records, images, bytes");
	next if $table eq 'keyed';
	is( sql("SELECT row_bytes FROM kappa.stream_wal WHERE name = '$table'"), sql("SELECT sum(lp_len - t_hoff) FROM generate_series(0, pg_relation_size('$table') / 8192 - 1) b, heap_page_items(get_raw_page('$table', b::integer))"),
		"$table: row_bytes is what stands on the pages");
	is(sql("SELECT rows, batch > 0, wa_wal = wal_bytes / row_bytes::float8, severity, confidence FROM kappa.stream_wal WHERE name = '$table'"),
		$messages + 2 . '|t|t|ok|high', "$table: kappa.stream_wal");
}
is(sql("SELECT per_index_share FROM kappa.stream_wal WHERE name = 'triggered'"), '', 'by SQL: what its indexes took is not known');
is(sql("SELECT per_index_share ? 'public.keyed_pkey' FROM kappa.stream_wal WHERE name = 'keyed'"), 't', 'by the key: its index');

# by index: the records of the index, since the table was empty
for my $index ('fast_pkey', '"Fast pad"', 'fast_expression')
{
	my $counted = sql("SELECT sum((index_bytes->>('public.' || \$\$$index\$\$))::bigint) FROM kappa.worker_wal() JOIN kappa.subscription s ON s.id = subscription WHERE name = 'fast'") || 0;
	my $written = sql("SELECT coalesce(sum(bytes), 0) FROM kappa.wal_volume('$start', NULL, 1000000000) WHERE rel = '$index'::regclass
		AND record_type LIKE 'Btree/%' AND record_type NOT IN ('Btree/VACUUM', 'Btree/DELETE')");

	cmp_ok(abs($counted - $written), '<', 0.01 * $written, "$index: $counted counted, $written written");
}
is(sql("SELECT (SELECT sum(v::float8) < 1 FROM jsonb_each_text(per_index_share) e(k, v)), (per_index_share->>'public.\"Fast pad\"')::float8 > 0.2 FROM kappa.stream_wal WHERE name = 'fast'"),
	't|t', 'shares of the whole');

# one row a batch: it warns, and the advice is an answer
sql("SELECT kappa.alter_subscription('triggered', batch_rows => 1)");
tool('produce', '--seed', 7, '--topic', 'triggered', '--kind', 'plain', '--messages', 300);
sql("SELECT kappa.drain('triggered')");
is((as_role('monitor', "SELECT count(*) FROM kappa.stream_wal WHERE wa_wal IS NOT NULL"))[0], 3, 'pg_monitor sees all streams');
is((as_role('nobody_at_all', 'SELECT count(*) FROM kappa.stream_wal'))[0], 0, 'others see their own');

done_testing();
