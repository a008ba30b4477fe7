
# What the broker holds but nobody can read: bytes that changed on its disk, messages
# larger than the limits, compressed to a thousandth.  Such a partition stops with a row
# that names the offset, the others go on, nothing damaged is stored, skip passes it.
# Before that: each compression, and messages of the size that a broker may be set to.

use strict;
use warnings;

use Digest::MD5 qw(md5_hex);
use FormatTest;
use KappaTest qw(broker_start broker_stop poll_until seed pick tool);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

seed();
my $node = start('unreadable', 'kappa.worker_memory = 16MB');
my $large = 'max.message.bytes=70000000';

sub parts { return sql("SELECT string_agg(part || ':' || next_offset, ' ' ORDER BY part) FROM kappa.stat_partition WHERE name = '$_[0]'"); }

# What the view says, typed as it stands
sub take_next_step
{
	my ($name, $wanted) = @_;
	my $step = sql("SELECT next_step FROM kappa.subscriptions WHERE name = '$name'");

	is($step, $wanted, "$name: next step");
	sql($step);
}

sub private_kb
{
	my ($name) = @_;
	my $pid = sql("SELECT pid FROM kappa.stat_subscription WHERE name = '$name'");
	my $status = slurp_file("/proc/$pid/status");

	return $status =~ /^RssAnon:\s+(\d+)/m ? $1 : 0;
}

# ---------------------------------------------------------------- compression

for my $codec (qw(gzip snappy lz4 zstd))
{
	tool('create', $codec, 1);
	tool(qw(produce --kind plain --size 300 --messages 3000 --broken 2 --compression), $codec, '--seed', 1 + pick(1000), '--topic', $codec);
	sql("CREATE TABLE $codec (kafka_partition integer, kafka_offset bigint, kafka_key bytea, value text)");
	subscribe($codec, format => "'text'");
	sql("SELECT kappa.drain('$codec', timeout => '60 s')");
	my ($same, $said) = KappaTest::oracle_compare($node, $codec, table => $codec, name => $codec);
	ok($same, "$codec: $said");
	sql("SELECT kappa.disable('$codec')");
}

# ---------------------------------------------------------------- large messages

# half of kappa.worker_memory is what a message may have
{
	my @sizes = (1_100_000, 3_000_000, 7_900_000);
	my @values = map { chr(97 + pick(26)) x $_ } @sizes;

	topic('large', 2, $large);
	give('large', map({ "{\"t\": \"$_\"}" } @values), '{"t": ' . '"x' x 1_000_000, '{"t": "small"}');
	give_to('large', 1, map { "{\"t\": \"other $_\"}" } 1 .. 3);
	sql('CREATE TABLE large (t text, kafka_offset bigint, kafka_partition integer)');
	subscribe('large');
	settled('large');
	is(sql('SELECT md5(t) FROM large WHERE kafka_partition = 0 ORDER BY kafka_offset'), join("\n", map { md5_hex($_) } @values, 'small'), 'messages up to 8 MB are stored');
	is_dead('large', 'a large message that is no JSON', [ 3, '22P02', qr/JSON/ ]);
	is(sql("SELECT length(value) FROM kappa.dead_letters WHERE name = 'large'"), 2_000_006, 'with all its bytes');

	# one that no answer may carry, between others
	give('large', '{"t": "before"}', '{"t": "' . 'y' x 9_000_000 . '"}', '{"t": "behind"}');
	give_to('large', 1, '{"t": "other 4"}');
	my $started = time();
	like(stopped('large'), qr/^poison: partition 0, offsets \[6, 7\): 54000: the messages are larger than receive_message_max_bytes allows$/, 'larger than an answer: stopped, with its offset');
	cmp_ok(time() - $started, '<', 60, sprintf 'told after %.1f s', time() - $started);
	ok(poll_until(30, sub { parts('large') eq '0:6 1:4' }), 'what stands before it is stored, the other partition goes on');
	take_next_step('large', "SELECT kappa.skip('large', part => 0, at => 6);");
	settled('large');
	is(sql('SELECT string_agg(t, chr(32) ORDER BY kafka_offset) FROM large WHERE kafka_partition = 0 AND kafka_offset > 4'), 'before behind', 'skip passes it');
	is_balanced('large', stored => 10, dead_lettered => 1, skipped => 1);

	# an owner's own limit; kappa.run tells it too
	sql(q{CREATE TABLE limited (value text, kafka_offset bigint)});
	subscribe('limited', topic => "'large'", format => "'text'", options => q('{"receive_message_max_bytes": 1500000}'));
	like(stopped('limited'), qr/^poison: partition 0, offsets \[1, 4\): 54000/, 'receive_message_max_bytes of the owner');
	sql("SELECT kappa.disable('limited'); SELECT kappa.alter_subscription('limited', options => '{}')");
	is(join(' ', map { fails("SELECT kappa.run('limited', batches => 10)") } 1 .. 2), ' 55000', 'kappa.run stores what stands before it, and then tells it');
	sql("SELECT kappa.enable('limited')");
	like(stopped('limited'), qr/^poison: partition 0, offsets \[6, 7\): 54000/, 'a larger one goes on where it stopped');
	is(sql('SELECT count(*), count(DISTINCT value) FROM limited'), '10|10', 'with all that it had stopped at');
	sql("SELECT kappa.disable('limited'), kappa.disable('large')");
}

