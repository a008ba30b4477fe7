/*
 * window_close.c
 *		Windows that no row can change any more.
 *
 * A window is final when its end and the allowed lateness are at or before the final
 * watermark, the least verdict watermark of all partitions: every batch in flight is
 * judged by a later one.  So the closer needs no lock against the other workers: the
 * rows that it puts together are written by nobody, and those that they write are not
 * final.  There is one closer, worker 0; closed_upto moves by compare-and-swap in
 * the same transaction, so a second one fails.
 *
 * A pane of a hopping view takes rows until the last of its windows is final.
 *
 * What the retention lets go is deleted in portions; of a hopping view windows go
 * that hold a pane that goes (trimmed_upto), so none is shown with a part of its rows.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "catalog.h"
#include "target_table.h"
#include "window_close.h"
#include "window_fold.h"
#include "window_state.h"

#define TRIM_ROWS		10000	/* at a time: the transaction stays short */
#define STEP_WINDOWS	100		/* put together in one transaction, where their ends have piled up */
#define SESSION_STEP	(5 * USECS_PER_SEC) /* sessions end at any time: not looked for more often */

/* Panes end earlier than the last window that they are in. */
static int64
pane_slack(const WindowView *view)
{
	return view->spec.kind == WINDOW_HOP ? view->span : 0;
}

bool
windows_to_close(const WindowView *view, TimestampTz final)
{
	TimestampTz upto;
	int64_t		start;
	int64_t		end;

	if (TIMESTAMP_NOT_FINITE(final))
		return false;
	upto = final - view->lateness;
	if (view->closed_upto == DT_NOBEGIN || view->trim_again)
		return true;
	if (view->spec.kind == WINDOW_SESSION)
		return upto >= view->closed_upto + SESSION_STEP;
	/* the last window to end by then began a window ago */
	if (window_tumble(&view->grid, upto, &start, &end) != WINDOW_OK)
		return false;
	return (end == upto ? end : start) > view->closed_upto;
}

static void
move_closed(WindowView *view, TimestampTz upto)
{
	CatalogScope scope;
	CatalogArg	args[] = {
		CATALOG_INT4(view->id), {TIMESTAMPTZOID, TimestampTzGetDatum(view->closed_upto), view->closed_upto == DT_NOBEGIN},
		{TIMESTAMPTZOID, TimestampTzGetDatum(upto), false}
	};

	catalog_begin(&scope);
	if (catalog_execute("UPDATE kappa.window_view SET closed_upto = $3, last_close_time = clock_timestamp() "
						"WHERE id = $1 AND closed_upto IS NOT DISTINCT FROM $2", lengthof(args), args) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("somebody else has closed windows of window view \"%s\"", view->name)));
	catalog_end(&scope);
}

/* ---------------------------------------------------------------- one row a window and key */

/* Rows of more than one worker for the same pane and key, ended since the last close. */
static char *
pane_query(const WindowView *view, const char *columns)
{
	return psprintf("SELECT %s FROM %s s WHERE s.window_start >= $1 - $3 AND s.window_start < $2 AND s.window_end > $1 AND s.window_end <= $2 "
					"AND EXISTS (SELECT FROM %s t WHERE t.window_start = s.window_start AND t.key_hash = s.key_hash AND t.worker <> s.worker)",
					columns, relation_name(view->state), relation_name(view->state));
}

/*
 * Rows of sessions that ended since the last close, with all that touch them, link by link,
 * however long ago those ended themselves; of keys that several workers have written.
 */
static char *
session_query(const WindowView *view, const char *columns)
{
	char	   *state = relation_name(view->state);

	return psprintf("WITH RECURSIVE chain AS (SELECT s.ctid, s.key_hash, s.window_start, s.window_end, s.worker FROM %s s "
					"WHERE s.window_start <= $2 AND s.window_end > $1 - $3 AND s.window_end <= $2 "
					"UNION SELECT t.ctid, t.key_hash, t.window_start, t.window_end, t.worker FROM chain c JOIN %s t "
					"ON t.key_hash = c.key_hash AND t.window_start <= c.window_end AND t.window_end >= c.window_start) "
					"SELECT %s FROM %s s WHERE s.ctid = ANY (ARRAY(SELECT c.ctid FROM chain c WHERE c.key_hash IN "
					"(SELECT d.key_hash FROM chain d GROUP BY 1 HAVING count(DISTINCT d.worker) > 1)))",
					state, state, columns, state);
}

static void
read_shared_rows(WindowView *view, WindowFold *fold, TimestampTz upto)
{
	bool		session = view->spec.kind == WINDOW_SESSION;
	Oid			types[] = {TIMESTAMPTZOID, TIMESTAMPTZOID, INTERVALOID};
	Interval	span = {.time = view->span};
	Datum		args[] = {
		TimestampTzGetDatum(view->closed_upto == DT_NOBEGIN ? DT_NOBEGIN : view->closed_upto - pane_slack(view)),
		TimestampTzGetDatum(upto - pane_slack(view)),
		IntervalPGetDatum(&span)
	};
	char	   *sql = session ? session_query(view, "s.*, s.ctid") : pane_query(view, "s.*, s.ctid");
	TupleDesc	desc;
	Datum	   *values;
	bool	   *nulls;

	SPI_connect();
	if (SPI_execute_with_args(sql, 3, types, args, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the state of window view \"%s\"", view->name);
	desc = SPI_tuptable->tupdesc;
	values = palloc(sizeof(Datum) * desc->natts);
	nulls = palloc(sizeof(bool) * desc->natts);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		CHECK_FOR_INTERRUPTS();
		heap_deform_tuple(SPI_tuptable->vals[i], desc, values, nulls);
		window_fold_partial(fold, values, nulls, (ItemPointer) DatumGetPointer(values[desc->natts - 1]));
	}
	SPI_finish();
}

