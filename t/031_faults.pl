# Faults at every point of a batch, a rogue that moves positions under the worker,
# terminated processes, crashes in a crash's recovery: each message is there once,
# says a reader of Kafka that knows nothing of us, and work goes on within 10 s.
# Then how fast workers leave, and what 200 restarts leave behind.
#
# Needs a build with FAULTS=1 (fault.h), which ./check tap has.
#
#   KAPPA_SEED=N replays a run's choices.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $resume = 10;
my $seed = seed();
my $address = broker_start();
my $node = kappa_node('faults', 'log_statement = none', "kappa.fault = ''");
my $log = $node->logfile;

sub sql { return $node->safe_psql('postgres', join ' ', @_); }

# The same where the server may be recovering: an empty string then
sub try_sql
{
	my ($code, $out) = $node->psql('postgres', $_[0]);
	return $code == 0 ? $out : '';
}

if ($node->psql('postgres', 'SET kappa.fault = DEFAULT') != 0 || sql("SELECT count(*) FROM pg_settings WHERE name = 'kappa.fault'") eq '0')
{
	$node->stop;
	plan skip_all => 'built without FAULTS=1';
}
tool('create', 'faults', 2);
kappa_server($node, $address);
sql(q{
	CREATE TABLE faults (kafka_partition int, kafka_offset bigint, kafka_key bytea, value text);
	SELECT kappa.subscribe(name => 'faults', server => 'main', topic => 'faults', target => 'public.faults',
		format => 'text', batch_rows => 100);
});

# ---------------------------------------------------------------- tools

my $rounds = 0;
my $expected = 0;

sub produce
{
	my ($messages) = @_;

	tool('produce', '--seed', $seed + ++$rounds, '--topic', 'faults', '--kind', 'plain', '--messages', $messages,
		'--broken', 2, '--transactional', '--transaction-size', 150, '--abort-percent', 10);
	($expected) = tool('oracle', '--topic', 'faults') =~ /messages=(\d+)/;
}

sub arrived
{
	return sql("SELECT (SELECT count(*) FROM faults) + (SELECT count(*) FROM kappa.dead_letters WHERE name = 'faults')");
}

