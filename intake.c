/*
 * intake.c
 *		From the client's events to a batch, from verdicts to positions.
 *
 * Per partition:
 *
 *		look		first and next offset by the broker, against the position:
 *					  first > position			gap: stop
 *					  position > next			truncated: stop
 *					  last stored still there	begin with it, to recognise the topic
 *					  else						begin at the position, unverified
 *		verifying	the first message must be the last one stored (offset, timestamp,
 *					fingerprint): another one means that the topic was made anew
 *		reading		offsets only grow; what is below `expected' was seen and is dropped
 *					here, whatever the library does; jumps are holes
 *		at end		an end-of-partition event gives the next offset to come, which
 *					also passes control records and compacted holes
 *		stopped		nothing is taken any more in this process
 *
 * A position moves only through intake_store, from the verdicts of the batch, so
 * stored + dead + filtered + holes always is what the position moved by.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "dead_letter.h"
#include "ingest.h"
#include "intake.h"
#include "kafka_question.h"
#include "watermark.h"

#define ASK_TIMEOUT		500		/* ms */

/*
 * After a silence as long as this nothing tells that the next message is from the
 * same log as the last one: fetches may have failed unheard, or not been made (a
 * machine that was paused).  A topic cannot be deleted, made anew and filled past
 * our position within it.
 */
#define SILENCE			(400 * INT64CONST(1000))	/* microseconds */

/* ---------------------------------------------------------------- partitions */

/*
 * Partitions that came from several workers remember more than the last messages of
 * one: each keeps its share.
 */
static void
scale_recent(Intake *intake)
{
	int64		sum = 0;

	for (int i = 0; i < intake->nparts; i++)
		sum += intake->parts[i].pos.recent_messages;
	if (sum <= RECENT_MESSAGES)
		return;
	for (int i = 0; i < intake->nparts; i++)
	{
		Position   *pos = &intake->parts[i].pos;

		pos->recent_messages = (int32) ((int64) pos->recent_messages * RECENT_MESSAGES / sum);
		pos->recent_dead = (int32) ((int64) pos->recent_dead * RECENT_MESSAGES / sum);
	}
}

/* Counts of the messages judged last, as far as the positions remember them. */
static void
restore_recent(Intake *intake)
{
	RecentVerdicts *recent = intake->recent;

	scale_recent(intake);
	for (int i = 0; i < intake->nparts; i++)
		for (int m = 0; m < intake->parts[i].pos.recent_messages && recent->n < RECENT_MESSAGES; m++)
		{
			recent->part[recent->n] = i;
			recent->bad[recent->n] = m < intake->parts[i].pos.recent_dead;
			recent->dead += recent->bad[recent->n];
			recent->n++;
		}
	recent->next = recent->n % RECENT_MESSAGES;
}

Intake *
make_intake(Subscription *sub, KafkaClient *client, Position *positions, int n)
{
	Intake	   *intake = palloc0(sizeof(Intake));

	intake->sub = sub;
	intake->client = client;
	intake->nparts = n;
	intake->parts = palloc0(sizeof(IntakePartition) * Max(n, 1));
	intake->problems = palloc(sizeof(IntakeProblem) * Max(n, 1));
	intake->max_messages = intake->limit = sub->batch_rows;
	intake->max_bytes = (size_t) kappa_worker_memory * 1024 / 6;
	intake->max_message = Min((size_t) kappa_worker_memory * 1024 / 2, MaxAllocSize / 2);
	intake->messages = MemoryContextAllocHuge(CurrentMemoryContext,
											  sizeof(KafkaMessage) * intake->max_messages);
	intake->recent = palloc0(sizeof(RecentVerdicts));
	for (int i = 0; i < n; i++)
	{
		intake->parts[i].pos = positions[i];
		intake->parts[i].expected = positions[i].next_offset;
		intake->parts[i].fetching = positions[i].stop_word[0] == '\0';
		intake->parts[i].high_watermark = -1;
	}
	restore_recent(intake);
	return intake;
}

