# Two write paths, one result: the same stream of messages through the fast path
# and through every kind of target that needs SQL gives the same rows and the
# same dead letters, and triggers fire as an INSERT fires them.  Then a snapshot
# that is held while 2,000 batches commit.  (DDL beside a worker: 034_ddl_faults.pl)
#
#   KAPPA_SEED=N replays a run's choices.

use strict;
use warnings;

use Fcntl qw(:flock);
use IO::Handle;
use KappaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $messages = $ENV{KAPPA_MESSAGES} // 1500;
my $seed = seed();
my $address = broker_start();
my $node = kappa_node('paths', 'max_worker_processes = 40', 'kappa.max_workers = 32');
my $port = $node->port;

sub sql { return $node->safe_psql('postgres', join ' ', @_); }

# ---------------------------------------------------------------- the stream

# Lines "topic, part, key, value" to the Tool that runs, many at a time
sub send_all
{
	my (@lines) = @_;

	open my $lock, '>>', "$ENV{KAPPA_TOOL}.lock" or die "tool.lock: $!";
	flock $lock, LOCK_EX;
	open my $in, '+<:raw', "$ENV{KAPPA_TOOL}.in" or die "tool.in: $!";
	open my $out, '+<:raw', "$ENV{KAPPA_TOOL}.out" or die "tool.out: $!";
	$in->autoflush(1);
	while (my @some = splice @lines, 0, 50)
	{
		print $in map { join("\t", 'send', @$_) . "\n" } @some;
		for (@some)
		{
			my $answer;
			do { $answer = <$out> } until $answer =~ /^(OK|ERROR)/;
			die "send: $answer" if $answer !~ /^OK/;
		}
	}
}

# What is wrong in a bad message: fields that replace the good ones, or the value itself
my @bad = (
	sub { +{ i4 => '"many"' } }, sub { +{ i2 => 40000 } }, sub { +{ mood => '"angry"' } },
	sub { +{ positive => -1 } }, sub { +{ n => '12345678901.5' } }, sub { +{ vc => '"' . 'x' x 21 . '"' } },
	sub { +{ d => '"2024-02-30"' } }, sub { +{ u => '"1234"' } }, sub { +{ needed => 'null' } },
	sub { +{ t => '"a\\u0000b"' } }, sub { +{ ia => '[1,"x"]' } }, sub { +{ jb => '{"a":}' } },
	sub { +{ i4 => '1.5' } }, sub { +{ needed => undef } },
	sub { '[1,2]' }, sub { '{"id":1' }, sub { '\\x7b22696422' . '3affff7d' });

# One message, a JSON object with most of the fields; an id names it everywhere.
sub message
{
	my ($id, $replace) = @_;
	my @words = ('alpha', 'b\\"eta', '\\u00e9\\ud83d\\ude00', '', 'line\\nbreak', '\'; DROP TABLE x; --');
	my %f = (
		id => $id, needed => $id % 7, b => pick(2) ? 'true' : 'false', i2 => pick(65536) - 32768,
		i4 => pick(2_000_000) - 1_000_000, i8 => pick(2_000_000_000) . '123456', f4 => pick(1000) / 8,
		f8 => (pick(1_000_000) / 7) . 'e' . (pick(40) - 20), n => pick(1_000_000_000) / 10_000,
		t => '"' . $words[ pick(6) ] . '"', vc => '"vc' . pick(100) . '"', c => '"c' . pick(9) . '"',
		bin => '"\\\\x' . sprintf('%04x', pick(65536)) . '"', d => sprintf('"20%02d-%02d-%02d"', pick(60), 1 + pick(12), 1 + pick(28)),
		ts => sprintf('"2024-01-%02dT%02d:10:20.%03d"', 1 + pick(30), pick(24), pick(1000)),
		tz => sprintf('"2024-01-%02d %02d:10:20+0%d"', 1 + pick(30), pick(24), pick(9)),
		u => sprintf('"%08x-0000-4000-8000-%012x"', pick(2**31), $id), j => '{"z":1,"a":[' . pick(9) . ']}',
		jb => '{"z":1,"a":{"b":[' . pick(9) . ',null]}}', ia => '[' . pick(9) . ',null,' . pick(9) . ']',
		ta => '["x","y,z","' . $words[ pick(4) ] . '"]', iv => '"' . pick(100) . ' min"', ip => '"10.0.' . pick(256) . '.1"',
		r => sprintf('"[%d,%d)"', 10 * $id, 10 * $id + 5), mood => pick(2) ? '"happy"' : '"sad"',
		pair => '{"x":' . pick(9) . ',"y":"p"}', positive => 1 + pick(9), child => $id % 10, uniq => $id,
		unknown => '{"deep":[1]}');

	# not named: the default or NULL; null: NULL
	delete $f{$_} for grep { pick(12) == 0 && !/^(id|needed|uniq)$/ } sort keys %f;
	$f{$_} = 'null' for grep { pick(20) == 0 && !/^(id|needed|uniq)$/ } sort keys %f;
	$f{dflt} = '"given"' if pick(2);
	defined $replace->{$_} ? $f{$_} = $replace->{$_} : delete $f{$_} for keys %$replace;
	return '{' . join(',', map { "\"$_\":$f{$_}" } sort keys %f) . '}';
}

