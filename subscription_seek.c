/*
 * subscription_seek.c
 *		kappa.seek and kappa.skip: the SQL functions that move positions.
 *
 * seek ends a partition's account and begins a new one, skip passes a range
 * within the account.  Both leave a line in kappa.closed_account that says who
 * did it.  Both work under the subscription's control lock and in the caller's
 * transaction, in the order lock, broker, tables, as all of
 * subscription_control.c does.
 *
 * Crash story: a transaction of the caller's like any other.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "arguments.h"
#include "broker.h"
#include "catalog.h"
#include "compat.h"
#include "position.h"
#include "start_from.h"
#include "subscription.h"

#define SKIP_BATCH			500
#define SKIP_SILENCE_MS		30000	/* without any answer: give up */

PG_FUNCTION_INFO_V1(kappa_seek);
PG_FUNCTION_INFO_V1(kappa_skip);

/* What kappa.skip passes. */
typedef struct Passed
{
	int64		seen;
	KafkaMessage last;			/* offset -1: none; the bytes are gone */
	uint64		fingerprint;
} Passed;

/*
 * Whoever moves a position after the topic was re-created accepts the new topic
 * for the partitions that he moves.  The others stop, if they did not already:
 * their positions mean nothing in it.
 */
static void
accept_topic(const Subscription *sub, const char *topic_id, const bool *moved, int nparts)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(sub->id), CATALOG_TEXT(topic_id)};
	Position   *positions;
	int			n;
	int			i;

	if (topic_id == NULL || (sub->topic_id != NULL && strcmp(sub->topic_id, topic_id) == 0))
		return;
	positions = load_positions(sub->id, -1, 1, &n);
	for (i = 0; sub->topic_id != NULL && i < n; i++)
	{
		if (positions[i].part >= nparts || !moved[positions[i].part])
			stop_partition(sub, positions[i].part, "recreated",
						   positions[i].next_offset, positions[i].next_offset,
						   "the topic was re-created, and only other partitions were moved");
	}
	catalog_begin(&scope);
	catalog_execute("UPDATE kappa.subscription SET topic_id = $2 WHERE id = $1", 2, args);
	catalog_end(&scope);
}

/*
 * Ends the account and begins one at offset; high: the end by the broker, which
 * may be less than before.  false: there was none; *old is not set.
 */
static bool
seek_partition(int32 id, int32 part, int64 offset, int64 high, int64 *old)
{
	CatalogScope scope;
	CatalogArg	args[] = {
		CATALOG_INT4(id), CATALOG_INT4(part), CATALOG_INT8(offset),
		CATALOG_OID(GetUserId()), CATALOG_TEXT(psprintf("seek to %lld", (long long) offset))
	};
	CatalogArg	place[] = {args[0], args[1], args[2], CATALOG_INT8(high)};
	bool		found;
	bool		null;

	catalog_begin(&scope);
	found = catalog_execute("INSERT INTO kappa.closed_account (subscription, part, start_offset,"
							" next_offset, stored, dead_lettered, filtered, skipped, holes,"
							" closed_by, reason)"
							" SELECT subscription, part, start_offset, next_offset, stored,"
							" dead_lettered, filtered, skipped, holes, $3, $4"
							" FROM kappa.position WHERE subscription = $1 AND part = $2"
							" RETURNING next_offset", 4,
							(CatalogArg[]) {args[0], args[1], args[3], args[4]}) > 0;
	if (found)
	{
		*old = DatumGetInt64(catalog_value(0, 1, &null));
		catalog_execute("UPDATE kappa.position SET start_offset = $3, next_offset = $3,"
						" stored = 0, dead_lettered = 0, filtered = 0, skipped = 0, holes = 0,"
						" last_offset = NULL, last_timestamp = NULL, last_fingerprint = NULL,"
						" last_message_time = NULL, verdict = 'ok', high_watermark = $4,"
						" recent_messages = 0, recent_dead = 0, stop_word = NULL, stop_from = NULL,"
						" stop_to = NULL, stop_detail = NULL, stop_since = NULL"
						" WHERE subscription = $1 AND part = $2", 4, place);
	}
	catalog_end(&scope);
	if (!found)
		add_position(id, part, offset);
	return found;
}