# ---------------------------------------------------------------- compressed to a thousandth

{
	my $bomb = '{"t": "' . 'z' x 30_000_000 . '"}';

	topic('bomb', 1, $large);
	give('bomb', '{"t": "before"}');
	give_gzip('bomb', '{"t": "first"}', $bomb, '{"t": "last"}');
	give('bomb', '{"t": "behind"}');
	sql('CREATE TABLE bomb (t text, kafka_offset bigint)');
	subscribe('bomb');
	like(stopped('bomb'), qr/^poison: partition 0, offsets \[2, 3\): 54000: the message has 30000009 bytes, kappa.worker_memory allows 8388608$/,
		'a message of 30 MB in 30 kB: stopped');
	take_next_step('bomb', "SELECT kappa.skip('bomb', part => 0, at => 2);");
	settled('bomb');
	is(sql('SELECT string_agg(t, chr(32) ORDER BY kafka_offset) FROM bomb'), 'before first last behind', 'skip passes it alone');
	is_balanced('bomb', stored => 4, skipped => 1);
	cmp_ok(private_kb('bomb'), '<', (16 + 64) * 1024, 'private memory afterwards: ' . private_kb('bomb') . ' kB');
	sql("SELECT kappa.disable('bomb')");

	# many small messages that are much together: nothing is wrong with them
	topic('swollen', 1, $large);
	give_gzip('swollen', map { '{"t": "' . 'w' x 10_000 . '"}' } 1 .. 1500) for 1 .. 3;
	sql('CREATE TABLE swollen (t text)');
	subscribe('swollen');
	settled('swollen');
	is(sql('SELECT count(*), min(length(t)) FROM swollen'), '4500|10000', '45 MB in a few kB are stored');
	sql("SELECT kappa.disable('swollen')");
}

# ---------------------------------------------------------------- a byte on the broker's disk

# Flip one bit behind the given text in the partition's log
sub damage
{
	my ($topic, $part, $text) = @_;
	my ($file) = glob("$ENV{SCRATCH}/kafka_013_unreadable/data/$topic-$part/*.log");
	my $bytes = slurp_file($file);
	my $at = index $bytes, $text;

	die "no $text in $file" if $at < 0;
	$at += length $text;
	open my $log, '+<', $file or die "$file: $!";
	binmode $log;
	seek $log, $at, 0;
	print $log chr(ord(substr $bytes, $at, 1) ^ 1);
	close $log;
}

