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
	'maintenance_work_mem = 64MB', 'log_min_messages = warning');

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
	region => [ '(id bigint, name text)', 120000, "i, md5(i::text)", 'b BETWEEN 30000 AND 80000' ],
	tail => [ '(id bigint, name text)', 120000, "i, md5(i::text)", 'b < 0' ],
	tiny => [ '(id bigint, name text)', 150, "i, md5(i::text)", 'random() < 0.4' ],
	wide => [ '(id bigint, body text)', 2000, "i, (SELECT string_agg(md5((i * 100 + k)::text), '') FROM generate_series(1, 20 + i % 20) k)",
		'random() < 0.4' ],
	dropped => [ '(id bigint, gone text, name text)', 60000, "i, md5(i::text), 'n' || i", 'random() < 0.3' ],
	narrow => [ '(flag boolean)', 200000, 'true', 'random() < 0.5' ],
	external => [ '(id bigint, body text)', 2400, "i, (SELECT string_agg(md5((i * 100 + k)::text), '') FROM generate_series(1, 100) k)",
		'random() < 0.4' ]);

# The first column is renamed to b where a region is meant: "b" is the number of the row.
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
	$doomed =~ s/\bb\b/id/;
	sql("DELETE FROM $table WHERE $doomed");
	sql("VACUUM (TRUNCATE off) $table");
}

# Sizes of main fork and TOAST's
sub sizes
{
	return split /\|/, sql("SELECT pg_relation_size(oid), CASE WHEN reltoastrelid > 0 THEN pg_relation_size(reltoastrelid) ELSE 0 END
		FROM pg_class WHERE oid = '$_[0]'::regclass");
}

for my $shape (sort keys %shapes)
{
	for my $churned (0, 1)
	{
		my $table = "${shape}_$churned";
		make_table($table, $shape, $churned);
		my ($main, $toast) = sizes($table);
		my ($pct, $toast_free, $read) = split /\|/, sql("SELECT pct, coalesce(toast_reclaimable, 0), pages_read FROM kappa.table_bloat('$table', 1024 / CASE WHEN '$shape' = 'external' THEN 1 ELSE 4 END)");
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

for my $churned (0, 1)
{
	my $table = "keys_$churned";
	sql("CREATE TABLE $table (id bigint, u uuid, k integer, t text)");
	sql("CREATE " . ($_ eq 'single' ? 'UNIQUE ' : '') . "INDEX ${table}_$_ ON " . sprintf($indexes{$_}, $table)) for sort keys %indexes;
	sql("INSERT INTO $table SELECT i, gen_random_uuid(), i * 7919 % 50, 'Key number ' || i * 7919 % 10000 FROM generate_series(1, 100000) i");
	sql("VACUUM ANALYZE $table");
	my ($regrows, $advice) = split /\|/, sql("SELECT regrows, advice IS NULL AND severity = 'ok' FROM kappa.index_bloat('${table}_uuid')");
	is("$regrows|$advice", 't|t', 'a fresh index over uuid is not advised: it would grow again') unless $churned;
	sql("DELETE FROM $table WHERE random() < 0.4; VACUUM $table") if $churned;
	for my $index (map { "${table}_$_" } sort keys %indexes)
	{
		my $before = sql("SELECT pg_relation_size('$index')");
		my ($pct, $read, $regrows) = split /\|/, sql("SELECT pct, pages_read, regrows FROM kappa.index_bloat('$index')");
		my $exact = sql("SELECT pct FROM kappa.index_bloat('$index', exact => true)");
		my $density = sql("SELECT avg_leaf_density FROM pgstatindex('$index')");
		sql("REINDEX INDEX $index");
		my $truth = pct($before, sql("SELECT pg_relation_size('$index')"));
		within($pct, $truth, 3, "$index, $read of " . $before / 8192 . " pages read, regrows $regrows");
		# all of few keys are taken to have as many entries as the mean
		within($exact, $truth, $index =~ /fifty/ ? 2.5 : 1, "$index, exact");
	}
}

done_testing();
