/*
 * window_query.h
 *		A window view's query: what it must be like, and the SQL that follows from it.
 */
#ifndef KAPPA_WINDOW_QUERY_H
#define KAPPA_WINDOW_QUERY_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"
#include "utils/timestamp.h"

#include "subscription.h"

typedef enum WindowKind
{
	WINDOW_TUMBLE,
	WINDOW_HOP,
	WINDOW_SESSION
} WindowKind;

/* The window function with its constant arguments. */
typedef struct WindowSpec
{
	WindowKind	kind;
	Interval	size;			/* a session's gap */
	Interval	slide;			/* WINDOW_HOP */
	bool		has_origin;
	TimestampTz origin;
	char	   *zone;			/* NULL: none */
} WindowSpec;

/*
 * Rows of other times are in no window.  The bounds are so far inside the type's that no
 * window of theirs, up to MAX_WINDOW_YEARS long, crosses them.
 */
#define MAX_WINDOW_YEARS	100
#define WINDOW_FIRST_TIME	(MIN_TIMESTAMP + INT64CONST(150) * 366 * USECS_PER_DAY)
#define WINDOW_TIMES_END	(END_TIMESTAMP - INT64CONST(150) * 366 * USECS_PER_DAY)

#define MAX_HOPS			10000	/* windows that a row of a hopping view is in */

/* From a call of one of the three functions; its time argument stands first. */
extern bool is_window_function(Oid function, WindowKind *kind);
extern WindowSpec window_spec(FuncExpr *call);

/*
 * What create_window_view works with.  The layers of its queries, innermost first:
 *		r	ts, k1 .., x1 ..: the rows as the query's FROM and WHERE give them
 *		c	window_start, window_end, k1 .., a1 ..: a row a window and key
 *		the outputs: the query's own expressions over c
 */
typedef struct WindowQuery
{
	Subscription *sub;
	WindowSpec	spec;
	Query	   *input;			/* layer r */
	List	   *keys;			/* of Expr */
	List	   *aggregates;		/* of WindowAggregate */
	Query	   *analyzed;		/* the query as given */
	FuncExpr   *window;
} WindowQuery;

typedef struct WindowAggregate
{
	Aggref	   *call;
	List	   *args;			/* of int: numbers of x columns */
	int			filter;			/* number of an x column, 0: none */
} WindowAggregate;

/*
 * Analyze the text as the caller would run it.  ERROR with the place in the text
 * where it is no query of a window view: 42601, 0A000, 42703 and what the parser says.
 */
extern WindowQuery *analyze_window_query(const char *text);

/* One SELECT, analyzed; errors are about the text. */
extern Query *parse_window_query(const char *text);

/* ---- window_layers.c, all with search_path = pg_catalog ---- */

/* Columns of the state table, behind its own: k1 .., a1 .. (one line each). */
extern char *window_state_columns(const WindowQuery *query);

/* SELECTs: layer c over the rows, over the state; the outputs over either. */
/*
 * late_view: leave out the rows listed in kappa.late_rows under this name; NULL: all.
 * more: further columns (", x AS y" over i), NULL: none.
 */
extern char *window_batch_layer(const WindowQuery *query, const char *late_view, const char *more);
extern char *window_state_layer(const WindowQuery *query, int32 view, const char *state_table);
extern char *window_outputs(const WindowQuery *query, const char *layer, const char *more_columns);

/* ", kappa.combine(s.a1, ...) AS a1, ..." and ", s.k1, ..." over a state table s */
extern char *window_combined(const WindowQuery *query);
extern char *window_key_list(const WindowQuery *query, const char *prefix);

/* Has the type of key k, from 1, a fixed length? */
extern bool window_key_is_fixed(const WindowQuery *query, int k);

/* " WHERE ..." to read the state with, or "". */
extern char *window_key_search(const WindowQuery *query, const char *prefix);

/* A layer in the place of another in a view's tree: the same columns, another source. */
extern char *replace_layer(Query *view, const char *layer);

/* The call as SQL with another time argument: kappa.tumble(<ts>, '00:01:00'::interval, ...) */
extern char *window_call(const WindowSpec *spec, const char *ts);

#endif
