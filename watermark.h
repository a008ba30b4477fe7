/*
 * watermark.h
 *		The watermark of a subscription as a worker sees it, and what its partitions
 *		are judged by.
 */
#ifndef KAPPA_WATERMARK_H
#define KAPPA_WATERMARK_H

#include "postgres.h"

#include "utils/timestamp.h"

#include "intake.h"

/* A proof that a partition is idle counts for so long. */
#define IDLE_PROOF_MS	10000

typedef struct EventTime
{
	TimestampTz watermark;		/* DT_NOBEGIN: none */
	TimestampTz newest;			/* event time of all partitions, DT_NOBEGIN */
} EventTime;

/* Inside a transaction: the intake's partitions from memory, others from their rows. */
extern EventTime subscription_event_time(const Intake *intake, TimestampTz now);

/* The least verdict of all partitions, in a transaction; DT_NOBEGIN: one has none. */
extern TimestampTz final_watermark_of(const Subscription *sub);

extern bool is_idle(const IntakePartition *p, TimestampTz now);

/* The watermark becomes what the partition is judged by next, never an earlier one. */
extern void take_watermark(Position *position, TimestampTz watermark);

/*
 * Could moving the verdicts of the intake's partitions to the watermark close any
 * window?  Only while one may be open; cheap, without a transaction where it is no.
 */
extern bool verdicts_behind(const Intake *intake, TimestampTz now);

/* In a transaction under the subscription's lock: move them. */
extern void advance_verdicts(Intake *intake, TimestampTz now);

#endif
