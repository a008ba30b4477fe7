/*
 * windows.c
 *		kappa.tumble, hop, session_window and session: thin wrappers that carry
 *		core/window.c's arithmetic to SQL.
 *
 * tumble and hop keep a WindowCall in fn_extra: the arguments that the grid was
 * made from, the grid, and what has been learnt of the time zone.  Each call
 * compares size, slide, origin and zone with the remembered ones (a handful of
 * machine words), so they may vary from row to row and cost nothing where they
 * do not.
 *
 * The three types differ in a TimeType alone: the axis, the range type, and
 * whether a time zone makes sense (a timestamp or date has none to convert to).
 *
 * session_window is a real window function.  At the first row of a session it
 * reads on to the first row beyond it, and remembers the bounds and that
 * position in partition-local memory: each row is read once, whatever the
 * session's length.  Rows must come ascending; that is checked as they are
 * read, and at the first two rows that differ in time the window's own ORDER BY
 * must tell them apart (without ORDER BY all rows are peers).
 *
 * Nothing here touches Kafka, shared memory or tables.
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "common/int.h"
#include "compat.h"
#include "core/window.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/rangetypes.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "windowapi.h"

#include "window_grid.h"


typedef struct TimeType
{
	const WindowAxis *axis;
	Oid			range;
	const char *name;
	bool		zoned;
} TimeType;

static const TimeType type_timestamptz = {
	&window_axis_timestamp, TSTZRANGEOID, "timestamp with time zone", true
};
static const TimeType type_timestamp = {
	&window_axis_timestamp, TSRANGEOID, "timestamp without time zone", false
};
static const TimeType type_date = {
	&window_axis_date, DATERANGEOID, "date", false
};

/* What tumble and hop keep between calls */
typedef struct WindowCall
{
	const TimeType *type;
	TypeCacheEntry *range;

	/* the arguments that hop was made from; ready: they are set */
	bool		ready;
	Interval	size;
	Interval	slide;
	bool		has_origin;
	int64		origin;
	int			zone_len;		/* -1: none */
	char		zone_name[TZ_STRLEN_MAX + 1];

	WindowHop	hop;			/* tumble uses hop.slide alone */
	ZoneCache	zone;
	int64		last_start;		/* tumble: the last window given */
	int64		last_end;
	RangeType  *last_range;

	/* hop: the set being returned */
	bool		running;
	WindowHopScan scan;
} WindowCall;

/* session_window's memory of a partition */
typedef struct SessionState
{
	bool		started;
	bool		order_seen;		/* ORDER BY told two rows apart */
	bool		fixed_gap;		/* the gap is a constant of the query */
	Interval	gap_arg;
	int64		gap;
	int64		next_pos;		/* first row after the session */
	int64		start;			/* the session's bounds */
	int64		end;
	int64		last;			/* its last row's time */
} SessionState;

PG_FUNCTION_INFO_V1(kappa_tumble_timestamptz);
PG_FUNCTION_INFO_V1(kappa_tumble_timestamp);
PG_FUNCTION_INFO_V1(kappa_tumble_date);
PG_FUNCTION_INFO_V1(kappa_hop_timestamptz);
PG_FUNCTION_INFO_V1(kappa_hop_timestamp);
PG_FUNCTION_INFO_V1(kappa_hop_date);
PG_FUNCTION_INFO_V1(kappa_session_window_timestamptz);
PG_FUNCTION_INFO_V1(kappa_session_window_timestamp);
PG_FUNCTION_INFO_V1(kappa_session);

/* Errors ---------------------------------------------------------------- */

static void
window_out_of_range(const TimeType *type)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("window out of range"),
			 errdetail("The window begins or ends outside the values of type %s.", type->name)));
}

static void
infinite_time(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("no window holds an infinite time"),
			 errhint("Leave such rows out: WHERE isfinite(ts).")));
}

static void
infinite_origin(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("origin must be finite"),
			 errhint("Give a time at which a window begins, or NULL for 1970-01-01.")));
}

/* Values ---------------------------------------------------------------- */

static inline int64
finite_value(const TimeType *type, Datum datum, void (*infinite) (void))
{
	if (type->axis->day == 1)
	{
		DateADT		date = DatumGetDateADT(datum);

		if (unlikely(DATE_NOT_FINITE(date)))
			infinite();
		return date;
	}
	if (unlikely(TIMESTAMP_NOT_FINITE(DatumGetTimestamp(datum))))
		infinite();
	return DatumGetTimestamp(datum);
}