/* They are few and sorted; a worker's are a fixed step apart. */
static int
partition_index(const Intake *intake, int32 part)
{
	int			low = 0;
	int			high = intake->nparts - 1;

	while (low <= high)
	{
		int			mid = (low + high) / 2;

		if (intake->parts[mid].pos.part == part)
			return mid;
		if (intake->parts[mid].pos.part < part)
			low = mid + 1;
		else
			high = mid - 1;
	}
	return -1;
}

IntakePartition *
intake_partition(Intake *intake, int32 part)
{
	int			i = partition_index(intake, part);

	return i < 0 ? NULL : &intake->parts[i];
}

static IntakeResult
problem(Intake *intake, IntakePartition *p, const char *word, int64 from, int64 to,
		const char *detail)
{
	IntakeProblem *problem = &intake->problems[intake->nproblems++];

	problem->part = p->pos.part;
	problem->word = word;
	problem->from = from;
	problem->to = to;
	strlcpy(problem->detail, detail, sizeof(problem->detail));
	p->fetching = false;
	return INTAKE_PROBLEM;
}

IntakeResult
intake_look(Intake *intake, int i)
{
	IntakePartition *p = &intake->parts[i];
	int64_t		low;
	int64_t		high;

	if (!p->fetching)
		return INTAKE_DRAINED;
	if (!kafka_offsets(intake->client, intake->sub->topic, p->pos.part, &low, &high,
					   ASK_TIMEOUT, &intake->error))
		return INTAKE_ERROR;
	p->high_watermark = high;
	if (low > p->pos.next_offset)
		return problem(intake, p, "gap", p->pos.next_offset, low,
					   "the broker does not hold these messages any more");
	if (high < p->pos.next_offset)
		return problem(intake, p, "truncated", high, p->pos.next_offset,
					   "the partition ends before the position: messages that were stored are gone from the broker, or the topic was made anew and is shorter");
	p->verifying = p->pos.last_offset >= low;
	p->unverified = p->pos.last_offset >= 0 && !p->verifying;
	p->verdict_due = p->pos.last_offset >= 0;
	return INTAKE_DRAINED;
}

IntakeResult
intake_assign(Intake *intake)
{
	KafkaPlace *places = palloc(sizeof(KafkaPlace) * Max(intake->nparts, 1));
	int			n = 0;

	for (int i = 0; i < intake->nparts; i++)
	{
		IntakePartition *p = &intake->parts[i];

		if (!p->fetching)
			continue;
		places[n].part = p->pos.part;
		places[n++].offset = p->verifying ? p->pos.last_offset : p->pos.next_offset;
	}
	if (n > 0 && !kafka_assign(intake->client, intake->sub->topic, places, n, &intake->error))
		return INTAKE_ERROR;
	pfree(places);
	return INTAKE_DRAINED;
}

void
intake_stop(Intake *intake, int32 part)
{
	IntakePartition *p = intake_partition(intake, part);

	if (p)
	{
		p->fetching = false;
		strlcpy(p->pos.stop_word, "stopped", sizeof(p->pos.stop_word));
	}
}

/* ---------------------------------------------------------------- taking */

/* The first message after a start: is it the one that was stored last? */
static IntakeResult
verify(Intake *intake, IntakePartition *p, KafkaMessage *message)
{
	p->verifying = false;
	p->last_arrival = intake->now;
	if (message->offset > p->pos.last_offset)
	{
		p->unverified = true;
		return INTAKE_DRAINED;
	}
	if (message->offset == p->pos.last_offset &&
		message->timestamp == p->pos.last_timestamp &&
		message_fingerprint(message) == p->pos.last_fingerprint)
		return INTAKE_DRAINED;
	return problem(intake, p, "recreated", p->pos.last_offset, p->pos.next_offset,
				   "the topic holds another message where the last one stored stood: it was deleted and made anew");
}

/*
 * A message that was compressed may be of any size.  What leaves no room in the
 * worker's memory for a row or a dead letter made of it cannot be either.
 */
static IntakeResult
too_large(Intake *intake, IntakePartition *p, const KafkaMessage *message)
{
	return problem(intake, p, "poison", message->offset, message->offset + 1,
				   psprintf("54000: the message has %zu bytes, kappa.worker_memory allows %zu",
							message->key_len + message->value_len, intake->max_message));
}

