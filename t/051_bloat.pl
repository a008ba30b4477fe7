# kappa.table_bloat, index_bloat, btree_shape against what VACUUM FULL and REINDEX then do.
#
# Each shape is made twice: as it was loaded, and with rows deleted and the table vacuumed.  The
# prediction comes first, then the server's own rewriting, which is the truth.  No broker.

use strict;
use warnings;

use KappaTest;
use Test::More;
use Time::HiRes qw(time);

my $seed = seed();
my $node = kappa_node('bloat', 'autovacuum = off', 'fsync = off', 'max_prepared_transactions = 5',
	'maintenance_work_mem = 64MB', 'wal_level = replica', 'max_wal_senders = 5', 'log_min_messages = warning');

sub sql { return $node->safe_psql('postgres', $_[0]); }

# The statement's ERROR, with SQLSTATE and HINT
sub refused
{
	my (undef, undef, $error) = $node->psql('postgres', $_[0], extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	return $error;
}

sub pct { my ($before, $after) = @_; return $before > 0 ? 100 * ($before - $after) / $before : 0; }

sub within
{
	my ($got, $wanted, $points, $name) = @_;
	ok(abs($got - $wanted) <= $points, sprintf('%s: %.2f, truth %.2f', $name, $got, $wanted));
}

sql("CREATE EXTENSION IF NOT EXISTS pageinspect; SELECT setseed(" . ($seed % 1000) / 1000 . ")");

# ---------------------------------------------------------------- tables

# name => columns with options, rows, how row i is made, which rows are deleted
my %shapes = (
	mixed => [ '(id bigint, name text, flag boolean, amount numeric, ts timestamptz, note text)', 60000,
		"i, 'name ' || i, i % 2 = 0, i / 7.0, now(), CASE WHEN i % 3 = 0 THEN repeat('x', i % 60) END", 'random() < 0.4' ],
	padding => [ '(a boolean, b bigint, c boolean, d bigint, e smallint, f double precision)', 90000,
		'true, i, false, i, 1, i', 'random() < 0.4' ],
	fillfactor => [ '(id bigint, name text) WITH (fillfactor = 70)', 90000, "i, 'name ' || i", 'random() < 0.4' ],
	region => [ '(id bigint, name text)', 120000, "i, md5(i::text)", 'id BETWEEN 30000 AND 80000' ],
	tiny => [ '(id bigint, name text)', 150, "i, md5(i::text)", 'random() < 0.4' ],
	wide => [ '(id bigint, body text)', 2000, "i, (SELECT string_agg(md5((i * 100 + k)::text), '') FROM generate_series(1, 20 + i % 20) k)",
		'random() < 0.4' ],
	dropped => [ '(id bigint, gone text, name text)', 60000, "i, md5(i::text), 'n' || i", 'random() < 0.3' ],
	narrow => [ '(flag boolean)', 200000, 'true', 'random() < 0.5' ],
	external => [ '(id bigint, body text)', 2400, "i, (SELECT string_agg(md5((i * 100 + k)::text), '') FROM generate_series(1, 100) k)",
		'random() < 0.4' ]);

sub make_table
{
	my ($table, $shape, $churned) = @_;
	my ($columns, $rows, $values, $doomed) = @{ $shapes{$shape} };

	sql("CREATE TABLE $table $columns");
	sql("ALTER TABLE $table ALTER body SET STORAGE EXTERNAL") if $shape eq 'external';
	sql("INSERT INTO $table SELECT $values FROM generate_series(1, $rows) i");
	sql("ALTER TABLE $table DROP gone; ALTER TABLE $table ADD since timestamptz DEFAULT '2020-01-01', ADD kind integer DEFAULT 7")
	  if $shape eq 'dropped';
	return unless $churned;
	sql("DELETE FROM $table WHERE $doomed");
	sql("VACUUM (TRUNCATE off) $table");
}

# Sizes of main fork and TOAST's
sub sizes
{
	return split /\|/, sql("SELECT pg_relation_size(oid), CASE WHEN reltoastrelid > 0 THEN pg_relation_size(reltoastrelid) ELSE 0 END
		FROM pg_class WHERE oid = \$\$$_[0]\$\$::regclass");
}

for my $shape (sort keys %shapes)
{
	for my $churned (0, 1)
	{
		my $table = "${shape}_$churned";
		make_table($table, $shape, $churned);
		my ($main, $toast) = sizes($table);
		# few large rows on a page: their number differs much from page to page
		my $pages = $shape eq 'external' ? 1024 : 256;
		my ($pct, $toast_free, $read) = split /\|/, sql("SELECT pct, coalesce(toast_reclaimable, 0), pages_read FROM kappa.table_bloat('$table', $pages)");
		my ($exact, $exact_toast) = split /\|/, sql("SELECT pct, coalesce(toast_reclaimable, 0) FROM kappa.table_bloat('$table', exact => true)");
		sql("VACUUM FULL $table");
		my ($main_after, $toast_after) = sizes($table);
		within($pct, pct($main, $main_after), 2, "$table, $read pages read");
		within($exact, pct($main, $main_after), 0.2, "$table, exact");
		next unless $shape eq 'external';
		within(pct($toast, $toast - $toast_free), pct($toast, $toast_after), 2, "$table, TOAST");
		within(pct($toast, $toast - $exact_toast), pct($toast, $toast_after), 0.2, "$table, TOAST, exact");
	}
}

# ---------------------------------------------------------------- indexes

# name => definition; %s is the table
my %indexes = (
	bigint     => '%s (id)',
	uuid       => '%s (u)',
	fifty      => '%s (k)',
	texts      => '%s (t)',
	partial    => "%s (id) WHERE k < 20",
	expression => '%s (lower(t), k)',
	single     => '%s (u) INCLUDE (k)',
	apart      => '%s (t) WITH (deduplicate_items = off, fillfactor = 75)',
	wide       => "%s ((repeat(t, 10) || id))");

# as loaded; deleted from and vacuumed; deleted from and not vacuumed
for my $churned (0, 1, 2)
{
	my $table = "keys_$churned";
	sql("CREATE TABLE $table (id bigint, u uuid, k integer, t text)");
	sql("CREATE " . ($_ eq 'single' ? 'UNIQUE ' : '') . "INDEX ${table}_$_ ON " . sprintf($indexes{$_}, $table)) for sort keys %indexes;
	sql("INSERT INTO $table SELECT i, gen_random_uuid(), i * 7919 % 50, 'Key number ' || i * 7919 % 10000 FROM generate_series(1, 100000) i");
	sql("VACUUM ANALYZE $table");
	my ($regrows, $advice) = split /\|/, sql("SELECT regrows, advice IS NULL AND severity = 'ok' FROM kappa.index_bloat('${table}_uuid')");
	is("$regrows|$advice", 't|t', 'a fresh index over uuid is not advised: it would grow again') if $churned == 0;
	sql("DELETE FROM $table WHERE random() < 0.4") if $churned;
	sql("VACUUM $table") if $churned == 1;
	# a scan marks some entries dead
	sql("SET enable_seqscan = off; SELECT count(id + k) FROM $table WHERE id BETWEEN 30000 AND 80000") if $churned == 2;
	for my $index (map { "${table}_$_" } sort keys %indexes)
	{
		my $before = sql("SELECT pg_relation_size('$index')");
		# by ten calls: what one of them samples may be three standard errors away, once in a few hundred
		my $calls = "FROM generate_series(1, 10) i CROSS JOIN LATERAL kappa.index_bloat(CASE WHEN i > 0 THEN '$index'::regclass END";
		my ($pct, $read, $regrows) = split /\|/, sql("SELECT avg(pct), max(pages_read), bool_and(regrows) $calls)");
		my $exact = sql("SELECT avg(pct) $calls, exact => true)");
		my $density = sql("SELECT avg_leaf_density FROM pgstatindex('$index')");
		sql("REINDEX INDEX $index");
		my $truth = pct($before, sql("SELECT pg_relation_size('$index')"));
		within($pct, $truth, 3, "$index, $read of " . $before / 8192 . " pages read, regrows $regrows");
		within($exact, $truth, $churned == 2 ? 2 : 1, "$index, exact");
	}
}

# btree_shape is pgstatindex where all pages are read
for my $index ('keys_1_fifty', 'keys_1_texts', 'pg_class_oid_index')
{
	is(sql("SELECT levels, leaf, internal, deleted, half_dead, round(density::numeric, 2), round(fragmentation::numeric, 2), pages_read * 8192 FROM kappa.btree_shape('$index')"),
		sql("SELECT tree_level, leaf_pages, internal_pages, deleted_pages, empty_pages, round(avg_leaf_density::numeric, 2), round(leaf_fragmentation::numeric, 2), index_size FROM pgstatindex('$index')"),
		"btree_shape of $index is pgstatindex's");
}
sql("DELETE FROM keys_1 WHERE id % 50 < 45 OR id < 60000; VACUUM keys_1; CREATE TABLE empty_keys (id integer PRIMARY KEY)");
is(sql("SELECT levels, leaf, internal, deleted, half_dead, round(density::numeric, 2) FROM kappa.btree_shape('keys_1_wide', exact => true)"),
	sql("SELECT tree_level, leaf_pages, internal_pages, deleted_pages, empty_pages, round(avg_leaf_density::numeric, 2) FROM pgstatindex('keys_1_wide')"),
	'also with deleted pages');
is(sql("SELECT dup_ratio, append_share, entries FROM kappa.btree_shape('keys_0_bigint', exact => true)"),
	sql("SELECT 0, 100 * (leaf_pages - 2 - internal_pages + 1) / leaf_pages::float8, 100000 FROM pgstatindex('keys_0_bigint')"),
	'a fresh index over growing keys: all leaves in order but where an internal page stands between');
cmp_ok(sql("SELECT dup_ratio FROM kappa.btree_shape('keys_0_fifty')"), '>', 99, 'all keys of the index over 50 values are repeated');
is(sql("SELECT levels, leaf, entries, density IS NULL, severity FROM kappa.btree_shape('empty_keys_pkey')"), '0|0|0|t|ok', 'btree_shape of an empty index');
is(sql("SELECT pages, pct, severity, advice IS NULL FROM kappa.index_bloat('empty_keys_pkey')"), '1|0|ok|t', 'index_bloat of it');

# ---------------------------------------------------------------- splits

sql("CREATE EXTENSION pg_walinspect; CREATE TABLE split (id bigint, u uuid, k integer); CREATE INDEX split_id ON split (id);
	CREATE INDEX split_u ON split (u); CREATE INDEX split_k ON split (k); INSERT INTO split SELECT i, gen_random_uuid(), i % 50 FROM generate_series(1, 500) i");
sub split_pages { return map { sql("SELECT pg_relation_size('$_') / 8192") } qw(split_id split_u split_k); }
my @before = split_pages();
my $lsn1 = sql("SELECT pg_current_wal_insert_lsn()");
sql("INSERT INTO split SELECT i, gen_random_uuid(), i % 50 FROM generate_series(501, 80000) i");
my $lsn2 = sql("SELECT pg_current_wal_insert_lsn()");
my @after = split_pages();
# the server's own tool on the same records
my $info = "SELECT count(*) FILTER (WHERE record_type LIKE 'SPLIT%' AND description ~ 'level:? 0') AS leaf,
	count(*) FILTER (WHERE record_type LIKE 'SPLIT%' AND description !~ 'level:? 0') AS upper, count(*) FILTER (WHERE record_type = 'NEWROOT') AS roots,
	count(*) FILTER (WHERE record_type ~ '^(INSERT_LEAF|INSERT_POST)' OR record_type LIKE 'SPLIT%' AND description ~ 'level:? 0') AS inserts,
	sum(record_length) FILTER (WHERE record_type ~ '^(SPLIT|NEWROOT)') AS bytes, sum(fpi_length) FILTER (WHERE record_type ~ '^(SPLIT|NEWROOT)') AS fpi
	FROM pg_get_wal_records_info('$lsn1', '$lsn2') WHERE resource_manager = 'Btree'";
for my $i (0 .. 2)
{
	my $index = (qw(split_id split_u split_k))[$i];
	is(sql("SELECT leaf_splits + internal_splits + newroots, pages_before, pages_after FROM kappa.btree_splits('$lsn1', '$lsn2') WHERE index = '$index'::regclass"),
		join('|', $after[$i] - $before[$i], $before[$i], $after[$i]), "$index: pages after - pages before = splits + new roots");
	is(sql("SELECT leaf_splits, internal_splits, newroots, inserts, bytes, fpi_bytes FROM kappa.btree_splits('$lsn1', '$lsn2') WHERE index = '$index'::regclass"),
		sql("$info AND block_ref LIKE '%/' || pg_relation_filenode('$index') || ' fork main%'"), 'as pg_walinspect counts them');
}
is(sql("SELECT string_agg(index || ' ' || (right_share > 0.95) || ' ' || (right_share < 0.3), ', ' ORDER BY index::text)
	FROM kappa.btree_splits('$lsn1', '$lsn2') WHERE index IN ('split_id'::regclass, 'split_u'::regclass)"), 'split_id true false, split_u false true',
	'growing keys split at the right end, random ones do not');
is(sql("SELECT bool_and(cut AND to_lsn < '$lsn2' AND confidence = 'medium'), sum(leaf_splits) > 0 FROM kappa.btree_splits('$lsn1', '$lsn2', 3000000)"), 't|t', 'max_bytes ends the scan, and it says so');
is(sql("BEGIN; DROP INDEX split_u; SELECT count(*), min(reason) ~ 'dropped or rewritten' FROM kappa.btree_splits('$lsn1', '$lsn2') WHERE index IS NULL; ROLLBACK"), '1|t', 'an index that is gone has no name');
like(refused("SELECT kappa.btree_splits(NULL)"), qr/22004: .*HINT/s, 'NULL as lsn1 is refused');

# ---------------------------------------------------------------- parts of the answer

# what alignment takes: 7 + 7 + 6 bytes a row here; and what fillfactor keeps free
is(sql("SELECT padding FROM kappa.table_bloat('padding_0', exact => true)"), 20 * 90000, 'padding');
is(sql("SELECT fillfactor_reserve = needed * 30 / 100, reclaimable FROM kappa.table_bloat('fillfactor_0', exact => true)"), 't|0', 'the reserve of fillfactor is no bloat');

# partitions
sql("CREATE TABLE \"Parts of it\" (id bigint, name text) PARTITION BY RANGE (id);
	CREATE TABLE part_1 PARTITION OF \"Parts of it\" FOR VALUES FROM (0) TO (40000);
	CREATE TABLE \"part 2\" PARTITION OF \"Parts of it\" FOR VALUES FROM (40000) TO (100000) PARTITION BY RANGE (id);
	CREATE TABLE part_2a PARTITION OF \"part 2\" FOR VALUES FROM (40000) TO (90000);
	CREATE TABLE \"part's 2b\" PARTITION OF \"part 2\" FOR VALUES FROM (90000) TO (100000);
	CREATE INDEX parts_id ON \"Parts of it\" (id);
	INSERT INTO \"Parts of it\" SELECT i, md5(i::text) FROM generate_series(1, 99999) i;
	DELETE FROM \"Parts of it\" WHERE id % 10 < 6 AND id BETWEEN 40000 AND 89999; VACUUM \"Parts of it\"");
my %said = split /[|\n]/, sql("SELECT relation, pct FROM kappa.table_bloat('\"Parts of it\"')");
my %had = map { $_ => (sizes($_))[0] } keys %said;
is(join(',', sort keys %said), q{"part's 2b",part_1,part_2a}, 'a row for each partition that has pages');
is(sql("SELECT string_agg(index::text, ',' ORDER BY index::text COLLATE \"C\") FROM kappa.index_bloat('parts_id')"),
	q{"part's 2b_id_idx",part_1_id_idx,part_2a_id_idx}, 'and for each of its index');
sql("VACUUM FULL \"Parts of it\"");
within($said{$_}, pct($had{$_}, (sizes($_))[0]), 2, "partition $_") for sort keys %said;

# empty pages at the end of the file
sql("CREATE TABLE tail AS SELECT i AS id, md5(i::text) AS name FROM generate_series(1, 120000) i; DELETE FROM tail WHERE id > 80000");
my ($real, $tail, $dead, $pct) = split /\|/, sql("SELECT real, free_tail, dead, pct FROM kappa.table_bloat('tail')");
sql("VACUUM tail");
my $given_back = $real - (sizes('tail'))[0];
within($tail / 8192, $given_back / 8192, 2 * $real / 8192 / 256, 'free_tail is what VACUUM gives back, pages');
within(pct($real, $real - $dead), 100 / 3, 2, 'dead rows before VACUUM');
within($pct, pct($real, (sizes('tail'))[0]), 2, 'and they count as reclaimable');

# rows that an old snapshot keeps
sql("CREATE TABLE kept AS SELECT i AS id, md5(i::text) AS name FROM generate_series(1, 60000) i;
	BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'old'");
sql("DELETE FROM kept WHERE id % 10 < 3; VACUUM kept");
my ($main) = sizes('kept');
($pct, my $kept, my $reason) = split /\|/, sql("SELECT pct, kept, reason FROM kappa.table_bloat('kept')");
sql("VACUUM FULL kept");
within($pct, pct($main, (sizes('kept'))[0]), 2, 'dead rows that a prepared transaction keeps are needed');
within(100 * $kept / $main, 30, 1, 'kept says how many they are');
like($reason, qr/old snapshot keeps \(kappa\.vacuum_blockers\)/, 'and the reason who knows more');
sql("ROLLBACK PREPARED 'old'");
within(sql("SELECT pct FROM kappa.table_bloat('kept')"), 30, 2, 'when it has ended they are reclaimable');

# advice: large enough to be worth it, and done as advised
sql("CREATE TABLE \"To mend\" (id bigint, body text) WITH (fillfactor = 10);
	ALTER TABLE \"To mend\" ALTER body SET STORAGE PLAIN;
	INSERT INTO \"To mend\" SELECT i, repeat(md5(i::text), 22) FROM generate_series(1, 16000) i;
	ALTER TABLE \"To mend\" RESET (fillfactor);
	CREATE TABLE numbers AS SELECT i FROM generate_series(1, 600000) i;
	CREATE INDEX \"Mend it\" ON numbers (i) WITH (fillfactor = 10); ALTER INDEX \"Mend it\" RESET (fillfactor)");
my $advice;
(my $severity, $advice) = split /\|/, sql("SELECT severity, advice FROM kappa.table_bloat('\"To mend\"')");
is("$severity: $advice", 'warn: VACUUM (FULL) public."To mend";', 'the advice for a table');
sql($advice);
is(sql("SELECT severity, advice IS NULL, pct < 1 FROM kappa.table_bloat('\"To mend\"')"), 'ok|t|t', 'mends it');
($severity, $advice, my $needed) = split /\|/, sql("SELECT severity, advice, free_needed FROM kappa.index_bloat('\"Mend it\"')");
is("$severity: $advice", 'warn: REINDEX INDEX CONCURRENTLY public."Mend it";', 'the advice for an index');
sql($advice);
within($needed / 8192, sql("SELECT pg_relation_size('\"Mend it\"') / 8192"), 20, 'it needs the space that it said, pages');
is(sql("SELECT severity, advice IS NULL, pct < 1 FROM kappa.index_bloat('\"Mend it\"')"), 'ok|t|t', 'and mends it');
refused("CREATE UNIQUE INDEX CONCURRENTLY broken ON kept ((id % 100))");
($severity, $advice) = split /\|/, sql("SELECT severity, advice FROM kappa.index_bloat('broken')");
is("$severity: $advice", 'warn: DROP INDEX CONCURRENTLY public.broken;', 'the advice for an invalid index');
sql($advice);
is(sql("SELECT string_agg(kappa.bloat_severity(b * 1048576.0, t * 1048576.0), ' ') FROM (VALUES (99, 100), (100, 300), (100, 400), (1024, 2048), (1023, 2048), (100, 10000), (0, 0)) v (b, t)"),
	'info warn info critical warn ok ok', 'levels');

# ---------------------------------------------------------------- interval and bound


# each page is full or half empty, at random
sql("CREATE TABLE ragged AS SELECT i AS id, repeat('x', (i % 7) * 20) AS name FROM generate_series(1, 60000) i;
	DELETE FROM ragged WHERE id % 2 = 0 AND hashint4((ctid::text::point)[0]::integer) % 2 = 0; VACUUM ragged");
my $truth = sql("SELECT pct FROM kappa.table_bloat('ragged', exact => true)");
my ($hits, $mean) = split /\|/, sql("SELECT count(*) FILTER (WHERE abs(b.pct - $truth) <= b.ci95), avg(b.pct)
	FROM generate_series(1, 1000) i CROSS JOIN LATERAL kappa.table_bloat(CASE WHEN i > 0 THEN 'ragged'::regclass END, 24) b");
# a sample's standard deviation is 5.0 points, so 0.8 are five of their mean's
ok($hits >= 900 && $hits <= 990, "$hits of 1000 samples have the truth in their 95 % interval");
within($mean, $truth, 0.8, 'and their mean is without bias');

sql("CREATE TABLE large AS SELECT i AS id, repeat('x', 500) AS body FROM generate_series(1, 40000) i; CREATE INDEX large_id ON large (body, id)");
for my $call ("kappa.table_bloat('large')", "kappa.table_bloat('large', 40)", "kappa.index_bloat('large_id')", "kappa.index_bloat('large_id', 40)",
	"kappa.btree_shape('large_id')", 'kappa.table_bloat()', 'kappa.index_bloat()')
{
	my $count = "SELECT pg_stat_force_next_flush(); SELECT 'n' || sum(heap_blks_read + heap_blks_hit + coalesce(idx_blks_read + idx_blks_hit, 0)
		+ coalesce(toast_blks_read + toast_blks_hit, 0)) FROM pg_statio_user_tables";
	my $out = sql("$count; SELECT 'r' || sum(pages_read) FROM $call; $count");
	my ($before, $after) = $out =~ /^n(\d+)$/mg;
	my ($read) = $out =~ /^r(\d+)$/m;
	my $bound = $call =~ /40\)/ ? 40 : $call =~ /\(\)/ ? 1024 : 256;
	cmp_ok($after - $before, '<=', $bound, "$call reads at most $bound pages of user tables");
	cmp_ok($read, '<=', $bound, "and says $read");
	is($after - $before, $read, 'which is what the server counts') unless $call =~ /\(\)/;
}
is(sql("SELECT count(*) FROM (SELECT relation FROM kappa.table_bloat() UNION ALL SELECT index FROM kappa.index_bloat()) b WHERE relation IN ('empty_keys'::regclass, 'empty_keys_pkey'::regclass)"),
	'2', 'all that has pages, or may have, is asked for');
sql('ANALYZE empty_keys');
is(sql("SELECT count(*) FROM (SELECT relation FROM kappa.table_bloat() UNION ALL SELECT index FROM kappa.index_bloat()) b WHERE relation IN ('empty_keys'::regclass, 'empty_keys_pkey'::regclass)"),
	'0', 'but what is known to be small');
sql("CREATE TABLE forty (part integer, body text) PARTITION BY LIST (part)");
sql(join '', map { "CREATE TABLE forty_$_ PARTITION OF forty FOR VALUES IN ($_);" } 1 .. 40);
sql("INSERT INTO forty SELECT i % 40 + 1, repeat('x', 800) FROM generate_series(1, 13500) i");
is(sql("SELECT string_agg(DISTINCT reason, ''), count(*), (SELECT sum(pages_read) FROM kappa.table_bloat('forty')) FROM kappa.table_bloat('forty') WHERE severity = 'unknown'"),
	"the call's bound of 1024 pages is used up by larger ones: ask for it alone|8|1024", 'tables beyond the bound are unknown, and say so');

# ---------------------------------------------------------------- what cannot be told

# a table or index that somebody has locked
sql("CREATE TABLE locked (id integer PRIMARY KEY); BEGIN; LOCK TABLE locked; REINDEX INDEX locked_pkey; PREPARE TRANSACTION 'lock'");
for my $call ("kappa.table_bloat('locked'::regclass::oid)", "kappa.index_bloat('locked_pkey'::regclass::oid)", "kappa.btree_shape('locked_pkey'::regclass::oid)",
	"kappa.table_bloat('locked'::regclass::oid, exact => true)")
{
	my ($severity, $reason, $ms) = split /\|/, sql("CREATE TEMP TABLE t AS SELECT clock_timestamp() AS a;
		SELECT severity, reason, round(1000 * extract(epoch FROM clock_timestamp() - (SELECT a FROM t))) FROM $call");
	is($severity, 'unknown', "$call is unknown while it is locked");
	like($reason, qr/locked/, 'and says so');
	cmp_ok($ms, '<', 250, "after $ms ms");
}
my $start = time();
is(sql("SELECT severity FROM kappa.table_bloat() WHERE relation = 'locked'::regclass::oid"), 'unknown', 'among all tables it is skipped');
cmp_ok(time() - $start, '<', 2, 'and holds up nobody');
sql("COMMIT PREPARED 'lock'");

# kinds
sql("CREATE VIEW a_view AS SELECT 1 AS a; CREATE MATERIALIZED VIEW a_matview AS SELECT i FROM generate_series(1, 1000) i;
	CREATE FOREIGN DATA WRAPPER dummy; CREATE SERVER dummy FOREIGN DATA WRAPPER dummy; CREATE FOREIGN TABLE a_foreign (a integer) SERVER dummy;
	CREATE TABLE a_parent (id integer) PARTITION BY LIST (id); CREATE INDEX ON a_parent (id);
	CREATE UNLOGGED TABLE an_unlogged AS SELECT i FROM generate_series(1, 1000) i; CREATE INDEX a_brin ON an_unlogged USING brin (i)");
for my $kind ([ 'a_view', 'unknown' ], [ 'a_matview', 'ok' ], [ 'a_foreign', 'unknown' ], [ 'a_parent', 'unknown' ], [ 'an_unlogged', 'ok' ],
	[ 'locked_pkey', 'unknown' ], [ 'empty_keys', 'ok' ], [ 'pg_class', 'ok' ], [ '0', 'unknown' ], [ '987654', 'unknown' ])
{
	is(sql("SELECT severity, (severity = 'unknown') = (real IS NULL), reason <> '' FROM kappa.table_bloat('$kind->[0]')"), "$kind->[1]|t|t", "table_bloat of $kind->[0]");
}
for my $kind ([ 'a_view', 'unknown' ], [ 'an_unlogged', 'unknown' ], [ 'a_parent_id_idx', 'unknown' ], [ 'a_brin', 'unknown' ], [ 'locked_pkey', 'ok' ],
	[ 'pg_class_oid_index', 'ok' ], [ '987654', 'unknown' ])
{
	is(sql("SELECT severity, (severity = 'unknown') = (pages IS NULL), reason <> '' FROM kappa.index_bloat('$kind->[0]')"), "$kind->[1]|t|t", "index_bloat of $kind->[0]");
	is(sql("SELECT severity FROM kappa.btree_shape('$kind->[0]')"), $kind->[1], "btree_shape of $kind->[0]");
}
is(sql("CREATE TEMP TABLE mine AS SELECT i FROM generate_series(1, 1000) i; SELECT severity FROM kappa.table_bloat('mine')"), 'ok', 'a temporary table of ours');
is(sql("SELECT count(*) FROM kappa.btree_shape(NULL)"), '0', 'NULL is no index');
is(sql("SELECT severity FROM kappa.table_bloat('large', NULL, NULL)"), 'ok', 'NULL for pages and exact: the defaults');
like(refused("SELECT kappa.table_bloat('large', 0)"), qr/22023: .*pages must be 1 or more/s, 'pages => 0 is refused');
is(sql("SELECT severity, pages IS NULL FROM kappa.index_bloat('large_id', 1)"), 'unknown|t', 'one page of an index tells nothing');

my ($in, $out) = ("CREATE TEMP TABLE theirs AS SELECT i FROM generate_series(1, 1000) i; SELECT 'theirs'::regclass::oid;\n", '');
my $session = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, IPC::Run::timeout(30));
$session->pump until $out =~ /(\d+)\n/;
my $theirs = $1;
is(sql("SELECT severity, reason ~ 'another session' FROM kappa.table_bloat($theirs)"), 'unknown|t', "another session's temporary table");
is(sql("SELECT count(*) FROM kappa.table_bloat() WHERE relation = $theirs"), '0', 'is not among all tables');
$in .= "\\q\n";
$session->finish;

# exact quotes the contrib module
like(sql("SELECT reason FROM kappa.table_bloat('large', exact => true)"), qr/; pgstattuple: 40000 rows of .*, 0 dead of 0 bytes, .* free$/, 'exact: pgstattuple beside it');
like(sql("SELECT reason FROM kappa.index_bloat('large_id', exact => true)"), qr/; pgstatindex: \d+ leaf pages, \d+ internal, 0 deleted, [\d.]+ % full$/, 'exact: pgstatindex beside it');

# roles
sql("CREATE ROLE nobody LOGIN; CREATE ROLE monitor LOGIN IN ROLE pg_monitor; CREATE ROLE scanner LOGIN IN ROLE pg_stat_scan_tables");
for my $call ("kappa.table_bloat('large', exact => true)", "kappa.index_bloat('large_id', exact => true)", "kappa.btree_shape('large_id', exact => true)",
	"kappa.btree_splits('$lsn1', '$lsn2')")
{
	my $said = sql("SELECT * FROM $call");
	is(sql("SET ROLE $_; SELECT * FROM $call"), $said, "$call as $_ is the superuser's") for 'monitor', 'scanner';
	like(refused("SET ROLE nobody; SELECT * FROM $call"), qr/ERROR:  42501: permission denied.*HINT: .*pg_stat_scan_tables/s, "$call as nobody is refused with a hint");
}

# An index in the making, of which a role without pg_read_all_stats does not see the progress
{
	my $holder = $node->background_psql('postgres');
	my $making = "SELECT indexrelid FROM pg_index WHERE indrelid = 'numbers'::regclass AND NOT indisvalid";

	$holder->query_safe('BEGIN; LOCK TABLE numbers IN ROW EXCLUSIVE MODE');
	my $builder = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'REINDEX TABLE CONCURRENTLY numbers' ], '<', \undef, '>', \my $built, '2>', \my $error,
		IPC::Run::timeout(60));
	ok($node->poll_query_until('postgres', "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'virtualxid'"), 'REINDEX CONCURRENTLY waits');
	is(sql("SET ROLE $_; SELECT severity, reason, advice FROM kappa.index_bloat(($making))"), 'unknown|it has no pages yet: it is being built|', "$_: an index in the making is no left-over") for 'scanner', 'monitor';
	$holder->query_safe('ROLLBACK');
	$holder->quit;
	ok($builder->finish, 'it ends');
}
sql('CREATE TABLE hp (i int) PARTITION BY LIST (i); CREATE TABLE hp_1 PARTITION OF hp FOR VALUES IN (1); CREATE INDEX hp_only ON ONLY hp (i)');
is(sql("SELECT severity, advice FROM kappa.index_bloat('hp_only')"), 'unknown|', 'nor one that waits for its partitions');

# a standby answers the same
$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('bloat_standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
for my $call ("relation, real, needed FROM kappa.table_bloat('kept', exact => true)", "pages, expected_pages FROM kappa.index_bloat('keys_1_fifty', exact => true)")
{
	is($standby->safe_psql('postgres', "SELECT $call"), sql("SELECT $call"), "on a standby: $call");
}
is($standby->safe_psql('postgres', "SELECT severity, reason ~ 'recovery' FROM kappa.table_bloat('an_unlogged')"), 'unknown|t', 'but for unlogged tables');
$standby->stop('immediate');

# a line pointer of a leaf that leads out of its page
sql('CREATE TABLE harmed AS SELECT i FROM generate_series(1, 50000) i; CREATE INDEX harmed_i ON harmed (i); CHECKPOINT');
my $file = $node->data_dir . '/' . sql("SELECT pg_relation_filepath('harmed_i')");
my $checksums = sql('SHOW data_checksums');
$node->stop;
open(my $index, '+<:raw', $file) or die "$file: $!";
seek($index, 8192 + 24 + 4 * 5, 0);
print $index pack('V', 32000 | 1 << 15 | 16 << 17);
close $index;
# where the cluster has checksums (from 18 on all have) they would speak first
PostgreSQL::Test::Utils::system_or_bail('pg_checksums', '--disable', '-D', $node->data_dir) if $checksums eq 'on';
$node->start;
is(sql("SELECT severity, reason ~ 'page 1 is no page of a B-tree.*amcheck' FROM kappa.$_('harmed_i')"), 'unknown|t', "$_ of a damaged leaf") for 'index_bloat', 'btree_shape';

# a page that its checksum refuses: the relation's own problem, and nobody else's
my $table = $node->data_dir . '/' . sql("SELECT pg_relation_filepath('harmed')");
$node->stop;
PostgreSQL::Test::Utils::system_or_bail('pg_checksums', '--enable', '-D', $node->data_dir);
open(my $pages, '+<:raw', $table) or die "$table: $!";
seek($pages, 8192 * 2 + 4000, 0);
print $pages 'harm';
close $pages;
$node->start;
my $unreadable = "SELECT severity, reason ~ 'invalid page in block 2 .*restore' FROM kappa.table_bloat";
is(sql("$unreadable('harmed')"), 'unknown|t', 'a page that cannot be read');
is(sql("$unreadable(NULL, 100000) WHERE relation = 'harmed'::regclass"), 'unknown|t', 'among all tables');
is(sql("SELECT count(*) > 3, count(*) FILTER (WHERE severity = 'unknown' AND reason ~ 'cannot be read') FROM kappa.table_bloat(NULL, 100000)"), 't|1', 'whose rows are there all the same');
is(sql("BEGIN; SELECT severity FROM kappa.table_bloat('harmed'); SELECT count(*) FROM pg_locks WHERE relation = 'harmed'::regclass; COMMIT"), "unknown\n0", 'and nothing stays locked');

done_testing();