{
	my $batch = sub { my ($name) = @_; return map { "{\"t\": \"$name $_\"}" } 1 .. 40 };

	topic('damaged', 3);
	sql('CREATE TABLE damaged (t text, kafka_partition integer, kafka_offset bigint)');
	for my $part (0 .. 2)
	{
		give_to('damaged', $part, $batch->($_)) for qw(one two three four);
	}
	subscribe('damaged', start_from => q('{"2": 100}'));
	settled('damaged');
	give_to('damaged', $_, $batch->('five')) for 0 .. 2;
	settled('damaged');
	sql("SELECT kappa.disable('damaged')");
	give_to('damaged', $_, $batch->('six')) for 0 .. 2;
	give_to('damaged', $_, $batch->('seven')) for 0 .. 2;
	broker_stop();
	damage('damaged', 0, '{"t": "six 7');       # between good ones
	damage('damaged', 1, '{"t": "five 40');     # the last one stored: nothing is lost
	damage('damaged', 2, '{"t": "seven 1');     # the last batch
	broker_start();
	sql("SELECT kappa.enable('damaged')");
	ok(poll_until(60, sub { parts('damaged') eq '0:200 1:280 2:240' && sql("SELECT count(*) FROM kappa.stat_partition WHERE name = 'damaged' AND verdict = 'poison'") == 2 }),
		'two partitions stop at the damaged batches, the other goes on') or diag(parts('damaged'));
	is(sql("SELECT part, stop_from, stop_to, stop_detail FROM kappa.position WHERE stop_detail LIKE 'XX%' ORDER BY part"),
		join("\n", map { "$_|XX001: the bytes that the broker holds do not fit their checksum (CRC)" } '0|200|240', '2|240|280'), 'from their first message to the one behind their last');
	is(sql("SELECT verdict FROM kappa.stat_partition WHERE name = 'damaged' AND part = 1"), 'unverified', 'the last one stored cannot be recognised any more');
	is(sql("SELECT count(*) FROM kappa.dead_letters WHERE name = 'damaged'"), 0, 'none is a dead letter');
	$node->restart;
	ok(poll_until(30, sub { sql("SELECT count(*) FROM kappa.stat_partition WHERE name = 'damaged' AND verdict = 'poison'") == 2 }), 'a restart changes nothing of it');

	# whichever stopped first comes first
	my %at = (0 => 239, 2 => 279);
	my ($first) = sql("SELECT next_step FROM kappa.subscriptions WHERE name = 'damaged'") =~ /part => (\d)/;

	for my $part ($first, 2 - $first)
	{
		ok(poll_until(30, sub { sql("SELECT next_step FROM kappa.subscriptions WHERE name = 'damaged'") =~ /part => $part/ }), "partition $part is next");
		take_next_step('damaged', "SELECT kappa.skip('damaged', part => $part, at => $at{$part});");
		ok(poll_until(30, sub { parts('damaged') =~ /$part:280/ }), 'skip goes on behind the damaged ones') or diag(parts('damaged'));
	}
	ok(poll_until(30, sub { sql("SELECT status IN ('idle', 'running') FROM kappa.subscriptions WHERE name = 'damaged'") eq 't' }), 'no stop is left');
	give_to('damaged', 2, '{"t": "eight"}');
	settled('damaged');
	is(sql(q{SELECT string_agg(kafka_partition || ':' || word || ':' || n, ' ' ORDER BY kafka_partition, word) FROM
		(SELECT kafka_partition, split_part(t, ' ', 1) AS word, count(DISTINCT t) AS n FROM damaged GROUP BY 1, 2) g WHERE kafka_partition <> 1}),
		'0:five:40 0:four:40 0:one:40 0:seven:40 0:three:40 0:two:40 2:eight:1 2:five:40 2:four:40 2:six:40 2:three:20', 'all but the damaged ones are there');
	is(sql('SELECT count(*), count(DISTINCT (kafka_partition, kafka_offset)) FROM damaged'), '661|661', 'once');
	is_balanced('damaged', stored => 661, holes => 80);
}

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'no crash');
finish();
