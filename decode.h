/*
 * decode.h
 *		Message bytes to column values.
 *
 * A DecodeProgram is made per batch from the definition and the target as they
 * stand; decode_message then fills one row.  What the scanners can see to be bad
 * comes back as DECODE_BAD; an input function of PostgreSQL may also raise an
 * ERROR, which means the same: the caller runs this under a subtransaction.
 */
#ifndef KAPPA_DECODE_H
#define KAPPA_DECODE_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "utils/rel.h"

#include "core/batch.h"
#include "core/json.h"
#include "subscription.h"
#include "value.h"

typedef enum DecodeResult
{
	DECODE_ROW,
	DECODE_DELETE,				/* only the key columns are set */
	DECODE_FILTERED,			/* the message gives no row */
	DECODE_BAD
} DecodeResult;

typedef enum ColumnSource
{
	COLUMN_PATH,				/* of a JSON document */
	COLUMN_FIELD,				/* of a CSV record */
	COLUMN_VALUE,				/* the whole value, text or bytea */
	COLUMN_TOPIC,
	COLUMN_PARTITION,
	COLUMN_OFFSET,
	COLUMN_TIMESTAMP,
	COLUMN_KEY,
	COLUMN_HEADERS
} ColumnSource;

typedef struct DecodeColumn
{
	ColumnSource source;
	int			attno;			/* from 1 */
	int			number;			/* of the path or field */
	int			unit;			/* digits of 10^-n s since the epoch, -1: none */
	ValueType	type;
} DecodeColumn;

typedef struct DecodeProgram
{
	const Subscription *sub;
	Relation	target;
	TupleDesc	desc;
	int			ncolumns;
	DecodeColumn *columns;		/* in the order of attno */
	int			nkeys;
	DecodeColumn *keys;			/* upsert: the key columns, sources unused */
	bool	   *is_key;			/* by attno - 1 */
	JsonPlan   *plan;
	JsonSpan   *spans;
	JsonPlan   *key_plan;		/* of a tombstone's key */
	JsonSpan   *key_spans;
	struct CsvSettings *csv;
	int			event_time;		/* attno, 0: none */
	/* what stands in columns that nothing fills; NULL state: NULL */
	bool		fill_defaults;
	bool	   *insertable;		/* all that are filled in the end, by attno - 1 */
	int			nchecked;
	int		   *checked;		/* indexes of columns that may need a default or refuse NULL */
	ExprState **defaults;		/* by attno - 1 */
	ValueType **domains;		/* that NULL must be shown to, by attno - 1 */
	ExprContext *econtext;
} DecodeProgram;

/* Build in the current memory context.  estate evaluates the defaults. */
extern DecodeProgram *decode_program(const Subscription *sub, Relation target,
									 EState *estate);

/*
 * One message to values and nulls (by attno - 1); present says which columns were
 * filled, defaults included.  On DECODE_BAD *sqlstate and *error say why.
 */
extern DecodeResult decode_message(DecodeProgram *program, const KafkaMessage *message,
								   Datum *values, bool *nulls, bool *present,
								   int *sqlstate, const char **error);

/* Only what decode_message finds before it reads columns: DECODE_ROW or _BAD. */
extern DecodeResult check_message(DecodeProgram *program, const KafkaMessage *message,
								  int *sqlstate, const char **error);

/* Defaults for what is not present, then the NOT NULL constraints. */
extern DecodeResult complete_row(DecodeProgram *program,
								 Datum *values, bool *nulls, bool *present,
								 int *sqlstate, const char **error);

/* Is this an option of a format (csv: delimiter, quote, escape, null, header)? */
extern bool is_format_option(const char *name);

#endif
