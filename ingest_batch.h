/*
 * ingest_batch.h
 *		One batch of messages: decoded, written, its bad ones set apart, all inside
 *		the caller's transaction.
 */
#ifndef KAPPA_INGEST_BATCH_H
#define KAPPA_INGEST_BATCH_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/timestamp.h"

#include "core/batch.h"
#include "subscription.h"

/* What became of a message; the balance counts these. */
typedef enum Verdict
{
	VERDICT_NONE = 0,			/* not judged yet */
	VERDICT_STORED,
	VERDICT_FILTERED,
	VERDICT_DEAD,
	VERDICT_CUT					/* behind a bad one where on_error is stop */
} Verdict;

typedef struct DeadLetter
{
	int			message;		/* index in the batch */
	int			sqlstate;
	const char *error;
} DeadLetter;

typedef struct Batch
{
	const Subscription *sub;
	int			n;
	const KafkaMessage *messages;	/* per partition in the order of offsets */
	uint8	   *verdicts;		/* a Verdict each */
	TimestampTz *event_times;	/* newest of a message's rows, DT_NOBEGIN: none */
	List	   *dead;			/* of DeadLetter */
	int64		nrows;			/* rows that went to the target */
	int64		row_bytes;		/* of their columns */
	bool		suspect;		/* with care: a transient error may be one message's own */
	/* window views; whoever makes the batch fills these in where there are any */
	int			worker;			/* whose partials are written */
	TimestampTz (*verdict_of) (void *arg, int32 part);	/* what a partition's rows are judged by */
	void	   *verdict_arg;
	bool		view_stopped;	/* load the views anew */
} Batch;

/* In the current memory context, which must live to the end of the batch. */
extern Batch *make_batch(const Subscription *sub, const KafkaMessage *messages, int n);

/*
 * Constraints are checked within the batch from here to the end of the transaction:
 * deferred ones would fail at commit, where no message is to blame.
 */
extern void set_constraints_immediate(void);

/*
 * Write the batch.  careful: in subtransactions, finding and setting apart each
 * message that causes an error.  Not careful: an error that one message causes is
 * raised like any other, and the caller tries again with care.
 */
extern void apply_batch(Batch *batch, bool careful);

typedef enum ErrorKind
{
	ERROR_OF_ROW,				/* poison: one message causes it */
	ERROR_TRANSIENT,			/* try the whole batch again */
	ERROR_LASTING				/* no retry helps: stop */
} ErrorKind;
extern ErrorKind classify_error(int sqlstate);

/* A transient error that a message's trigger or transform can raise, time and again. */
extern bool may_be_of_row(int sqlstate);

#endif
