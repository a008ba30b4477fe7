# WindowTest: streams of clicks with window views on them, for the tests of window views.
# Upon FormatTest's server and broker.
package WindowTest;

use strict;
use warnings;

use Exporter 'import';
use FormatTest;
use Test::More;

our @EXPORT = qw(click_columns click stream view agrees);

sub click_columns { return 'kafka_partition integer, kafka_offset bigint, user_id integer, page text, value double precision, ts timestamptz'; }

# A message; fields are JSON
sub click
{
	my ($ts, %more) = @_;
	my %fields = (user_id => 1, page => '"/a"', value => 1, %more);

	return '{' . join(', ', "\"ts\": \"$ts\"", map { "\"$_\": $fields{$_}" } sort keys %fields) . '}';
}

# Topic, table (where there is none yet) and subscription of that name
sub stream
{
	my ($name, $parts, @more) = @_;

	sql("CREATE TABLE $name (" . click_columns() . ")") unless sql("SELECT to_regclass('$name')");
	topic($name, $parts);
	subscribe($name, event_time => "'ts'", @more);
}

sub view
{
	my ($name, $query, @more) = @_;

	return sql("SELECT kappa.create_window_view('$name', \$q\$$query\$q\$" . join('', map { ", $_" } @more) . ')');
}

sub agrees
{
	my ($name, $test) = @_;

	is(sql("SELECT count(*) FROM kappa.reconcile('$name')"), 0, $test // "$name: reconcile finds nothing") or
	  diag(sql("SELECT * FROM kappa.reconcile('$name') LIMIT 5"));
}

1;
