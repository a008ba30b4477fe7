/*
 * worker_watch.c
 *		Between batches: is the topic still the same, who may see what about us.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "fault.h"
#include "intake.h"
#include "kafka_question.h"
#include "position.h"
#include "shmem.h"
#include "watermark.h"
#include "window_close.h"
#include "worker.h"

#define WATERMARK_MS		500		/* between looks at partitions without messages */
#define IDLE_CHECK_MS		2000	/* between questions to the broker about one of them */
#define ANSWER_MS			500
#define TOPIC_CHECK_MS		10000	/* new partitions, topic id */
#define GROUP_COMMIT_MS		1000	/* Kafka's own tools see us this fresh */
#define PUBLISH_MS			200		/* live state in shared memory */

/* ---------------------------------------------------------------- the topic */

/* Another id than the stored one: deleted and made anew. */
static void
check_topic_id(void)
{
	char		id[64];
	KafkaError	error;

	if (worker.sub->topic_id == NULL ||
		!kafka_topic_id(worker.client, worker.sub->topic, id, sizeof(id), 500, &error) ||
		strcmp(id, worker.sub->topic_id) == 0)
		return;
	for (int i = 0; i < worker.intake->nparts; i++)
	{
		IntakePartition *p = &worker.intake->parts[i];

		if (p->fetching)
			store_stop(p->pos.part, "recreated", p->pos.next_offset, p->pos.next_offset,
					   "the topic has another id: it was deleted and made anew");
	}
	leave_to_reload();
}

static bool
has_position(int32 part)
{
	for (int i = 0; i < worker.npositions; i++)
		if (worker.positions[i].part == part)
			return true;
	return false;
}

/*
 * Rows for partitions of our share that have none: the topic has got them since, whether
 * or not another worker has already met later ones.  They start at their first message.
 */
static void
add_partitions(int npartitions)
{
	int			added = 0;

	for (int32 part = worker.me.worker; part < npartitions; part += worker.sub->workers)
	{
		int64_t		low;
		int64_t		high;
		KafkaError	error;

		if (has_position(part))
			continue;
		if (!kafka_offsets(worker.client, worker.sub->topic, part, &low, &high, 500, &error))
			return;
		begin_under_lock();
		add_position(worker.sub->id, part, low);
		worker_commit();
		added++;
	}
	if (added > 0)
		leave_to_reload();
}

void
check_topic(TimestampTz now)
{
	KafkaMetadata *metadata;
	KafkaError	error;
	int			npartitions = 0;

	if (now < worker.next_topic_check)
		return;
	worker.next_topic_check = TimestampTzPlusMilliseconds(now, TOPIC_CHECK_MS);
	FAULT_POINT("topic_check");
	metadata = kafka_metadata(worker.client, worker.sub->topic, 500, &error);
	if (metadata == NULL)
		return;
	if (metadata->ntopics == 1)
		npartitions = metadata->topics[0].partitions;
	error_of_topic(metadata, &error);
	kafka_free_metadata(metadata);
	/*
	 * The library, once it has seen such an answer, ends its fetches and says so in a
	 * line of its log only: no event will come.
	 */
	if (error.class == KAFKA_AUTHORIZATION || error.class == KAFKA_UNKNOWN_TOPIC)
		client_failed(&error);
	add_partitions(npartitions);
	check_topic_id();
}

/* ---------------------------------------------------------------- event time */

/*
 * A partition is idle when the broker says that nothing stands behind our position,
 * and says so after nothing has come for idle_timeout.  Asked again and again, so a
 * broker that is cut off proves nothing for long.
 */
static void
prove_idle(IntakePartition *p, TimestampTz now)
{
	int64_t		low;
	int64_t		high;
	KafkaError	error;

	if (!p->fetching || !p->at_end || p->verifying || p->expected != p->pos.next_offset ||
		p->high_watermark > p->expected || now - p->last_arrival < worker.sub->idle_timeout ||
		now - p->idle_proved < IDLE_CHECK_MS * INT64CONST(1000))
		return;
	if (kafka_offsets(worker.client, worker.sub->topic, p->pos.part, &low, &high, ANSWER_MS, &error) &&
		high == p->expected)
		p->idle_proved = now;
}