# Among them: 3 % bad ones, tombstones, and such as only constraints refuse.
# These contradict a message of the same partition, so the order is the same for all.
my @stream;
my ($nbad, $tombstones) = (0, 0);
for my $id (1 .. $messages)
{
	my $dice = pick(200);
	my $value;

	if ($dice < 6) { my $how = $bad[ $nbad++ % @bad ]->(); $value = ref $how ? message($id, $how) : $how }
	elsif ($dice < 8) { $value = '-'; $tombstones++ }
	elsif ($dice < 9 && $id > 30) { $value = message($id, { uniq => $id - 30 }) }
	elsif ($dice < 10 && $id > 30) { $value = message($id, { r => sprintf('"[%d,%d)"', 10 * $id - 300, 10 * $id) }) }
	elsif ($dice < 11) { $value = message($id, { child => 99 }) }
	elsif ($dice < 12) { $value = message($id, { child => -1 }) }
	else { $value = message($id, {}) }
	push @stream, [ 'mix', $id % 3, "k$id", $value ];
}
tool('create', 'mix', 3);
send_all(@stream);

# ---------------------------------------------------------------- the targets

my @columns = ('id bigint', 'needed int NOT NULL', 'b bool', 'i2 smallint', 'i4 int', 'i8 bigint', 'f4 real', 'f8 float8',
	'n numeric(12,3)', 't text', 'vc varchar(20)', 'c char(5)', 'bin bytea', 'd date', 'ts timestamp', 'tz timestamptz',
	'u uuid', 'j json', 'jb jsonb', 'ia int[]', 'ta text[]', 'iv interval', 'ip inet', 'r int4range', 'mood mood',
	'pair pair', 'positive positive', 'child int', 'uniq bigint', q(dflt text DEFAULT upper('none')),
	'kafka_partition int', 'kafka_offset bigint', 'kafka_key text');
my $generated = q(g int GENERATED ALWAYS AS (i4 * 2) STORED);
my $identity = 'ident bigint GENERATED ALWAYS AS IDENTITY';
my $all = join ', ', @columns, $generated, $identity;
my $bare = join ', ', @columns, $generated, 'ident bigint';
my $compared = join ', ', map { /^(\w+) json$/ ? "$1::text" : /^(\w+)/ } @columns, $generated;
my $names = join ', ', map { /^(\w+)/ } @columns;
my $constraints = 'CHECK (child >= 0), UNIQUE (uniq), EXCLUDE USING gist (r WITH &&),
	FOREIGN KEY (child) REFERENCES parents DEFERRABLE INITIALLY DEFERRED';

# A trigger that does nothing but force the general path
sub before_row
{
	my ($table) = @_;
	return "CREATE TRIGGER before_row BEFORE INSERT ON $table FOR EACH ROW EXECUTE FUNCTION as_it_is();";
}

# Counters of what fires on a table
sub counters
{
	my ($table) = @_;
	return "CREATE TRIGGER row_count AFTER INSERT ON $table FOR EACH ROW EXECUTE FUNCTION count_rows();
		CREATE TRIGGER before_statement BEFORE INSERT ON $table EXECUTE FUNCTION count_statement();
		CREATE TRIGGER after_statement AFTER INSERT ON $table REFERENCING NEW TABLE AS fresh EXECUTE FUNCTION count_fresh();";
}

