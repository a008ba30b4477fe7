
# A worker, the whole server or the broker is killed with SIGKILL in the middle of
# its work, twenty seeded times: each message is there once, says a reader of
# Kafka that knows nothing of us.
#
# The topic holds committed and aborted transactions and messages that cannot be
# stored.  Each round produces some, kills when a random part of them has arrived,
# starts again what does not start itself, and compares all rows and dead letters.
# Half of the rounds kill while messages come in, half while a backlog of many
# small batches is caught up, when hardly a moment is outside a batch.  Topic and
# table are new every ten rounds: all of a topic is compared after each of them.  Every
# other topic is stored with synchronous_commit off: a crash then takes rows that
# were there, and the positions with them.
#
#   KAPPA_SEED=N replays a run's choices, KAPPA_KILLS=N changes their number,
#   KAPPA_KILL_MESSAGES=N that of a round's messages.  ./check --long sets 200 and
#   60,000: 12 million messages, of which some 10 million are committed.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seed = seed();
my $kills = $ENV{KAPPA_KILLS} // 20;
my $live = $ENV{KAPPA_KILL_MESSAGES} // 4000;
my $backlog = $ENV{KAPPA_KILL_MESSAGES} // 30_000;
my $rate = $live > 4000 ? $live / 3 : $live;	# a second or three

my $address = broker_start();
my $node = kappa_node('kill');
my $topic;
kappa_server($node, $address);

sub begin_topic
{
	my ($number) = @_;

	$topic = "plain$number";
	tool('create', $topic, 3);
	$node->safe_psql('postgres', 'ALTER DATABASE postgres SET synchronous_commit = ' . ($number % 2 ? 'off' : 'on'));
	$node->safe_psql('postgres', qq{
		SET synchronous_commit = on;
		CREATE TABLE plain (kafka_partition integer, kafka_offset bigint, kafka_key bytea, value text);
		SELECT kappa.subscribe(name => 'plain', server => 'main', topic => '$topic', target => 'public.plain',
			format => 'text', workers => 2, batch_rows => 200);
	});
}

sub end_topic
{
	is( $node->safe_psql('postgres', "SELECT count(*), bool_and(balanced) FROM kappa.balance WHERE name = 'plain'"),
		'3|t', "$topic: kappa.balance agrees");
	$node->safe_psql('postgres', "SELECT kappa.unsubscribe('plain', force => true); DROP TABLE plain");
	tool('delete', $topic);
}

# Rows and dead letters, by the tables alone
sub arrived
{
	return $node->safe_psql('postgres',
		"SELECT (SELECT count(*) FROM plain) + (SELECT count(*) FROM kappa.dead_letters WHERE name = 'plain')");
}

sub workers
{
	return split /\n/, $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_kappa worker' ORDER BY application_name");
}

sub kill_worker
{
	my @pids = workers();
	return 0 unless @pids;
	return kill 'KILL', $pids[ pick(scalar @pids) ];
}

sub slurp_if
{
	my ($file) = @_;

	open my $in, '<', $file or return '';
	return <$in> // '';
}

# Stopped first, so that nobody gets to run in between; no process of it is left.
sub kill_server
{
	my $file = slurp_file($node->data_dir . '/postmaster.pid');
	my ($postmaster) = split /\n/, $file;

	kill 'STOP', $postmaster;
	my @pids = ($postmaster, split ' ', `ps -o pid= --ppid $postmaster`);
	kill 'KILL', @pids;
	poll_until(20, sub { !grep { slurp_if("/proc/$_/stat") =~ /\) [^ZX]/ } @pids }) or die "the server does not die";
	# where nobody reaps orphans the dead postmaster still looks alive to a new one
	poll_until(5, sub { !-e "/proc/$postmaster" }) or unlink $node->data_dir . '/postmaster.pid';
	$node->{_pid} = undef;
	$node->start;
	return 1;
}

sub kill_broker
{
	broker_kill();
	broker_start();
	return 1;
}

my %victims = (worker => \&kill_worker, server => \&kill_server, broker => \&kill_broker);
my @names = ('worker', 'worker', 'server', 'server', 'broker');

# Returns the process that produces, for waitpid.
sub produce
{
	my ($round, $messages, @pace) = @_;

	return tool_async('produce', '--seed', $seed + $round, '--topic', $topic, '--kind', 'plain',
		'--messages', $messages, '--broken', 2, '--transactional', '--transaction-size', $messages / 20,
		'--abort-percent', 15, @pace);
}

# Return once a random part of the round's messages has arrived.
sub while_they_come
{
	my ($round, $before) = @_;
	my $wanted = $before + 1 + pick(int($live / 2));
	my $microseconds = pick(30_000);
	my $producer = produce($round, $live, '--rate', $rate);

	poll_until(60, sub { arrived() >= $wanted }) or return;
	usleep($microseconds);
	return $producer;
}

sub while_catching_up
{
	my ($round, $before) = @_;
	my $microseconds = pick(50_000);

	$node->safe_psql('postgres', "SELECT kappa.disable('plain')");
	my $producer = produce($round, $backlog);
	waitpid $producer, 0;
	# a commit that is not waited for may be lost in the crash, and with it that it is enabled
	$node->safe_psql('postgres', "SET synchronous_commit = on; SELECT kappa.enable('plain')");
	poll_until(60, sub { arrived() > $before }) or return;
	usleep($microseconds);
	return $producer;
}

my $started = time();
my $total = 0;
my $compared = 0;
my $inside = 0;
my $taken_back = 0;
for my $round (1 .. $kills)
{
	begin_topic(int($round / 10)) if $round % 10 == 1;
	my $victim = $names[ pick(scalar @names) ];
	my $way = pick(2) ? \&while_catching_up : \&while_they_come;
	my $before = arrived();
	my $producer = $way->($round, $before);
	my $seen = arrived();

	ok($producer, "round $round: messages arrive") or last;
	ok(poll_until(60, $victims{$victim}), "round $round: kill the $victim after " . ($seen - $before) . ' messages')
	  or last;
	poll_until(60, sub { my $left = arrived(); $taken_back++ if $left < $seen; 1 });
	waitpid $producer, 0;
	poll_until(60, sub { ($total) = tool('oracle', '--topic', $topic) =~ /messages=(\d+)/ });
	poll_until(90, sub { arrived() >= $total });
	$inside++ if $seen < $total;
	my ($same, $said) = oracle_compare($node, $topic, table => 'plain', name => 'plain');
	ok($same, "round $round ($victim): $said") or last;
	$compared += $total, end_topic() if $round % 10 == 0 || $round == $kills;
}

cmp_ok($inside, '>=', $kills / 2, "$inside of $kills kills came before all had arrived");
note(sprintf('%d kills, %d messages committed and compared, in %.0f s; %d times rows that had been seen were gone with their positions, and came again',
	$kills, $compared, time() - $started, $taken_back));
$node->stop;
done_testing();