/* Worker 0 is the closer; where there is nothing to close it has only looked. */
static void
close_final_windows(void)
{
	TimestampTz final;
	bool		stopped = false;
	ListCell   *lc;

	begin_under_lock();
	final = final_watermark_of(worker.sub);
	foreach(lc, worker.sub->window_views)
	{
		WindowView *view = lfirst(lc);

		if (windows_to_close(view, final) && !close_windows(view, final, worker.sub->workers))
			stopped = true;
	}
	worker_commit();
	if (stopped)
		leave_to_reload();
}

void
watch_event_time(TimestampTz now)
{
	if (worker.sub->event_time == NULL || now < worker.next_watermark)
		return;
	worker.next_watermark = TimestampTzPlusMilliseconds(now, WATERMARK_MS);
	for (int i = 0; i < worker.intake->nparts; i++)
		prove_idle(&worker.intake->parts[i], now);
	if (verdicts_behind(worker.intake, now))
	{
		begin_under_lock();
		advance_verdicts(worker.intake, now);
		worker_commit();
	}
	if (worker.me.worker == 0 && worker.sub->window_views != NIL)
		close_final_windows();
}

/* ---------------------------------------------------------------- being seen */

static bool
open_transaction_ahead(const IntakePartition *p, TimestampTz now)
{
	return p->fetching && p->at_end && p->high_watermark > p->expected &&
		now - p->end_seen > USECS_PER_SEC;
}

static void
publish_partition(IntakePartition *p, TimestampTz now)
{
	PartitionStatus status;
	int64_t		low;
	int64_t		high;

	kafka_cached_offsets(worker.client, worker.sub->topic, p->pos.part, &low, &high);
	if (high >= 0)
		p->high_watermark = high;
	status.high_watermark = p->high_watermark;
	status.end_offset = p->at_end ? p->expected : -1;
	status.end_seen = p->end_seen;
	status.last_arrival = p->last_arrival;
	status.idle_proved = p->fetching && p->expected == p->pos.next_offset ? p->idle_proved : 0;
	status.idle = is_idle(p, now);
	set_partition_status(MyDatabaseId, worker.sub->id, p->pos.part, &status);
}

static void
publish_state(TimestampTz now)
{
	Intake	   *intake = worker.intake;
	char	   *reason = NULL;

	for (int i = 0; i < intake->nparts; i++)
		if (reason == NULL && open_transaction_ahead(&intake->parts[i], now))
			reason = psprintf("open transaction at offset %lld",
							  (long long) intake->parts[i].expected);
	if (intake_at_end(intake) && !intake_has_work(intake))
		worker_slot_state(worker.slot, WORKER_IDLE, reason);
	else
		worker_slot_state(worker.slot, WORKER_RUNNING, NULL);
	if (reason)
		pfree(reason);
}

void
publish_status(bool now_please)
{
	TimestampTz now = GetCurrentTimestamp();

	if (now < worker.next_publish && !now_please)
		return;
	worker.next_publish = TimestampTzPlusMilliseconds(now, PUBLISH_MS);
	for (int i = 0; i < worker.intake->nparts; i++)
		publish_partition(&worker.intake->parts[i], now);
	publish_state(now);
	publish_wal();
}

/* Offsets to the consumer group, once the commit that they stand for is flushed. */
void
commit_to_group(TimestampTz now)
{
	KafkaPlace *places;

	if (!worker.group_behind || now < worker.next_group_commit ||
		GetFlushRecPtr(NULL) < worker.group_lsn)
		return;
	places = palloc(sizeof(KafkaPlace) * Max(worker.intake->nparts, 1));
	for (int i = 0; i < worker.intake->nparts; i++)
	{
		places[i].part = worker.intake->parts[i].pos.part;
		places[i].offset = worker.intake->parts[i].pos.next_offset;
	}
	kafka_commit(worker.client, worker.sub->topic, places, worker.intake->nparts);
	pfree(places);
	worker.group_behind = false;
	worker.next_group_commit = TimestampTzPlusMilliseconds(now, GROUP_COMMIT_MS);
}