/*
 * Do rows of another worker wait to be put together?  Of times when there were more.  A row
 * of a session that is final is alone by now; one that touches another waits for it.
 */
static bool
others_are_open(const WindowView *view, TimestampTz upto)
{
	char	   *state = relation_name(view->state);
	CatalogScope scope;
	CatalogArg	args[] = {{TIMESTAMPTZOID, TimestampTzGetDatum(upto - pane_slack(view)), false}};
	bool		open;

	catalog_begin(&scope);
	open = catalog_execute(view->spec.kind == WINDOW_SESSION ?
						   psprintf("SELECT FROM %s s WHERE s.worker > 0 AND (s.window_end > $1 OR EXISTS (SELECT FROM %s t "
									"WHERE t.key_hash = s.key_hash AND t.ctid <> s.ctid AND t.window_start <= s.window_end "
									"AND t.window_end >= s.window_start)) LIMIT 1", state, state) :
						   psprintf("SELECT FROM %s WHERE worker > 0 AND window_end > $1 AND window_start > $1 - interval '" INT64_FORMAT " us' LIMIT 1",
									state, view->span),
						   lengthof(args), args) > 0;
	catalog_end(&scope);
	return open;
}

/* ---------------------------------------------------------------- retention */

/*
 * Of a session that several workers have written, the rows touch one another until they
 * are put together; it may still be open though each of its rows ended long ago.
 */
static const char *
row_is_whole(const WindowView *view)
{
	if (view->spec.kind != WINDOW_SESSION)
		return "true";
	return psprintf("(s.worker < 0 OR NOT EXISTS (SELECT FROM %s t WHERE t.key_hash = s.key_hash AND t.ctid <> s.ctid "
					"AND t.window_start <= s.window_end AND t.window_end >= s.window_start))", relation_name(view->state));
}

static void
trim(WindowView *view, TimestampTz upto)
{
	TimestampTz bound = upto - view->retention;
	CatalogScope scope;
	CatalogArg	args[] = {
		{TIMESTAMPTZOID, TimestampTzGetDatum(bound - pane_slack(view)), false}, CATALOG_INT4(TRIM_ROWS),
		CATALOG_INT4(view->id), {TIMESTAMPTZOID, TimestampTzGetDatum(bound), false}
	};

	catalog_begin(&scope);
	catalog_execute("UPDATE kappa.window_view SET trimmed_upto = $2 WHERE id = $1 AND coalesce(trimmed_upto < $2, true)",
					2, (CatalogArg[]) {args[2], args[3]});
	view->trim_again = catalog_execute(psprintf("DELETE FROM %s WHERE ctid = ANY (ARRAY(SELECT s.ctid FROM %s s "
												"WHERE s.window_start < $1 AND s.window_end <= $1 AND %s LIMIT $2))",
												relation_name(view->state), relation_name(view->state), row_is_whole(view)),
									   2, args) == TRIM_ROWS;
	view->trim_again |= catalog_execute("DELETE FROM kappa.late_row WHERE ctid = ANY (ARRAY(SELECT ctid FROM kappa.late_row "
										"WHERE view = $1 AND window_start < $3 AND window_end <= $3 LIMIT $2))",
										3, (CatalogArg[]) {args[2], args[1], args[3]}) == TRIM_ROWS;
	catalog_end(&scope);
}

/* The first pane that ends behind the last close; false: there is none. */
static bool
first_open_pane(const WindowView *view, TimestampTz *start)
{
	CatalogScope scope;
	CatalogArg	args[] = {{TIMESTAMPTZOID, TimestampTzGetDatum(Max(view->closed_upto, MIN_TIMESTAMP + view->span) - view->span), view->closed_upto == DT_NOBEGIN}};
	bool		null;

	catalog_begin(&scope);
	(void) catalog_execute(psprintf("SELECT min(window_start) FROM %s WHERE window_start > coalesce($1, '-infinity')",
									relation_name(view->state)), 1, args);
	*start = DatumGetTimestampTz(catalog_value(0, 1, &null));
	catalog_end(&scope);
	return !null;
}

/*
 * How far this close goes: what has ended during a long pause of the watermark is not put
 * together in one transaction.
 */
static TimestampTz
next_step(const WindowView *view, TimestampTz upto)
{
	TimestampTz from = view->closed_upto;

	if (view->spec.kind == WINDOW_SESSION ? from == DT_NOBEGIN : !first_open_pane(view, &from))
		return upto;
	return Min(upto, Max(from, view->closed_upto) + STEP_WINDOWS * Max(view->span, USECS_PER_SEC));
}

typedef struct Closing
{
	TimestampTz final;
	int			workers;
} Closing;

static void
close_view(WindowView *view, void *arg)
{
	const Closing *closing = arg;
	TimestampTz upto = closing->final - view->lateness;

	if (view->shared || closing->workers > 1)
	{
		WindowFold *fold;
		UserScope	scope;

		upto = next_step(view, upto);
		/* aggregates, equality and hashes may be his code */
		user_scope_begin(&scope, view->owner, "pg_catalog, pg_temp");
		fold = window_fold_begin(view);
		read_shared_rows(view, fold, upto);
		window_state_compact(fold, upto);
		window_fold_end(fold);
		user_scope_end(&scope);
		view->shared = closing->workers > 1 || others_are_open(view, upto);
	}
	if (view->retention > 0)
		trim(view, upto);
	move_closed(view, upto);
	view->closed_upto = upto;
}

bool
close_windows(WindowView *view, TimestampTz final, int workers)
{
	Closing		closing = {final, workers};

	return window_attempt(view, close_view, &closing);
}