static inline int64
time_value(const TimeType *type, Datum datum)
{
	return finite_value(type, datum, infinite_time);
}

static inline Datum
time_datum(const TimeType *type, int64 value)
{
	if (type->axis->day == 1)
		return DateADTGetDatum((DateADT) value);
	return TimestampGetDatum(value);
}

static Datum
range_datum(const TimeType *type, TypeCacheEntry *range, int64 start, int64 end)
{
	RangeBound	lower = {time_datum(type, start), false, true, true};
	RangeBound	upper = {time_datum(type, end), false, false, false};

	return RangeTypePGetDatum(serialize_range(range, &lower, &upper));
}

/* Rows mostly come in order of time: hand out a copy of the last window */
static inline Datum
copy_range(const RangeType *range)
{
	Size		size = VARSIZE(range);

	return PointerGetDatum(memcpy(palloc(size), range, size));
}

/* The call's memory ----------------------------------------------------- */

static WindowCall *
window_call(FunctionCallInfo fcinfo, const TimeType *type)
{
	WindowCall *call = (WindowCall *) fcinfo->flinfo->fn_extra;

	if (call == NULL)
	{
		call = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(WindowCall));
		call->type = type;
		call->range = lookup_type_cache(type->range, TYPECACHE_RANGE_INFO);
		fcinfo->flinfo->fn_extra = call;
	}
	return call;
}

static inline bool
same_interval(const Interval *a, const Interval *b)
{
	return a->time == b->time && a->day == b->day && a->month == b->month;
}

static inline bool
same_zone(const WindowCall *call, const text *zone)
{
	if (zone == NULL)
		return call->zone_len < 0;
	return VARSIZE_ANY_EXHDR(zone) == call->zone_len &&
		memcmp(VARDATA_ANY(zone), call->zone_name, call->zone_len) == 0;
}

static void
set_zone(WindowCall *call, text *zone)
{
	call->zone_len = -1;
	if (zone == NULL)
		return;
	text_to_cstring_buffer(zone, call->zone_name, sizeof(call->zone_name));
	zone_cache_open(&call->zone, call->zone_name);
	call->zone_len = strlen(call->zone_name);
}

/* Make the grid; slide is NULL for tumble */
static void
set_grid(WindowCall *call, const Interval *size, const Interval *slide)
{
	const char *what = slide ? "size and slide" : "size";
	WindowLength size_length = window_length(size, "size");
	WindowLength slide_length;
	const int64_t *origin = call->has_origin ? &call->origin : NULL;
	const WindowZone *zone = call->zone_len >= 0 ? &call->zone.zone : NULL;
	WindowStatus status;

	if (slide)
	{
		slide_length = window_length(slide, "slide");
		status = window_hop_init(&call->hop, call->type->axis, &size_length,
								 &slide_length, origin, zone);
	}
	else
		status = window_grid_init(&call->hop.slide, call->type->axis, &size_length,
								  origin, zone);
	if (status != WINDOW_OK)
		window_length_error(status, what);

	call->size = *size;
	if (slide)
		call->slide = *slide;
	call->last_start = 0;
	call->last_end = 0;
	call->ready = true;
}

/*
 * Bring the grid up to date with the arguments.  origin_arg is origin's
 * number; time_zone follows it where the type has one.
 */
static inline void
prepare_call(WindowCall *call, FunctionCallInfo fcinfo, const Interval *size,
			 const Interval *slide, int origin_arg)
{
	bool		has_origin = !PG_ARGISNULL(origin_arg);
	int64		origin = 0;
	text	   *zone = NULL;

	if (has_origin)
		origin = finite_value(call->type, PG_GETARG_DATUM(origin_arg), infinite_origin);
	if (call->type->zoned && !PG_ARGISNULL(origin_arg + 1))
		zone = PG_GETARG_TEXT_PP(origin_arg + 1);

	if (likely(call->ready && same_interval(size, &call->size) &&
			   (slide == NULL || same_interval(slide, &call->slide)) &&
			   has_origin == call->has_origin && origin == call->origin &&
			   same_zone(call, zone)))
		return;

	call->ready = false;
	call->has_origin = has_origin;
	call->origin = origin;
	set_zone(call, zone);
	set_grid(call, size, slide);
}