/* Keep a message of the client's, or give it back at once. */
static IntakeResult
take(Intake *intake, KafkaMessage *message)
{
	IntakePartition *p = intake_partition(intake, message->part);
	IntakeResult result = INTAKE_DRAINED;

	if (p && p->fetching && p->verifying)
		result = verify(intake, p, message);
	if (p == NULL || !p->fetching || message->offset < p->expected)
	{
		kafka_release(message);
		return result;
	}
	if (message->key_len + message->value_len > intake->max_message)
	{
		result = too_large(intake, p, message);
		kafka_release(message);
		return result;
	}
	if (intake->nmessages == 0)
		intake->first_taken = intake->now;
	if (p->last_arrival != 0 && intake->now - p->last_arrival > SILENCE && p->pos.last_offset >= 0)
		p->recheck = true;
	p->last_arrival = intake->now;
	p->expected = message->offset + 1;
	p->at_end = false;
	p->idle_proved = 0;
	intake->bytes += message->key_len + message->value_len;
	intake->messages[intake->nmessages++] = *message;
	return result;
}

static IntakeResult
end_of_partition(Intake *intake, const KafkaPlace *place)
{
	IntakePartition *p = intake_partition(intake, place->part);

	if (p == NULL || !p->fetching)
		return INTAKE_DRAINED;
	if (place->offset < p->expected)
		return problem(intake, p, "truncated", place->offset, p->expected,
					   "the partition ends before the position: messages that were stored are gone from the broker, or the topic was made anew and is shorter");
	if (p->verifying)
	{
		/* compacted away, with all behind it */
		p->verifying = false;
		p->unverified = true;
	}
	/* it moves without messages: the same doubt as with one after a silence */
	if (place->offset > p->expected && p->last_arrival != 0 &&
		intake->now - p->last_arrival > SILENCE && p->pos.last_offset >= 0)
		p->recheck = true;
	p->last_arrival = intake->now;
	if (place->offset > p->expected)
		p->idle_proved = 0;
	p->expected = place->offset;
	p->at_end = true;
	p->end_seen = intake->now;
	return INTAKE_DRAINED;
}

void
intake_unreadable(Intake *intake, int32 part, const char *detail)
{
	IntakePartition *p = intake_partition(intake, part);

	if (p->verifying)
		(void) problem(intake, p, "unverified", p->pos.last_offset, p->pos.next_offset, detail);
	else
		(void) problem(intake, p, "poison", p->expected, p->expected + 1, detail);
}

/*
 * Messages that the library cannot make out: damaged in the broker's log, or of a
 * size or form that it does not know.  It goes on behind them, we must not.
 */
static IntakeResult
unreadable(Intake *intake, IntakePartition *p, const KafkaEvent *event)
{
	if (!p->fetching)
		return INTAKE_DRAINED;
	intake_unreadable(intake, p->pos.part, psprintf("XX001: %s", event->error.text));
	return INTAKE_PROBLEM;
}

static IntakeResult
partition_error(Intake *intake, const KafkaEvent *event)
{
	IntakePartition *p = intake_partition(intake, event->place.part);

	intake->error = event->error;
	if (p == NULL)
		return event->error.class == KAFKA_AUTHORIZATION ? INTAKE_ERROR : INTAKE_DRAINED;
	if (event->error.class == KAFKA_UNREADABLE)
		return unreadable(intake, p, event);
	if (event->error.class == KAFKA_AUTHORIZATION)
		return problem(intake, p, "rights", p->expected, p->expected,
					   psprintf("the broker refuses to let us read the topic: %s", event->error.text));
	/* out of range and all else: start anew, the look then tells what is wrong */
	return INTAKE_ERROR;
}

static IntakeResult
handle_event(Intake *intake, const KafkaEvent *event)
{
	switch (event->kind)
	{
		case KAFKA_END_OF_PARTITION:
			return end_of_partition(intake, &event->place);
		case KAFKA_PARTITION_ERROR:
			return partition_error(intake, event);
		case KAFKA_CLIENT_ERROR:
			intake->error = event->error;
			return INTAKE_ERROR;
		default:
			return INTAKE_DRAINED;
	}
}

