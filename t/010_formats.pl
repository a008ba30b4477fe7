
# Values: whatever a message may hold becomes what SQL makes of it.
#
# The oracle for JSON is jsonb_populate_record: each document goes through it
# into a twin table, alone; its error must be the dead letter's SQLSTATE.  The
# oracle for CSV is COPY.  Every type meets every value, also those that do not
# suit it.  Good documents stand between, so that never more than half are bad.

use strict;
use warnings;
use utf8;

use FormatTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start('formats');

sql(q{
	CREATE TYPE mood AS ENUM ('happy', 'sad');
	CREATE TYPE pair AS (x integer, y text);
	CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
	CREATE DOMAIN more_positive AS positive CHECK (VALUE > 1);
	CREATE DOMAIN few AS integer[] CHECK (cardinality(VALUE) <= 3);
	CREATE DOMAIN positives AS positive[];
	CREATE DOMAIN with_a AS jsonb CHECK (VALUE ? 'a');
	CREATE DOMAIN good_pair AS pair CHECK ((VALUE).x > 0);
	CREATE DOMAIN short AS varchar(4) NOT NULL CHECK (VALUE <> 'bad');
	CREATE DOMAIN known AS jsonb NOT NULL CHECK (jsonb_typeof(VALUE) = 'object');
	CREATE DOMAIN listed AS integer[] NOT NULL;
	CREATE TYPE outer_pair AS (p pair, n positive, a integer[]);

	CREATE TABLE document (n bigint PRIMARY KEY, doc text);
	CREATE TABLE expected_dead (t text, n bigint, sqlstate text, error text);
	CREATE FUNCTION make_twin(name text) RETURNS void LANGUAGE plpgsql SET timezone = 'UTC' AS $$
	DECLARE
		d document;
	BEGIN
		EXECUTE format('CREATE TABLE %s_twin (LIKE %1$s INCLUDING CONSTRAINTS)', name);
		FOR d IN SELECT * FROM document ORDER BY n LOOP
			BEGIN
				EXECUTE format('INSERT INTO %s_twin SELECT r.* FROM
					jsonb_populate_record(NULL::%1$s, $1::jsonb || jsonb_build_object(''kafka_offset'', $2)) r', name)
					USING d.doc, d.n;
			EXCEPTION WHEN OTHERS THEN
				INSERT INTO expected_dead VALUES (name, d.n, SQLSTATE, SQLERRM);
			END;
		END LOOP;
	END $$;
});

sub set_documents
{
	my (@documents) = @_;
	my $n = 0;

	sql("TRUNCATE document; INSERT INTO document VALUES " . join(', ', map { '(' . $n++ . ', ' . quote($_) . ')' } @documents));
}

sub bytes { my ($text) = @_; utf8::encode($text) if utf8::is_utf8($text); return $text; }

# The same documents into the table by Kafka and into its twin by SQL
sub same_as_sql
{
	my ($name, $shown, @documents) = @_;

	set_documents(@documents);
	sql("SELECT make_twin('$name')");
	consume($name, [ map { bytes($_) } @documents ]) or return;
	is_rows("SELECT kafka_offset, $shown FROM $name t", "SELECT kafka_offset, $shown FROM ${name}_twin t",
		"$name: the rows that jsonb_populate_record gives");
	is_rows("SELECT d.kafka_offset, d.sqlstate, left(doc, 200) FROM kappa.dead_letters d JOIN document ON n = kafka_offset WHERE name = '$name'",
		"SELECT e.n, e.sqlstate, left(doc, 200) FROM expected_dead e JOIN document USING (n) WHERE t = '$name'",
		"$name: dead letters where it fails, with its SQLSTATE");
	is(sql("SELECT count(*) FROM kappa.dead_letters WHERE name = '$name' AND (error = '' OR attempts IS NULL)"),
		0, "$name: every dead letter has a reason");
	note(sql("SELECT format('%s rows, %s dead letters', (SELECT count(*) FROM $name),
		(SELECT count(*) FROM kappa.dead_letters WHERE name = '$name'))"));
}

# ---------------------------------------------------------------- every type, every value

my @types = (
	'smallint', 'integer', 'bigint', 'numeric', 'numeric(5,2)', 'numeric(3,-2)', 'real', 'double precision',
	'boolean', 'text', 'varchar', 'varchar(5)', 'char(5)', 'name', 'uuid',
	'timestamptz', 'timestamptz(0)', 'timestamp', 'timestamp(3)', 'date', 'time', 'time(0)', 'timetz',
	'interval', 'interval second(0)', 'jsonb', 'bytea', 'inet', 'cidr', 'oid', 'point', 'bit(3)', 'tsvector',
	'int4range', 'tstzrange', 'int4multirange',
	'integer[]', 'text[]', 'varchar(3)[]', 'numeric(3,1)[]', 'boolean[]', 'timestamptz[]', 'jsonb[]', 'uuid[]',
	'mood', 'mood[]', 'pair', 'pair[]', 'outer_pair',
	'positive', 'more_positive', 'few', 'positives', 'with_a', 'good_pair', 'positive[]', 'good_pair[]');

my @numbers = qw(
  0 1 -1 -0 2 1.0 1.5 -1.5 0.1 99.995 999.995 123.456 1e2 1E+2 1e-2 -0.0 -0e5 0e0 1.10 100e-2 12e3
  32767 32768 -32768 -32769 2147483647 2147483648 -2147483648 -2147483649 12345678901
  9223372036854775807 9223372036854775808 -9223372036854775808 -9223372036854775809
  99999999999999999999 1e30 1e38 1e39 1e-46 1.7976931348623157e308 1e309 -1e400 1e-400 4.9e-324
  0.1234567890123456789 9007199254740993 1234567.25e-3 16777217 20240102 1704164645);
my @strings = (
	'', ' ', 'abc', 'abcde', 'abcdef', 'abc   ', 'abcde   ', '12', ' 12 ', '+12', '012', '1.5', '1e2', '.5', '5.', '0x10', '1_000',
	'-0', '1e400', '1e-400', 't', 'T', 'true', 'fal', 'yes', 'o', 'on', 'off', 'NaN', 'nan', 'Infinity', '-inf', 'infinity', '-infinity',
	'\\\\x00ff', '\\\\xZZ', '\\\\000a', '{1,2}', '{\\"a\\",NULL}', '{{1,2},{3,4}}', '{1,{2}}', '{', '[0:1]={5,6}', '[1,5)', '[5,1)', 'empty',
	'{[1,3),[5,8)}', '(1,2)', '(1,x)', '(,)', '1,2', 'null', 'NULL',
	'2024-02-29', '2023-02-29', '2024-13-01', '2024-1-2', '20240102', 'Jan 2 2024', '01/02/2024', '24-01-02', '2024-01-02 ',
	'2024-01-02T03:04:05Z', '2024-01-02 03:04:05.123456+02:30', '2024-01-02T03:04:05.9999999', '2024-01-02 03:04:60', '2024-01-02 24:00:00',
	'2024-01-02T24:00:01Z', '2024-01-02t03:04:05z', '2024-01-02T03:04', '2024-01-02T03:04:05-0330', '2024-01-02T03:04:05+15', '2024-01-02T03:04:05+16:00',
	'2024-01-02T03:04:05.5 Europe/Berlin', '2024-01-02T03:04:05 CET', '2024-01-02T03:04:05,5Z', '2024-01-02T25:00:00Z', '2024-01-02T03:61:00Z',
	'1969-12-31T23:59:59.9999996Z', '1999-12-31 23:59:59.999999', '0001-01-01', '0000-01-01', '0001-01-01 BC', '4714-11-24 00:00:00+00 BC',
	'4714-11-23 00:00:00+00 BC', '294276-12-31T23:59:59.999999Z', '294277-01-01T00:00:00Z', '5874897-12-31', '5874898-01-01', '10000-01-01', 'epoch',
	'12:34:56.789', '24:00:00', '24:00:01', '12:34:56+02', '1 day 2 hours', 'P1DT2H3.7S', '1-2', '00:00:00.6', '-1 mon +1 day',
	'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{a0eebc999c0b4ef8bb6d6bb9bd380a11}',
	'a0eebc999c0b4ef8bb6d6bb9bd380a11', 'a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g',
	'happy', 'Happy', '192.168.0.1/24', '10.0.0.0/8', '::1', '10.0.0.256', '101', '102', '1010', 'é', 'ééééé', 'éééééé', '日本語', '日本語日本語',
	'\\u00e9\\u65e5', '\\ud83d\\ude00', 'a\\"b\\\\c\\/\\b\\f\\n\\r\\td', '{\\"a\\": 1}', '{\\"x\\": 1}', '[1, 2]', 'x' x 64, "\x{1F600}" x 5);
my @values = (
	'null', 'true', 'false', @numbers, '9' x 400, '0.' . '1' x 300, map({ "\"$_\"" } @strings),
	'[]', '[ ]', '{}', '{ }', '[1,2,3]', '[1,2,3,4]', '[ 1 , 2 ]', '[[1,2],[3,4]]', '[[1,2],[3]]', '[1,[2]]', '[[1],2]', '[[]]', '[[],[]]', '[[],[1]]',
	'[[[1]]]', '[[1,null],[null,4]]', '[null]', '[null,null]', '[0]', '["a",null,"b"]', '["abc","d"]', '["abcd"]', '["1","2"]', '[1.5]', '[1.25, 100]', '[true,false]',
	'[true,"f",0]', '["happy","sad"]', '["glad"]', '["2024-01-02T03:04:05Z", null]', '["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]', '[[[[[[1]]]]]]', '[[[[[[[1]]]]]]]',
	'{"a": 1}', '{"a":null}', '[{"a":1},{"b":[1, 2.0]}]', '{"x": 1, "y": "z"}', '{"x": -1}', '{"x": "bad"}', '{"x": null}', '{"y": {"deep": [1]}}', '{"X": 1}',
	'[{"x":1},{"x":2,"y":"q"}]', '[{"x":0}]', '[{"x":1},null]', '[[{"x":1}],[{"x":2}]]', '{"p": {"x": 1}, "n": 2, "a": [1,2]}', '{"n": -1}', '{"p": null, "n": 3}',
	'{"b": 1, "a": 2, "b": 3}', '{"a": 1e2, "c": 1.50, "d": "\\u00e9"}', '"a\\u0001b"');

{
	my @columns = map { "c$_ $types[$_]" } 0 .. $#types;
	my @documents;
	my $wide = 0;

	sql('CREATE TABLE every (kafka_offset bigint, ' . join(', ', @columns) . ')');
	for my $type (0 .. $#types)
	{
		for my $value (@values)
		{
			push @documents, "{\"c$type\": $value}",
			  sprintf('{"c0": %d, "c9": "good %d", "c3": %d.50}', $wide % 32768, $wide, $wide);
			$wide++;
		}
	}
	note(scalar(@types) . ' types, ' . scalar(@values) . ' values');
	same_as_sql('every', "t::text", @documents);
}

# A table without a NULL: what is missing, null and not null
{
	sql('CREATE TABLE strict (kafka_offset bigint, a integer NOT NULL, s short, k known, l listed, t text NOT NULL CHECK (t <> \'x\'))');
	my %good = (a => '1', s => '"s"', k => '{"k":1}', l => '[1]', t => '"t"');
	my @documents;
	my $doc = sub { my (%d) = @_; return '{' . join(', ', map { "\"$_\": $d{$_}" } sort keys %d) . '}' };

	push @documents, $doc->(%good) for 1 .. 40;
	for my $column (sort keys %good)
	{
		my %without = %good;
		delete $without{$column};
		push @documents, $doc->(%without), $doc->(%good, $column => 'null'), $doc->(%good, $column => '"x"'),
		  $doc->(%good, $column => '"bad"'), $doc->(%good, $column => '[]'), $doc->(%good, $column => '"a\\tb"');
	}
	push @documents, '{}', '{"a": 1}';
	same_as_sql('strict', 't::text', @documents);
}

# type json keeps the text; as jsonb it is what SQL has
{
	sql('CREATE TABLE jsons (kafka_offset bigint, j json, ja json[], jj jsonb)');
	my @documents = map { "{\"j\": $_, \"jj\": $_, \"ja\": [$_]}" } '1', '1.50', '"s"', 'true', '[1, 2]', '{"b":1,"a":2}', '"\\u00e9"', 'null', '1e2', '{"a":{"b":[null]}}';
	same_as_sql('jsons', 'j::jsonb, ja::text[]::jsonb[], jj', @documents);
	is(sql("SELECT string_agg(j::text, ' ' ORDER BY kafka_offset) FROM jsons WHERE kafka_offset IN (1, 4, 5)"),
		'1.50 [1, 2] {"b":1,"a":2}', 'json keeps the text of the message');
}

# Names: exact, odd ones, repeated ones, escaped ones, unknown ones; white space everywhere
{
	sql(q{CREATE TABLE names (kafka_offset bigint, "Weird Name" text, "ünï" text, "a""b" text, "a.b" text, "a'b" text, value text, a text, "A" text, "$" text)});
	same_as_sql('names', 't::text',
		'{"Weird Name": "w", "ünï": "u", "a\\"b": "q", "a.b": "dot", "a\'b": "apo", "value": "v", "$": "dollar"}',
		'{"weird name": "lower", "a": "lower", "A": "upper"}', '{"a": "first", "a": "second", "\\u0061": "last"}',
		'{"a": "first", "a": null}', '{"\\u00fcn\\u00ef": "escaped"}', '{"a": {"b": "nested"}}',
		" \n\t{ \"a\"\r\n: \"spaced\" \t, \"unknown\" : { \"a\" : [ 1 , { } ] } }\n ", '{"": "empty", "a": "x"}', '{"kafka_topic": "x"}');
}

finish();