Datum
kappa_seek(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Subscription *sub;
	char	   *start_from;
	SubscriptionStart start;
	int			part;

	start_from = text_argument(fcinfo, 1, "start_from");
	InitMaterializedSRF(fcinfo, 0);
	sub = control_subscription(text_argument(fcinfo, 0, "name"), "kappa.seek()");
	start = find_start(sub, start_from);
	for (part = 0; part < start.nparts; part++)
	{
		Datum		values[3];
		bool		nulls[3] = {false, false, false};
		int64		old = 0;

		if (!start.named[part])
			continue;
		nulls[1] = !seek_partition(sub->id, part, start.offsets[part], start.high[part], &old);
		values[0] = Int32GetDatum(part);
		values[1] = Int64GetDatum(old);
		values[2] = Int64GetDatum(start.offsets[part]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	accept_topic(sub, start.topic_id, start.named, start.nparts);
	touch_subscription(sub->id);
	return (Datum) 0;
}

/* Takes what came; true when the whole range up to `at` has passed. */
static bool
count_messages(KafkaMessage *messages, int n, int32 part, int64 at, Passed *passed)
{
	bool		complete = false;
	int			i;

	for (i = 0; i < n; i++)
	{
		if (messages[i].part == part && messages[i].offset <= at)
		{
			passed->seen++;
			passed->last = messages[i];
			passed->fingerprint = message_fingerprint(&messages[i]);
		}
		if (messages[i].part == part && messages[i].offset >= at)
			complete = true;
		kafka_release(&messages[i]);
	}
	return complete;
}

/* true when the event says that the range has passed; ERROR where it cannot. */
static bool
judge_event(const Subscription *sub, const KafkaEvent *event, int32 part, int64 at)
{
	if (event->kind == KAFKA_END_OF_PARTITION)
		return event->place.part == part && event->place.offset > at;
	if (event->kind == KAFKA_NO_EVENT ||
		event->error.class == KAFKA_DISCONNECTED || event->error.class == KAFKA_TIMED_OUT)
		return false;
	/* a record that cannot be read is what a skip may be for: it is a hole */
	report_kafka_error(event->error.class == KAFKA_UNREADABLE ? WARNING : ERROR,
					   &event->error, sub->server, sub->topic);
	return false;
}

/* Read [from, at] to tell messages from holes. */
static void
read_passed(BrokerSession *session, const Subscription *sub, int32 part,
			int64 from, int64 at, Passed *passed)
{
	KafkaMessage *messages = palloc(sizeof(KafkaMessage) * SKIP_BATCH);
	KafkaPlace	place;
	KafkaError	error;
	TimestampTz heard = GetCurrentTimestamp();
	bool		complete = false;
	int			unreadable = 0;

	place.part = part;
	place.offset = from;
	if (!kafka_assign(session->client, sub->topic, &place, 1, &error))
		report_kafka_error(ERROR, &error, sub->server, sub->topic);
	while (!complete)
	{
		KafkaEvent	event;
		int			n;

		CHECK_FOR_INTERRUPTS();
		event.kind = KAFKA_NO_EVENT;
		n = broker_fill(session, messages, SKIP_BATCH, &event, 500);
		if (n > 0)
			heard = GetCurrentTimestamp();
		complete = count_messages(messages, n, part, at, passed);
		complete = judge_event(sub, &event, part, at) || complete;
		/* told of again, or by the broken connection: the library does not get past it */
		if (event.error.class == KAFKA_UNREADABLE)
			complete |= ++unreadable > 1 || event.kind == KAFKA_CLIENT_ERROR;
		if (!complete && TimestampDifferenceExceeds(heard, GetCurrentTimestamp(), SKIP_SILENCE_MS))
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("the offsets to skip could not be read"),
					 errdetail("Server \"%s\" gave nothing of partition %d for %d s.",
							   sub->server, part, SKIP_SILENCE_MS / 1000),
					 errhint("Look at kappa.check_server, then try again.")));
	}
	pfree(messages);
}

static int64
stored_position(const Subscription *sub, int32 part)
{
	int			n;
	Position   *positions = load_positions(sub->id, -1, 1, &n);
	int			i;

	for (i = 0; i < n; i++)
	{
		if (positions[i].part == part)
			return positions[i].next_offset;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("subscription \"%s\" has no partition %d", sub->name, part),
			 errhint("SELECT part FROM kappa.stat_partition lists them.")));
}