/* tumble ---------------------------------------------------------------- */

/* All windows of a type have the same size in bytes */
static inline void
remember_window(WindowCall *call, int64 start, int64 end, const RangeType *range)
{
	if (call->last_range == NULL)
		call->last_range = MemoryContextAlloc(GetMemoryChunkContext(call), VARSIZE(range));
	memcpy(call->last_range, range, VARSIZE(range));
	call->last_start = start;
	call->last_end = end;
}

static inline Datum
tumble(FunctionCallInfo fcinfo, const TimeType *type)
{
	WindowCall *call;
	Datum		window;
	int64		point;
	int64_t		start;
	int64_t		end;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();

	call = window_call(fcinfo, type);
	prepare_call(call, fcinfo, PG_GETARG_INTERVAL_P(1), NULL, 2);
	point = time_value(type, PG_GETARG_DATUM(0));

	if (point >= call->last_start && point < call->last_end)
		return copy_range(call->last_range);

	if (window_tumble(&call->hop.slide, point, &start, &end) != WINDOW_OK)
		window_out_of_range(type);
	window = range_datum(type, call->range, start, end);
	remember_window(call, start, end, DatumGetRangeTypeP(window));
	return window;
}

Datum
kappa_tumble_timestamptz(PG_FUNCTION_ARGS)
{
	return tumble(fcinfo, &type_timestamptz);
}

Datum
kappa_tumble_timestamp(PG_FUNCTION_ARGS)
{
	return tumble(fcinfo, &type_timestamp);
}

Datum
kappa_tumble_date(PG_FUNCTION_ARGS)
{
	return tumble(fcinfo, &type_date);
}

/* hop ------------------------------------------------------------------- */

/* The executor gave the set up before its end (LIMIT, rescan) */
static void
hop_abandoned(Datum arg)
{
	((WindowCall *) DatumGetPointer(arg))->running = false;
}

/* Start the set of one row's windows; false: there are none */
static bool
hop_begin(WindowCall *call, FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		return false;
	prepare_call(call, fcinfo, PG_GETARG_INTERVAL_P(1), PG_GETARG_INTERVAL_P(2), 3);
	if (window_hop_begin(&call->hop, time_value(call->type, PG_GETARG_DATUM(0)),
						 &call->scan) != WINDOW_OK)
		window_out_of_range(call->type);
	return call->scan.left > 0;
}

/*
 * A set one value a call, by hand: funcapi.c's helpers want fn_extra for
 * themselves and make a memory context for each row.
 */
static Datum
hop(FunctionCallInfo fcinfo, const TimeType *type)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	WindowCall *call = window_call(fcinfo, type);
	int64_t		start;
	int64_t		end;

	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo) ||
		(rsinfo->allowedModes & SFRM_ValuePerCall) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));

	if (!call->running && hop_begin(call, fcinfo))
	{
		RegisterExprContextCallback(rsinfo->econtext, hop_abandoned, PointerGetDatum(call));
		call->running = true;
	}
	else if (call->running && call->scan.left == 0)
	{
		UnregisterExprContextCallback(rsinfo->econtext, hop_abandoned, PointerGetDatum(call));
		call->running = false;
	}
	if (!call->running)
	{
		rsinfo->isDone = ExprEndResult;
		PG_RETURN_NULL();
	}

	if (window_hop_next(&call->hop, &call->scan, &start, &end) != WINDOW_OK)
		window_out_of_range(type);
	rsinfo->isDone = ExprMultipleResult;
	return range_datum(type, call->range, start, end);
}

Datum
kappa_hop_timestamptz(PG_FUNCTION_ARGS)
{
	return hop(fcinfo, &type_timestamptz);
}

Datum
kappa_hop_timestamp(PG_FUNCTION_ARGS)
{
	return hop(fcinfo, &type_timestamp);
}

Datum
kappa_hop_date(PG_FUNCTION_ARGS)
{
	return hop(fcinfo, &type_date);
}

/* session_window -------------------------------------------------------- */

static void
wrong_order(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_WINDOWING_ERROR),
			 errmsg("session_window needs its rows ordered by time"),
			 errhint("Order the window by the same column, ascending: OVER (PARTITION BY ... ORDER BY ts).")));
}

