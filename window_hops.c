/*
 * window_hops.c
 *		The windows of a hopping view that hold any row: what its panes are joined with to
 *		be read.
 *
 * The panes are found one by one over the state's index on window_start, so the cost
 * goes with their number, not with the number of rows or keys.  Where the query that
 * reads the view says which windows it wants, only their panes are looked at
 * (window_plan.c).
 *
 * Reads with the snapshot of the query that calls it; no locks but those of a SELECT.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "catalog.h"
#include "window_grid.h"
#include "window_view.h"

PG_FUNCTION_INFO_V1(kappa_window_hops);

enum
{
	ARG_VIEW,
	ARG_FROM,
	ARG_TO
};

/* ---------------------------------------------------------------- the windows */

typedef struct HopList
{
	ReturnSetInfo *rsinfo;
	WindowView *view;
	TimestampTz from;			/* of their starts, both included */
	TimestampTz to;
	TimestampTz last;			/* start of the last one given */
} HopList;

/* The next pane behind a time that the state holds; false: none. */
static bool
next_pane(SPIPlanPtr plan, TimestampTz behind, TimestampTz *pane)
{
	Datum		arg = TimestampTzGetDatum(behind);
	bool		null;

	if (SPI_execute_plan(plan, &arg, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the panes of a window view");
	*pane = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
	SPI_freetuptable(SPI_tuptable);
	return !null;
}

/* All windows that hold the pane and begin behind the last one given; false: beyond the end. */
static bool
put_windows(HopList *list, TimestampTz pane)
{
	WindowView *view = list->view;
	WindowHopScan scan;

	if (window_hop_begin(&view->hop, pane, &scan) != WINDOW_OK)
		return false;
	while (scan.left > 0)
	{
		int64_t		start;
		int64_t		end;
		Datum		values[2];
		bool		nulls[2] = {false, false};

		CHECK_FOR_INTERRUPTS();
		if (window_hop_next(&view->hop, &scan, &start, &end) != WINDOW_OK || start > list->to)
			return false;
		if (start <= list->last || start < list->from || end <= view->trimmed_upto)
			continue;
		list->last = start;
		values[0] = TimestampTzGetDatum(start);
		values[1] = TimestampTzGetDatum(end);
		tuplestore_putvalues(list->rsinfo->setResult, list->rsinfo->setDesc, values, nulls);
	}
	return true;
}

static void
put_all(HopList *list)
{
	/* a window that begins at or behind "from" holds panes that do so */
	TimestampTz pane = TIMESTAMP_NOT_FINITE(list->from) ? list->from : list->from - 1;
	Oid			type = TIMESTAMPTZOID;
	SPIPlanPtr	plan;
	CatalogScope scope;

	catalog_begin(&scope);
	plan = SPI_prepare(psprintf("SELECT min(window_start) FROM %s WHERE window_start > $1", relation_name(list->view->state)), 1, &type);
	while (next_pane(plan, pane, &pane) && put_windows(list, pane))
		CHECK_FOR_INTERRUPTS();
	catalog_end(&scope);
}

/*
 * kappa.window_hops(view integer, from_start timestamptz, to_start timestamptz) RETURNS
 * TABLE (window_start timestamptz, window_end timestamptz): ascending; a bound of NULL is
 * none.
 */
Datum
kappa_window_hops(PG_FUNCTION_ARGS)
{
	WindowView *view = PG_ARGISNULL(ARG_VIEW) ? NULL : load_window_view(PG_GETARG_INT32(ARG_VIEW));
	HopList		list = {
		.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo,.view = view,.last = DT_NOBEGIN,
		.from = PG_ARGISNULL(ARG_FROM) ? DT_NOBEGIN : PG_GETARG_TIMESTAMPTZ(ARG_FROM),
		.to = PG_ARGISNULL(ARG_TO) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(ARG_TO)
	};

	InitMaterializedSRF(fcinfo, 0);
	if (view == NULL || view->spec.kind != WINDOW_HOP)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no hopping window view %d", PG_ARGISNULL(ARG_VIEW) ? 0 : PG_GETARG_INT32(ARG_VIEW))));
	put_all(&list);
	free_window_view(view);
	return (Datum) 0;
}
