/*
 * sample.c
 *		Copies of a topic's first or last messages.
 *
 * Each partition is read from a start up to the end that the broker told at the
 * beginning, so a topic that is being written to is no endless one.  A client
 * must not seek: where too few messages are found, a new session reads again
 * from further back.
 */
#include "postgres.h"

#include "broker.h"
#include "message_headers.h"
#include "sample.h"
#include "start_from.h"

#define PEEK_SLACK		32		/* offsets that may hold no message */

/* What is read of one partition. */
typedef struct PartRead
{
	int64		start;			/* -1: nothing */
	int64		low;
	int64		high;			/* read up to here */
	bool		done;
	int			count;			/* kept samples */
	int			oldest;			/* of them, in a full ring */
	int			allocated;
	Sample	  **samples;
} PartRead;

static bytea *
copy_bytes(const char *bytes, size_t len)
{
	bytea	   *copy;

	if (bytes == NULL)
		return NULL;
	copy = palloc(VARHDRSZ + len);
	SET_VARSIZE(copy, VARHDRSZ + len);
	memcpy(VARDATA(copy), bytes, len);
	return copy;
}

static Sample *
copy_message(const KafkaMessage *message)
{
	Sample	   *sample = palloc(sizeof(Sample));

	sample->part = message->part;
	sample->offset = message->offset;
	sample->timestamp = message->timestamp;
	sample->key = copy_bytes(message->key, message->key_len);
	sample->value = copy_bytes(message->value, message->value_len);
	sample->headers = message_headers(message);
	return sample;
}

static void
free_sample(Sample *sample)
{
	if (sample->key)
		pfree(sample->key);
	if (sample->value)
		pfree(sample->value);
	if (sample->headers)
		pfree(sample->headers);
	pfree(sample);
}

/* Keep a message, in place of the oldest one where max are kept. */
static void
keep_sample(PartRead *read, const KafkaMessage *message, int max)
{
	if (read->count < max)
	{
		if (read->count == read->allocated)
		{
			read->allocated = read->allocated ? Min(read->allocated * 2, max) : Min(64, max);
			read->samples = read->samples ?
				repalloc(read->samples, sizeof(Sample *) * read->allocated) :
				palloc(sizeof(Sample *) * read->allocated);
		}
		read->samples[read->count++] = copy_message(message);
		return;
	}
	free_sample(read->samples[read->oldest]);
	read->samples[read->oldest] = copy_message(message);
	read->oldest = (read->oldest + 1) % max;
}

static void
assign_reads(BrokerSession *session, const char *topic, PartRead *reads, int n,
			 int *open_parts)
{
	KafkaPlace *places = palloc(sizeof(KafkaPlace) * n);
	KafkaError	error;

	*open_parts = 0;
	for (int part = 0; part < n; part++)
	{
		reads[part].done = reads[part].start < 0 || reads[part].start >= reads[part].high;
		if (reads[part].done)
			continue;
		places[*open_parts].part = part;
		places[*open_parts].offset = reads[part].start;
		(*open_parts)++;
	}
	if (*open_parts > 0 &&
		!kafka_assign(session->client, topic, places, *open_parts, &error))
		report_kafka_error(ERROR, &error, session->server, topic);
}

/* The partition has nothing left to read up to its end. */
static void
finish_read(PartRead *read, int64 next_offset, int *open_parts)
{
	if (!read->done && next_offset >= read->high)
	{
		read->done = true;
		(*open_parts)--;
	}
}

/*
 * Read each partition from its start to its end.  first: stop after max
 * messages in all; else keep the last max of each partition.
 */
