
# FormatTest: messages in, rows and dead letters out, compared with what SQL
# makes of the same bytes.
#
#   start($name)                      broker, cluster, server "main"
#   sql($query)                       its rows, columns separated by |
#   topic($name, partitions, k=v ...) a topic
#   give($topic, @messages)           into partition 0 (see KafkaWire); give_to names the partition
#   give_gzip($topic, @messages)      as one compressed batch
#   subscribe($name, argument => sql value, ...)
#   settled($name)                    wait until all that was given is dealt with
#   stopped($name)                    wait until a partition stops; its reason
#   is_rows($query, $query, $test)    EXCEPT ALL both ways
#   is_balanced($name, stored, dead_lettered, filtered, ...)
package FormatTest;

use strict;
use warnings;

use Exporter 'import';
use KafkaWire;
use KappaTest;
use Test::More;

our @EXPORT = qw(start sql fails topic give give_to give_gzip subscribe settled stopped is_rows is_balanced
  is_dead quote consume finish kappa_server_in);

my ($node, $address);
my (%given, %topic_of);

sub start
{
	my ($name, @settings) = @_;

	$address = broker_start();
	$node = kappa_node($name, "timezone = 'UTC'", 'max_worker_processes = 24', @settings);
	kappa_server($node, $address);
	return $node;
}

sub finish
{
	is(sql("SELECT coalesce(string_agg(format('%s %s', name, part), ', '), '') FROM kappa.balance WHERE NOT balanced"),
		'', 'kappa.balance is balanced for every partition');
	$node->stop;
	done_testing();
}

# The extension and server "main" in another database
sub kappa_server_in
{
	$node->safe_psql($_[0], "CREATE EXTENSION pg_kappa CASCADE;
		CREATE SERVER main FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '$address')");
}

sub sql
{
	my ($query) = @_;

	utf8::encode($query) if utf8::is_utf8($query);
	return $node->safe_psql('postgres', $query);
}

# The SQLSTATE of a statement's error, '' where there is none
sub fails
{
	my ($code, undef, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$_[0]");

	return $err =~ /ERROR:  ([0-9A-Z]{5})/ ? $1 : $code ? $err : '';
}

sub quote
{
	my ($text) = @_;

	return 'NULL' unless defined $text;
	my $tag = '$q$';
	$tag = '$q' . int(rand(1e9)) . '$' while index($text, $tag) >= 0;
	return "$tag$text$tag";
}

sub topic
{
	my ($name, $partitions, @settings) = @_;

	tool('create', $name, $partitions // 1, @settings);
	$given{$name}{$_} = 0 for 0 .. ($partitions // 1) - 1;
}

sub give_to
{
	my ($topic, $part, @messages) = @_;

	produce($address, $topic, $part, @messages);
	$given{$topic}{$part} += @messages;
}

sub give_gzip
{
	my ($topic, @messages) = @_;

	produce_gzip($address, $topic, 0, @messages);
	$given{$topic}{0} += @messages;
}

sub give { my ($topic, @messages) = @_; give_to($topic, 0, @messages); }

# Topic and target have the subscription's name unless told.  Values are SQL.
sub subscribe
{
	my ($name, %arguments) = @_;

	$arguments{topic} //= quote($name);
	$arguments{target} //= quote("public.$name");
	($topic_of{$name} = $arguments{topic}) =~ s/^(\$\w*\$|')(.*)\1$/$2/;
	sql("SELECT kappa.subscribe(name => " . quote($name) . ", server => 'main', "
		  . join(', ', map { "$_ => $arguments{$_}" } sort keys %arguments) . ')');
}

# next_offset of each partition has come as far as messages were given
sub settled
{
	my ($name, $seconds) = @_;
	my $ends = $given{ $topic_of{$name} };
	my $there = sub {
		my %at = map { split /\|/ } split /\n/,
		  sql("SELECT part, next_offset FROM kappa.stat_partition WHERE name = " . quote($name));
		return !grep { ($at{$_} // -1) < $ends->{$_} } keys %$ends;
	};

	my $stops = "SELECT 1 FROM kappa.stat_partition WHERE stop_since IS NOT NULL AND name = " . quote($name);

	poll_until($seconds // 60, sub { $there->() || sql($stops) });
	return 1 if $there->();
	diag(sql("SELECT status, reason FROM kappa.subscriptions WHERE name = " . quote($name)));
	diag(sql("SELECT part, next_offset, verdict FROM kappa.stat_partition WHERE name = " . quote($name)));
	BAIL_OUT("$name: not everything is read");
}

# give, subscribe, settled, disabled: its worker is free for the next one
sub consume
{
	my ($name, $messages, %arguments) = @_;

	topic($name);
	give($name, @$messages);
	subscribe($name, %arguments);
	settled($name);
	sql('SELECT kappa.disable(' . quote($name) . ')');
}

sub stopped
{
	my ($name) = @_;
	my $query = "SELECT reason FROM kappa.subscriptions WHERE status = 'stopped' AND name = " . quote($name);

	poll_until(60, sub { sql($query) ne '' }) or diag("$name does not stop");
	return sql($query);
}

sub is_rows
{
	my ($got, $expected, $test) = @_;
	my $difference = sql("
		SELECT * FROM (SELECT 'got' AS side, a.* FROM ($got EXCEPT ALL $expected) a
		 UNION ALL SELECT 'expected', b.* FROM ($expected EXCEPT ALL $got) b) d ORDER BY 2, 1 LIMIT 40");
	my $same = $difference eq '';

	ok($same, $test) or diag($difference);
	return $same;
}

# What the account of all partitions says, and that it adds up
sub is_balanced
{
	my ($name, %counts) = @_;
	my @columns = qw(stored dead_lettered filtered skipped holes);

	is( sql("SELECT sum(stored), sum(dead_lettered), sum(filtered), sum(skipped), sum(holes), bool_and(balanced)
		FROM kappa.balance WHERE name = " . quote($name)),
		join('|', map({ $counts{$_} // 0 } @columns), 't'),
		"$name: " . join(', ', map { "$counts{$_} $_" } sort keys %counts));
}

# The dead letters as "offset sqlstate" in the order of offsets; the error of each must match
sub is_dead
{
	my ($name, $test, @expected) = @_;
	my @got = split /\n/, sql("SELECT kafka_offset, sqlstate, replace(error, E'\\n', ' ')
		FROM kappa.dead_letters WHERE name = " . quote($name) . " ORDER BY part, kafka_offset");
	my @wrong;

	for my $i (0 .. ($#got > $#expected ? $#got : $#expected))
	{
		my ($offset, $state, $pattern) = @{ $expected[$i] // [ 'none', '', qr/^/ ] };
		my ($at, $sqlstate, $error) = split /\|/, $got[$i] // 'none||', 3;
		push @wrong, "got $at $sqlstate $error; expected $offset $state"
		  unless $at eq $offset && $sqlstate eq $state && $error =~ $pattern;
	}
	ok(!@wrong, "$name: $test") or diag(join "\n", @wrong[ 0 .. ($#wrong > 20 ? 20 : $#wrong) ]);
}

1;
