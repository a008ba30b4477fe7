/*
 * window_progress.c
 *		How far the fill of a window view has come, for other sessions to see.
 *
 * The numbers stand where those of VACUUM and CREATE INDEX do, in the session's entry
 * of the server's status array, under a command number that is none of the server's: its own
 * views pass over such an entry, and it is cleared at the end of a transaction, also
 * of one that fails.  It needs neither preload nor a place in our shared memory.
 * Nothing is seen where track_activities is off.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/backend_progress.h"
#include "utils/backend_status.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "window_progress.h"

#define COMMAND_WINDOW_FILL		((ProgressCommandType) 0x6b6170)

enum
{
	PARAM_SUBSCRIPTION,
	PARAM_VIEW,
	PARAM_REBUILD,
	PARAM_DONE,
	PARAM_TOTAL,
	PARAM_START
};

PG_FUNCTION_INFO_V1(kappa_window_progress);

void
window_progress_begin(const WindowView *view, bool rebuild, double total)
{
	const int	params[] = {PARAM_SUBSCRIPTION, PARAM_VIEW, PARAM_REBUILD, PARAM_TOTAL, PARAM_START};
	const int64 values[] = {
		view->subscription, view->id, rebuild, (int64) total, GetCurrentTimestamp()
	};

	pgstat_progress_start_command(COMMAND_WINDOW_FILL, view->state);
	pgstat_progress_update_multi_param(lengthof(params), params, values);
}

void
window_progress_step(int64 done)
{
	pgstat_progress_update_param(PARAM_DONE, done);
}

void
window_progress_end(void)
{
	pgstat_progress_end_command();
}

/*
 * kappa.window_progress(OUT subscription integer, OUT view integer, OUT rebuild boolean,
 * OUT done bigint, OUT total bigint, OUT started timestamptz) RETURNS SETOF record: those
 * of this database
 */
Datum
kappa_window_progress(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	n = pgstat_fetch_stat_numbackends();
	for (int i = 1; i <= n; i++)
	{
		const PgBackendStatus *status = &backend_status(i)->backendStatus;
		const int64 *params = status->st_progress_param;
		Datum		values[6];
		bool		nulls[6] = {false};

		if (status->st_progress_command != COMMAND_WINDOW_FILL || status->st_databaseid != MyDatabaseId)
			continue;
		values[0] = Int32GetDatum((int32) params[PARAM_SUBSCRIPTION]);
		values[1] = Int32GetDatum((int32) params[PARAM_VIEW]);
		values[2] = BoolGetDatum(params[PARAM_REBUILD] != 0);
		values[3] = Int64GetDatum(params[PARAM_DONE]);
		/* the planner's number of rows is a guess */
		values[4] = Int64GetDatum(Max(params[PARAM_TOTAL], params[PARAM_DONE]));
		values[5] = TimestampTzGetDatum(params[PARAM_START]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