sql(q{
	CREATE EXTENSION postgres_fdw;
	CREATE TYPE mood AS ENUM ('sad', 'happy');
	CREATE TYPE pair AS (x int, y text);
	CREATE DOMAIN positive AS int CHECK (VALUE > 0);
	CREATE TABLE parents (id int PRIMARY KEY);
	INSERT INTO parents SELECT generate_series(-1, 9);
	CREATE TABLE fired (tab text, kind text, n bigint);
	CREATE FUNCTION as_it_is() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
	CREATE FUNCTION drop_some() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN CASE WHEN NEW.id % 5 > 0 THEN NEW END; END';
	CREATE FUNCTION count_rows() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN INSERT INTO public.fired VALUES (TG_TABLE_NAME, ''row'', 1); RETURN NULL; END';
	CREATE FUNCTION count_statement() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN INSERT INTO public.fired VALUES (TG_TABLE_NAME, ''before'', 1); RETURN NULL; END';
	CREATE FUNCTION count_fresh() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN INSERT INTO public.fired SELECT TG_TABLE_NAME, k, n FROM (SELECT count(*) FROM fresh) f(c),
		LATERAL (VALUES (''after'', 1), (''fresh'', c)) v(k, n); RETURN NULL; END';
}, "CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '${\ $node->host}', port '$port', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER loopback;

	CREATE TABLE plain ($all);
	CREATE TABLE trig ($all); ${\ before_row('trig')}
	CREATE TABLE drops ($all); CREATE TRIGGER drops BEFORE INSERT ON drops FOR EACH ROW EXECUTE FUNCTION drop_some();
	CREATE TABLE under_view ($all); CREATE VIEW a_view AS SELECT * FROM under_view;
	CREATE TABLE under_instead ($all); CREATE VIEW instead AS SELECT * FROM under_instead;
	CREATE TABLE under_foreign ($all);
	CREATE FOREIGN TABLE far (${\ join(', ', @columns)}) SERVER loopback OPTIONS (table_name 'under_foreign');
	CREATE UNLOGGED TABLE unlogged ($all);
	CREATE TABLE inh ($all); CREATE TABLE inh_child () INHERITS (inh);
	CREATE TABLE ruled ($all); CREATE TABLE rule_log (id bigint);
	CREATE RULE also AS ON INSERT TO ruled DO ALSO INSERT INTO rule_log VALUES (NEW.id);
	CREATE TABLE strict_fast ($all, $constraints); ${\ counters('strict_fast')}
	CREATE TABLE strict_sql ($all, $constraints); ${\ counters('strict_sql')} ${\ before_row('strict_sql')}

	CREATE TABLE ranges ($all) PARTITION BY RANGE (id);
	CREATE TABLE ranges_1 PARTITION OF ranges FOR VALUES FROM (0) TO (200);
	CREATE TABLE ranges_2 (junk int, ident bigint, kafka_key text, junk2 text, $generated, ${\ join(', ', reverse grep { !/^kafka_key/ } @columns)});
	ALTER TABLE ranges_2 DROP junk, DROP junk2, ALTER ident SET NOT NULL;
	ALTER TABLE ranges ATTACH PARTITION ranges_2 FOR VALUES FROM (200) TO (500);
	CREATE TABLE ranges_3 PARTITION OF ranges FOR VALUES FROM (500) TO (700); ${\ before_row('ranges_3')}
	CREATE TABLE under_leaf ($bare);
	CREATE FOREIGN TABLE ranges_4 PARTITION OF ranges FOR VALUES FROM (700) TO (900) SERVER loopback OPTIONS (table_name 'under_leaf');
	CREATE TABLE ranges_5 PARTITION OF ranges FOR VALUES FROM (900) TO (MAXVALUE) PARTITION BY LIST (needed);
	CREATE TABLE ranges_5a PARTITION OF ranges_5 FOR VALUES IN (0, 1, 2);
	CREATE TABLE ranges_5b PARTITION OF ranges_5 DEFAULT;
	CREATE TABLE hashes ($all) PARTITION BY HASH (id); ${\ counters('hashes') =~ s/CREATE TRIGGER row_count.*?;//r }
	CREATE TABLE hashes_0 PARTITION OF hashes FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE hashes_1 PARTITION OF hashes FOR VALUES WITH (MODULUS 2, REMAINDER 1) PARTITION BY HASH (needed);
	CREATE TABLE hashes_1a PARTITION OF hashes_1 FOR VALUES WITH (MODULUS 1, REMAINDER 0);",
	"CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS \$\$BEGIN INSERT INTO public.under_instead ($names) VALUES (${\ join(', ', map { /^(\w+)/; $1 eq 'dflt' ? q{coalesce(NEW.dflt, 'NONE')} : qq(NEW.$1) } @columns)}); RETURN NEW; END\$\$;
	CREATE TRIGGER instead INSTEAD OF INSERT ON instead FOR EACH ROW EXECUTE FUNCTION instead();
	ALTER VIEW instead ALTER dflt SET DEFAULT 'NONE';
	ALTER FOREIGN TABLE far ALTER needed DROP NOT NULL;");
kappa_server($node, $address);

# target => where its rows are, and with whose they have to agree
my %targets = (
	plain => 'plain', trig => 'trig', a_view => 'under_view', instead => 'under_instead', far => 'under_foreign',
	unlogged => 'unlogged', inh => 'ONLY inh', ruled => 'ruled', ranges => 'ranges', hashes => 'hashes',
	strict_fast => 'strict_fast', strict_sql => 'strict_sql', drops => 'drops');
my %rival = map { $_ => 'plain' } keys %targets;
$rival{strict_sql} = 'strict_fast';
delete @rival{qw(plain strict_fast drops)};

sql(map { "SELECT kappa.subscribe(name => '$_', server => 'main', topic => 'mix', target => 'public.$_', batch_rows => 200);" }
	sort keys %targets);
for my $target (sort keys %targets)
{
	ok(poll_until(90, sub {
		sql("SELECT count(*) = 3 AND bool_and(balanced) AND sum(consumed) = $messages FROM kappa.balance WHERE name = '$target'") eq 't'
	}), "$target: all is consumed") or diag(sql("SELECT status, reason FROM kappa.subscriptions WHERE name = '$target'"));
}

# ---------------------------------------------------------------- one result

for my $target (sort keys %rival)
{
	my $rival = $rival{$target};
	my $letters = 'SELECT part, kafka_offset, sqlstate, md5(key), md5(value) FROM kappa.dead_letters WHERE name =';

	for my $pair ([ $target, $rival ], [ $rival, $target ])
	{
		my ($a, $b) = @$pair;
		is(sql("SELECT count(*) FROM (SELECT $compared FROM $targets{$a} EXCEPT ALL SELECT $compared FROM $targets{$b}) x"),
			'0', "rows of $a that $b has not");
		is(sql("$letters '$a' EXCEPT ALL $letters '$b' ORDER BY 1, 2"), '', "dead letters of $a that $b has not");
	}
}
is(sql("SELECT count(*) - count(DISTINCT ident) FROM $targets{$_}"), '0', "$_: identity values differ") for sort keys %targets;
my $dead = sql("SELECT count(*) FROM kappa.dead_letters WHERE name = 'plain'");
is($dead, $nbad, "each of the $nbad bad messages is a dead letter");
is(sql("SELECT sum(filtered) FROM kappa.balance WHERE name = 'plain'"), $tombstones, "tombstones are filtered");
note(sql("SELECT string_agg(sqlstate || ' ' || n, ', ' ORDER BY 1) FROM (SELECT sqlstate, count(*) n FROM kappa.dead_letters
	WHERE name = 'strict_fast' GROUP BY 1) x"));
for my $state ('23505', '23P01', '23503', '23514')
{
	cmp_ok(sql("SELECT count(*) FROM kappa.dead_letters WHERE name = 'strict_fast' AND sqlstate = '$state'"), '>', 0, "$state occurs");
}

# Triggers and rules
my $stored = sql('SELECT count(*) FROM plain');
for my $table ('strict_fast', 'strict_sql')
{
	my $rows = sql("SELECT count(*) FROM $table");
	is(sql("SELECT sum(n) FILTER (WHERE kind = 'row'), sum(n) FILTER (WHERE kind = 'fresh') FROM fired WHERE tab = '$table'"),
		"$rows|$rows", "$table: each row fires once, and is in one transition table");
	is(sql("SELECT count(*) FILTER (WHERE kind = 'before') - count(*) FILTER (WHERE kind = 'after') FROM fired WHERE tab = '$table'"),
		'0', "$table: as many BEFORE as AFTER STATEMENT triggers");
}
is(sql("SELECT sum(n) FILTER (WHERE kind = 'fresh') FROM fired WHERE tab = 'hashes'"), $stored, 'hashes: the transition tables of the root');
is(sql('SELECT count(*), count(DISTINCT id) FROM rule_log'), "$stored|" . sql('SELECT count(DISTINCT id) FROM plain'), 'the rule fires for each row');
is(sql('SELECT count(*) FROM inh_child'), '0', 'an inheritance parent keeps its rows');
is(sql('SELECT count(*) FROM drops WHERE id % 5 = 0'), '0', 'a BEFORE trigger that returns NULL drops the row');
is(sql("SELECT sum(filtered) FROM kappa.balance WHERE name = 'drops'"),
	$tombstones + sql('SELECT count(*) FROM plain WHERE id % 5 = 0'), '... and its message is filtered');
sql('SELECT pg_stat_force_next_flush()') if $node->pg_version >= 15;
ok(poll_until(10, sub { sql("SELECT n_tup_ins >= $stored AND n_mod_since_analyze + n_ins_since_vacuum > 0 OR last_autoanalyze IS NOT NULL
	FROM pg_stat_user_tables WHERE relname = 'plain'") eq 't' }), 'the statistics count the inserts, so autovacuum sees them');
sql(map { "SELECT kappa.unsubscribe('$_', force => true);" } sort keys %targets);

# ---------------------------------------------------------------- a held snapshot

# Pages of kappa.position and of its index, blocks of both touched until now, commits
sub position_cost
{
	return split /\|/, sql(q{SELECT pg_relation_size('kappa.position') / 8192, pg_relation_size('kappa.position_pkey') / 8192,
		heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read, n_tup_upd
		FROM pg_statio_all_tables JOIN pg_stat_all_tables USING (relid) WHERE relid = 'kappa.position'::regclass});
}

# n batches of 10 messages, until the worker has told its statistics; returns seconds.
# Nobody looks at kappa.position meanwhile, which would cost blocks too.
sub batches
{
	my ($n) = @_;
	my ($begin, $held, $updates) = (time(), sql('SELECT count(*) FROM held'), (position_cost())[3]);

	tool('produce', '--seed', $held + 1, '--topic', 'held', '--kind', 'plain', '--messages', 10 * $n);
	ok(poll_until(60, sub { sql('SELECT count(*) FROM held') >= $held + 10 * $n }), "$n batches commit");
	my $seconds = time() - $begin;
	ok(poll_until(10, sub { (position_cost())[3] >= $updates + $n }), '... and are counted');
	return $seconds;
}

tool('create', 'held', 1);
sql("CREATE TABLE held (kafka_partition int, kafka_offset bigint, kafka_key bytea, value text); SELECT kappa.subscribe(name => 'held', server => 'main', topic => 'held', target => 'public.held', format => 'text',
	batch_rows => 10, batch_wait => '0')");
sql('ALTER TABLE kappa.position SET (autovacuum_enabled = off)');
sql('VACUUM FULL kappa.position');
batches(100);
my @start = position_cost();
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM kappa.balance');
my (@seconds, @blocks);
my @before = position_cost();
for my $round (0 .. 3)
{
	$seconds[$round] = batches(500);
	my @now = position_cost();
	$blocks[$round] = ($now[2] - $before[2]) / ($now[3] - $before[3]);
	@before = @now;
}
my $commits = $before[3] - $start[3];
note(sprintf('%d commits under a held snapshot: kappa.position %d -> %d pages, its index %d -> %d; blocks touched a commit %s; ms a commit %s',
	$commits, $start[0], $before[0], $start[1], $before[1],
	join(' ', map { sprintf '%.1f', $_ } @blocks), join(' ', map { sprintf '%.1f', $_ * 1000 / 500 } @seconds)));
cmp_ok($commits, '>=', 2000, '2,000 batches and more');
cmp_ok($blocks[3], '<', 1.25 * $blocks[0] + 0.5, 'the blocks that a commit touches stay as many');
cmp_ok(($before[0] - $start[0]) / $commits, '<', 0.1, 'the table grows by less than 0.1 page a commit');
$reader->query_safe('COMMIT');
$reader->quit;
ok(poll_until(60, sub { sql('VACUUM kappa.position'); batches(120); sql('VACUUM kappa.position'); (position_cost())[0] <= 20 }),
	'and after VACUUM it is small again: ' . join(' and ', (position_cost())[0, 1]) . ' pages');
my ($same, $said) = oracle_compare($node, 'held', table => 'held', name => 'held');
ok($same, "held: $said");
$node->stop;
done_testing();
