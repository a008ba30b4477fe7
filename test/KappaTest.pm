
# KappaTest: what the TAP tests share: a real Apache Kafka, a cluster with the
# extension, the oracle.
#
# Runs under "./check tap", which provides SCRATCH (test/lib.sh), the Java
# programs and a PostgreSQL of its own on the PATH.  All times are deadlines;
# nothing here waits for a fixed time.
package KappaTest;

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(basename dirname);
use IPC::Run ();
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(
  broker_start broker_stop broker_kill broker_address broker_folder tool tool_async run_bash
  kappa_node kappa_server oracle_compare poll_until seed pick
);

my $test = abs_path(dirname(__FILE__));
my $scratch = $ENV{SCRATCH} or die "SCRATCH is not set; run ./check tap\n";
my $test_name = basename($0, '.pl');
my $main = $$;
my $broker;
my $generator;

# Two tests may run side by side: nothing of one is the other's.
$ENV{KAPPA_TOOL} = "$scratch/tool_$test_name";

# Start the broker (again, with what it had).  Returns its address.
sub broker_start
{
	my $dir = broker_folder();
	my $address = run_bash('kafka_start "$1" && kafka_address "$1"', $dir);

	# once a test: the broker keeps its address
	run_bash('tool_open "$1"', $address) unless $broker;
	$broker = $dir;
	return $address;
}

# Where the broker will have, or has, its files: listeners and settings of it may be put
# there before it is started (see kafka_more_settings in lib.sh).
sub broker_folder
{
	my $dir = "$scratch/kafka_$test_name";

	mkdir $dir;
	return $dir;
}

# The address of one of those listeners
sub broker_address { return run_bash('kafka_address "$1" "$2"', $broker, $_[0]); }

sub broker_stop { run_bash('kafka_stop "$1"', $broker); }
sub broker_kill { run_bash('kafka_kill "$1"', $broker); }

# Functions of lib.sh; dies where one fails.  What it starts goes on.
sub run_bash
{
	my ($script, @args) = @_;
	my ($out, $err) = ('', '');

	# Files, not pipes: a server that is started would hold a pipe open.
	my $name = "$scratch/tap_bash.$$";
	my $code = system('bash', '-c',
		". '$test/lib.sh'; exec >'$name.out' 2>'$name.err' </dev/null; $script", 'bash', @args);
	$out = slurp_file("$name.out");
	$err = slurp_file("$name.err");
	unlink "$name.out", "$name.err";
	die "$script: $err" if $code != 0;
	chomp $out;
	return $out;
}

# Ask the cluster's Tool (see oracle/Tool.java); dies where it says ERROR.
sub tool
{
	my @words = @_;
	my ($out, $err);

	IPC::Run::run([ "$test/kafka/tool", @words ], '>', \$out, '2>', \$err)
	  or die "tool @words: $err";
	chomp $out;
	return $out;
}

# The same beside us: returns a pid for waitpid.  One command at a time runs.
sub tool_async
{
	my @words = @_;
	my $pid = fork();

	die "fork: $!" unless defined $pid;
	return $pid if $pid;
	open STDOUT, '>', "$scratch/tap_async_$test_name.log";
	open STDERR, '>&', \*STDOUT;
	exec "$test/kafka/tool", @words or POSIX::_exit(127);
}

# A running cluster with the extension, and autovacuum on as in real life.
sub kappa_node
{
	my ($name, @settings) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init;
	$node->append_conf('postgresql.conf', join("\n",
		"shared_preload_libraries = 'pg_kappa'", "fsync = on", "autovacuum = on",
		"restart_after_crash = on", "log_min_messages = info", @settings) . "\n");
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_kappa CASCADE');
	return $node;
}

# Foreign server "main" that leads to the broker
sub kappa_server
{
	my ($node, $address) = @_;

	$node->safe_psql('postgres',
		"CREATE SERVER main FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '$address')");
}

# Is what the table and the dead letters hold exactly what Kafka holds?  Options
# as test/oracle/compare has them, and database.  Returns (1 or 0, what it said).
sub oracle_compare
{
	my ($node, $topic, %options) = @_;
	my $lines = "$scratch/tap_lines_$test_name";
	my ($out, $err);

	my $database = delete $options{database} // 'postgres';

	tool('oracle', '--topic', $topic, '--out', $lines);
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => $database);
	my $same = IPC::Run::run(
		[ "$test/oracle/compare", '--lines', $lines, map { ("--$_", $options{$_}) } sort keys %options ],
		'>', \$out, '2>', \$err);
	chomp $out;
	return ($same, $err eq '' ? $out : "$out\n$err");
}

# Call until it is true, at most that many seconds.  An error in it counts as false.
sub poll_until
{
	my ($seconds, $code) = @_;
	my $end = time() + $seconds;

	while (1)
	{
		my $result = eval { $code->() };
		return $result if $result;
		return 0 if time() > $end;
		usleep(20_000);
	}
}

# The seed of this run's random choices, printed; KAPPA_SEED replays one.
sub seed
{
	my $seed = $ENV{KAPPA_SEED} // (int(time() * 1000) ^ $$) % 1_000_000_007;

	$generator = $seed;
	note("KAPPA_SEED=$seed");
	return $seed;
}

# A number from 0 to n - 1; the same sequence for the same seed on any machine.
sub pick
{
	my ($n) = @_;

	$generator = ($generator * 48271 + 11) % 2147483647;
	return int($generator / 2147483647 * $n);
}

# lib.sh's record of processes ends the broker in any case; this ends it sooner.
END
{
	my $code = $?;
	eval { run_bash('kafka_stop "$1"; tool_close; rm -rf "$1"', $broker) } if $broker && $$ == $main;
	$? = $code;
}

1;
