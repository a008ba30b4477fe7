/*
 * position.h
 *		Where reading goes on: one row a partition, moved by compare-and-swap
 *		in the transaction that stores the rows.
 */
#ifndef KAPPA_POSITION_H
#define KAPPA_POSITION_H

#include "postgres.h"

#include "storage/itemptr.h"
#include "utils/timestamp.h"

#include "subscription.h"

typedef struct Position
{
	int32		part;
	int64		start_offset;
	int64		next_offset;	/* as stored: what the fence expects */
	int64		last_offset;	/* -1: none */
	int64		last_timestamp;
	uint64		last_fingerprint;
	TimestampTz max_event_time; /* DT_NOBEGIN: none */
	TimestampTz verdict_watermark;	/* DT_NOBEGIN: none */
	char		stop_word[16];	/* "" where it is not stopped */
	int			recent_messages;
	int			recent_dead;
	ItemPointerData tid;		/* where the row was last seen */
} Position;

/* What a batch adds to a partition's account. */
typedef struct PositionDelta
{
	int64		next_offset;	/* the new position */
	int64		stored;
	int64		dead_lettered;
	int64		filtered;
	int64		skipped;
	int64		holes;
	int64		future_rows;
	int64		high_watermark; /* -1: leave */
} PositionDelta;

/* All partitions of a subscription, ordered; worker < 0: all, else its own. */
extern Position *load_positions(int32 subscription, int worker, int workers, int *n);

/*
 * A row for a new partition; a present one stays.  It is judged as strictly as the
 * strictest of those that are there: so the final watermark does not go back.
 */
extern void add_position(int32 subscription, int32 part, int64 offset);

/*
 * The fence: move each row from positions[i]->next_offset and add its delta.
 * The other fields (last_*, max_event_time, verdict_watermark, recent_*) are stored as they are;
 * next_offset and tid are brought up to date.  ERROR 40001 where a stored value is
 * not the expected one: another owner was here.
 */
extern void advance_positions(int32 subscription, int n, Position **positions,
							  const PositionDelta *deltas);

/* kappa.batch_log: a line for the positions' move to next_offset, what it was judged by, what comes next. */
extern void log_batch(int32 subscription, const Position *position, TimestampTz judged_by, int64 next_offset);

/* Durable stop of one partition; keeps an earlier one. */
extern void stop_partition(const Subscription *sub, int32 part, const char *word,
						   int64 from, int64 to, const char *detail);

/* Clear stops of the words, "schema,rights" (NULL: all), of a partition (-1: all). */
extern int	clear_stops(int32 subscription, int32 part, const char *words);

/* A redriven dead letter moves from dead_lettered to stored or filtered. */
extern void settle_dead_letters(int32 subscription, int32 part, int64 account_start,
								int64 stored, int64 filtered);

/* verdict of a partition: "ok" or "unverified" */
extern void set_verdict(int32 subscription, int32 part, const char *verdict);

/* The last message stored cannot be read again: nothing is left to recognise the topic by. */
extern void forget_last_message(int32 subscription, int32 part);

/* A Kafka timestamp (ms since 1970, not -1) as PostgreSQL's. */
extern TimestampTz kafka_time(int64 ms);

#endif
