
# KafkaWire: messages into Kafka by the bare protocol (Produce, version 7), for
# tests that care about each byte: keys and values that are null, empty or no
# text, headers of any kind.  Nothing of librdkafka or of Java's client is in the way.
#
#   produce($address, $topic, $part, @messages)    returns the first one's offset
#   produce_gzip($address, $topic, $part, @messages)   the same as one batch, compressed
#
# A message is its value (undef: a tombstone), or { key, value, headers, time }:
# headers is [[name, value], ...], time is in ms since 1970.
package KafkaWire;

use strict;
use warnings;

use Exporter 'import';
use Compress::Zlib ();
use IO::Socket::INET;
use Time::HiRes qw(time);

our @EXPORT = qw(produce produce_gzip);

use constant BATCH_BYTES => 900_000;
use constant TIMEOUT_MS => 30_000;

my @crc_table = map {
	my $crc = $_;
	$crc = $crc & 1 ? ($crc >> 1) ^ 0x82F63B78 : $crc >> 1 for 1 .. 8;
	$crc
} 0 .. 255;

sub crc32c
{
	my ($bytes) = @_;
	my $crc = 0xFFFFFFFF;

	$crc = $crc_table[ ($crc ^ $_) & 0xFF ] ^ ($crc >> 8) for unpack 'C*', $bytes;
	return $crc ^ 0xFFFFFFFF;
}

# Zigzag, seven bits a byte
sub varint
{
	my ($n) = @_;
	my $bytes = '';
	my $bits = $n < 0 ? -2 * $n - 1 : 2 * $n;

	while ($bits > 0x7F)
	{
		$bytes .= chr($bits & 0x7F | 0x80);
		$bits >>= 7;
	}
	return $bytes . chr($bits);
}

sub varbytes { return defined $_[0] ? varint(length $_[0]) . $_[0] : varint(-1); }

sub encode_record
{
	my ($message, $number, $base_time) = @_;
	my @headers = @{ $message->{headers} // [] };
	my $body = "\0" . varint($message->{time} - $base_time) . varint($number)
	  . varbytes($message->{key}) . varbytes($message->{value}) . varint(scalar @headers);

	$body .= varbytes($_->[0]) . varbytes($_->[1]) for @headers;
	return varint(length $body) . $body;
}

use constant GZIP => 1;

sub record_batch
{
	my ($codec, @messages) = @_;
	my $base = $messages[0]{time};
	my $max = $base;
	my $records = '';

	for my $i (0 .. $#messages)
	{
		$records .= encode_record($messages[$i], $i, $base);
		$max = $messages[$i]{time} if $messages[$i]{time} > $max;
	}
	$records = Compress::Zlib::memGzip($records) if $codec == GZIP;
	my $body = pack('s> l> q> q> q> s> l> l>', $codec, $#messages, $base, $max, -1, -1, -1,
		scalar @messages) . $records;
	my $rest = pack('l> c N', -1, 2, crc32c($body)) . $body;
	return pack('q> l>', 0, length $rest) . $rest;
}

sub read_exactly
{
	my ($socket, $n) = @_;
	my $bytes = '';

	while (length $bytes < $n)
	{
		my $read = sysread $socket, $bytes, $n - length $bytes, length $bytes;
		die "the broker closed the connection\n" unless $read;
	}
	return $bytes;
}

sub send_batch
{
	my ($socket, $topic, $part, $batch) = @_;
	my $request = pack('s> s> l> s>', 0, 7, 1, -1)
	  . pack('s> s> l> l>', -1, -1, TIMEOUT_MS, 1) . pack('n/a*', $topic)
	  . pack('l> l> N', 1, $part, length $batch) . $batch;
	my $bytes = pack('N', length $request) . $request;
	my $sent = 0;

	while ($sent < length $bytes)
	{
		my $n = syswrite $socket, $bytes, length($bytes) - $sent, $sent;
		die "cannot write to the broker: $!\n" unless $n;
		$sent += $n;
	}
	my $answer = read_exactly($socket, unpack 'N', read_exactly($socket, 4));
	my ($error, $offset) = (unpack 'l> l> n/a* l> l> s> q>', $answer)[ 5, 6 ];
	die "the broker refused the messages: error $error\n" if $error;
	return $offset;
}

sub produce
{
	my ($address, $topic, $part, @messages) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => $address, Timeout => 10) or die "$address: $!";
	my $now = int(time() * 1000);
	my ($first, @batch);
	my $size = 0;
	my $flush = sub {
		return unless @batch;
		my $offset = send_batch($socket, $topic, $part, record_batch(0, @batch));
		$first //= $offset;
		@batch = ();
		$size = 0;
	};

	for my $given (@messages)
	{
		my $message = ref $given ? { time => $now, %$given } : { time => $now, value => $given };
		my $bytes = 100 + length($message->{value} // '') + length($message->{key} // '');
		$flush->() if $size + $bytes > BATCH_BYTES;
		push @batch, $message;
		$size += $bytes;
	}
	$flush->();
	close $socket;
	return $first;
}

sub produce_gzip
{
	my ($address, $topic, $part, @messages) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => $address, Timeout => 10) or die "$address: $!";
	my $now = int(time() * 1000);
	my $first = send_batch($socket, $topic, $part,
		record_batch(GZIP, map { ref $_ ? { time => $now, %$_ } : { time => $now, value => $_ } } @messages));

	close $socket;
	return $first;
}

1;
