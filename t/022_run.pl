# run and redrive in the caller's transaction; what the views say of each state;
# many subscriptions and databases under one launcher; what happens when things are
# dropped under a worker; copies of a database.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node;
my $address = broker_start();

sub sql { my ($query, $db) = @_; return $node->safe_psql($db // 'postgres', $query); }

sub refused
{
	my ($statement, $state, $words, $name) = @_;
	my (undef, undef, $error) =
	  $node->psql('postgres', $statement, extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	like($error, qr/ERROR:  $state: .*$words/s, $name);
}

sub becomes
{
	my ($query, $wanted, $name, $db) = @_;
	my $got = '';

	poll_until(40, sub { ($got = sql($query, $db)) eq $wanted });
	is($got, $wanted, $name);
}

sub send_messages
{
	my ($topic, $part, @values) = @_;

	tool('send', $topic, $part, '-', $_) for @values;
}

# A topic, a table and a subscription of this name
sub subscription
{
	my ($name, $parts, $more, $db) = @_;

	tool('create', $name, $parts) if $parts;
	sql("CREATE TABLE $name (kafka_partition integer, kafka_offset bigint, value text);
		SELECT kappa.subscribe('$name', 'main', '$name', '$name', format => 'text'" . ($more // '') . ')', $db);
}

my $status = "SELECT status, reason FROM kappa.subscriptions WHERE name =";
my $balance = "SELECT sum(stored), sum(dead_lettered), bool_and(balanced) FROM kappa.balance WHERE name =";

# The log does not fill with the same complaint over and over: what is started again
# and again is so after 1 s, with two lines for each process
sub quiet_log
{
	my ($what, $allowed) = @_;
	my $from = -s $node->logfile;
	my $lines = 0;

	ok( !poll_until(4, sub {
			$lines = () = slurp_file($node->logfile, $from) =~ /^(?!.*statement:).*(?:ERROR|FATAL|PANIC|exited with)/mg;
			return $lines > $allowed; }), "no restart loop after $what ($lines lines)");
}

# ---------------------------------------------------------------- without preload

$node = PostgreSQL::Test::Cluster->new('bare');
$node->init;
$node->start;
sql('CREATE EXTENSION pg_kappa CASCADE');
kappa_server($node, $address);
refused("SELECT kappa.subscribe('bare', 'main', 'bare')", '55000', 'shared_preload_libraries', 'without preload: nothing can be enabled');
subscription('bare', 1, ', enabled => false');
send_messages('bare', 0, 'a', 'b');
is(sql("SELECT kappa.run('bare'); SELECT count(*) FROM bare; $balance 'bare'"), "2\n2\n2|0|t", 'but run works');
refused("SELECT kappa.enable('bare')", '55000', 'shared_preload_libraries', 'and enable tells why not');
sql("UPDATE kappa.subscription SET enabled = true");
is(sql("SELECT status, reason, next_step ~ 'shared_preload_libraries' FROM kappa.subscriptions"),
	'waiting_for_worker|pg_kappa is not in shared_preload_libraries|t', 'the view says what is missing');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_kappa'\nmax_worker_processes = 3");
$node->restart;
send_messages('bare', 0, 'c');
becomes('SELECT count(*) FROM bare', '3', 'with preload the worker goes on from there');

# one worker's room, and one more subscription
subscription('bare_two', 1);
send_messages('bare_two', 0, 'a');
ok(poll_until(40, sub { sql("SELECT status = 'waiting_for_worker' AND next_step IS NOT NULL FROM kappa.subscriptions WHERE name = 'bare_two'") eq 't' }),
	'out of worker processes: waiting_for_worker');
my $step = sql("SELECT next_step FROM kappa.subscriptions WHERE name = 'bare_two'");
like($step, qr/^ALTER SYSTEM SET max_worker_processes = \d+; -- then restart the server$/, 'next step');
sql($step);
$node->restart;
becomes('SELECT count(*) FROM bare_two', '1', 'the next step works');
$node->stop;

# ---------------------------------------------------------------- run

$node = kappa_node('run', 'max_worker_processes = 40');
kappa_server($node, $address);
subscription('run', 2, ', batch_rows => 4, enabled => false');
send_messages('run', $_, 'a' .. 'j') for 0, 1;
is(sql("BEGIN; SELECT kappa.run('run', batches => 3); SELECT count(*) FROM run; ROLLBACK; SELECT count(*) FROM run; $balance 'run'"),
	"12\n12\n0\n0|0|t", 'ROLLBACK makes run a dry run');
is(sql("SELECT kappa.run('run'); $balance 'run'"), "4\n4|0|t", 'batch_rows is the bound of one batch');
is(sql("SELECT kappa.alter_subscription('run', batch_rows => 1); SELECT kappa.run('run', batches => 1); SELECT kappa.run('run', batches => 3); SELECT count(*) FROM run"),
	"\n1\n3\n8", 'and may be 1');
is(sql("SELECT kappa.run('run', batches => 1000); SELECT kappa.run('run'); SELECT count(*), count(DISTINCT (kafka_partition, kafka_offset)) FROM run"),
	"12\n0\n20|20", 'to the end, then nothing');
my $empty = 0;
for (1 .. 10)
{
	send_messages('run', $_ % 2, 'k');
	$empty++ if sql("SELECT kappa.run('run')") ne '1';
}
is($empty, 0, 'run is never empty-handed while messages stand there');
refused("SELECT kappa.run('run', batches => 0)", '22023', 'batches', 'batches must be positive');
is(sql("$status 'run'"), 'disabled|', 'the subscription stays disabled');
sql("SELECT kappa.alter_subscription('run', batch_rows => 50, enabled => true)");
my $stream = tool_async(qw(produce --topic run --messages 3000 --rate 1500 --kind plain));
ok(poll_until(30, sub { sql('SELECT count(*) FROM run') > 100 }), 'the worker goes on from there');
sql("SELECT kappa.run('run', batches => 2)") for 1 .. 8;
sql("BEGIN; SELECT kappa.run('run', batches => 2); ROLLBACK");
waitpid $stream, 0;
sql("SELECT kappa.drain('run')");
is(sql("SELECT count(*), count(DISTINCT (kafka_partition, kafka_offset)) FROM run; $balance 'run'"), "3030|3030\n3030|0|t",
	'worker and run beside each other: each message once');

# ---------------------------------------------------------------- redrive

tool('create', 'redrive', 1);
sql("CREATE TABLE redrive (id integer, note varchar(3)); SELECT kappa.subscribe('redrive', 'main', 'redrive', 'redrive')");
send_messages('redrive', 0, '{"id": 1, "note": "abc"}', '{"id": "two", "note": "abc"}', '{"id": 3, "note": "long"}',
	'{"id": "four", "note": "long"}', '{"id": "five"}');
sql("SELECT kappa.drain('redrive')");
my $letters = q{SELECT string_agg(concat_ws(':', kafka_offset, sqlstate, attempts, (redriven_at IS NOT NULL)::text), ' ' ORDER BY id)
	FROM kappa.dead_letters WHERE name = 'redrive'};
is(sql($letters), '1:22P02:1:false 2:22001:1:false 3:22P02:1:false 4:22P02:1:false', 'four dead letters');
is(sql("$balance 'redrive'"), '1|4|t', 'and counted so');
sql('ALTER TABLE redrive ALTER COLUMN id TYPE text');
is(sql("BEGIN; SELECT kappa.redrive('redrive'); $balance 'redrive'; ROLLBACK; $balance 'redrive'; SELECT count(*) FROM redrive"),
	"2\n3|2|t\n1|4|t\n1", 'ROLLBACK undoes all of redrive');
is(sql("SELECT kappa.redrive('redrive', ids => ARRAY[(SELECT id FROM kappa.dead_letters WHERE name = 'redrive' AND kafka_offset = 4)])"), '1', 'ids given');
is(sql($letters), '1:22P02:1:false 2:22001:1:false 3:22P02:1:false 4:22P02:2:true', 'settle those alone');
is(sql("SELECT kappa.redrive('redrive')"), '1', 'the cause mended, redrive settles');
is(sql($letters), '1:22P02:2:true 2:22001:2:false 3:22001:2:false 4:22P02:2:true', 'what fails again keeps its new error');
is(sql("$balance 'redrive'; SELECT string_agg(id, ' ' ORDER BY id) FROM redrive"), "3|2|t\n1 five two", 'counts move to stored');
sql("SELECT kappa.seek('redrive', 'latest'); ALTER TABLE redrive ALTER COLUMN note TYPE text");
is(sql("SELECT kappa.redrive('redrive'); SELECT kappa.redrive('redrive'); SELECT stored, dead_lettered, balanced FROM kappa.balance WHERE name = 'redrive' ORDER BY closed_at"),
	"2\n0\n5|0|t\n0|0|t", 'also in the account that seek has closed');
is(sql("SELECT kappa.unsubscribe('redrive')"), '', 'nothing open is left');

# ---------------------------------------------------------------- states

becomes("$status 'run'", 'idle|', 'idle: everything is read');
# the one just unsubscribed takes a moment to leave
becomes("SELECT backend_type, application_name, datname FROM pg_stat_activity WHERE backend_type LIKE 'pg_kappa%' ORDER BY 1",
	"pg_kappa launcher||\npg_kappa worker|pg_kappa run 0|postgres", 'processes have their names');
subscription('open', 1);
my $transaction = tool_async(qw(produce --topic open --messages 400 --rate 50 --kind plain --transactional --transaction-size 400));
becomes("$status 'open'", 'idle|open transaction at offset 0', 'an open transaction ahead');
is(sql("SELECT lag > 0 FROM kappa.subscriptions WHERE name = 'open'; SELECT count(*) FROM open"), "t\n0", 'with lag, and nothing of it stored');
waitpid $transaction, 0;
becomes("$status 'open'; SELECT count(*) FROM open", "idle|\n400", 'committed it is read');
my $lock = $node->background_psql('postgres', verbose => 0);
$lock->query_safe('BEGIN; LOCK TABLE open');
send_messages('open', 0, 'x');
becomes("SELECT status, reason ~ 'lock timeout' FROM kappa.subscriptions WHERE name = 'open'", 'backoff|t', 'backoff: a lock is waited for');
is(sql("SELECT next_retry > now(), last_error ~ 'lock timeout', retries > 0 FROM kappa.stat_subscription WHERE name = 'open'"), 't|t|t', 'with the time of the next try');
$lock->query_safe('ROLLBACK');
$lock->quit;
becomes("$status 'open'; SELECT count(*) FROM open", "idle|\n401", 'and goes on');
broker_stop();
becomes("SELECT DISTINCT status, reason FROM kappa.subscriptions", 'backoff|disconnected', 'broker away: backoff, disconnected');
refused("SET statement_timeout = '1 s'; SELECT kappa.run('run')", '57014', '', 'run waits for it, and can be cancelled');
broker_start();
send_messages('run', 0, 'back');
becomes("SELECT DISTINCT status, reason FROM kappa.subscriptions; SELECT count(*) FROM run", "idle|\n3031", 'broker back: idle again');

# ---------------------------------------------------------------- databases

my @names = map { "many$_" } 1 .. 5;
sql("CREATE DATABASE $_") for qw(shop other none);
for my $db (qw(shop other))
{
	sql("CREATE EXTENSION pg_kappa CASCADE; CREATE SERVER main FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '$address')", $db);
	subscription($_, $db eq 'shop' ? 1 : 0, undef, $db) for @names;
}
send_messages($_, 0, 'a', 'b') for @names;
my $all = join ' + ', map { "(SELECT count(*) FROM $_)" } @names;
becomes("SELECT $all", '10', "five subscriptions at once in $_", $_) for qw(shop other);
is(sql("SELECT datname, count(*) FROM pg_stat_activity WHERE backend_type = 'pg_kappa worker' GROUP BY 1 ORDER BY 1"),
	"other|5\npostgres|2\nshop|5", 'each in its database');
is(sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE '%launcher%' AND backend_type LIKE 'pg_kappa%'"), '1', 'under one launcher');
is(sql('SELECT count(*) FROM kappa.stat_subscription'), '2', 'the views show this database');

sql('CHECKPOINT');
my $started = time();
sql('DROP DATABASE none');
cmp_ok(time() - $started, '<', 1, 'DROP DATABASE of another database within 1 s');
$started = time();
sql('DROP DATABASE other WITH (FORCE)');
cmp_ok(time() - $started, '<', 3, 'DROP DATABASE ... WITH (FORCE) of one with workers');
quiet_log('DROP DATABASE', 16);
is(sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_kappa worker'"), '7', 'its workers are gone, the others are there');

# ---------------------------------------------------------------- dropped under a worker

sql('DROP TABLE many1', 'shop');
send_messages('many1', 0, 'c');
becomes("SELECT status, reason ~ '^schema: partition 0, offsets \\[2, 3\\): ', target IS NULL FROM kappa.subscriptions WHERE name = 'many1'", 'stopped|t|t',
	'DROP TABLE: stopped', 'shop');
sql("CREATE TABLE many1 (kafka_partition integer, kafka_offset bigint, value text); SELECT kappa.alter_subscription('many1', target => 'many1')", 'shop');
becomes('SELECT kafka_offset, value FROM many1', '2|c', 'another target mends it', 'shop');
sql('CREATE ROLE leaver SUPERUSER');
sql("SET ROLE leaver; SELECT kappa.unsubscribe('many2'); SELECT kappa.subscribe('many2', 'main', 'many2', 'many2', format => 'text')", 'shop');
becomes('SELECT count(*) FROM many2', '4', 'a role subscribes', 'shop');
sql('DROP ROLE leaver');
send_messages('many2', 0, 'c');
becomes("SELECT status, reason ~ '^(rights|schema): .*[Rr]ole' FROM kappa.subscriptions WHERE name = 'many2'", 'stopped|t', 'DROP ROLE of the owner: stopped', 'shop');
is(sql("SELECT kappa.unsubscribe('many2')", 'shop'), '', 'a superuser removes it');
quiet_log('DROP TABLE and DROP ROLE', 2);
sql('SELECT kappa.disable(name) FROM kappa.subscriptions WHERE name <> \'many5\'', 'shop');
my $dumped = $node->basedir . '/shop.sql';
$node->command_ok([ 'pg_dump', '-d', $node->connstr('shop'), '-f', $dumped ], 'pg_dump');

# ---------------------------------------------------------------- copies

sql('CREATE DATABASE copy');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('copy'), '-f', $dumped ], 'restored beside the original');
$node->stop;
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->start;
sql('CREATE DATABASE template_copy TEMPLATE shop');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_kappa'");
$node->restart;
send_messages('many5', 0, 'c');
becomes('SELECT count(*) FROM many5', '3', 'the original goes on', 'shop');
for my $copy (qw(copy template_copy))
{
	becomes("$status 'many5'", 'stopped|identity: made in another cluster or database', "$copy waits: identity", $copy);
	is(sql("SELECT next_step FROM kappa.subscriptions WHERE name = 'many5'", $copy), "SELECT kappa.enable('many5');", 'and says what to type');
	is(sql("SELECT count(*) FROM many5; SELECT status FROM kappa.subscriptions WHERE name = 'many4'", $copy), "2\ndisabled", 'nothing came');
}
is(sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_kappa worker' AND datname ~ 'copy'"), '0', 'no worker runs there');
for my $copy (qw(copy template_copy))
{
	sql("SELECT kappa.enable('many5')", $copy);
	becomes('SELECT string_agg(value, \'\' ORDER BY kafka_offset) FROM many5', 'abc', "$copy enabled: goes on where it was taken", $copy);
}
send_messages('many5', 0, 'd');
becomes('SELECT count(*) FROM many5', '4', "each for itself: $_", $_) for qw(shop copy template_copy);
is(sql('SELECT count(*) FILTER (WHERE NOT balanced) FROM kappa.balance', $_), '0', "balanced: $_") for qw(shop copy template_copy);

sql('DROP EXTENSION pg_kappa CASCADE', 'copy');
becomes("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_kappa worker' AND datname = 'copy'", '0', 'DROP EXTENSION ends its worker');
quiet_log('DROP EXTENSION', 2);
sql('CREATE EXTENSION pg_kappa CASCADE', 'copy');
is(sql('SELECT count(*) FROM kappa.subscriptions', 'copy'), '0', 'and it can be made again');

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'no crash');
$node->stop;
done_testing();