static void
read_samples(BrokerSession *session, const char *topic, PartRead *reads, int n,
			 int max, bool first)
{
	KafkaMessage messages[256];
	Patience	patience;
	int			open_parts;
	int			total = 0;

	assign_reads(session, topic, reads, n, &open_parts);
	begin_patience(&patience, BROKER_ANSWER_MS);
	while (open_parts > 0 && !(first && total >= max))
	{
		KafkaEvent	event;
		int			got = broker_fill(session, messages, lengthof(messages), &event, BROKER_STEP_MS);

		for (int i = 0; i < got; i++)
		{
			PartRead   *read = &reads[messages[i].part];

			if (!read->done && messages[i].offset < read->high && !(first && total >= max))
			{
				keep_sample(read, &messages[i], max);
				total++;
			}
			finish_read(read, messages[i].offset + 1, &open_parts);
			kafka_release(&messages[i]);
		}
		if (event.kind == KAFKA_END_OF_PARTITION)
			finish_read(&reads[event.place.part], event.place.offset, &open_parts);
		if (got > 0 || event.kind == KAFKA_END_OF_PARTITION)
			begin_patience(&patience, BROKER_ANSWER_MS);
		else if (event.kind != KAFKA_NO_EVENT)
			ask_again(session, &event.error, topic, &patience);
		else
		{
			KafkaError	silence = {KAFKA_TIMED_OUT, "_TIMED_OUT", "no message came"};

			ask_again(session, &silence, topic, &patience);
		}
	}
}

static int
compare_samples(const void *a, const void *b)
{
	const Sample *one = *(Sample *const *) a;
	const Sample *two = *(Sample *const *) b;

	if (one->timestamp != two->timestamp)
		return one->timestamp < two->timestamp ? -1 : 1;
	if (one->part != two->part)
		return one->part < two->part ? -1 : 1;
	return one->offset < two->offset ? -1 : one->offset > two->offset;
}

/* All kept samples, oldest first. */
static Sample **
sort_samples(PartRead *reads, int n, int *count)
{
	Sample	  **samples;
	int			at = 0;

	*count = 0;
	for (int part = 0; part < n; part++)
		*count += reads[part].count;
	samples = palloc(sizeof(Sample *) * Max(*count, 1));
	for (int part = 0; part < n; part++)
	{
		if (reads[part].count > 0)
			memcpy(&samples[at], reads[part].samples, sizeof(Sample *) * reads[part].count);
		at += reads[part].count;
	}
	qsort(samples, *count, sizeof(Sample *), compare_samples);
	return samples;
}

static PartRead *
make_reads(BrokerSession *session, const char *topic, int n)
{
	PartRead   *reads = palloc0(sizeof(PartRead) * n);
	int64	   *low = palloc(sizeof(int64) * n);
	int64	   *high = palloc(sizeof(int64) * n);

	broker_offsets(session, topic, n, low, high);
	for (int part = 0; part < n; part++)
	{
		reads[part].low = low[part];
		reads[part].high = high[part];
	}
	return reads;
}

/*
 * The last max messages of a topic.  Offsets near the end may hold no message
 * (markers of transactions, compacted ones), so where too few are found, read
 * again from further back; each time with a client of its own, which must not seek.
 */
Sample **
last_samples(const char *server, const char *topic, int max, Jsonb *options, int *count)
{
	int64		back = (int64) max + PEEK_SLACK;

	for (;;)
	{
		BrokerSession *session = broker_connect_small(server, options, NULL);
		int			n = broker_partitions(session, topic);
		PartRead   *reads = make_reads(session, topic, n);
		bool		enough = true;

		for (int part = 0; part < n; part++)
			reads[part].start = Max(reads[part].low, reads[part].high - back);
		read_samples(session, topic, reads, n, max, false);
		broker_disconnect(session);
		for (int part = 0; part < n; part++)
		{
			if (reads[part].count < max && reads[part].start > reads[part].low)
				enough = false;
		}
		if (enough)
		{
			Sample	  **samples = sort_samples(reads, n, count);

			if (*count <= max)
				return samples;
			samples += *count - max;
			*count = max;
			return samples;
		}
		back *= 16;
	}
}

/* The first max messages from a start_from on. */
Sample **
first_samples(const char *server, const char *topic, int max,
			  const char *start_from, Jsonb *options, int *count)
{
	BrokerSession *session;
	PartRead   *reads;
	int64	   *starts;
	int			n;

	session = broker_connect_small(server, options, start_from_group(start_from));
	n = broker_partitions(session, topic);
	starts = broker_start_offsets(session, topic, n, start_from, NULL);
	reads = make_reads(session, topic, n);
	for (int part = 0; part < n; part++)
		reads[part].start = starts[part];
	read_samples(session, topic, reads, n, max, true);
	broker_disconnect(session);
	return sort_samples(reads, n, count);
}

void
check_sample_count(int n)
{
	if (n < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("n must be at least 1")));
}
