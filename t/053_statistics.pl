# The planner's statistics against the truth: what was appended since ANALYZE, columns
# whose order on disk fools a sample of pages, estimates and what then came.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = kappa_node('statistics', 'autovacuum = off', 'jit = off');

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub as_role
{
	my ($role, $statement) = @_;
	my ($code, $out, $error) = $node->psql('postgres', "SET ROLE $role; $statement",
		extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	return ($out, $error);
}

sub refused
{
	my ($statement, $state, $words, $name) = @_;
	my (undef, $error) = as_role('postgres', $statement);

	like($error, qr/ERROR:  $state: .*$words/s, $name);
}

# One column's numbers
sub column
{
	my ($table, $column, $what) = @_;
	return sql("SELECT $what FROM kappa.stats_staleness('$table') WHERE col = '$column'");
}

# The distance between a column's statistics and all of its rows, computed another way: for each
# bound of the histogram the share of all rows up to it, counted by the table itself.  Without MCVs.
sub true_distance
{
	my ($table, $column, $type) = @_;
	return sql(qq{
		SELECT max(abs((SELECT count(*) FROM $table WHERE $column <= b) / (SELECT count(*) FROM $table)::float8 - (i - 1) / (n - 1)::float8))
		  FROM (SELECT b, i, count(*) OVER () AS n FROM pg_stats, unnest(histogram_bounds::text::$type\[]) WITH ORDINALITY u(b, i)
		         WHERE tablename = '$table' AND attname = '$column') x});
}

seed();
sql('CREATE ROLE monitor IN ROLE pg_monitor; CREATE ROLE nobody_at_all; CREATE ROLE reader');

# ---------------------------------------------------------------- staleness

# id, ts: grow with time; r: at random; few: 20 values; nulls: two of three; sawtooth: a page holds a ninth of the
# range; clumps: 50 neighbours are alike, in no order
my $rows = 100_000;
my $more = 10_000 + pick(30_000);
my $fill = q{INSERT INTO drifting SELECT g, '2024-01-01'::timestamptz + g * interval '1 s', random(), 'c' || (g % 20), CASE WHEN g % 3 = 0 THEN g END,
	'{}', g % 1000, hashint4(g / 50) FROM generate_series(%s, %s) g; SELECT pg_stat_force_next_flush()};
sql('SELECT setseed(0.5); CREATE TABLE drifting (id bigint, ts timestamptz, r float8, few text, nulls integer, j json, "Saw Tooth" integer, clumps integer)');
sql(sprintf $fill, 1, $rows);
is(column('drifting', 'id', 'severity, advice, ks'), 'warn|ANALYZE public.drifting (id);|', 'never analyzed: a warning, no number');
sql('ANALYZE drifting');
my $settled = q{SELECT max(ks) FILTER (WHERE col NOT IN ('clumps', 'Saw Tooth')) < 0.05, max(ks) < 0.1 FROM kappa.stats_staleness('drifting')};
# neighbours that are alike on pages in no order: 256 pages are then not many more than 256 values
is(sql($settled), 't|t', 'after ANALYZE the distance is small, also of columns in the order of the disk');
is(sql("SELECT string_agg(DISTINCT severity, ',') FROM kappa.stats_staleness('drifting') WHERE col <> 'j'"), 'ok', 'and nothing is found, also not in clumps');
is(column('drifting', 'j', 'severity, ks, reason'), 'unknown||values of type json have no order of their own that could be compared with', 'a type without order');
is(sql("SELECT count(*) FROM kappa.stats_staleness('drifting') WHERE outside_share > 0.01"), 0, 'nothing outside');

sql(sprintf $fill, $rows + 1, $rows + $more);
my $share = $more / ($rows + $more);
note("appended $more rows, a share of $share");
for my $column ('id', 'ts', 'nulls')
{
	cmp_ok(abs(column('drifting', $column, 'outside_share') - $share), '<', 0.03, "$column: the appended share is found");
}
for my $case ([ 'id', 'bigint' ], [ 'ts', 'timestamptz' ], [ 'r', 'float8' ])
{
	my ($column, $type) = @$case;
	my ($ks, $true) = (column('drifting', $column, 'ks'), true_distance('drifting', $column, $type));

	cmp_ok(abs($ks - $true), '<', 0.04, "$column: distance $ks, of all rows $true");
}
# one value in many may still lie above those of ANALYZE's sample
is(column('drifting', 'r', 'severity, outside_share < 0.001, new_max::float8 < 1 IS NOT FALSE'), 'ok|t|t', 'a column that does not grow: nothing is found');
like(column('drifting', 'id', 'severity, advice, new_max::bigint > 100000'), qr/^(warn|critical)\|ANALYZE public.drifting \(id\);\|t$/, 'one that does: advice, and how far it goes');
is(column('drifting', 'id', "round(mods_ratio::numeric, 2) = round(($rows + $more) / 100000.0, 2) OR round(mods_ratio::numeric, 2) = round($more / 100000.0, 2)"), 't', 'mods_ratio: rows changed to rows there');
sql(column('drifting', 'id', 'advice') . 'ANALYZE drifting');
is(sql($settled), 't|t', 'the advice mends it');

# the middle moves, the ends do not; a frequent value becomes rare
sql(q{CREATE TABLE shifted AS SELECT g AS id, (g % 1000)::float8 AS v, CASE WHEN g % 2 = 0 THEN 'often' ELSE 'x' || g END AS word FROM generate_series(1, 20000) g;
	ANALYZE shifted; UPDATE shifted SET v = v * v / 1000, word = CASE WHEN word = 'often' AND id % 4 = 0 THEN 'zz' || id ELSE word END});
cmp_ok(column('shifted', 'v', 'ks'), '>', 0.2, 'values that moved within their range');
cmp_ok(column('shifted', 'word', 'ks'), '>', 0.2, 'a frequent value that became rare');
cmp_ok(column('shifted', 'id', 'ks'), '<', 0.05, 'what did not change');

# the greatest number, not the last in the order of texts; a table so small is read whole
sql('CREATE TABLE longer AS SELECT g AS id FROM generate_series(1, 900) g; ANALYZE longer; INSERT INTO longer SELECT generate_series(901, 1500)');
is(column('longer', 'id', 'new_max, round(outside_share::numeric, 6)'), '1500|0.400000', 'from three digits to four');

# n_distinct, where the sample can tell
sql(q{CREATE TABLE variety AS SELECT g AS id, g % 10 AS kind FROM generate_series(1, 50000) g; ANALYZE variety; UPDATE variety SET kind = id % 100});
my $drift = column('variety', 'kind', 'n_distinct_drift');
ok($drift > 5 && $drift < 20, "ten kinds became a hundred: $drift");
is(sql('SELECT max(n_distinct_drift) < 1.5 FROM (VALUES (1)) x, kappa.stats_staleness(\'drifting\') WHERE col = \'few\''), 't', 'the same twenty values');

# shapes that must not fool or stop it
sql(q{
	CREATE SCHEMA "Sch.ema";
	CREATE TABLE "Sch.ema"."T able" ("C ol" integer, c char(5), v varchar(9) COLLATE "C", b bit(3), a integer[], e bytea, u uuid, n numeric, d date, x "char", bool boolean);
	INSERT INTO "Sch.ema"."T able" SELECT g, 'a' || g % 90, 'b' || g, (g % 8)::bit(3), ARRAY[g], decode(md5(g::text), 'hex'), md5(g::text)::uuid, g / 7.0,
		'2024-01-01'::date + g, 'q', g % 2 = 0 FROM generate_series(1, 3000) g;
	ANALYZE "Sch.ema"."T able";
	CREATE TABLE empty (a integer);
	CREATE TABLE parent (a integer) PARTITION BY RANGE (a);
	CREATE TABLE child PARTITION OF parent FOR VALUES FROM (0) TO (100);
	CREATE TABLE wide (a integer, w text);
	INSERT INTO wide SELECT NULL, repeat(md5(g::text), 60) FROM generate_series(1, 500) g;
	ANALYZE wide;
	CREATE VIEW looks AS SELECT 1 AS a;
	CREATE TABLE hidden (a integer); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; GRANT SELECT ON hidden TO reader;
	INSERT INTO hidden SELECT generate_series(1, 100); ANALYZE hidden;
});
is(sql(q{SELECT string_agg(col || ' ' || severity, ',' ORDER BY col) FROM kappa.stats_staleness('"Sch.ema"."T able"') WHERE severity <> 'ok'}), 'a unknown', 'many types, names that need quotes');
cmp_ok(sql(q{SELECT max(ks) FROM kappa.stats_staleness('"Sch.ema"."T able"')}), '<', 0.001, 'a table that is read whole has no distance');
is(sql("SELECT severity, reason FROM kappa.stats_staleness('empty')"), 'ok|the table is empty', 'empty');
like(sql("SELECT severity, reason FROM kappa.stats_staleness('parent')"), qr/^unknown\|a partitioned table/, 'partitioned');
is(sql("SELECT string_agg(severity || coalesce(ks::text, ''), ',' ORDER BY col) FROM kappa.stats_staleness('wide')"), 'ok0,unknown', 'only NULLs; values too wide for statistics');
like(sql("SELECT severity, reason FROM kappa.stats_staleness('looks')"), qr/^unknown\|it is not a table/, 'a view');
is(sql('SELECT count(*) FROM kappa.stats_staleness(NULL)'), 0, 'NULL: no rows');
like((as_role('reader', "SELECT severity, ks, reason FROM kappa.stats_staleness('hidden')"))[0], qr/^unknown\|\|row security/, 'row security: no number');
is(sql("SELECT severity || coalesce(advice, '') FROM kappa.stats_staleness('drifting', NULL) WHERE col = 'r'"), 'ok', 'pages NULL is the default');

# no more pages than asked for: as the buffer pool saw it
is(sql(q{SELECT pages_read, array_length(tids, 1) FROM kappa.sample_rows('drifting', 17, 1000)}), '17|1000', 'so many pages, so many rows');
my $scans = q{SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE relname = 'drifting'};
my $scanned = sql($scans);
sql(q{SELECT pg_stat_force_next_flush(); SELECT count(*) FROM kappa.stats_staleness('drifting'); SELECT pg_stat_force_next_flush(); SELECT 1});
is(sql($scans), $scanned, 'the table is never read as a whole');

my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE drifting IN ACCESS EXCLUSIVE MODE');
like(sql("SET statement_timeout = '5s'; SELECT DISTINCT severity, reason FROM kappa.stats_staleness('drifting')"), qr/^unknown\|it is locked/, 'locked: it says so, and waits for nobody');
$locker->query_safe('ROLLBACK');
$locker->quit;

# rights: a number only for who may see values
sql('GRANT SELECT (id, r) ON drifting TO reader');
like((as_role('reader', "SELECT DISTINCT severity, reason FROM kappa.stats_staleness('drifting')"))[0], qr/^unknown\|the sample is found by ctid, which role reader may not SELECT$/, 'some columns, but not ctid');
sql('GRANT SELECT (ctid) ON drifting TO reader');
is((as_role('reader', "SELECT string_agg(col, ',' ORDER BY col) FROM kappa.stats_staleness('drifting') WHERE ks IS NOT NULL"))[0], 'id,r', 'columns that the role may SELECT');
for my $role ('monitor', 'nobody_at_all')
{
	is((as_role($role, "SELECT count(*), count(ks), count(new_max), string_agg(DISTINCT severity, ',') FROM kappa.stats_staleness('drifting')"))[0], '8|0|0|unknown', "$role sees no values, so nothing is claimed");
}
like((as_role('nobody_at_all', "SELECT kappa.sample_rows('drifting', 1, 1)"))[1], qr/ERROR:  42501/, 'not even how many rows there are');

# ---------------------------------------------------------------- estimates

sql(q{CREATE TABLE growing AS SELECT g AS id, g AS v FROM generate_series(1, 100000) g; ANALYZE growing;
	INSERT INTO growing SELECT g, g FROM generate_series(100001, 130000) g; SELECT pg_stat_force_next_flush()});
my $query = q{'SELECT * FROM growing WHERE v > 100000'};
is(sql("SELECT est < 100, actual, qerror, severity FROM kappa.estimate_check($query)"), 't|||unknown', 'not run unless asked');
my $found = sql("SELECT actual, qerror > 100, severity, advice FROM kappa.estimate_check($query, true)");
is($found, '30000|t|critical|ANALYZE growing;', 'new values that the statistics do not know');
is(sql("SELECT est FROM kappa.estimate_check($query)"), sql(q{EXPLAIN SELECT * FROM growing WHERE v > 100000}) =~ /rows=(\d+)/ && $1, 'est is what EXPLAIN says');
sql('ANALYZE growing');
is(sql("SELECT qerror < 2, severity FROM kappa.estimate_check($query, run => true)"), 't|ok', 'after ANALYZE it is right');

# columns that depend on each other: fresh statistics do not help, the advice does
sql(q{CREATE TABLE "Two" AS SELECT g % 100 AS a, g % 100 * 7 AS "B b" FROM generate_series(1, 100000) g});
sql('ANALYZE "Two"');		# in a session of its own: the counters of the one that loads come later than its ANALYZE
$query = q{$$SELECT count(*) FROM "Two" WHERE a = 5 AND "B b" = 35$$};
my $advice = sql("SELECT advice FROM kappa.estimate_check($query, true) WHERE rel IS NOT NULL");
is($advice, qq{CREATE STATISTICS "Two_a_B b_stat" ON a, "B b" FROM "Two";\nANALYZE "Two";}, 'columns that depend on each other');
sql($advice);
is(sql("SELECT max(qerror) < 2, min(depth), max(depth) FROM kappa.estimate_check($query, true)"), 't|1|2', 'the advice mends it');

# A LIMIT stops early: that is no error
is(sql(q{SELECT severity, confidence FROM kappa.estimate_check('SELECT * FROM growing LIMIT 3', true) WHERE rel IS NOT NULL}), 'info|low', 'below a LIMIT');
is(sql(q{SELECT severity, actual FROM kappa.estimate_check('SELECT * FROM growing WHERE false', true)}), 'ok|0', 'nothing');
is(sql(q{SELECT count(*) FROM kappa.estimate_check('SELECT * FROM growing g JOIN "Two" t ON t.a = g.id WHERE g.v < 50', true)
	WHERE est = actual OR qerror IS NOT NULL}), sql(q{SELECT count(*) FROM kappa.estimate_check('SELECT * FROM growing g JOIN "Two" t ON t.a = g.id WHERE g.v < 50')}), 'each node has a row');

is(column('pg_attribute', 'attmissingval', 'severity'), 'unknown', 'a column of catalogs that may hold an array of any type');
# a domain's CHECK is the code of who owns it: not run by whoever looks at his table
sql(q{CREATE FUNCTION trap(integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN IF current_setting('test.armed', true) = 'on' THEN RAISE 'run as %', current_user; END IF; RETURN true; END $$;
	CREATE DOMAIN trapped AS integer CHECK (trap(VALUE));
	CREATE TYPE trapped_range AS RANGE (subtype = trapped);
	CREATE TABLE trapping AS SELECT (g % 500)::trapped AS d, trapped_range(g % 500, NULL) AS r FROM generate_series(1, 5000) g});
sql('ANALYZE trapping');
is(sql("SET test.armed = 'on'; SELECT string_agg(col || ' ' || severity, ', ') FROM kappa.stats_staleness('trapping')"), 'd ok, r unknown', "a domain's CHECK is not run");

# one SELECT, once, read-only, as the caller, within his time
refused("SELECT * FROM kappa.estimate_check('SELECT 1; DROP TABLE growing', true)", '0A000', 'single SELECT', 'a second statement');
refused("SELECT * FROM kappa.estimate_check('$_', true)", '0A000', 'single SELECT', $_) for 'DELETE FROM growing', 'SELECT 1 INTO t', 'SELECT 1 INTO t UNION SELECT 2', '', 'EXPLAIN SELECT 1';
refused("SELECT * FROM kappa.estimate_check('WITH x AS (DELETE FROM growing RETURNING *) TABLE x', true)", '25006', 'read-only', 'a DELETE inside');
sql('CREATE FUNCTION writes() RETURNS integer LANGUAGE sql AS $$ INSERT INTO growing VALUES (0) RETURNING 1 $$; CREATE SEQUENCE counted');
refused("SELECT * FROM kappa.estimate_check('SELECT writes()', true)", '25006', 'read-only', 'a function that writes');
refused("SELECT * FROM kappa.estimate_check('SELECT nextval(''counted'')', true)", '25006', 'read-only', 'a sequence');
is(sql("BEGIN; SELECT count(*) FROM kappa.estimate_check('SELECT 1', true); INSERT INTO growing VALUES (-1); COMMIT; SELECT count(*) FROM growing WHERE id = -1"), "1\n1", 'the transaction may write again afterwards');
refused("SET statement_timeout = '200ms'; SELECT * FROM kappa.estimate_check('SELECT pg_sleep(60)', true)", '57014', 'statement timeout', 'statement_timeout counts');
{
	my $locker = $node->background_psql('postgres');

	$locker->query_safe('BEGIN; LOCK TABLE growing IN ACCESS EXCLUSIVE MODE');
	refused("SET statement_timeout = '10s'; SELECT * FROM kappa.estimate_check('SELECT * FROM growing')", '55P03', 'lock timeout', 'a locked table is not waited for');
	$locker->query_safe('ROLLBACK');
	$locker->quit;
}
refused("SELECT * FROM kappa.estimate_check(NULL)", '22\w{3}', 'query', 'NULL');
sql(q{CREATE FUNCTION tells() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'once'; RETURN 1; END $$});
my @told = ((as_role('postgres', "SELECT * FROM kappa.estimate_check('SELECT tells()', true)"))[1] =~ /once/g);
is(scalar @told, 1, 'the query runs once');
like((as_role($_, "SELECT * FROM kappa.estimate_check('SELECT * FROM growing', true)"))[1], qr/ERROR:  42501: permission denied for table growing/, "$_ may not read it") for 'monitor', 'nobody_at_all';

done_testing();
