# What people do to a database while rows arrive: another version of the extension,
# hostile settings, conflicting writers, DDL in a loop and at every fault point, tables,
# roles, extension and databases that go away, copies, a broker that is there but
# does not answer.  Each message is there once, says a reader of Kafka that knows nothing
# of us, or the subscription stands still and says why; the server never crashes.
#
# Needs a build with FAULTS=1 (fault.h), which ./check tap has.
#
#   KAPPA_SEED=N replays a run's choices; KAPPA_LONG runs each statement at every point.

use strict;
use warnings;

use IPC::Run ();
use POSIX ':sys_wait_h';
use KappaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seed = seed();
my ($sharedir) = run_command([ 'pg_config', '--sharedir' ]);
my $address = broker_start();
my $node = kappa_node('ddl', 'max_worker_processes = 40', "kappa.fault = ''");
my $plain = '(kafka_partition int, kafka_offset bigint, kafka_key bytea, value text)';
my @points = qw(after_poll after_decode mid_insert before_position before_commit after_commit);

sub sql { my ($query, $db) = @_; return $node->safe_psql($db // 'postgres', $query); }

if (sql("SELECT count(*) FROM kappa.version() WHERE item = 'fault points'") eq '0')
{
	$node->stop;
	plan skip_all => 'built without FAULTS=1';
}

# ---------------------------------------------------------------- tools

sub becomes
{
	my ($query, $wanted, $name, $db, $seconds) = @_;
	my $got = '';

	my $begin = time();
	my $ok = poll_until($seconds // 30, sub { ($got = sql($query, $db)) eq $wanted });
	ok($ok, sprintf('%s (%.1f s)', $name, time() - $begin)) or diag("got: $got\nwanted: $wanted");
	return $ok;
}

# The statement succeeds, or fails with these words, within so many seconds.
sub takes
{
	my ($limit, $what, $statement, $db, $words) = @_;
	my $begin = time();
	my ($code, $out, $err) =
	  $node->psql($db // 'postgres', $statement, extra_params => [ '-v', 'VERBOSITY=verbose' ], timeout => 60);
	my $took = time() - $begin;

	$words ? like($err, $words, "$what: refused") : is($code, 0, "$what: succeeds") || diag($err);
	cmp_ok($took, '<', $limit, sprintf('%s: takes %.2f s', $what, $took));
	return $err;
}

# A statement in a session of its own, for finish()
sub begin_statement
{
	my ($statement, $db) = @_;
	my %run = (out => '', err => '', begin => time());

	$run{handle} = IPC::Run::start(
		[ 'psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-v', 'VERBOSITY=verbose', '-d', $node->connstr($db), '-c', $statement ],
		'<', \undef, '>', \$run{out}, '2>', \$run{err}, IPC::Run::timeout(60));
	return \%run;
}

sub finish
{
	my ($run, $limit, $what, $words) = @_;

	eval { $run->{handle}->finish; 1 } or diag("$what: $@");
	my $took = time() - $run->{begin};
	$words ? like($run->{err}, $words, "$what: refused") : is($run->{handle}->result(0), 0, "$what: succeeds") || diag($run->{err});
	cmp_ok($took, '<', $limit, sprintf('%s: takes %.2f s', $what, $took));
}

my $produced = 0;

# Beside us, for waitpid; nothing else can ask the Tool meanwhile
sub load
{
	my ($topic, $seconds, $rate, @more) = @_;

	return tool_async('produce', '--seed', $seed + ++$produced, '--topic', $topic, '--kind', 'plain', '--seconds', $seconds, '--rate', $rate, @more);
}

sub produce
{
	my ($topic, $messages) = @_;

	return tool('produce', '--seed', $seed + ++$produced, '--topic', $topic, '--kind', 'plain', '--messages', $messages);
}

# A database with a subscription of its name to a topic, with a table of this name
sub subscribe
{
	my ($db, $name, $topic, $more) = @_;

	sql("CREATE TABLE $name $plain; SELECT kappa.subscribe(name => '$name', server => 'main', topic => '$topic',
		target => 'public.$name', format => 'text'" . ($more // '') . ')', $db);
}

sub create_database
{
	my ($db) = @_;

	sql("CREATE DATABASE $db");
	sql("CREATE EXTENSION pg_kappa CASCADE; CREATE SERVER main FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '$address')", $db);
}

sub workers
{
	my ($db) = @_;

	return split /\n/, sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_kappa worker' AND datname = '$db'");
}

# All that Kafka holds is there or a dead letter, once
sub intact
{
	my ($what, $topic, $name, %options) = @_;
	my $db = $options{database} // 'postgres';
	my ($wanted) = tool('oracle', '--topic', $topic) =~ /messages=(\d+)/;

	becomes("SELECT sum(stored + dead_lettered) >= $wanted FROM kappa.balance WHERE name = '$name'", 't', "$what: all arrives", $db)
	  or diag(sql("SELECT status, reason FROM kappa.subscriptions WHERE name = '$name'", $db));
	my ($same, $said) = oracle_compare($node, $topic, table => $name, name => $name, %options);
	ok($same, "$what: $said");
	is(sql("SELECT bool_and(balanced) FROM kappa.balance WHERE name = '$name'", $db), 't', "$what: balanced");
}

sub process_state { my ($pid) = @_; return -e "/proc/$pid/stat" && slurp_file("/proc/$pid/stat") =~ /\) (\w)/ ? $1 : ''; }
sub is_gone { my $state = process_state(@_); return $state eq '' || $state eq 'Z'; }

kappa_server($node, $address);

# ---------------------------------------------------------------- versions

# Of the next script the worker's queries would fail, of the former one too; and functions of
# other versions may have more columns than this library knows.
sub install
{
	my ($name, $script) = @_;
	my $file = "$sharedir/extension/pg_kappa--$name.sql";

	open my $out, '>', $file or die "$file: $!";
	print $out "LOCK TABLE kappa.subscription IN ACCESS EXCLUSIVE MODE;\n$script";
	close $out;
}
my $wide = join ', ', map { "OUT c$_ text" } 1 .. 40;
my $wider = "CREATE FUNCTION kappa.wide() RETURNS SETOF record LANGUAGE c AS 'MODULE_PATHNAME', 'kappa_worker_slots';
	CREATE FUNCTION kappa.wide_status(integer, integer, $wide) RETURNS record LANGUAGE c AS 'MODULE_PATHNAME', 'kappa_partition_status';\n";
$wider =~ s/wide\(\) RETURNS/wide($wide) RETURNS/;
my $narrower = "DROP FUNCTION kappa.wide(); DROP FUNCTION kappa.wide_status(integer, integer);\n";
install('1.0--1.1', "ALTER TABLE kappa.position RENAME holes TO gaps; $wider");
install('1.1--1.0', "ALTER TABLE kappa.position RENAME gaps TO holes; $narrower");
install('1.0--0.9', "ALTER TABLE kappa.subscription RENAME batch_rows TO batch_size; $wider");
install('0.9--1.0', "ALTER TABLE kappa.subscription RENAME batch_size TO batch_rows; $narrower");
END { unlink glob "$sharedir/extension/pg_kappa--*--*.sql" if defined $sharedir; }

sub waits_for_version
{
	my ($version, $step) = @_;

	becomes("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_kappa worker' AND datname = 'postgres'", '0',
		"$version: the worker leaves", 'postgres', 5);
	becomes("SELECT status, reason, next_step FROM kappa.subscriptions",
		"waiting_for_worker|the extension has version $version, its library version 1.0|$step", "$version: the status says so");
	is(sql("SELECT count(*) FROM kappa.wide(); SELECT kappa.wide_status(1, 0) IS NULL; SELECT count(*) FROM kappa.worker_slots()"), "0\nt\n0",
		"$version: functions that another version may have declared otherwise tell nothing");
	is(sql("SELECT detail FROM kappa.version() WHERE item = 'extension'"), $step, "$version: kappa.version() says so");
	takes(5, "$version: kappa.$_", "SELECT kappa.$_", 'postgres', qr/ERROR:  55000: extension "pg_kappa" has version $version.*HINT:  \Q$step\E/s)
	  for "disable('ver')", "run('ver')", "seek('ver', 'earliest')", "purge_dead_letters('ver', now())";
}

my $update = 'ALTER EXTENSION pg_kappa UPDATE;';
tool('create', 'ver', 2);
subscribe('postgres', 'ver', 'ver', ', batch_rows => 50');
my $load = load('ver', 7, 500);
becomes('SELECT count(*) > 200 FROM ver', 't', 'rows arrive');
takes(2, 'UPDATE to a newer version beside a worker', "ALTER EXTENSION pg_kappa UPDATE TO '1.1'");
waits_for_version('1.1', '-- install pg_kappa 1.1 and restart the server: it still runs the library of 1.0');
my $rows = sql('SELECT count(*) FROM ver');
takes(2, 'back', "ALTER EXTENSION pg_kappa UPDATE TO '1.0'");
becomes("SELECT count(*) > $rows FROM ver", 't', 'of the same version the worker comes by itself', 'postgres', 10);
takes(2, 'to an older version', "ALTER EXTENSION pg_kappa UPDATE TO '0.9'");
waits_for_version('0.9', $update);
my $offset = -s $node->logfile;
$node->restart;	# as after the installation of a new library
waits_for_version('0.9', $update);
like(slurp_file($node->logfile, $offset), qr/no pg_kappa worker runs in database "postgres": the extension has version 0\.9/, '0.9: the log says so');
$rows = sql('SELECT count(*) FROM ver');
takes(2, 'the next step', sql('SELECT next_step FROM kappa.subscriptions'));
becomes("SELECT count(*) > $rows FROM ver", 't', 'the next step works', 'postgres', 10);
for my $round (1 .. 6)
{
	usleep(pick(300_000));
	my $version = pick(2) ? '1.1' : '0.9';
	sql("ALTER EXTENSION pg_kappa UPDATE TO '$version'; ALTER EXTENSION pg_kappa UPDATE TO '1.0'");
}
waitpid $load, 0;
intact('updates beside a worker', 'ver', 'ver');
is(sql("SELECT count(*) FROM kappa.position WHERE stop_word IS NOT NULL"), '0', 'and no stop is left');
unlink glob "$sharedir/extension/pg_kappa--*--*.sql";

# ---------------------------------------------------------------- DDL in a loop (F28), conflicts (F36)

create_database('busy');
tool('create', 'busy', 3);
sql("ALTER DATABASE busy SET default_transaction_isolation = 'serializable'; ALTER DATABASE busy SET deadlock_timeout = '100ms'");
sql("CREATE TABLE saved $plain; CREATE TABLE counter (id int PRIMARY KEY, n bigint, isolation text);
	INSERT INTO counter SELECT g, 0, '' FROM generate_series(1, 6) g;
	CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS \$\$BEGIN
		UPDATE public.counter SET n = n + 1, isolation = current_setting('transaction_isolation') WHERE id = 3 - NEW.kafka_offset % 3;
		UPDATE public.counter SET n = n + 1 WHERE id = 6 - NEW.kafka_offset % 3;
		RETURN NULL; END\$\$", 'busy');
subscribe('busy', 'busy', 'busy', ', batch_rows => 200, workers => 2');
subscribe('busy', 'duel', 'busy', ', batch_rows => 20');
sql("CREATE TRIGGER up AFTER INSERT ON duel FOR EACH ROW EXECUTE FUNCTION count_up();
	CREATE VIEW all_busy AS SELECT kafka_partition, kafka_offset, kafka_key, value FROM busy UNION ALL SELECT * FROM saved", 'busy');

# They lock in the other order than the trigger, at every level, and hold what they have for a moment
my $script = $node->basedir . '/duel.sql';
append_to_file($script, join "\n", '\set a random(1, 3)', '\set b random(4, 6)', 'BEGIN;', 'UPDATE counter SET n = n WHERE id = :b;',
	'\sleep 20 ms', 'UPDATE counter SET n = n WHERE id = :a;', 'COMMIT;', '');
my $seconds = 6;
$load = load('busy', $seconds, 1500, '--broken', 2);
becomes("SELECT count(*) > 500 FROM busy", 't', 'a load runs', 'busy');
my $duel = IPC::Run::start([ 'pgbench', '-n', '-f', $script, '-T', $seconds - 1, '-c', 2, '--max-tries=1', '--random-seed=' . $seed, $node->connstr('busy') ],
	'<', \undef, '>', \my $duel_out, '2>', \my $duel_err, IPC::Run::timeout(60));
my @ddl = (
	[ 'LOCK TABLE', 'BEGIN; LOCK TABLE busy; COMMIT' ],
	[ 'CREATE INDEX', 'CREATE INDEX again ON busy (kafka_offset); DROP INDEX again' ],
	[ 'CREATE INDEX CONCURRENTLY', 'CREATE INDEX CONCURRENTLY slowly ON busy (kafka_offset)', 'DROP INDEX slowly' ],
	[ 'VACUUM FULL', 'VACUUM FULL busy' ],
	[ 'TRUNCATE', 'BEGIN ISOLATION LEVEL READ COMMITTED; LOCK TABLE busy; INSERT INTO saved SELECT * FROM busy; TRUNCATE busy; COMMIT' ],
	[ 'ALTER TABLE', 'ALTER TABLE busy ADD extra int DEFAULT 1; ALTER TABLE busy DROP extra' ],
	[ 'ADD a generated column', 'ALTER TABLE busy ADD k bigint GENERATED ALWAYS AS (kafka_offset) STORED; ALTER TABLE busy DROP k' ]);
my %slowest = map { $_->[0] => 0 } @ddl;
my ($times, $failed, $end) = (0, 0, time() + $seconds - 1.5);
while (time() < $end)
{
	my ($name, @statements) = @{ $ddl[ $times++ % @ddl ] };

	for (@statements)
	{
		my $begin = time();
		my ($code, undef, $err) = $node->psql('busy', $_);

		$failed++, diag("$name: $err") if $code != 0;
		$slowest{$name} = time() - $begin if time() - $begin > $slowest{$name};
	}
}
note("$times rounds of DDL; the slowest: " . join ', ', map { sprintf '%s %.2f s', $_, $slowest{$_} } sort keys %slowest);
is($failed, 0, 'no DDL failed');
cmp_ok($slowest{$_}, '<', 2, "$_ in a loop under load waits less than 2 s") for sort keys %slowest;
$duel->finish;
waitpid $load, 0;
intact('DDL in a loop', 'busy', 'busy', table => 'all_busy', database => 'busy');
intact('writers in conflict', 'busy', 'duel', database => 'busy');
my ($transactions) = $duel_out =~ /actually processed: (\d+)/;
cmp_ok($transactions // 0, '>', 20, "the writers went on too: $transactions transactions");
is(sql("SELECT sum(n), min(isolation) FROM counter WHERE id <= 3 AND isolation <> ''", 'busy'),
	sql("SELECT count(*) FROM duel", 'busy') . '|read committed', "the triggers' work is there once for each row");
my ($deadlocks, $gave_way) = map { my $n = () = slurp_file($node->logfile) =~ /ERROR:  $_(?:(?!ERROR:).)*?batch of subscription "duel"/sg; $n }
	'deadlock detected', 'canceling statement due to lock timeout';
cmp_ok(sql("SELECT sum(retries) FROM kappa.stat_subscription", 'busy'), '>', 0, "batches were tried again: $deadlocks deadlocks, $gave_way lock timeouts");

# A user's transaction holds the very key: waited for, then a dead letter or a row
sql("SELECT kappa.disable(name) FROM kappa.subscriptions; CREATE TABLE keyed (value text UNIQUE, kafka_offset bigint)", 'busy');
tool('create', 'keyed', 1);
my $user = $node->background_psql('busy', verbose => 0);
$user->query_safe("BEGIN; INSERT INTO keyed VALUES ('b')");
sql("SELECT kappa.subscribe('keyed', 'main', 'keyed', 'keyed', format => 'text')", 'busy');
tool('send', 'keyed', 0, '-', $_) for qw(a b c);
becomes("SELECT status || ' ' || reason FROM kappa.subscriptions WHERE name = 'keyed'", 'backoff canceling statement due to lock timeout', 'a key in doubt is waited for', 'busy');
$user->query_safe("COMMIT; BEGIN; INSERT INTO keyed VALUES ('e')");
becomes("SELECT string_agg(value, ' ' ORDER BY value) FROM keyed", 'a b c', 'taken: its message is the one that is not stored', 'busy');
becomes("SELECT string_agg(kafka_offset || ' ' || sqlstate, ', ') FROM kappa.dead_letters WHERE name = 'keyed'", '1 23505', 'a dead letter', 'busy');
tool('send', 'keyed', 0, '-', $_) for qw(d e f);
becomes("SELECT status FROM kappa.subscriptions WHERE name = 'keyed'", 'backoff', 'another one', 'busy');
$user->query_safe('ROLLBACK');
$user->quit;
becomes("SELECT string_agg(value, ' ' ORDER BY value) FROM keyed", 'a b c d e f', 'given up: its message is stored', 'busy');
takes(5, 'DROP DATABASE WITH (FORCE), busy', 'DROP DATABASE busy WITH (FORCE)');

# ---------------------------------------------------------------- ALTER TABLE (F29)

tool('create', 'shape', 1);
create_database('shape');
sql("CREATE TABLE shape $plain PARTITION BY LIST (kafka_partition);
	CREATE TABLE shape_0 PARTITION OF shape FOR VALUES IN (0);
	SELECT kappa.subscribe(name => 'shape', server => 'main', topic => 'shape', target => 'public.shape', format => 'text', batch_rows => 40)", 'shape');
$load = load('shape', 5, 300);

# Rows arrive, it is changed, and the messages become $fate; mended, they arrive again.
my $position = 'SELECT next_offset FROM kappa.stat_partition';
sub changed
{
	my ($what, $change, $fate, $mend) = @_;
	my $before = sql($position, 'shape');

	$load = load('shape', 5, 300) if waitpid($load, WNOHANG) != 0;
	becomes("SELECT next_offset > $before FROM kappa.stat_partition", 't', "$what: rows arrive before", 'shape');
	takes(2, $what, $change, 'shape');
	becomes(@$fate, 'shape', 20);
	sql($mend, 'shape');
	sql(sql("SELECT coalesce((SELECT next_step FROM kappa.subscriptions WHERE status = 'stopped'), 'SELECT')", 'shape'), 'shape');
}
my $letters = "SELECT count(*) > 10, string_agg(DISTINCT sqlstate, ' ') FROM kappa.dead_letters WHERE redriven_at IS NULL";
changed('ADD COLUMN without a default', 'ALTER TABLE shape ADD more text', [ 'SELECT max(kafka_offset) = (SELECT max(next_offset) - 1 FROM kappa.position) FROM shape', 't', 'goes on' ], 'SELECT');
changed('RENAME of a column that is needed', 'ALTER TABLE shape RENAME value TO other',
	[ q{SELECT status, substring(reason FROM '^schema: partition 0') IS NOT NULL, reason ~ 'column "value"' FROM kappa.subscriptions}, 'stopped|t|t', 'stopped, with the column named' ],
	'ALTER TABLE shape RENAME other TO value');
changed('SET NOT NULL of a column that no message has', q{BEGIN; LOCK TABLE shape; UPDATE shape SET more = ''; ALTER TABLE shape ALTER more SET NOT NULL; COMMIT}, [ $letters, 't|23502', 'dead letters' ],
	'ALTER TABLE shape ALTER more DROP NOT NULL');
changed('redrive', 'SELECT kappa.redrive(name) FROM kappa.subscriptions', [ $letters, 'f|', 'stored after all' ], 'SELECT');
changed('ADD CHECK', q{ALTER TABLE shape ADD CONSTRAINT no CHECK (value = '') NOT VALID}, [ $letters, 't|23514', 'dead letters' ], 'ALTER TABLE shape DROP CONSTRAINT no');
changed('redrive', 'SELECT kappa.redrive(name) FROM kappa.subscriptions', [ $letters, 'f|', 'stored after all' ], 'SELECT');
changed('DETACH PARTITION', 'ALTER TABLE shape DETACH PARTITION shape_0', [ $letters, 't|23514', 'dead letters' ],
	'ALTER TABLE shape ATTACH PARTITION shape_0 FOR VALUES IN (0)');
changed('redrive', 'SELECT kappa.redrive(name) FROM kappa.subscriptions', [ $letters, 'f|', 'stored after all' ], 'SELECT');
changed('ALTER TYPE', 'ALTER TABLE shape ALTER value TYPE varchar(500)', [ "SELECT next_offset > (" . sql($position, 'shape') . ") FROM kappa.stat_partition", 't', 'goes on' ], 'SELECT');
waitpid $load, 0;
intact('ALTER TABLE', 'shape', 'shape', database => 'shape');
is(sql("SELECT count(*) FROM kappa.dead_letters WHERE redriven_at IS NULL", 'shape'), '0', 'ALTER TABLE: and no dead letter is left');

# ---------------------------------------------------------------- hostile settings (F37)

my %hostile = (
	statement_timeout => '1ms', lock_timeout => '1ms', idle_in_transaction_session_timeout => '1ms', idle_session_timeout => '1ms',
	search_path => 'evil, public, pg_catalog', default_transaction_isolation => 'serializable', default_transaction_read_only => 'on',
	default_transaction_deferrable => 'on', session_replication_role => 'replica', row_security => 'off', role => 'nobody', session_authorization => 'nobody',
	DateStyle => 'German, DMY', TimeZone => 'Asia/Tokyo', IntervalStyle => 'sql_standard', bytea_output => 'escape',
	extra_float_digits => '-15', array_nulls => 'off', xmloption => 'document', transform_null_equals => 'on',
	exit_on_error => 'on', standard_conforming_strings => 'off', backslash_quote => 'off', client_encoding => 'LATIN1',
	client_min_messages => 'error', work_mem => '64kB', enable_indexscan => 'off', enable_tidscan => 'off', plan_cache_mode => 'force_custom_plan',
	jit_above_cost => '0', default_text_search_config => 'pg_catalog.german', quote_all_identifiers => 'on', synchronize_seqscans => 'off',
	default_tablespace => 'nowhere', temp_tablespaces => 'nowhere', constraint_exclusion => 'off', check_function_bodies => 'off');
my @values = map { my $n = $_; map { sprintf '{"id": %d, %s}', $n * 10 + $_->[0], $_->[1] } (
	[ 0, '"d": "01/02/2024", "ts": "02/03/2024 10:00", "tz": "2024-05-06 07:08:09", "f": 0.1234567890123456, "iv": "1 day 02:03", "a": ["x", null, "NULL"]' ],
	[ 1, '"d": "2024-12-31", "tz": "2024-05-06 07:08:09+02", "f": "1e-300", "b": "\\\\xdeadbeef", "iv": "-1-2", "v": "Die Häuser"' ],
	[ 2, '"d": "31.12.2024", "x": "a<b/>", "v": "plain"' ],
	[ 3, '"d": "13/01/2024"' ], [ 4, '"f": "x"' ], [ 5, '"tz": "epoch", "iv": "P1Y2M"' ]) } 1 .. 10;
tool('create', 'hostile', 1);
for my $db ('mild', 'hostile')
{
	create_database($db);
	sql("CREATE SCHEMA evil; CREATE TABLE evil.pg_extension (x int); CREATE TABLE evil.pg_class (x int);
		CREATE TABLE got (id int, d date, ts timestamp, tz timestamptz, f float8, b bytea, iv interval, a text[], x xml, v tsvector, f_text text, fired int, kafka_offset bigint);
		CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.fired = 1; NEW.f_text = NEW.f::text || coalesce(NEW.b::text, ''''); RETURN NEW; END';
		CREATE TRIGGER fire BEFORE INSERT ON got FOR EACH ROW WHEN (NEW.id % 2 = 0) EXECUTE FUNCTION fire();
		SELECT kappa.subscribe('got', 'main', 'hostile', 'got', batch_rows => 60, columns => '{\"id\": \"\$.id\", \"d\": \"\$.d\", \"ts\": \"\$.ts\",
			\"tz\": \"\$.tz\", \"f\": \"\$.f\", \"b\": \"\$.b\", \"iv\": \"\$.iv\", \"a\": \"\$.a\", \"x\": \"\$.x\", \"v\": \"\$.v\", \"kafka_offset\": \"kafka.offset\"}');
		CREATE TABLE by_sql (id int, d text, tz text, f text, b text, kafka_offset bigint);
		SELECT kappa.subscribe('by_sql', 'main', 'hostile', 'by_sql', batch_rows => 60, transform =>
			'SELECT (value->>''id'')::int AS id, (value->>''d'')::date::text AS d, (value->>''tz'')::timestamptz::text AS tz,
				(value->>''f'')::float8::text AS f, (value->>''b'')::bytea::text AS b, kafka_offset FROM message')", $db);
}
sql('CREATE ROLE nobody');
my @refused = grep { $node->psql('postgres', "ALTER DATABASE hostile SET $_ = " . ($_ eq 'search_path' ? $hostile{$_} : "'$hostile{$_}'"), stderr => \my $ignored) != 0 } sort keys %hostile;
note("settings that cannot be made for a database: @refused") if @refused;
cmp_ok(@refused, '<', 5, scalar(keys %hostile) - @refused . ' settings are hostile now');
sql("ALTER ROLE ALL IN DATABASE hostile SET statement_timeout = '1ms'; ALTER ROLE postgres IN DATABASE hostile SET lock_timeout = '1ms';
	ALTER ROLE postgres IN DATABASE hostile SET default_transaction_read_only = on");
# the workers and the scout that starts them, all begin under these settings
sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'pg_kappa%'");
ok(poll_until(30, sub { workers('hostile') == 2 && workers('mild') == 2 }), 'workers start under hostile settings');
tool('send', 'hostile', 0, '-', $_) for @values;
# which shall not end our own sessions
$ENV{PGOPTIONS} = '-c idle_session_timeout=0 -c idle_in_transaction_session_timeout=0 -c statement_timeout=0 -c lock_timeout=0';
my $looks = 'SET search_path = pg_catalog; SET statement_timeout = 0; SET ROLE postgres; ';
for my $name ('got', 'by_sql')
{
	my $all = 'SELECT sum(stored + dead_lettered), bool_and(balanced) FROM kappa.balance WHERE name =';
	becomes("$looks$all '$name'", scalar(@values) . '|t', "$name: all arrives in $_", $_) for 'mild', 'hostile';
	my ($mild, $harsh) = map { sql("SET search_path = pg_catalog; SET statement_timeout = 0; SET ROLE postgres; SET xmloption = content;
		SET DateStyle = 'ISO, MDY'; SET TimeZone = 'UTC'; SET IntervalStyle = postgres; SET bytea_output = hex; SET extra_float_digits = 1; SET client_encoding = 'UTF8';
		SET quote_all_identifiers = off; SELECT t FROM public.$name t ORDER BY kafka_offset;
		SELECT kafka_offset, sqlstate, error FROM kappa.dead_letters WHERE name = '$name' ORDER BY 1", $_) } 'mild', 'hostile';
	my @differ = grep { (split /\n/, $mild)[$_] ne ((split /\n/, $harsh)[$_] // '') } 0 .. (() = $mild =~ /\n/g);
	my $rows = () = $mild =~ /^\(/mg;
	ok(!@differ && $rows >= 30, "$name: the same $rows rows and the same dead letters under hostile settings")
	  or diag(map { "$_\n" } map { (split /\n/, $mild)[$_], (split /\n/, $harsh)[$_] // '' } grep { defined } @differ[ 0 .. 3 ]);
}

delete $ENV{PGOPTIONS};
sql("DROP DATABASE $_ WITH (FORCE)") for 'mild', 'hostile';

# ---------------------------------------------------------------- things go away under the worker, at every point (F30, F31)

tool('create', 'away', 1);
produce('away', 300);
sql('CREATE ROLE app; CREATE ROLE heir');
sub stops_for { return [ "SELECT status, substring(reason FROM '^\\w+') ~ '^($_[0])\$' FROM kappa.subscriptions", 'stopped|t' ]; }
my $goes_on = [ "SELECT count(*) > 300 AND bool_or(value = 'WHAT') FROM app.away", 't' ];
my $none = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_kappa worker' AND datname = current_database()";

# what is done; what is to be seen within 5 s; by which words it is refused; what is done afterwards
my %away = (
	'DROP TABLE' => [ 'DROP TABLE app.away', stops_for('schema') ],
	'DROP SCHEMA' => [ 'DROP SCHEMA app CASCADE', stops_for('schema') ],
	'DROP OWNED' => [ 'DROP OWNED BY app', stops_for('schema|rights') ],
	'REASSIGN OWNED' => [ 'REASSIGN OWNED BY app TO heir', stops_for('rights'), undef, "GRANT heir TO app; GRANT INSERT ON app.away TO app; SELECT kappa.enable('away')", $goes_on ],
	'DROP SERVER' => [ 'DROP SERVER main CASCADE; SELECT kappa.enable(name) FROM kappa.subscriptions', stops_for('schema') ],
	'DROP EXTENSION' => [ 'DROP EXTENSION pg_kappa CASCADE', [ $none, '0' ], undef, 'CREATE EXTENSION pg_kappa CASCADE', [ 'SELECT count(*) FROM kappa.subscriptions', '0' ] ],
	'ALTER EXTENSION SET SCHEMA' => [ 'ALTER EXTENSION pg_kappa SET SCHEMA app', $goes_on, qr/0A000/ ],
	'ALTER SCHEMA kappa RENAME' => [ 'ALTER SCHEMA kappa RENAME TO elsewhere', [ $none, '0' ], undef, 'ALTER SCHEMA elsewhere RENAME TO kappa', $goes_on ],
	'DROP DATABASE FORCE' => [ undef ]);

sub go_away
{
	my ($round, $kind, $point) = @_;
	my ($statement, $see, $refused, $mend, $then) = @{ $away{$kind} };
	my ($db, $what) = ("away$round", "$kind at $point");
	my @see = $see ? @$see : ();
	my @then = $then ? @$then : ();
	s/WHAT/$what/ for grep { defined } $see[0], $then[0];

	create_database($db);
	sql('REVOKE heir FROM app');
	sql("CREATE SCHEMA app AUTHORIZATION app; GRANT USAGE ON FOREIGN SERVER main TO app; SET ROLE app; CREATE TABLE app.away $plain", $db);
	sql("ALTER DATABASE $db SET kappa.fault = '$point:stop'") if $point ne 'start';
	sql("SET ROLE app; SELECT kappa.subscribe('away', 'main', 'away', 'app.away', format => 'text', batch_rows => 70)", $db);
	my ($pid) = $point eq 'start' ? () : poll_until(20, sub { grep { process_state($_) eq 'T' } workers($db) }) ? workers($db) : ();
	ok($pid, "$what: the worker stands there") if $point ne 'start';
	sql("ALTER DATABASE $db RESET kappa.fault");
	my $run = $statement ? begin_statement($statement, $db) : begin_statement("DROP DATABASE $db WITH (FORCE)", 'postgres');
	# it waits for the worker, or is done
	poll_until(2, sub { !$run->{handle}->pumpable || sql("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND wait_event_type IN ('Lock', 'IPC')
		AND backend_type = 'client backend'") > 0 || time() - $run->{begin} > 0.5 });
	kill 'CONT', $pid if $pid;
	finish($run, 5, $what, $refused);
	tool('send', 'away', 0, '-', $what);
	becomes(@see, $what . ': ' . ($see->[0] eq $none ? 'no worker is left' : $see eq $goes_on ? 'goes on' : 'stopped, and says why'), $db, 8) if $see;
	sql($mend, $db) if $mend;
	becomes(@then, "$what: mended", $db, 20) if $then;
	takes(5, "$what, then DROP DATABASE WITH (FORCE)", "DROP DATABASE IF EXISTS $db WITH (FORCE)");
}

$offset = -s $node->logfile;
my @kinds = sort keys %away;
my @all_points = (@points, 'start');
my ($round, $first) = (0, pick(scalar @all_points));
if ($ENV{KAPPA_LONG})
{
	for my $kind (@kinds) { go_away($round++, $kind, $_) for @all_points; }
}
else
{
	go_away($round, $kinds[$round], $all_points[ ($first + $round) % @all_points ]), $round++ while $round < @kinds;
}

# no process is started over and over for what is gone: a scout and a worker may have been on their way to each
sub restarted
{
	my %starts;

	$starts{$_}++ for slurp_file($node->logfile, $offset) =~ /FATAL:  database (\d+) does not exist/g;
	return join ' ', map { "$_: $starts{$_}" } grep { $starts{$_} > 2 } sort keys %starts;
}
poll_until(3, sub { restarted() ne '' });
is(restarted(), '', "no restart loop for $round databases that are gone");

# ---------------------------------------------------------------- copies of the files (F35)

tool('create', 'twin', 2);
subscribe('postgres', 'twin', 'twin', ', batch_rows => 100');
$load = load('twin', 4, 800, '--broken', 1);
becomes('SELECT count(*) > 300 FROM twin', 't', 'rows arrive before the copy');
$node->stop('immediate');
$node->backup_fs_cold('files');
my $twin = PostgreSQL::Test::Cluster->new('twin');
$twin->init_from_backup($node, 'files');
$node->start;
$twin->start;
waitpid $load, 0;
intact('the original of a copied data directory', 'twin', 'twin');
{
	my $original = $node;
	$node = $twin;
	intact('the copy, which goes on by itself', 'twin', 'twin');
	$node->stop;
	$node = $original;
}

# ---------------------------------------------------------------- rename, template, and a broker that does not answer (F31, F7)

for my $db ('idle', 'cut', 'other') { create_database($db); subscribe($db, 'twin', 'twin'); }
intact("in database $_", 'twin', 'twin', database => $_) for 'idle', 'cut';
my @slow = map { [ $_->[0], begin_statement($_->[1], 'postgres') ] } (
	[ 'ALTER DATABASE RENAME', 'ALTER DATABASE idle RENAME TO idler' ], [ 'CREATE DATABASE TEMPLATE', 'CREATE DATABASE copy TEMPLATE cut' ], [ 'DROP DATABASE', 'DROP DATABASE other' ]);
finish($_->[1], 9, "$_->[0] with a worker there", qr/55006/) for @slow;
sql("SELECT kappa.disable('twin')", 'idle');
takes(5, 'ALTER DATABASE RENAME, disabled', 'ALTER DATABASE idle RENAME TO idler');
sql("SELECT kappa.enable('twin')", 'idler');
produce('twin', 100);
intact('renamed', 'twin', 'twin', database => 'idler');

# a database that nobody may connect to for a while: its worker stays, as all do who are in it, but has no successor
# before the minute's poll, here a second's, sees that one may connect again
sql("ALTER SYSTEM SET kappa.history_interval = '1s'");
sql('SELECT pg_reload_conf()');
sql('ALTER DATABASE idler ALLOW_CONNECTIONS false');
my $idlers = "FROM pg_stat_activity WHERE backend_type = 'pg_kappa worker' AND datname = 'idler'";
is(sql("SELECT count(pg_terminate_backend(pid)) $idlers"), '1', 'no connections allowed: the worker stays');
becomes("SELECT count(*) $idlers", '0', 'no connections allowed: it ends');
$offset = -s $node->logfile;
# a scout may have been on its way
ok(!poll_until(4, sub { (() = slurp_file($node->logfile, $offset) =~ /"idler" is not currently accepting connections/g) > 1 }), 'no connections allowed: nobody tries again and again');
produce('twin', 100);
sql('ALTER DATABASE idler ALLOW_CONNECTIONS true');
intact('connections allowed again', 'twin', 'twin', database => 'idler');
sql('ALTER SYSTEM RESET kappa.history_interval');
sql('SELECT pg_reload_conf()');

my $broker = slurp_file("$ENV{SCRATCH}/kafka_034_ddl_faults/pid") + 0;
kill 'STOP', $broker;
my @pids = workers('postgres');
sql('CREATE DATABASE empty');
sql('CHECKPOINT');	# DROP DATABASE makes one, and writing is not what is measured
takes(1, 'broker frozen: DROP DATABASE elsewhere', 'DROP DATABASE empty');
takes(5, 'broker frozen: DROP DATABASE WITH (FORCE)', 'DROP DATABASE cut WITH (FORCE)');
takes(2, 'broker frozen: DDL on a target', 'ALTER TABLE twin ADD more int');
takes(2, 'broker frozen: disable', "SELECT kappa.disable('ver')");
for my $which ('a worker with its connection', 'its successor, which never had one')
{
	my ($pid) = poll_until(10, sub { workers('postgres') == 1 }) ? workers('postgres') : (0);
	becomes("SELECT status, reason FROM kappa.subscriptions WHERE name = 'twin'", 'backoff|disconnected', 'broker frozen: the status says so') if $which =~ /never/;
	my $begin = time();
	ok($pid && kill('TERM', $pid) && poll_until(10, sub { is_gone($pid) }) && time() - $begin < 2,
		sprintf('broker frozen: %s is gone %.2f s after SIGTERM', $which, time() - $begin));
}
my $begin = time();
$node->stop('fast');
cmp_ok(time() - $begin, '<', 8, sprintf('broker frozen: stop -m fast after %.1f s', time() - $begin));
$node->start;
kill 'CONT', $broker;
produce('twin', 100);
intact('the broker answers again', 'twin', 'twin');
intact('renamed', 'twin', 'twin', database => 'idler');

# ---------------------------------------------------------------- the last stored message expires (F12), partitions added (F13)

# Nothing is lost by it, but nothing tells any more that the topic is still the same.
tool('create', 'expired', 1);
subscribe('postgres', 'expired', 'expired');
my $verdict = "SELECT verdict, next_offset, (SELECT count(*) FROM expired) FROM kappa.stat_partition WHERE name = 'expired'";
produce('expired', 40);
becomes($verdict, 'ok|40|40', 'before: all is read');
tool('delete-records', 'expired', 0, 40);
becomes("SELECT clock_timestamp() - last_commit_time > '0.6 s' FROM kappa.stat_subscription WHERE name = 'expired'", 't', 'a silence');
tool('send', 'expired', 0, '-', 'while it runs');
becomes($verdict, 'unverified|41|41', 'the last stored message expired: goes on, unverified');
sql("SELECT kappa.disable('expired')");
tool('delete-records', 'expired', 0, 41);
tool('send', 'expired', 0, '-', 'while it is down');
sql("SELECT kappa.enable('expired')");
becomes($verdict, 'unverified|42|42', 'the same at a start');
is(sql("SELECT start_offset, stored, holes, balanced FROM kappa.balance WHERE name = 'expired'"), '0|42|0|t', 'and nothing is missing');

tool('add-partitions', 'twin', 4);	# found by the end of the next section

# ---------------------------------------------------------------- a second consumer at every point (F18)

sub fault
{
	my ($fault) = @_;

	$node->adjust_conf('postgresql.conf', 'kappa.fault', "'$fault'");
	$node->reload;
	poll_until(20, sub { sql('SHOW kappa.fault') eq $fault }) or die 'no reload';
}

tool('create', 'rogue', 1);
subscribe('postgres', 'rogue', 'rogue', ', batch_rows => 50');
# a background process that is just being forked may miss a reload
becomes("SELECT status FROM kappa.subscriptions WHERE name = 'rogue'", 'idle', 'rogue: the worker is there');
my %won;
for my $point (@points)
{
	fault("$point:stop");
	produce('rogue', 120);
	my $pid = 0;
	ok(poll_until(20, sub {
		$pid = sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'pg_kappa rogue 0'");
		return $pid && process_state($pid) eq 'T'; }), "rogue at $point: the worker stands there");
	my ($code) = $node->psql('postgres', q{SET lock_timeout = '1s'; SET statement_timeout = '10s';
		BEGIN;
		WITH k AS (SELECT p.subscription, k.part, k.kafka_offset, k.key, k.value FROM kappa.position p JOIN kappa.subscription s ON s.id = p.subscription AND s.name = 'rogue',
				kappa.peek('main', 'rogue', n => 20, start_from => json_build_object(p.part, next_offset)::text) k WHERE k.kafka_offset >= next_offset),
			moved AS (UPDATE kappa.position p SET next_offset = t.upto, stored = stored + n FROM (SELECT subscription, max(kafka_offset) + 1 AS upto, count(*) AS n FROM k GROUP BY 1) t
				WHERE p.subscription = t.subscription AND p.next_offset = t.upto - t.n RETURNING 1)
		INSERT INTO rogue SELECT part, kafka_offset, key, convert_from(value, 'UTF8') FROM k WHERE EXISTS (SELECT FROM moved);
		COMMIT}, timeout => 60);
	$won{$point} = $code == 0 ? 'won' : 'lost';
	fault('');
	# another subscription's worker may have come to such a point too
	kill 'CONT', split /\n/, sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_kappa worker'");
	intact("rogue at $point ($won{$point})", 'rogue', 'rogue');
}
produce('twin', 400);
intact('partitions added', 'twin', 'twin');
is(sql("SELECT count(*), count(*) FILTER (WHERE start_offset = 0 AND stored > 0) FROM kappa.balance WHERE name = 'twin' AND part > 1"), '2|2', 'the new ones from their first message');
cmp_ok(scalar(grep { $_ eq 'won' } values %won), '>=', 3, 'the rogue won at ' . join ', ', grep { $won{$_} eq 'won' } @points);

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|was terminated by exception/, 'no crash');
$node->stop;
done_testing();