/*
 * The client fills the free end of our array; what is not kept closes up.  The
 * first problem ends the call, with everything before it taken.
 */
IntakeResult
intake_fill(Intake *intake)
{
	intake->now = GetCurrentTimestamp();
	while (intake->nmessages < intake->limit && intake->bytes < intake->max_bytes)
	{
		int			base = intake->nmessages;
		KafkaMessage *fresh = intake->messages + base;
		KafkaEvent	event;
		int			n = kafka_fill(intake->client, fresh,
								   Min(intake->limit - base, 1000), &event);
		IntakeResult result = INTAKE_DRAINED;

		for (int i = 0; i < n; i++)
		{
			KafkaMessage message = fresh[i];
			IntakeResult taken = take(intake, &message);

			if (taken != INTAKE_DRAINED)
				result = taken;
		}
		if (result == INTAKE_DRAINED && event.kind != KAFKA_NO_EVENT)
			result = handle_event(intake, &event);
		if (result != INTAKE_DRAINED)
			return result;
		if (n == 0 && event.kind == KAFKA_NO_EVENT)
			return INTAKE_DRAINED;
	}
	return INTAKE_FULL;
}

void
intake_release(Intake *intake)
{
	for (int i = 0; i < intake->nmessages; i++)
		kafka_release(&intake->messages[i]);
	intake->nmessages = 0;
	intake->bytes = 0;
}

struct IntakeState
{
	RecentVerdicts recent;
	IntakePartition parts[FLEXIBLE_ARRAY_MEMBER];
};

IntakeState *
intake_save(const Intake *intake)
{
	IntakeState *state = palloc(offsetof(IntakeState, parts) +
								sizeof(IntakePartition) * intake->nparts);

	state->recent = *intake->recent;
	memcpy(state->parts, intake->parts, sizeof(IntakePartition) * intake->nparts);
	return state;
}

void
intake_restore(Intake *intake, const IntakeState *state)
{
	*intake->recent = state->recent;
	memcpy(intake->parts, state->parts, sizeof(IntakePartition) * intake->nparts);
}

bool
intake_has_work(const Intake *intake)
{
	if (intake->nmessages > 0)
		return true;
	for (int i = 0; i < intake->nparts; i++)
		if (intake->parts[i].fetching && !intake->parts[i].verifying &&
			intake->parts[i].expected > intake->parts[i].pos.next_offset)
			return true;
	return false;
}

bool
intake_at_end(const Intake *intake)
{
	for (int i = 0; i < intake->nparts; i++)
		if (intake->parts[i].fetching && !intake->parts[i].at_end)
			return false;
	return true;
}

/*
 * What was read again at the last stored offset, or behind it: still the same log?
 * A message that is gone (compacted) proves nothing.
 */
bool
intake_recheck(IntakePartition *p, const KafkaRecord *record)
{
	p->recheck = false;
	if (record->offset < 0 || record->offset > p->pos.last_offset)
	{
		p->unverified = true;
		p->verdict_due = true;
		return true;
	}
	return record->offset == p->pos.last_offset && record->timestamp == p->pos.last_timestamp &&
		record->fingerprint == p->pos.last_fingerprint;
}

/* ---------------------------------------------------------------- the batch */

static TimestampTz
verdict_watermark(void *arg, int32 part)
{
	return intake_partition(arg, part)->pos.verdict_watermark;
}

Batch *
intake_batch(Intake *intake, int worker)
{
	Batch	   *batch = make_batch(intake->sub, intake->messages, intake->nmessages);

	batch->worker = worker;
	batch->verdict_of = verdict_watermark;
	batch->verdict_arg = intake;
	return batch;
}

/* ---------------------------------------------------------------- storing */

