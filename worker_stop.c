/*
 * worker_stop.c
 *		What ends a worker's reading: problems of a partition, errors of a batch that no
 *		retry mends, errors of the Kafka client.
 *
 * A stop is a row, committed before the process ends; its successor reads the
 * other partitions.  What may pass by itself is no stop: the process ends and the
 * slot says why and when the next one begins.  None of these functions returns
 * unless it says so.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "intake.h"
#include "position.h"
#include "shmem.h"
#include "worker.h"

#define RECONNECT_MAX_MS	5000	/* a broker that is back is found this soon */
#define PROBE_MS			500		/* for one try to read at an offset */
#define PROBE_TRIES			10
#define PROBE_TOTAL_MS		30000	/* for all looks of one stop */

/* ---------------------------------------------------------------- stops */

/*
 * Durable, in a transaction of its own.  The other partitions go on, in a process
 * that does not fetch the stopped one: the caller ends with leave_to_reload.
 */
void
store_stop(int32 part, const char *word, int64 from, int64 to, const char *detail)
{
	begin_under_lock();
	stop_partition(worker.sub, part, word, from, to, detail);
	worker_commit();
	worker_slot_error(worker.slot, psprintf("%s: partition %d, offsets [%lld, %lld): %s", word, part,
											(long long) from, (long long) to, detail));
}

/*
 * Can the message at the offset, or the next one behind it, be read?  An answer that
 * was still on its way may break the connection for another offset than ours: so no
 * is what is said twice, or never anything else.
 */
static bool
readable_at(int32 part, int64 offset)
{
	KafkaPlace	place = {part, offset};
	KafkaRecord record;
	KafkaError	error;
	int			unreadable = 0;

	if (worker.verifier == NULL)
		worker.verifier = open_client(bound_to_one, false);
	for (int tries = 0; tries < PROBE_TRIES && unreadable < 2; tries++)
	{
		check_signals();
		if (kafka_reread(worker.verifier, worker.sub->topic, &place, &record, PROBE_MS, &error))
			return true;
		unreadable += error.class == KAFKA_UNREADABLE;
	}
	return false;
}

/*
 * Where reading can go on behind what cannot be read: messages come in batches that
 * are readable as a whole or not at all.  Steps that double, then halving; as far as
 * the time allows, for the stop must be told soon.
 */
static int64
readable_again(int32 part, int64 from)
{
	IntakePartition *p = intake_partition(worker.intake, part);
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PROBE_TOTAL_MS);
	int64		bad = from;
	int64		good = Max(p->high_watermark, from + 1);

	for (int64 step = 1; from + step < good && GetCurrentTimestamp() < until; step *= 2)
	{
		if (readable_at(part, from + step))
			good = from + step;
		else
			bad = from + step;
	}
	while (good - bad > 1 && GetCurrentTimestamp() < until)
	{
		int64		middle = bad + (good - bad) / 2;

		if (readable_at(part, middle))
			good = middle;
		else
			bad = middle;
	}
	return good - bad > 1 ? bad + 1 : good;
}

void
store_problems(void)
{
	for (int i = 0; i < worker.intake->nproblems; i++)
	{
		IntakeProblem *p = &worker.intake->problems[i];

		if (strcmp(p->word, "unverified") == 0)
		{
			begin_under_lock();
			forget_last_message(worker.sub->id, p->part);
			worker_commit();
			continue;
		}
		if (strcmp(p->word, "poison") == 0)
			p->to = readable_again(p->part, p->from);
		store_stop(p->part, p->word, p->from, p->to, p->detail);
	}
	leave_to_reload();
}

static const char *
stop_word(const ErrorData *error)
{
	int			category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	if (error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION))
		return "rights";
	return "schema";
}

/*
 * No retry helps: all our partitions stop, or only those with something in hand
 * (the others may have nothing that is wrong).
 */