sub workers
{
	my ($type) = @_;
	return split /\n/, sql("SELECT pid FROM pg_stat_activity WHERE backend_type = '" . ($type // 'pg_kappa worker') . "' ORDER BY 1");
}

# All that was produced arrives, at most that late, each message once
sub intact
{
	my ($what, $seconds) = @_;
	my $begin = time();

	my $all = poll_until($seconds // 60, sub { arrived() >= $expected });
	ok($all, sprintf('%s: all arrives (%.1f s)', $what, time() - $begin))
	  or diag(sql("SELECT status, reason FROM kappa.subscriptions"));
	my ($same, $said) = oracle_compare($node, 'faults', table => 'faults', name => 'faults');
	ok($same, "$what: $said");
	is(sql("SELECT bool_and(balanced) FROM kappa.balance"), 't', "$what: balanced");
}

# Something of what was produced arrives soon after the fault
sub resumes
{
	my ($what, $before) = @_;
	my $begin = time();
	my $ok = poll_until($resume, sub { arrived() > $before });

	ok($ok, sprintf('%s: goes on after %.1f s', $what, time() - $begin));
}

sub fault
{
	my ($fault) = @_;

	# by the file, which works while the server recovers
	$node->adjust_conf('postgresql.conf', 'kappa.fault', "'$fault'");
	$node->reload;
	poll_until(60, sub { try_sql("SELECT '<' || current_setting('kappa.fault') || '>'") eq "<$fault>" }) or die 'the server is gone';
}

sub alive { return poll_until(30, sub { my @p = workers(); @p == 1 && arrived() >= $expected }); }

sub log_since
{
	my ($offset) = @_;
	return substr(slurp_file($log), $offset);
}

# ---------------------------------------------------------------- every point, every action

produce(300);
intact('start');
for my $point (qw(after_poll after_decode mid_insert before_position before_commit after_commit))
{
	for my $action (qw(error fatal kill))
	{
		my $what = "$action at $point";
		my $offset = -s $log;

		alive() or diag('no worker');
		fault("$point:$action:" . (1 + pick(2)));
		produce(500);
		ok(poll_until(20, sub { log_since($offset) =~ /fault point $point reached/ }), "$what: is met");
		fault('');
		# an ERROR outside of any attempt stops the partitions, and says what to do
		my $step = $action eq 'error' && poll_until(2, sub { arrived() < $expected && sql("SELECT next_step FROM kappa.subscriptions WHERE status = 'stopped'") });
		sql($step) if $step;
		my $before = arrived();
		resumes($what, $before) if $before < $expected;
		intact($what, $resume);
	}
}

# ---------------------------------------------------------------- rogues

# A second consumer without any lock: stores the next messages itself and moves the position
sub rogue
{
	my ($n) = @_;
	return $node->psql('postgres', qq{
		BEGIN; SET LOCAL statement_timeout = '5s';
		CREATE TEMP TABLE took ON COMMIT DROP AS SELECT p.part, next_offset AS from_offset, k.kafka_offset, k.key, k.value
			FROM kappa.position p, LATERAL kappa.peek('main', 'faults', n => $n, start_from => json_build_object(p.part, next_offset)::text) k
			WHERE p.part = 1 AND k.part = 1 AND k.kafka_offset >= next_offset;
		INSERT INTO faults SELECT part, kafka_offset, key, convert_from(value, 'UTF8') FROM took;
		DO \$\$ BEGIN
			UPDATE kappa.position p SET next_offset = t.upto, stored = stored + t.n, holes = holes + t.upto - p.next_offset - t.n
				FROM (SELECT max(kafka_offset) + 1 AS upto, count(*) AS n, min(from_offset) AS start FROM took) t
				WHERE part = 1 AND p.next_offset = t.start;
			ASSERT FOUND; END \$\$;
		COMMIT});
}

{
	my $offset = -s $log;
	my $won = 0;

	# broken messages are not text, so this rogue takes only good ones
	alive();
	my $producer = tool_async('produce', '--seed', $seed + ++$rounds, '--topic', 'faults', '--kind', 'plain', '--seconds', 12, '--rate', 500);
	my $end = time() + 11;
	while ($won < 3 && time() < $end)
	{
		# the worker stands still with the old position in its memory
		my ($pid) = poll_until(5, sub { workers() }) ? workers() : next;
		kill 'STOP', $pid;
		usleep(100_000);
		$won++ if rogue(40) == 0;
		kill 'CONT', $pid;
		my $before = arrived();
		resumes('a rogue moved the position', $before);
	}
	waitpid $producer, 0;
	produce(300);
	ok($won >= 3, "a rogue stored messages and moved the position $won times");
	intact('rogue', 30);
	my $lost = () = log_since($offset) =~ /is not at offset/g;
	is($lost, $won, "the worker lost $lost times to $won moves, and said so once each");
}

# kappa.run in a loop beside the worker
{
	my $producer = tool_async('produce', '--seed', $seed + ++$rounds, '--topic', 'faults', '--kind', 'plain', '--seconds', 6, '--rate', 500, '--broken', 2);
	my ($end, $ran, $taken) = (time() + 7, 0, 0);
	while (time() < $end)
	{
		my ($code, $out, $err) = $node->psql('postgres', "SELECT kappa.run('faults')");
		$code == 0 ? ($ran++, $taken += $out) : diag("kappa.run: $err");
	}
	waitpid $producer, 0;
	produce(300);
	cmp_ok($ran, '>', 3, "kappa.run ran $ran times and took $taken messages beside the worker");
	intact('kappa.run beside the worker', 30);
}

# ---------------------------------------------------------------- ends

for my $type ('pg_kappa worker', 'pg_kappa launcher')
{
	alive();
	my ($pid) = workers($type);
	my $before = arrived();
	is(sql("SELECT pg_terminate_backend($pid)"), 't', "terminate the $type");
	produce(300);
	resumes("$type terminated", $before);
	intact("$type terminated", $resume);
	ok(poll_until($resume, sub { my ($new) = workers($type); $new && $new != $pid }), "$type: there is a new one");
}
for my $mode ('immediate', 'fast')
{
	my $producer = tool_async('produce', '--seed', $seed + ++$rounds, '--topic', 'faults', '--kind', 'plain', '--messages', 6000, '--rate', 3000);
	my $before = arrived();
	poll_until(20, sub { arrived() > $before + pick(1000) });
	my $begin = time();
	$node->stop($mode);
	cmp_ok(time() - $begin, '<', 8, sprintf("stop -m $mode takes %.1f s", time() - $begin));
	$node->start;
	waitpid $producer, 0;
	produce(100);
	resumes("stop -m $mode", $before);
	intact("stop -m $mode");
}

# Killed while it recovers from being killed
{
	sql('CHECKPOINT');
	my $producer = tool_async('produce', '--seed', $seed + ++$rounds, '--topic', 'faults', '--kind', 'plain', '--messages', 10000);
	my $before = arrived();
	poll_until(20, sub { arrived() > $before + 2000 });
	waitpid $producer, 0;
	$node->stop('immediate');
	for my $try (1 .. 3)
	{
		my $offset = -s $log;
		system('pg_ctl', '-D', $node->data_dir, '-l', $log, '-W', '-s', 'start');
		poll_until(10, sub { log_since($offset) =~ /automatic recovery in progress|redo starts/ });
		usleep(pick(20_000));
		system('pg_ctl', '-D', $node->data_dir, '-m', 'immediate', '-s', 'stop');
	}
	$node->{_pid} = undef;
	$node->start;
	produce(100);
	intact('crashes during recovery', 30);
}

# Enabled again while the worker that was disabled is leaving: the scout still sees its slot
{
	my $offset = -s $log;
	my $release = qr/fault point before_release reached/;

	alive();
	fault('before_release:stop');
	# by hand, which asks for no scout: the one of disable could be the first to see the slot
	sql("UPDATE kappa.subscription SET enabled = false, generation = generation + 1 WHERE name = 'faults'");
	ok(poll_until(20, sub { log_since($offset) =~ $release }), 'a worker is about to give its slot back');
	my ($pid) = log_since($offset) =~ /\[(\d+)\][^\n]*$release/;
	# the second subscription's worker proves that the scout has been here
	sql("CREATE TABLE second (value text); BEGIN; SELECT kappa.enable('faults');
		SELECT kappa.subscribe('second', 'main', 'faults', 'public.second', format => 'text'); COMMIT");
	fault('');
	ok(poll_until(20, sub { sql("SELECT count(*) FROM kappa.stat_subscription WHERE name = 'second' AND pid IS NOT NULL") == 1 }), 'a scout looks meanwhile');
	kill 'CONT', $pid;
	ok(poll_until($resume, sub { sql("SELECT pid <> $pid FROM kappa.stat_subscription WHERE name = 'faults'") eq 't' }), 'and the subscription has a worker again, soon');
	sql("SELECT kappa.unsubscribe('second', force => true)");
	poll_until(20, sub { workers() == 1 });
	produce(100);
	intact('enabled while its worker leaves', 30);
}

# ---------------------------------------------------------------- leaving in time

sub leaves
{
	my ($what, $limit) = @_;
	my ($pid) = workers();
	my $begin = time();

	kill 'TERM', $pid;
	my $gone = poll_until($limit + 5, sub { !-e "/proc/$pid" || slurp_file("/proc/$pid/stat") =~ /\) Z/ });
	my $took = time() - $begin;
	ok($gone && $took < $limit, sprintf('%s: a terminated worker leaves after %.2f s', $what, $took));
}

alive();
leaves('broker up', 2);
alive();
my $broker = slurp_file("$ENV{SCRATCH}/kafka_031_faults/pid") + 0;
kill 'STOP', $broker;
usleep(500_000);
leaves('broker frozen', 2);
my ($next) = poll_until(10, sub { workers() }) ? workers() : ();
leaves('broker frozen, a worker that never reached it', 2) if $next;
kill 'CONT', $broker;
produce(100);
intact('the broker is back', 30);

# ---------------------------------------------------------------- what restarts leave

# Of the processes that stay: open files, threads, kB
sub footprint
{
	my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
	my @sums = (0, 0, 0);

	for my $pid ($postmaster, workers('pg_kappa launcher'))
	{
		$sums[0] += () = glob("/proc/$pid/fd/*");
		$sums[1] += () = glob("/proc/$pid/task/*");
		$sums[2] += $1 if slurp_file("/proc/$pid/status") =~ /RssAnon:\s+(\d+)/;
	}
	return @sums;
}

my (@first, $restarts);
my $end = time() + 60;
for ($restarts = 0; $restarts < 200 && time() < $end; $restarts++)
{
	@first = footprint() if $restarts == 10;
	sql("SELECT kappa.disable('faults')");
	poll_until(10, sub { !workers() }) or last;
	sql("SELECT kappa.enable('faults')");
	poll_until(10, sub { workers() == 1 }) or last;
}
my @last = footprint();
cmp_ok($restarts, '>=', 20, "$restarts restarts of the worker");
note("postmaster and launcher, files threads kB: @first, after $restarts restarts @last");
cmp_ok($last[0], '<=', $first[0] + 2, 'open files stay as many');
is($last[1], $first[1], 'threads stay as many');
cmp_ok($last[2], '<=', $first[2] + 4096, 'memory grows by less than 4 MB');
produce(100);
intact('after the restarts', $resume);
$node->stop;
done_testing();