static void
remember_verdict(Intake *intake, int part, bool bad)
{
	RecentVerdicts *recent = intake->recent;
	int			at = recent->next;

	if (recent->n == RECENT_MESSAGES)
	{
		Position   *old = &intake->parts[recent->part[at]].pos;

		old->recent_messages--;
		old->recent_dead -= recent->bad[at];
		recent->dead -= recent->bad[at];
	}
	else
		recent->n++;
	recent->part[at] = part;
	recent->bad[at] = bad;
	recent->dead += bad;
	recent->next = (at + 1) % RECENT_MESSAGES;
	intake->parts[part].pos.recent_messages++;
	intake->parts[part].pos.recent_dead += bad;
}

static bool
too_many_dead(const Intake *intake)
{
	return intake->recent->n == RECENT_MESSAGES && intake->recent->dead * 2 > RECENT_MESSAGES;
}

static void
note_event_time(IntakePartition *p, PositionDelta *delta, TimestampTz event_time, TimestampTz limit)
{
	if (event_time == DT_NOBEGIN)
		return;
	if (event_time > limit)
		delta->future_rows++;
	else if (event_time > p->pos.max_event_time)
		p->pos.max_event_time = event_time;
}

typedef struct Store
{
	Intake	   *intake;
	Batch	   *batch;
	PositionDelta *deltas;		/* by partition */
	bool	   *cut;			/* by partition: stands on a bad message */
	bool	   *touched;
	bool		poisoned;
} Store;

static void
count_message(Store *store, int m, TimestampTz limit)
{
	Intake	   *intake = store->intake;
	const KafkaMessage *message = &intake->messages[m];
	int			i = partition_index(intake, message->part);
	IntakePartition *p = &intake->parts[i];
	PositionDelta *delta = &store->deltas[i];
	Verdict		verdict = store->batch->verdicts[m];
	bool		stop = store->batch->sub->stop_on_error;

	if (store->cut[i])
		return;
	delta->holes += message->offset - delta->next_offset;
	delta->next_offset = message->offset;
	store->touched[i] = true;
	if (verdict == VERDICT_CUT || (verdict == VERDICT_DEAD && stop))
	{
		store->cut[i] = true;
		return;
	}
	delta->next_offset = message->offset + 1;
	delta->stored += verdict == VERDICT_STORED;
	delta->dead_lettered += verdict == VERDICT_DEAD;
	delta->filtered += verdict == VERDICT_FILTERED;
	p->pos.last_offset = message->offset;
	p->pos.last_timestamp = message->timestamp;
	remember_verdict(intake, i, verdict == VERDICT_DEAD);
	store->poisoned |= too_many_dead(intake);
	if (store->batch->event_times)
		note_event_time(p, delta, store->batch->event_times[m], limit);
}

/* The last message that counts in each partition is what it is recognised by. */
static void
take_fingerprints(Store *store)
{
	Intake	   *intake = store->intake;

	for (int m = 0; m < intake->nmessages; m++)
	{
		IntakePartition *p = intake_partition(intake, intake->messages[m].part);

		if (intake->messages[m].offset == p->pos.last_offset)
			p->pos.last_fingerprint = message_fingerprint(&intake->messages[m]);
	}
}

static void
finish_deltas(Store *store)
{
	Intake	   *intake = store->intake;

	for (int i = 0; i < intake->nparts; i++)
	{
		IntakePartition *p = &intake->parts[i];
		PositionDelta *delta = &store->deltas[i];
		int64_t		low;
		int64_t		high;

		if (!p->fetching || p->verifying)
			continue;
		/* an end of partition behind the last message passes what holds none */
		if (!store->cut[i] && p->expected > delta->next_offset)
		{
			delta->holes += p->expected - delta->next_offset;
			delta->next_offset = p->expected;
			store->touched[i] = true;
		}
		kafka_cached_offsets(intake->client, intake->sub->topic, p->pos.part, &low, &high);
		if (high >= 0)
			p->high_watermark = high;
		delta->high_watermark = p->high_watermark;
	}
}

static int64
account_start(void *arg, int32 part)
{
	return intake_partition(arg, part)->pos.start_offset;
}

