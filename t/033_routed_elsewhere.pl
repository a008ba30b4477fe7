
# Tables that another extension routes by planner or utility hooks (Citus,
# TimescaleDB) must be written by SQL, never behind the hooks' back.
#
# Neither extension is in Debian 12, so stand-ins with their names and catalogs
# are installed; pg_stat_statements tells whether a row went through SQL.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($sharedir) = run_command([ 'pg_config', '--sharedir' ]);

sub stand_in
{
	my ($name, $sql) = @_;

	append_to_file("$sharedir/extension/$name.control", "default_version = '1'\nsuperuser = true\n");
	append_to_file("$sharedir/extension/$name--1.sql", $sql);
}

stand_in('citus', q{
	SET LOCAL allow_system_table_mods = on;
	CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass);
});
stand_in('timescaledb', q{
	CREATE SCHEMA _timescaledb_catalog;
	CREATE TABLE _timescaledb_catalog.hypertable (schema_name name, table_name name);
});

my $address = broker_start();
tool('create', $_, 1) for ('routed', 'plain33', 'hyper');
my $node = kappa_node('routed', "shared_preload_libraries = 'pg_kappa, pg_stat_statements'",
	"pg_stat_statements.track = all");
$node->safe_psql('postgres', 'CREATE EXTENSION pg_stat_statements');

sub subscribe
{
	my ($database, $table, $mark) = @_;

	$node->safe_psql($database, qq{
		CREATE EXTENSION IF NOT EXISTS pg_kappa CASCADE;
		CREATE TABLE $table (id integer, kafka_offset bigint);
		$mark
		SELECT kappa.subscribe('$table', 'main', '$table', '$table')});
	tool('send', $table, 0, '-', "{\"id\":$_}") for (1 .. 3);
	$node->safe_psql($database, "SELECT kappa.drain('$table')");
	is($node->safe_psql($database, "SELECT count(*), sum(id) FROM $table"), '3|6', "$table has its rows");
	return $node->safe_psql('postgres',
		"SELECT count(*) > 0 FROM pg_stat_statements WHERE query ~ 'INSERT INTO public.$table '");
}

for my $database ('citus_db', 'timescale_db')
{
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION pg_kappa CASCADE');
	kappa_server_in($database);
}

sub kappa_server_in
{
	my ($database) = @_;

	$node->safe_psql($database,
		"CREATE SERVER main FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '$address')");
}

$node->safe_psql('citus_db', 'CREATE EXTENSION citus');
$node->safe_psql('timescale_db', 'CREATE EXTENSION timescaledb');
is(subscribe('citus_db', 'routed', "INSERT INTO pg_dist_partition VALUES ('routed');"),
	't', 'a distributed table is written by SQL');
is(subscribe('citus_db', 'plain33', ''), 'f', 'a table beside it takes the fast path');
is(subscribe('timescale_db', 'hyper', "INSERT INTO _timescaledb_catalog.hypertable VALUES ('public', 'hyper');"),
	't', 'a hypertable is written by SQL');

unlink map { ("$sharedir/extension/$_.control", "$sharedir/extension/$_--1.sql") } ('citus', 'timescaledb');
$node->stop;
done_testing();
