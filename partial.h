/*
 * partial.h
 *		Aggregates in parts: rows folded into transition values, those kept as
 *		bytes, combined, and finished.
 *
 * Works for any aggregate with a combine function, of this server or of an
 * extension.  The transition values of one AggContext live in its memory; nothing
 * here knows windows or tables.
 */
#ifndef KAPPA_PARTIAL_H
#define KAPPA_PARTIAL_H

#include "postgres.h"

#include "fmgr.h"
#include "nodes/execnodes.h"

/* What makes an aggregate's functions believe that they run in an aggregate. */
typedef struct AggContext
{
	AggState   *state;
	ExprContext *econtext;
	MemoryContext memory;		/* of the transition values */
} AggContext;

extern AggContext *agg_context_create(MemoryContext memory);

/* Transitions that need no call */
typedef enum FastTransition
{
	FAST_NONE = 0,
	FAST_INT4_LARGER,
	FAST_INT4_SMALLER,
	FAST_INT8_LARGER,
	FAST_INT8_SMALLER,
	FAST_FLOAT8_LARGER,
	FAST_FLOAT8_SMALLER,
	FAST_FLOAT8_ACCUM
} FastTransition;

/* One aggregate, resolved. */
typedef struct PartialAgg
{
	Oid			aggregate;
	Oid			transtype;
	Oid			resulttype;
	int16		translen;
	bool		transbyval;
	int			nargs;			/* of each transition, without the state */
	int			nfinal;			/* of the final function, with the state */
	FastTransition fast;
	bool		counts;			/* count(*), count(x): a bigint that is incremented */
	bool		serialized;		/* the state is internal: bytes by its own functions */
	bool		as_text;		/* the state's bytes hold numbers of this database: text in the partial */
	bool		no_init;		/* the first value starts it */
	Datum		init;
	uint64		tag;			/* of aggregate and state type, in each partial */
	Oid			collation;
	FmgrInfo	transition;
	FmgrInfo	combine;
	FmgrInfo	serialize;
	FmgrInfo	deserialize;
	FmgrInfo	output;			/* as_text */
	FmgrInfo	input;
	Oid			ioparam;
	FmgrInfo	final;			/* fn_oid InvalidOid: the state is the result */
} PartialAgg;

/*
 * In the current memory context.  ERROR 0A000 where it cannot be kept in parts (no
 * combine function, ordered-set, depends on the order of rows), with the reason.
 */
extern void partial_agg_init(PartialAgg *agg, Oid aggregate, const Oid *argtypes, int nargs,
							 Oid resulttype, Oid collation);

typedef struct AggValue
{
	Datum		value;
	bool		null;
	bool		started;		/* where no_init: has the first value come? */
} AggValue;

extern void agg_value_start(const PartialAgg *agg, AggValue *value, AggContext *context);

/* One row's arguments (NULL for a count's). */
extern void agg_value_advance(PartialAgg *agg, AggValue *value, AggContext *context,
							  const Datum *args, const bool *nulls);

/* A partial (NULL: none), as stored. */
extern void agg_value_combine(PartialAgg *agg, AggValue *value, AggContext *context,
							  Datum partial, bool null);

/* Another value of the same aggregate and context, not used any more afterwards. */
extern void agg_value_merge(PartialAgg *agg, AggValue *value, AggContext *context, const AggValue *other);

/* The same in kappa.combine, whose call is not ours. */
extern void agg_value_combine_state(PartialAgg *agg, AggValue *value, AggContext *context, Node *call, Datum other);

/* A state's bytes, behind the tag, as a value again; in the current memory context. */
extern Datum agg_state_of(PartialAgg *agg, Datum partial, Node *call);

/* In the current memory context; false: NULL. */
extern bool agg_value_partial(PartialAgg *agg, const AggValue *value, AggContext *context,
							  Datum *partial);

#endif
