# The functions that make, change, move and end subscriptions, and those that wait
# for one, against a real broker: subscribe, alter_subscription, enable, disable,
# unsubscribe, seek, skip, drain, wait_for, purge_dead_letters.
#
# Everything that needs no broker is in sql/subscription.sql.

use strict;
use warnings;

use KafkaWire;
use KappaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node;

sub sql { return $node->safe_psql('postgres', $_[0]); }

# The statement's ERROR has this SQLSTATE, and these words in any of its lines.
sub refused
{
	my ($statement, $state, $words, $name) = @_;
	my (undef, undef, $error) =
	  $node->psql('postgres', $statement, extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	like($error, qr/ERROR:  $state: .*$words/s, $name);
}

sub becomes
{
	my ($query, $wanted, $name) = @_;
	my $got = '';

	poll_until(30, sub { ($got = sql($query)) eq $wanted });
	is($got, $wanted, $name);
}

# partition:first:next, as kappa.stat_partition has them
sub positions
{
	return sql("SELECT string_agg(format('%s:%s:%s', part, start_offset, next_offset), ' ' ORDER BY part)
		FROM kappa.stat_partition WHERE name = '$_[0]'");
}

sub send_messages
{
	my ($topic, $part, @values) = @_;
	my $last;

	$last = tool('send', $topic, $part, '-', $_) for @values;
	return $last;
}

my $address = broker_start();
$node = kappa_node('control', 'max_prepared_transactions = 2');
kappa_server($node, $address);
tool('create', 'control', 3);
send_messages('control', 0, map { qq({"id": $_}) } 1 .. 4);
my $between = sql('SELECT clock_timestamp()');
usleep(10_000) until time() > sql("SELECT extract(epoch FROM '$between'::timestamptz) + 0.01");
send_messages('control', 0, '{"id": 5}', '{"id": 6}');
send_messages('control', 1, map { qq({"id": $_}) } 11 .. 13);

# ---------------------------------------------------------------- subscribe

refused("SELECT kappa.subscribe('missing', 'main', 'nosuch')", '\w{5}', 'nosuch', 'an unknown topic is an ERROR');
is(sql("SELECT to_regclass('missing') IS NULL AND NOT EXISTS (TABLE kappa.subscriptions)"), 't', 'and leaves nothing');
like(sql('SELECT string_agg(topic, \',\') FROM kappa.topics(\'main\')'), qr/control/, 'the topic is listed');

is( sql(q{
	BEGIN;
	SELECT kappa.subscribe('control', 'main', 'control');
	SELECT count(*) FROM kappa.stat_partition WHERE name = 'control';
	ROLLBACK;
	SELECT count(*) FROM kappa.subscriptions;
	SELECT count(*) FROM kappa.stat_partition;
	SELECT to_regclass('control') IS NULL;
}), "control\n3\n0\n0\nt", 'subscribe rolls back with its transaction, with the table it made');

sql("SELECT kappa.subscribe('control', 'main', 'control')");
like(positions('control'), qr/^0:0:\d 1:0:\d 2:0:0$/, 'stat_partition has its rows at once');
is(sql("SELECT kappa.drain('control'); SELECT count(*) FROM control"), "\n9", 'the shortest form needs no target');
is( sql(q{SELECT string_agg(attname || ' ' || format_type(atttypid, NULL), ', ' ORDER BY attnum)
	FROM pg_attribute WHERE attrelid = 'control'::regclass AND attnum > 0}),
	'kafka_topic text, kafka_partition integer, kafka_offset bigint, kafka_timestamp timestamp with time zone, '
	  . 'kafka_key bytea, kafka_headers jsonb, value jsonb', 'it makes kafka_* columns and value jsonb');
is(sql(q{SELECT kafka_topic, kafka_partition, kafka_offset, value->'id' FROM control WHERE kafka_partition = 0 AND kafka_offset = 4}),
	'control|0|4|5', 'and fills them');
refused("SELECT kappa.subscribe('control', 'main', 'control')", '42710', 'already exists', 'a name is taken once');

# all forms of start_from, none of them enabled
sql("CREATE TABLE target (id integer PRIMARY KEY)");
tool('set-group', 'before', 'control', 0, 3);
tool('set-group', 'before', 'control', 1, 2);
my %starts = (
	earliest                => '0:0:0 1:0:0 2:0:0',
	latest                  => '0:6:6 1:3:3 2:0:0',
	$between                => '0:4:4 1:0:0 2:0:0',
	'2001-01-01 00:00+01'   => '0:0:0 1:0:0 2:0:0',
	'{"0": 5, "1": 1}'      => '0:5:5 1:1:1 2:0:0',
	'{"1": 3}'              => '0:0:0 1:3:3 2:0:0',
	'group:before'          => '0:3:3 1:2:2 2:0:0',
);
for my $start (sort keys %starts)
{
	sql("SELECT kappa.subscribe('start', 'main', 'control', 'target', start_from => '$start', enabled => false)");
	is(positions('start'), $starts{$start}, "start_from => '$start'");
	sql("SELECT kappa.unsubscribe('start')");
}
my $later = sql("SELECT now() + '1 hour'");
sql("SELECT kappa.subscribe('start', 'main', 'control', 'target', start_from => '$later', enabled => false)");
is(positions('start'), '0:6:6 1:3:3 2:0:0', 'a time behind the last message starts at the end');
is(sql("SELECT start_from = '$later' FROM kappa.subscriptions WHERE name = 'start'"), 't', 'start_from is kept as typed');
sql("SELECT kappa.unsubscribe('start')");
refused("SELECT kappa.subscribe('start', 'main', 'control', 'target', start_from => '$_')", '22\w{3}', 'start_from|range|partition|offset',
	"start_from => '$_' is refused") for '{"7": 1}', '{"0": 99}', '{"0": -3}', 'yesterday-ish', 'group:', '{"0": "x"}';

# rights: role, what it lacks
sql(q{
	CREATE ROLE app; CREATE ROLE stranger; CREATE ROLE shop;
	CREATE TABLE of_app (id integer, kafka_partition integer, kafka_offset bigint); ALTER TABLE of_app OWNER TO app;
	CREATE TABLE of_shop (id integer); ALTER TABLE of_shop OWNER TO shop;
	CREATE TABLE guarded (id integer); ALTER TABLE guarded OWNER TO app;
	ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
	GRANT USAGE ON FOREIGN SERVER main TO app;
});
my $as = sub { "SET ROLE $_[0]; SELECT kappa.subscribe('mine', 'main', 'control', '$_[1]')" };
refused($as->('stranger', 'of_app'), '42501', 'foreign server', 'a stranger needs USAGE on the server');
refused($as->('app', 'of_shop'), '42501', 'INSERT', 'INSERT on the target');
sql('GRANT INSERT ON of_shop TO app');
refused($as->('app', 'of_shop'), '42501', 'cannot set role to the owner', "and membership in the target's owner");
refused($as->('app', 'guarded'), '0A000', 'row-level security', 'row-level security that binds the owner is refused');
sql('GRANT shop TO app');
sql($as->('app', 'of_shop'));
becomes("SELECT count(*), min(id), max(id) FROM of_shop", '9|1|13', 'with all three it consumes');
refused("SET ROLE stranger; SELECT kappa.$_", '42501', 'must be owner', "a stranger may not $_")
  for "disable('mine')", "skip('mine', 0, 5)", "run('mine')", "drain('mine')", "unsubscribe('mine')";
is(sql("SET ROLE stranger; SELECT count(*) FROM kappa.subscriptions"), '0', 'nor see it');
is(sql("SET ROLE app; SELECT string_agg(name, ',') FROM kappa.subscriptions"), 'mine', 'its owner sees it alone');

# a name used again is another subscription: nothing of the old one is left
sql("SET ROLE app; SELECT kappa.unsubscribe('mine'); SELECT kappa.subscribe('mine', 'main', 'control', 'of_app')");
becomes("SELECT count(*) FROM of_app", '9', 'a name used again starts anew');
is(positions('mine'), '0:0:6 1:0:3 2:0:0', 'at its own positions');
is(sql('SELECT count(*) FROM of_shop'), '9', 'and the old target stays as it was');

# ---------------------------------------------------------------- alter, enable, disable

# what is committed after disable returned would show in stat_partition
sub settled
{
	my ($name) = @_;
	my ($before, $end) = (positions($name), time() + 2);

	while (time() < $end)
	{
		return 0 if positions($name) ne $before;
		usleep(50_000);
	}
	return 1;
}

my $stream = tool_async(qw(produce --topic control --messages 6000 --rate 1000 --kind plain --seed 1));
sql('CREATE TABLE stream (kafka_partition integer, kafka_offset bigint, value text)');
sql("SELECT kappa.subscribe('stream', 'main', 'control', 'stream', format => 'text', batch_rows => 7)");
ok(poll_until(30, sub { sql('SELECT count(*) FROM stream') > 100 }), 'a stream flows');
is( sql(q{BEGIN; SELECT kappa.disable('stream'); SELECT status FROM kappa.subscriptions WHERE name = 'stream'; ROLLBACK}),
	"\ndisabled", 'disable is seen in its transaction');
my $seen = sql('SELECT count(*) FROM stream');
ok(poll_until(30, sub { sql('SELECT count(*) FROM stream') > $seen }), 'and rolled back it lets the worker go on');
sql("SELECT kappa.disable('stream')");
ok(settled('stream'), 'once disable has returned nothing more is committed');
is(sql("SELECT status FROM kappa.subscriptions WHERE name = 'stream'"), 'disabled', 'the status says disabled');
is(sql('SELECT count(*) FROM stream'), sql("SELECT sum(stored) FROM kappa.balance WHERE name = 'stream'"), 'rows and positions agree');
becomes("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pg_kappa stream %'", '0', 'the worker ends');

sql("SELECT kappa.alter_subscription('stream', workers => 2, batch_rows => 500)");
is(sql("SELECT workers, batch_rows, batch_wait, enabled FROM kappa.subscriptions WHERE name = 'stream'"), '2|500|00:00:00.01|f',
	'alter changes what is named, the rest stays');
sql("SELECT kappa.enable('stream')");
waitpid $stream, 0;
sql("SELECT kappa.drain('stream', timeout => '30 s')");
is( sql("SELECT count(*), count(DISTINCT (kafka_partition, kafka_offset)) FROM stream"), '6009|6009',
	'enabled again it reads everything, each message once');
is(sql("SELECT count(*) FROM kappa.stat_subscription WHERE name = 'stream' AND pid IS NOT NULL"), '2', 'by two workers now');
is(sql("SELECT bool_and(balanced), sum(holes) FROM kappa.balance WHERE name = 'stream'"), 't|0', 'balanced, no holes');

# A partition that the other worker has met later ones than: as if ours had been away then
tool('create', 'grown', 4);
send_messages('grown', $_, "of $_") for 0 .. 3;
sql("CREATE TABLE grown (kafka_partition integer, value text);
	SELECT kappa.subscribe('grown', 'main', 'grown', 'grown', format => 'text', workers => 2, enabled => false);
	DELETE FROM kappa.position WHERE part = 2 AND subscription = (SELECT id FROM kappa.subscription WHERE name = 'grown');
	SELECT kappa.enable('grown')");
becomes('SELECT string_agg(value, \', \' ORDER BY kafka_partition) FROM grown', 'of 0, of 1, of 2, of 3', 'a partition without a position gets one');
sql("SELECT kappa.unsubscribe('grown')");
sql("ALTER TABLE stream ADD extra text; CREATE TABLE stream_two (LIKE stream);
	SELECT kappa.alter_subscription('stream', target => 'stream_two', columns => '{\"extra\": \"kafka.topic\"}', workers => 1)");
my $at = send_messages('control', 2, 'after alter');
sql("SELECT kappa.wait_for('stream', 2, $at)");
is(sql('SELECT kafka_partition, kafka_offset, value, extra FROM stream_two'), "2|$at|after alter|control",
	'rows go by the new definition once alter has returned');
refused("SELECT kappa.alter_subscription('stream', batch_rows => 1000001)", '22023', 'at most 1000000.*is 1000001', 'batch_rows has a bound');
refused("SELECT kappa.alter_subscription('stream', start_from => 'latest')", '0A000', 'kappa.seek', 'start_from is for seek');
refused("SELECT kappa.$_('nosuch')", '42704', 'nosuch', "$_ of an unknown name") for qw(enable disable unsubscribe drain alter_subscription run redrive);

# two-phase commit would lose the notice to the workers; where it is not refused it keeps the lock
my $prepare = q{BEGIN; SELECT kappa.disable('stream'); PREPARE TRANSACTION 'kappa'};
refused($prepare, '0A000', 'changed a subscription', 'what changes a subscription cannot be prepared');
sql("ROLLBACK PREPARED 'kappa'") if sql('SELECT count(*) FROM pg_prepared_xacts');
is( sql("\\set ON_ERROR_STOP 0\nSET lock_timeout = '5 s'; $prepare" . q{;
	BEGIN; SAVEPOINT a; SELECT kappa.enable('control'); ROLLBACK TO a; SELECT kappa.enable('control'); COMMIT;
	BEGIN; SELECT 1; PREPARE TRANSACTION 'other'; COMMIT PREPARED 'other'}), "\n\n\n1",
	'and leaves nothing behind in the session; other transactions can be prepared');

# ---------------------------------------------------------------- drain, wait_for

$at = send_messages('control', 2, 'read my write');
sql("SELECT kappa.wait_for('stream', part => 2, at => $at)");
is(sql("SELECT kappa.wait_for('stream', 2, $at); SELECT value FROM stream_two WHERE kafka_offset = $at"), "\nread my write",
	'wait_for: the row is there in the next statement');
refused("SELECT kappa.wait_for('stream', 2, 999999, timeout => '100 ms')", '57014', 'wanted is 1000000', 'wait_for: timeout');
refused("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT kappa.$_", '25001', 'isolation', "repeatable read: $_")
  for "wait_for('stream', 2, 0)", "drain('stream')";
refused("BEGIN; SELECT kappa.alter_subscription('stream', batch_rows => 400); SELECT kappa.$_", '25001', 'COMMIT', "changed here: $_")
  for "wait_for('stream', 2, 0)", "drain('stream')";
refused("SELECT kappa.wait_for('stream', -1, 0)", '22023', 'partition', 'wait_for: no such place');

# a lock that the worker waits for: drain has to give up
my $blocker = $node->background_psql('postgres', verbose => 0);
$blocker->query_safe('BEGIN; LOCK TABLE stream_two IN ACCESS EXCLUSIVE MODE');
send_messages('control', 2, 'behind a lock');
refused("SELECT kappa.drain('stream', timeout => '300 ms')", '57014', 'stands at', 'drain: timeout');
$blocker->query_safe("ROLLBACK; BEGIN; SELECT kappa.alter_subscription('stream', batch_rows => 300)");
refused("SET lock_timeout = '100 ms'; SELECT kappa.disable('stream')", '55P03', 'lock timeout', 'lock_timeout applies to the control lock');
$blocker->query_safe('COMMIT');
$blocker->quit;
sql("SELECT kappa.drain('stream', timeout => '90 s')");
is(sql("SELECT count(*) FROM stream_two WHERE value = 'behind a lock'"), '1', 'drain returns when it is committed');
is(sql("SELECT kappa.drain('stream')"), '', 'drain at the end returns at once');

sql("SELECT kappa.disable('stream')");
$at = send_messages('control', 2, 'nobody reads');
my $started = time();
refused("SELECT kappa.wait_for('stream', 2, $at, timeout => '1 min')", '55000', 'disabled', 'wait_for: disabled fails at once');
refused("SELECT kappa.drain('stream')", '55000', 'disabled', 'drain: disabled fails at once');
cmp_ok(time() - $started, '<', 15, 'at once is no timeout');
is(sql("SELECT kappa.wait_for('stream', 2, $at - 1)"), '', 'what is there already is no reason to fail');

# ---------------------------------------------------------------- seek, skip

my $stats = sub { sql("SELECT start_offset, next_offset, stored, skipped, holes, balanced FROM kappa.balance
	WHERE name = 'stream' AND part = $_[0] AND closed_at " . ($_[1] ? 'IS NOT NULL' : 'IS NULL')) };
my $old = $stats->(0);
my ($end) = (split /\|/, $old)[1];
is(sql(qq{SELECT * FROM kappa.seek('stream', start_from => '{"0": 5}')}), "0|$end|5", 'seek tells old and new offset');
is($stats->(0), '5|5|0|0|0|t', 'seek starts a new account');
is($stats->(0, 1), $old, 'and keeps the old line');
is(sql("SELECT count(*) FROM kappa.balance WHERE name = 'stream'"), '4', 'of the partition alone');
my ($seek_time) = sql("SELECT kafka_timestamp FROM control WHERE kafka_partition = 0 AND kafka_offset = 4");
for ([ 'earliest', 0 ], [ 'latest', $end ], [ $seek_time, 4 ], [ 'group:before', 3 ])
{
	sql("BEGIN; SELECT kappa.seek('stream', start_from => '$_->[0]'); COMMIT");
	is((split /\|/, $stats->(0))[1], $_->[1], "seek to $_->[0]");
}
is( sql(q{BEGIN; SELECT count(*) FROM kappa.seek('stream', 'earliest'); ROLLBACK;
	SELECT next_offset FROM kappa.stat_partition WHERE name = 'stream' AND part = 0}), "3\n3", 'seek rolls back');
is(sql("SELECT DISTINCT closed_by FROM kappa.closed_account"), 'postgres', 'who did it is recorded');

refused("SELECT kappa.skip('stream', part => 0, at => 2)", '22023', 'passed', 'skip: below the position');
refused("SELECT kappa.skip('stream', part => 0, at => $end)", '22023', 'high watermark', 'skip: not below the high watermark');
refused("SELECT kappa.skip('stream', part => 9, at => 0)", '22023', 'partition', 'skip: no such partition');
is(sql("SELECT kappa.skip('stream', part => 0, at => 9)"), '10', 'skip gives the new position');
is($stats->(0), '3|10|0|7|0|t', 'messages passed count as skipped, in the same account');
tool('delete-records', 'control', 0, 20);
sql("SELECT kappa.enable('stream')");
becomes("SELECT reason LIKE 'gap: partition 0, offsets [10, 20): %' FROM kappa.subscriptions WHERE name = 'stream'", 't', 'a gap stops');
refused("SELECT kappa.wait_for('stream', 0, 30, timeout => '1 min')", '55000', 'gap', 'wait_for: a stopped partition fails at once');
refused("SELECT kappa.drain('stream')", '55000', 'gap', 'drain: a stopped partition fails');
is(sql("SELECT kappa.skip('stream', part => 0, at => 21)"), '22', 'skip passes the gap and two messages');
is(sql("SELECT enabled FROM kappa.subscriptions WHERE name = 'stream'"), 't', 'enabled stays true through it');
sql("SELECT kappa.drain('stream')");
is($stats->(0), "3|$end|" . ($end - 22) . '|9|10|t', 'messages are skipped, missing ones holes, and it goes on');

# ---------------------------------------------------------------- dead letters, unsubscribe

tool('create', 'letters', 1);
sql("CREATE TABLE letters (id integer)");
sql("SELECT kappa.subscribe('letters', 'main', 'letters', 'letters')");
send_messages('letters', 0, '{"id": 1}', '{"id": "one"}', 'not json', '{"id": 2}');
sql("SELECT kappa.drain('letters')");
is(sql("SELECT string_agg(kafka_offset::text, ',' ORDER BY id) FROM kappa.dead_letters WHERE name = 'letters'"), '1,2', 'two dead letters');
refused("SELECT kappa.unsubscribe('letters')", '55006', '2 messages', 'unsubscribe refuses open dead letters');
is(sql("SELECT kappa.purge_dead_letters('letters', before => '2001-01-01')"), '0', 'purge by age: none');
is(sql("SELECT kappa.purge_dead_letters('letters', before => created_at) 
	FROM kappa.dead_letters WHERE name = 'letters' ORDER BY id LIMIT 1"), '0', 'before is exclusive');
is(sql("BEGIN; SELECT kappa.unsubscribe('letters', force => true); ROLLBACK;
	SELECT count(*) FROM kappa.dead_letters WHERE name = 'letters'"), "\n2",
	'unsubscribe rolls back');
send_messages('letters', 0, '{"id": 3}');
becomes('SELECT count(*) FROM letters', '3', 'and the worker goes on');
is(sql("SELECT kappa.purge_dead_letters('letters')"), '2', 'purge gives the number');
is(sql("SELECT dead_lettered, balanced FROM kappa.balance WHERE name = 'letters'"), '2|t', 'the balance still counts them');
sql("SELECT kappa.unsubscribe('letters')");
is( sql("SELECT count(*) FROM kappa.position WHERE subscription NOT IN (SELECT id FROM kappa.subscription)"), '0', 'unsubscribe leaves no rows');
is(sql('SELECT count(*) FROM letters'), '3', 'but the target');
sql("SELECT kappa.subscribe('letters', 'main', 'letters', 'letters')");
sql("SELECT kappa.drain('letters')");
sql("SELECT kappa.unsubscribe('letters', force => true)");
is(sql("SELECT count(*) FROM kappa.dead_letter WHERE topic = 'letters'"), '0', 'force deletes open dead letters');
becomes("SELECT count(*) FROM kappa.worker_slots() WHERE subscription NOT IN (SELECT id FROM kappa.subscription)", '0', 'and its slots are freed');

# ---------------------------------------------------------------- what a worker holds after a while

# Each message after a silence has the last one of its partition read again, by a client of its own
# whose library has much to say: some 8 kB in its queues, if nobody listens
my ($parts, $rounds, @kb) = (40, 8);
tool('create', 'silence', $parts);
sql("CREATE TABLE silence (value text); SELECT kappa.subscribe('silence', 'main', 'silence', 'silence', format => 'text')");
for my $round (1 .. $rounds)
{
	my $last = time();

	produce($address, 'silence', $_, 'x') for 0 .. $parts - 1;
	becomes('SELECT count(*) FROM silence', $round * $parts, "round $round arrives");
	my $pid = sql("SELECT pid FROM kappa.stat_subscription WHERE name = 'silence'");
	push @kb, slurp_file("/proc/$pid/status") =~ /RssAnon:\s+(\d+)/;
	usleep(10_000) until time() > $last + 0.45;
}
# partitions of several workers, now one's: together they remember no more than the last 1,000 messages
sql("SELECT kappa.disable('silence'); UPDATE kappa.position SET recent_messages = 1000, recent_dead = 300
	WHERE subscription = (SELECT id FROM kappa.subscription WHERE name = 'silence')");
sql("SELECT kappa.enable('silence')");
produce($address, 'silence', $_, 'x') for 0 .. $parts - 1;
becomes('SELECT count(*) FROM silence', ($rounds + 1) * $parts, 'messages after the change');
# a row is as old as its partition's last batch
is(sql("SELECT sum(recent_messages) BETWEEN 1000 AND 1000 + $parts, sum(recent_dead) BETWEEN 240 AND 300 FROM kappa.position
	WHERE subscription = (SELECT id FROM kappa.subscription WHERE name = 'silence')"), 't|t',
	'the window of the poison rule is 1,000 messages for all partitions together');
# the client itself comes with the first of them
cmp_ok($kb[-1] - $kb[3], '<', 600, ($rounds - 4) * $parts . " messages after a silence, and the worker stays small: @kb kB");

# what shared memory knows of its partitions goes with the subscription
my $entries = sprintf('SELECT count(high_watermark) FROM generate_series(0, %d) AS p, kappa.partition_status(%d, p)',
	$parts - 1, sql("SELECT id FROM kappa.subscription WHERE name = 'silence'"));
is(sql($entries), $parts, 'partitions have entries in shared memory');
sql("SELECT kappa.unsubscribe('silence')");
becomes($entries, '0', 'which unsubscribe gives back');

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|server process .* was terminated/, 'no crash');
$node->stop;
done_testing();
