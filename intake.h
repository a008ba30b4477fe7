/*
 * intake.h
 *		From the client's events to a batch, and from a batch's verdicts to the
 *		positions.
 *
 * Used by a worker and by kappa.run alike.  Holds the messages of the batch in
 * hand and, for each partition, how far reading has come; it knows nothing of
 * transactions.
 */
#ifndef KAPPA_INTAKE_H
#define KAPPA_INTAKE_H

#include "postgres.h"

#include "ingest_batch.h"
#include "kafka_consume.h"
#include "kafka_question.h"
#include "position.h"
#include "subscription.h"

typedef struct IntakePartition
{
	Position	pos;			/* as stored */
	int64		expected;		/* next offset to take from the client */
	bool		fetching;		/* assigned and not stopped */
	bool		verifying;		/* the last stored message comes first */
	bool		unverified;		/* it could not be read again */
	bool		verdict_due;	/* which of the two is not stored yet */
	bool		recheck;		/* the last stored message must be read again first */
	TimestampTz last_arrival;	/* of a message, or of the news that there is none */
	bool		at_end;			/* nothing behind expected, as last seen */
	TimestampTz idle_proved;	/* the broker has said so idle_timeout after last_arrival; 0: not yet */
	TimestampTz end_seen;
	int64		high_watermark; /* as last seen, -1 */
} IntakePartition;

/* Why a partition must stop: a row of kappa.position to be. */
typedef struct IntakeProblem
{
	int32		part;
	const char *word;			/* gap, truncated, recreated, rights, poison; unverified: no stop */
	int64		from;
	int64		to;				/* poison: of the first unreadable message, there may be more */
	char		detail[256];
} IntakeProblem;

typedef enum IntakeResult
{
	INTAKE_DRAINED,				/* nothing more waits */
	INTAKE_FULL,				/* the batch is full */
	INTAKE_PROBLEM,				/* problems are set; those partitions are off */
	INTAKE_ERROR				/* error is set; start anew */
} IntakeResult;

/* The last messages' verdicts, for the rule of too many dead letters. */
#define RECENT_MESSAGES		1000

typedef struct RecentVerdicts
{
	int			n;
	int			next;
	int			dead;
	int			part[RECENT_MESSAGES];	/* index of the partition */
	bool		bad[RECENT_MESSAGES];
} RecentVerdicts;

typedef struct Intake
{
	Subscription *sub;
	KafkaClient *client;
	int			nparts;
	IntakePartition *parts;		/* by part */
	int			max_messages;	/* room */
	int			limit;			/* of the present batch, at most that */
	size_t		max_bytes;
	size_t		max_message;	/* a larger one is a problem */
	int			nmessages;
	size_t		bytes;
	KafkaMessage *messages;
	TimestampTz first_taken;	/* when the first of them was taken */
	TimestampTz now;			/* of the present intake_fill */
	RecentVerdicts *recent;
	int			nproblems;
	IntakeProblem *problems;	/* not dealt with yet, at most one a partition */
	KafkaError	error;
} Intake;

/*
 * In the current memory context, which must outlive the client's use.  Problems
 * that show at once (gap, truncated) are reported by intake_start.
 */
extern Intake *make_intake(Subscription *sub, KafkaClient *client, Position *positions, int n);

/*
 * Ask the broker for the partition's first and next offset (steps of at most
 * 500 ms; INTAKE_ERROR with a time-out means: call again) and decide where to
 * begin.  One partition a call; INTAKE_DRAINED when it is decided.
 */
extern IntakeResult intake_look(Intake *intake, int i);

/* Assign all that are fetching. */
extern IntakeResult intake_assign(Intake *intake);

/* Take what waits, up to the batch's limits. */
extern IntakeResult intake_fill(Intake *intake);

/* Give all messages back. */
extern void intake_release(Intake *intake);

/* Is there anything to commit: messages, or positions that moved without? */
extern bool intake_has_work(const Intake *intake);
extern bool intake_at_end(const Intake *intake);

/*
 * Inside the transaction, after apply_batch: dead letters, positions, and the
 * stops that the batch brings about (poison).  Returns the number of partitions
 * stopped.  It changes the positions in memory too: after an abort, put back what
 * intake_save has saved.
 */
extern int	intake_store(Intake *intake, Batch *batch);

/* A batch of the messages in hand, judged by what its partitions have stored. */
extern Batch *intake_batch(Intake *intake, int worker);

typedef struct IntakeState IntakeState;
extern IntakeState *intake_save(const Intake *intake);
extern void intake_restore(Intake *intake, const IntakeState *state);

/* The message read again for a partition with recheck set: false, another log. */
extern bool intake_recheck(IntakePartition *p, const KafkaRecord *record);

/*
 * What cannot be read stands at the next offset of this partition, or at the last
 * one stored while that is looked for: a problem.
 */
extern void intake_unreadable(Intake *intake, int32 part, const char *detail);

/* Turn a partition off after its stop is stored. */
extern void intake_stop(Intake *intake, int32 part);

extern IntakePartition *intake_partition(Intake *intake, int32 part);

#endif