/* Moves the position within its account and leaves a line of who did so. */
static void
skip_range(const Subscription *sub, int32 part, int64 from, int64 at, const Passed *passed)
{
	bool		none = passed->last.offset < 0;
	CatalogScope scope;
	CatalogArg	args[] = {
		CATALOG_INT4(sub->id), CATALOG_INT4(part), CATALOG_INT8(from), CATALOG_INT8(at + 1),
		CATALOG_INT8(passed->seen), CATALOG_INT8(at + 1 - from - passed->seen),
		{INT8OID, Int64GetDatum(passed->last.offset), none},
		{INT8OID, Int64GetDatum(passed->last.timestamp), none},
		{INT8OID, Int64GetDatum((int64) passed->fingerprint), none}
	};
	CatalogArg	line[] = {
		args[0], args[1], args[2], args[3], args[4], args[5], CATALOG_OID(GetUserId()),
		CATALOG_TEXT(psprintf("skip to %lld", (long long) at + 1))
	};

	catalog_begin(&scope);
	if (catalog_execute("UPDATE kappa.position SET next_offset = $4, skipped = skipped + $5,"
						" holes = holes + $6, last_offset = $7, last_timestamp = $8,"
						" last_fingerprint = $9, recent_messages = 0, recent_dead = 0,"
						" stop_word = NULL, stop_from = NULL, stop_to = NULL,"
						" stop_detail = NULL, stop_since = NULL"
						" WHERE subscription = $1 AND part = $2 AND next_offset = $3",
						lengthof(args), args) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("partition %d is not at offset %lld any more", part, (long long) from),
				 errhint("Try again.")));
	catalog_execute("INSERT INTO kappa.closed_account (subscription, part, start_offset, next_offset,"
					" stored, dead_lettered, filtered, skipped, holes, closed_by, reason)"
					" VALUES ($1, $2, $3, $4, 0, 0, 0, $5, $6, $7, $8)", lengthof(line), line);
	catalog_end(&scope);
}

/* Is `at` a place to skip to?  from: the position; high: the end by the broker. */
static void
check_skip(int32 part, int64 at, int64 from, int64 high)
{
	if (at < from)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("offset %lld of partition %d has been passed already",
						(long long) at, part),
				 errdetail("The position is %lld.", (long long) from),
				 errhint("kappa.seek moves a position back.")));
	if (high >= 0 && at >= high)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("offset %lld of partition %d is not there yet", (long long) at, part),
				 errdetail("The high watermark is %lld.", (long long) high),
				 errhint("Skip only what stands in the topic.")));
}

Datum
kappa_skip(PG_FUNCTION_ARGS)
{
	Subscription *sub;
	BrokerSession *session;
	Passed		passed = {0};
	char	   *topic_id;
	int64	   *low;
	int64	   *high;
	bool	   *moved;
	int32		part;
	int64		at;
	int64		from;
	int			nparts;

	require_argument(fcinfo, 1, "part");
	require_argument(fcinfo, 2, "at");
	part = PG_GETARG_INT32(1);
	at = PG_GETARG_INT64(2);
	sub = control_subscription(text_argument(fcinfo, 0, "name"), "kappa.skip()");
	from = stored_position(sub, part);
	check_skip(part, at, from, -1);

	session = broker_connect(sub->server, sub->owner, sub->options, NULL);
	nparts = broker_partitions(session, sub->topic);
	if (part >= nparts)
		check_skip(part, at, from, 0);
	low = palloc(sizeof(int64) * nparts);
	high = palloc(sizeof(int64) * nparts);
	moved = palloc0(sizeof(bool) * nparts);
	broker_offsets(session, sub->topic, nparts, low, high);
	check_skip(part, at, from, high[part]);
	passed.last.offset = -1;
	if (low[part] <= at)
		read_passed(session, sub, part, Max(from, low[part]), at, &passed);
	topic_id = broker_topic_id(session, sub->topic);
	broker_disconnect(session);

	skip_range(sub, part, from, at, &passed);
	moved[part] = true;
	accept_topic(sub, topic_id, moved, nparts);
	touch_subscription(sub->id);
	PG_RETURN_INT64(at + 1);
}