void
stop_for_error(const ErrorData *error, bool all)
{
	char	   *detail = psprintf("%s: %s%s%s", unpack_sql_state(error->sqlerrcode), error->message,
								  error->detail ? " " : "", error->detail ? error->detail : "");

	for (int i = 0; i < worker.npositions; i++)
	{
		int64		from = worker.positions[i].next_offset;
		int64		to = from;

		if (worker.intake)
		{
			from = worker.intake->parts[i].pos.next_offset;
			to = worker.intake->parts[i].expected;
		}
		if (worker.positions[i].stop_word[0] == '\0' && (all || to > from))
			store_stop(worker.positions[i].part, stop_word(error), from, to, detail);
	}
	leave_to_reload();
}

void
stop_for_authorization(const KafkaError *error)
{
	for (int i = 0; i < worker.npositions; i++)
		if (worker.positions[i].stop_word[0] == '\0')
			store_stop(worker.positions[i].part, "rights", worker.intake->parts[i].pos.next_offset,
					   worker.intake->parts[i].pos.next_offset,
					   psprintf("the broker refuses to let us read the topic: %s", error->text));
	leave_to_reload();
}

/* ---------------------------------------------------------------- errors of the client */

/*
 * The connection ended at an answer that we do not take: a batch of messages larger
 * than receive_message_max_bytes.  Which partition's, only asking for each can tell.
 */
void
find_unreadable(void)
{
	Intake	   *intake = worker.intake;

	for (int i = 0; i < intake->nparts; i++)
	{
		IntakePartition *p = &intake->parts[i];

		if (p->fetching && (p->verifying || p->high_watermark > p->expected) &&
			!readable_at(p->pos.part, p->verifying ? p->pos.last_offset : p->expected))
			intake_unreadable(intake, p->pos.part,
							  "54000: the messages are larger than receive_message_max_bytes allows");
	}
	if (intake->nproblems > 0)
		store_problems();
}

/* Of an answer about our topic alone */
void
error_of_topic(const KafkaMetadata *metadata, KafkaError *error)
{
	memset(error, 0, sizeof(*error));
	error->class = metadata->ntopics == 1 ? metadata->topics[0].error : KAFKA_OK;
	if (error->class == KAFKA_AUTHORIZATION)
		strlcpy(error->text, "Topic authorization failed", sizeof(error->text));
	else if (error->class == KAFKA_UNKNOWN_TOPIC)
		strlcpy(error->text, "the topic does not exist", sizeof(error->text));
}

/*
 * A question about the partitions of a topic that we may not see is answered by the
 * library alone: it knows of none.  Why so it says only when asked about the topic.
 */
static void
stop_if_topic_denied(void)
{
	KafkaError	error;
	KafkaMetadata *metadata = kafka_metadata(worker.client, worker.sub->topic, 500, &error);

	if (metadata == NULL)
		return;
	error_of_topic(metadata, &error);
	kafka_free_metadata(metadata);
	if (error.class == KAFKA_AUTHORIZATION)
		stop_for_authorization(&error);
}

/* A backoff's reason begins with the step that fails, as kappa.check_server calls it. */
const char *
backoff_reason(const KafkaError *error)
{
	if (error->class == KAFKA_DISCONNECTED || error->class == KAFKA_TIMED_OUT)
		return "disconnected";
	if (kafka_error_of_tls(error))
		return psprintf("tls: %s", error->text);
	if (error->class == KAFKA_AUTHENTICATION)
		return psprintf("authentication: %s", error->text);
	return error->text;
}

void
client_failed(const KafkaError *error)
{
	print_library_log();
	ereport(LOG,
			(errmsg("subscription \"%s\" lost its Kafka client: %s", worker.sub->name, error->text)));
	worker_slot_error(worker.slot, error->text);
	switch (error->class)
	{
		case KAFKA_DISCONNECTED:
		case KAFKA_TIMED_OUT:
			leave_to_retry(backoff_reason(error), RECONNECT_MAX_MS);
			break;
		case KAFKA_AUTHORIZATION:
			stop_for_authorization(error);
			break;
		case KAFKA_UNKNOWN_TOPIC:
			stop_if_topic_denied();
			leave_to_retry("the topic does not exist", RETRY_MAX_MS);
			break;
		case KAFKA_OUT_OF_RANGE:
			leave_to_retry("offset out of range", RETRY_BASE_MS);
			break;
		default:
			leave_to_retry(backoff_reason(error), RETRY_MAX_MS);
	}
}
