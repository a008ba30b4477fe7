/*
 * watermark.c
 *		The watermark of a subscription, and what its partitions are judged by.
 *
 * Each partition's row stores two times.  max_event_time is the newest that was
 * taken from it.  verdict_watermark is the subscription's watermark as the partition's
 * worker saw it at its last commit: the next batch of the partition is judged by that
 * value and by nothing else, and moves it in the same fenced update.  So a verdict
 * never depends on what another worker has in flight, and the least verdict
 * watermark of all partitions, the final one, is passed by no row that still counts.
 *
 * A partition without messages moves its verdict in small commits of its own, as
 * long as there may be windows to close.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"

#include "catalog.h"
#include "core/watermark.h"
#include "ingest.h"
#include "position.h"
#include "shmem.h"
#include "watermark.h"
#include "window_view.h"

StaticAssertDecl(WATERMARK_NONE == PG_INT64_MIN, "no event time is -infinity in both");

bool
is_idle(const IntakePartition *p, TimestampTz now)
{
	return p->fetching && p->idle_proved != 0 && p->expected == p->pos.next_offset &&
		now - p->idle_proved < IDLE_PROOF_MS * INT64CONST(1000);
}

static WatermarkInput
own_input(const IntakePartition *p, TimestampTz now)
{
	return (WatermarkInput)
	{
		is_idle(p, now), p->pos.max_event_time, p->last_arrival
	};
}

/* Another worker's partition: its row, and what its worker has proved since. */
static WatermarkInput
other_input(const Intake *intake, const Position *position, TimestampTz now)
{
	WatermarkInput input = {false, position->max_event_time, 0};
	PartitionStatus status;

	if (position->stop_word[0] == '\0' &&
		partition_status(MyDatabaseId, intake->sub->id, position->part, &status) &&
		status.idle_proved != 0 && status.end_offset == position->next_offset &&
		now - status.idle_proved < IDLE_PROOF_MS * INT64CONST(1000))
	{
		input.idle = true;
		input.last_arrival = status.last_arrival;
	}
	return input;
}

static bool
is_own(const Intake *intake, int32 part)
{
	for (int i = 0; i < intake->nparts; i++)
		if (intake->parts[i].pos.part == part)
			return true;
	return false;
}

EventTime
subscription_event_time(const Intake *intake, TimestampTz now)
{
	const Subscription *sub = intake->sub;
	Position   *all = NULL;
	int			nall = 0;
	WatermarkInput *inputs;
	EventTime	result = {DT_NOBEGIN, DT_NOBEGIN};
	int			n = 0;

	if (sub->workers > 1)
		all = load_positions(sub->id, -1, 1, &nall);
	inputs = palloc(sizeof(WatermarkInput) * Max(intake->nparts + nall, 1));
	for (int i = 0; i < intake->nparts; i++)
		inputs[n++] = own_input(&intake->parts[i], now);
	for (int i = 0; i < nall; i++)
		if (!is_own(intake, all[i].part))
			inputs[n++] = other_input(intake, &all[i], now);
	for (int i = 0; i < n; i++)
		result.newest = Max(result.newest, inputs[i].newest);
	if (n > 0)
		result.watermark = stream_watermark(inputs, n, sub->watermark_delay, now);
	pfree(inputs);
	return result;
}

TimestampTz
final_watermark_of(const Subscription *sub)
{
	int			n;
	Position   *positions = load_positions(sub->id, -1, 1, &n);
	TimestampTz least = DT_NOEND;

	for (int i = 0; i < n; i++)
		least = Min(least, positions[i].verdict_watermark);
	pfree(positions);
	return n > 0 ? least : DT_NOBEGIN;
}

void
take_watermark(Position *position, TimestampTz watermark)
{
	position->verdict_watermark = Max(position->verdict_watermark, watermark);
}

/* Beyond this watermark no window of an event up to newest is open. */
static TimestampTz
all_closed_at(const Intake *intake, TimestampTz newest)
{
	int64		longest = 0;
	ListCell   *lc;

	foreach(lc, intake->sub->window_views)
	{
		WindowView *view = lfirst(lc);

		/* a hopping view's last pane is in windows that end up to a size later */
		longest = Max(longest, view->span * (view->spec.kind == WINDOW_HOP ? 2 : 1) + view->lateness);
	}
	return newest + longest;
}

/* Does the partition's verdict stay behind for want of messages? */
static bool
is_behind(const IntakePartition *p, TimestampTz watermark, TimestampTz closed)
{
	return p->fetching && !p->verifying && p->expected == p->pos.next_offset &&
		p->pos.verdict_watermark < watermark && p->pos.verdict_watermark < closed;
}

bool
verdicts_behind(const Intake *intake, TimestampTz now)
{
	if (intake->sub->window_views == NIL)
		return false;
	if (intake->sub->workers > 1)
		return true;			/* only the rows can tell */
	for (int i = 0; i < intake->nparts; i++)
	{
		EventTime	event = subscription_event_time(intake, now);

		if (event.watermark != DT_NOBEGIN &&
			is_behind(&intake->parts[i], event.watermark, all_closed_at(intake, event.newest)))
			return true;
	}
	return false;
}

void
advance_verdicts(Intake *intake, TimestampTz now)
{
	EventTime	event = subscription_event_time(intake, now);
	Position  **positions = palloc(sizeof(Position *) * Max(intake->nparts, 1));
	PositionDelta *deltas = palloc0(sizeof(PositionDelta) * Max(intake->nparts, 1));
	int			n = 0;

	for (int i = 0; i < intake->nparts && event.watermark != DT_NOBEGIN; i++)
	{
		IntakePartition *p = &intake->parts[i];
		TimestampTz judged_by;

		if (!is_behind(p, event.watermark, all_closed_at(intake, event.newest)))
			continue;
		judged_by = p->pos.verdict_watermark;
		take_watermark(&p->pos, event.watermark);
		if (kappa_batch_log > 0)
			log_batch(intake->sub->id, &p->pos, judged_by, p->pos.next_offset);
		positions[n] = &p->pos;
		deltas[n].next_offset = p->pos.next_offset;
		deltas[n++].high_watermark = p->high_watermark;
	}
	if (n > 0)
		advance_positions(intake->sub->id, n, positions, deltas);
	pfree(positions);
	pfree(deltas);
}