static int
stop_at_bad_messages(Store *store)
{
	ListCell   *lc;
	int			n = 0;

	foreach(lc, store->batch->dead)
	{
		DeadLetter *letter = lfirst(lc);
		const KafkaMessage *message = &store->intake->messages[letter->message];

		stop_partition(store->batch->sub, message->part, "poison",
					   message->offset, message->offset + 1,
					   psprintf("%s: %s", unpack_sql_state(letter->sqlstate), letter->error));
		intake_stop(store->intake, message->part);
		n++;
	}
	return n;
}

/* Too many dead letters: the schema broke, whichever partition shows it. */
static int
stop_poisoned(Store *store)
{
	Intake	   *intake = store->intake;
	int			n = 0;

	for (int i = 0; i < intake->nparts; i++)
	{
		IntakePartition *p = &intake->parts[i];

		if (!p->fetching || !store->touched[i])
			continue;
		stop_partition(intake->sub, p->pos.part, "poison",
					   p->pos.next_offset - store->deltas[i].dead_lettered - store->deltas[i].stored -
					   store->deltas[i].filtered - store->deltas[i].holes,
					   p->pos.next_offset,
					   psprintf("%d of the last %d messages became dead letters",
								intake->recent->dead, RECENT_MESSAGES));
		intake_stop(intake, p->pos.part);
		n++;
	}
	return n;
}

static void
advance_touched(Store *store)
{
	Intake	   *intake = store->intake;
	Position  **positions = palloc(sizeof(Position *) * Max(intake->nparts, 1));
	PositionDelta *deltas = palloc(sizeof(PositionDelta) * Max(intake->nparts, 1));
	int			n = 0;

	for (int i = 0; i < intake->nparts; i++)
		if (store->touched[i] && store->deltas[i].next_offset >= intake->parts[i].pos.next_offset)
		{
			positions[n] = &intake->parts[i].pos;
			deltas[n++] = store->deltas[i];
		}
	advance_positions(intake->sub->id, n, positions, deltas);
}

static void
store_verdicts(Store *store)
{
	for (int i = 0; i < store->intake->nparts; i++)
	{
		IntakePartition *p = &store->intake->parts[i];

		if (!store->touched[i] || !p->verdict_due)
			continue;
		set_verdict(store->intake->sub->id, p->pos.part, p->unverified ? "unverified" : "ok");
		p->verdict_due = false;
	}
}

/* What the next batch of each partition in this one is judged by. */
static void
move_watermarks(Store *store)
{
	TimestampTz watermark;

	if (store->intake->sub->event_time == NULL)
		return;
	watermark = subscription_event_time(store->intake, GetCurrentTimestamp()).watermark;
	for (int i = 0; i < store->intake->nparts; i++)
	{
		Position   *pos = &store->intake->parts[i].pos;
		TimestampTz judged_by = pos->verdict_watermark;

		if (!store->touched[i])
			continue;
		take_watermark(pos, watermark);
		if (kappa_batch_log > 0)
			log_batch(store->intake->sub->id, pos, judged_by, store->deltas[i].next_offset);
	}
}

int
intake_store(Intake *intake, Batch *batch)
{
	Store		store = {.intake = intake,.batch = batch};
	TimestampTz limit = GetCurrentTimestamp() + kappa_max_future * INT64CONST(1000);
	int			stopped = 0;

	store.deltas = palloc0(sizeof(PositionDelta) * Max(intake->nparts, 1));
	store.cut = palloc0(sizeof(bool) * Max(intake->nparts, 1));
	store.touched = palloc0(sizeof(bool) * Max(intake->nparts, 1));
	for (int i = 0; i < intake->nparts; i++)
	{
		store.deltas[i].next_offset = intake->parts[i].pos.next_offset;
		store.deltas[i].high_watermark = -1;
	}
	for (int m = 0; m < intake->nmessages; m++)
		count_message(&store, m, limit);
	take_fingerprints(&store);
	finish_deltas(&store);
	if (!batch->sub->stop_on_error)
		store_dead_letters(batch, account_start, intake);
	store_verdicts(&store);
	move_watermarks(&store);
	advance_touched(&store);
	if (batch->sub->stop_on_error)
		stopped += stop_at_bad_messages(&store);
	else if (store.poisoned)
		stopped += stop_poisoned(&store);
	return stopped;
}