/* The gap must be one for the whole partition; false: it is NULL */
static bool
session_gap(WindowObject winobj, FunctionCallInfo fcinfo, SessionState *state)
{
	Interval   *gap;
	WindowLength length;
	WindowStatus status;
	bool		isnull;

	if (state->started && state->fixed_gap)
		return true;
	gap = DatumGetIntervalP(WinGetFuncArgCurrent(winobj, 1, &isnull));
	if (isnull)
		return false;
	if (state->started)
	{
		if (same_interval(gap, &state->gap_arg))
			return true;
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("gap must be the same for all rows of a partition"),
				 errhint("Add the gap to PARTITION BY.")));
	}
	length = window_length(gap, "gap");
	status = window_gap(&length, &state->gap);
	if (status != WINDOW_OK)
		window_length_error(status, "gap");
	state->gap_arg = *gap;
	state->fixed_gap = get_fn_expr_arg_stable(fcinfo->flinfo, 1);
	state->started = true;
	return true;
}

/*
 * Read on from row pos, at time first, to the end of its session.  Once the
 * order is known to be right, rows behind are never read again, and the mark
 * lets the executor forget them.
 */
static void
scan_session(WindowObject winobj, const TimeType *type, SessionState *state,
			 int64 pos, int64 first)
{
	int64		last_pos = pos;
	int64		next;
	Datum		datum;
	bool		isnull;
	bool		isout;

	state->start = first;
	state->last = first;
	for (pos++;; pos++)
	{
		CHECK_FOR_INTERRUPTS();
		datum = WinGetFuncArgInPartition(winobj, 0, pos, WINDOW_SEEK_HEAD,
										 state->order_seen, &isnull, &isout);
		if (isout)
			break;
		if (isnull)
			continue;
		next = time_value(type, datum);
		if (next < state->last)
			wrong_order();
		if (next > state->last && !state->order_seen)
		{
			if (WinRowsArePeers(winobj, last_pos, pos))
				wrong_order();
			state->order_seen = true;
		}
		if (!window_session_joins(state->last, next, state->gap))
			break;
		state->last = next;
		last_pos = pos;
	}
	state->next_pos = pos;
	if (window_session_end(type->axis, state->last, state->gap, &state->end) != WINDOW_OK)
		window_out_of_range(type);
}

static Datum
session_window(FunctionCallInfo fcinfo, const TimeType *type)
{
	WindowObject winobj = PG_WINDOW_OBJECT();
	TypeCacheEntry *range = (TypeCacheEntry *) fcinfo->flinfo->fn_extra;
	SessionState *state;
	Datum		datum;
	int64		pos;
	int64		ts;
	bool		isnull;

	if (!WindowObjectIsValid(winobj))
		ereport(ERROR,
				(errcode(ERRCODE_WINDOWING_ERROR),
				 errmsg("session_window called outside a window"),
				 errhint("Write session_window(ts, gap) OVER (PARTITION BY ... ORDER BY ts).")));
	if (range == NULL)
	{
		range = lookup_type_cache(type->range, TYPECACHE_RANGE_INFO);
		fcinfo->flinfo->fn_extra = range;
	}

	state = WinGetPartitionLocalMemory(winobj, sizeof(SessionState));
	datum = WinGetFuncArgCurrent(winobj, 0, &isnull);
	if (isnull || !session_gap(winobj, fcinfo, state))
		PG_RETURN_NULL();

	ts = time_value(type, datum);
	pos = WinGetCurrentPosition(winobj);
	if (pos >= state->next_pos)
		scan_session(winobj, type, state, pos, ts);
	return range_datum(type, range, state->start, state->end);
}

Datum
kappa_session_window_timestamptz(PG_FUNCTION_ARGS)
{
	return session_window(fcinfo, &type_timestamptz);
}

Datum
kappa_session_window_timestamp(PG_FUNCTION_ARGS)
{
	return session_window(fcinfo, &type_timestamp);
}

/* session --------------------------------------------------------------- */

Datum
kappa_session(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("kappa.session can only be used in a window view"),
			 errdetail("A row alone does not tell where its session ends."),
			 errhint("Use kappa.session_window(ts, gap) OVER (PARTITION BY ... ORDER BY ts).")));
	PG_RETURN_NULL();
}
