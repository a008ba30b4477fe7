/*
 * window_read.c
 *		What else can be had from a window view: reconcile, rolling, roll_up,
 *		counts of its windows.
 *
 * All of them put another layer c below the outputs that the view has, or compare
 * two of them (window_query.c).  What reads rows or state runs as the view's owner
 * under restriction, once the caller's own right is checked.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "rewrite/rewriteSupport.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "arguments.h"
#include "catalog.h"
#include "subscription.h"
#include "target_table.h"
#include "window_batch.h"
#include "window_grid.h"
#include "window_control.h"

#define ESTIMATE_TOLERANCE	"0.02"

PG_FUNCTION_INFO_V1(kappa_reconcile);
PG_FUNCTION_INFO_V1(kappa_final_watermark);
PG_FUNCTION_INFO_V1(kappa_rolling);
PG_FUNCTION_INFO_V1(kappa_roll_up);
PG_FUNCTION_INFO_V1(kappa_window_counts);

/* A query's rows to the caller of a set-returning function. */
static void
put_rows(FunctionCallInfo fcinfo, const char *sql)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	if (SPI_execute(sql, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", sql);
	for (uint64 i = 0; i < SPI_processed; i++)
		tuplestore_puttuple(rsinfo->setResult, SPI_tuptable->vals[i]);
}

static char *
interval_text(int64 micros)
{
	return psprintf("'" INT64_FORMAT " microseconds'::interval", micros);
}

static char *
time_text(TimestampTz time)
{
	return psprintf("'%s'::timestamptz", DatumGetCString(DirectFunctionCall1(timestamptz_out, TimestampTzGetDatum(time))));
}

/* ---------------------------------------------------------------- reconcile */

/* Rows that no message of ours can have made: their place is none, or not read yet. */
static char *
by_hand(int32 subscription)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(subscription)};
	StringInfoData sql;
	int			n;
	bool		null;

	initStringInfo(&sql);
	appendStringInfoString(&sql, ", count(*) FILTER (WHERE i.kafka_partition IS NULL OR i.kafka_offset IS NULL OR i.kafka_offset >= CASE i.kafka_partition");
	catalog_begin(&scope);
	n = (int) catalog_execute("SELECT part, next_offset FROM kappa.position WHERE subscription = $1", 1, args);
	for (int row = 0; row < n; row++)
		appendStringInfo(&sql, " WHEN %d THEN " INT64_FORMAT, DatumGetInt32(catalog_value(row, 1, &null)),
						 DatumGetInt64(catalog_value(row, 2, &null)));
	if (n == 0)
		appendStringInfoString(&sql, " WHEN -1 THEN 0");
	catalog_end(&scope);
	appendStringInfoString(&sql, " ELSE 0 END) AS by_hand");
	return sql.data;
}

/*
 * Are the two results of aggregate a the same?  Sums of floats depend on the order of
 * rows; what an extension gives as a float may be an estimate, which does so too.
 */
static char *
same_result(int a, Oid type, Oid aggregate)
{
	const char *tolerance = get_func_namespace(aggregate) == PG_CATALOG_NAMESPACE ? "1e-9" : ESTIMATE_TOLERANCE;

	if (type == FLOAT8OID || type == FLOAT4OID)
		return psprintf("(s.a%d IS NOT DISTINCT FROM b.a%d OR abs(s.a%d - b.a%d) <= %s * greatest(abs(s.a%d), abs(b.a%d)))",
						a, a, a, a, tolerance, a, a);
	if (OidIsValid(lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr) && type != JSONOID)
		return psprintf("s.a%d IS NOT DISTINCT FROM b.a%d", a, a);
	return psprintf("s.a%d::text IS NOT DISTINCT FROM b.a%d::text", a, a);
}

static char *
results_object(const WindowView *view, const char *side)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "jsonb_build_object(");
	for (int a = 1; a <= view->naggs; a++)
	{
		const WindowAggregate *aggregate = list_nth(view->query->aggregates, a - 1);

		appendStringInfo(&sql, "%s%s, %s.a%d", a > 1 ? ", " : "",
						 quote_literal_cstr(psprintf("%s %d", get_func_name(aggregate->call->aggfnoid), a)), side, a);
	}
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

/* The number of the aggregate that counts a group's rows: the last count(*). */
static int
row_count_column(const WindowView *view)
{
	int			found = 0;
	ListCell   *lc;

	foreach(lc, view->query->aggregates)
	{
		const WindowAggregate *aggregate = lfirst(lc);

		if (aggregate->call->aggstar && aggregate->filter == 0)
			found = foreach_current_index(lc) + 1;
	}
	return found;
}

/*
 * Why two groups differ: what is sure first.  The rows of all groups together tell
 * whether some are gone or have only changed their group.
 */
static char *
cause_expression(const WindowView *view)
{
	bool		dimension = list_length(view->input->rtable) > 1 || view->input->hasSubLinks;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "CASE");
	if (view->trimmed_upto != DT_NOBEGIN)
		appendStringInfo(&sql, " WHEN d.s_n IS NULL AND d.window_end <= %s THEN 'retention'", time_text(view->trimmed_upto));
	appendStringInfoString(&sql, " WHEN d.by_hand > 0 THEN 'added by hand'");
	if (dimension)
		appendStringInfoString(&sql, " WHEN true THEN 'dimension'");
	appendStringInfoString(&sql, " WHEN coalesce(d.b_n, 0) < coalesce(d.s_n, 0) AND d.total_b < d.total_s THEN 'deleted by hand'"
						   " WHEN coalesce(d.b_n, 0) > coalesce(d.s_n, 0) AND d.total_b > d.total_s THEN 'added by hand'"
						   " ELSE 'changed by hand' END");
	return sql.data;
}

/* Equal keys need not look alike ('a' and 'A' in some collations): they have the same hashes. */
static char *
key_hashes(const WindowView *view)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "ARRAY[");
	for (int k = 1; k <= view->nkeys; k++)
		appendStringInfo(&sql, "%skappa.key_hash(c.k%d)", k > 1 ? ", " : "", k);
	appendStringInfoString(&sql, "]::bigint[]");
	return sql.data;
}

static char *
reconcile_query(const WindowView *view, TimestampTz from, TimestampTz to)
{
	char	   *state = window_state_layer(view->query, view->id, relation_name(view->state));
	char	   *batch = window_batch_layer(view->query, view->name, by_hand(view->subscription));
	char	   *keys = window_key_list(view->query, "c.");
	char	   *hashes = key_hashes(view);
	int			n = row_count_column(view);
	StringInfoData sql;

	keys = *keys ? keys + 2 : keys;
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT d.window_start, d.window_end, d.keys, d.streaming, d.batch, %s FROM (SELECT "
					 "coalesce(s.window_start, b.window_start) AS window_start, coalesce(s.window_end, b.window_end) AS window_end, "
					 "coalesce(s.keys, b.keys) AS keys, CASE WHEN s.keys IS NOT NULL THEN %s END AS streaming, "
					 "CASE WHEN b.keys IS NOT NULL THEN %s END AS batch, coalesce(b.by_hand, 0) AS by_hand, "
					 "s.a%d AS s_n, b.a%d AS b_n, sum(s.a%d) OVER () AS total_s, sum(b.a%d - b.by_hand) OVER () AS total_b, (s.keys IS NOT NULL AND b.keys IS NOT NULL",
					 cause_expression(view), results_object(view, "s"), results_object(view, "b"), n, n, n, n);
	for (int a = 1; a <= view->naggs; a++)
		appendStringInfo(&sql, " AND %s", same_result(a, view->aggs[a - 1].agg.resulttype, view->aggs[a - 1].agg.aggregate));
	appendStringInfo(&sql, ") AS same FROM (SELECT c.*, jsonb_build_array(%s) AS keys, %s AS hashes FROM (%s) c) s FULL JOIN "
					 "(SELECT c.*, jsonb_build_array(%s) AS keys, %s AS hashes FROM (%s) c) b "
					 "ON s.window_start = b.window_start AND s.window_end = b.window_end AND s.hashes = b.hashes) d WHERE NOT d.same",
					 keys, hashes, state, keys, hashes, batch);
	if (from != DT_NOBEGIN || view->trimmed_upto != DT_NOBEGIN)
		appendStringInfo(&sql, " AND d.window_end > %s", time_text(from != DT_NOBEGIN ? from : view->trimmed_upto));
	if (to != DT_NOEND)
		appendStringInfo(&sql, " AND d.window_start < %s", time_text(to));
	appendStringInfoString(&sql, " ORDER BY 1, 3");
	return sql.data;
}

/* kappa.reconcile(name text, from_time timestamptz, to_time timestamptz) RETURNS SETOF record */
Datum
kappa_reconcile(PG_FUNCTION_ARGS)
{
	WindowView *view;
	UserScope	scope;

	InitMaterializedSRF(fcinfo, 0);
	view = read_window_view(text_argument(fcinfo, 0, "name"));
	check_isolation("kappa.reconcile()");
	require_metadata(view);
	user_scope_begin(&scope, view->owner, "pg_catalog, pg_temp");
	SPI_connect();
	put_rows(fcinfo, reconcile_query(view, PG_ARGISNULL(1) ? DT_NOBEGIN : PG_GETARG_TIMESTAMPTZ(1),
									 PG_ARGISNULL(2) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(2)));
	SPI_finish();
	user_scope_end(&scope);
	free_window_view(view);
	return (Datum) 0;
}

/* ---------------------------------------------------------------- rolling */

/* The window view whose row type this is. */
static int32
view_of_type(Oid type)
{
	Oid			relid = get_typ_typrelid(type);
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_OID(relid)};
	int32		id = 0;
	bool		null;

	catalog_begin(&scope);
	if (OidIsValid(relid) && catalog_execute("SELECT id FROM kappa.window_view WHERE view = $1", 1, args) == 1)
		id = DatumGetInt32(catalog_value(0, 1, &null));
	catalog_end(&scope);
	if (id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("type %s is no window view's", format_type_be(type)),
				 errhint("SELECT * FROM kappa.rolling(NULL::page_1m, '15 minutes').")));
	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, get_rel_name(relid));
	return id;
}

/*
 * With the snapshot of the query that asks: what is_final says must fit its rows.  A view
 * that stands still closes nothing more.
 */
static TimestampTz
final_watermark(int32 view)
{
	CatalogScope scope;
	Oid			type = INT4OID;
	Datum		arg = Int32GetDatum(view);
	TimestampTz result = DT_NOBEGIN;
	bool		null;

	catalog_begin(&scope);
	if (SPI_execute_with_args("SELECT least(min(coalesce(p.verdict_watermark, '-infinity')), min(v.stop_watermark)) "
							  "FROM kappa.window_view v JOIN kappa.position p ON p.subscription = v.subscription WHERE v.id = $1",
							  1, &type, &arg, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the positions of window view %d", view);
	arg = catalog_value(0, 1, &null);
	if (!null)
		result = DatumGetTimestampTz(arg);
	catalog_end(&scope);
	return result;
}

/* kappa.final_watermark(view integer) RETURNS timestamptz */
Datum
kappa_final_watermark(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(final_watermark(PG_GETARG_INT32(0)));
}

static void
require_tumbling(const WindowView *view, const char *function)
{
	if (view->spec.kind != WINDOW_TUMBLE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s needs a tumbling window view", function),
				 errdetail("Window view %s has windows that overlap, or that depend on the key.", view->name)));
}

/* The window before the one that begins at start. */
static TimestampTz
window_before(const WindowView *view, TimestampTz at, int64_t *end)
{
	int64_t		start;

	if (window_tumble(&view->grid, at, &start, end) != WINDOW_OK)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("window out of range")));
	return start;
}

/*
 * [*from, *to): whole windows.  Up to now: the one that holds now is the last.  Up to
 * the watermark: the last final one is.
 */
static void
rolling_range(const WindowView *view, const Interval *span, const char *upto, TimestampTz *from, TimestampTz *to)
{
	int64_t		start;
	int64_t		end;

	if (strcmp(upto, "now") == 0)
	{
		(void) window_before(view, GetCurrentTransactionStartTimestamp(), &end);
		*to = end;
	}
	else if (strcmp(upto, "watermark") == 0)
	{
		TimestampTz final = final_watermark(view->id);

		if (TIMESTAMP_NOT_FINITE(final))
		{
			*from = *to = 0;
			return;
		}
		*to = window_before(view, final - view->lateness, &end);
		if (end == final - view->lateness)
			*to = end;
	}
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("upto must be now or watermark, not \"%s\"", upto)));
	*from = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval, TimestampTzGetDatum(*to),
													IntervalPGetDatum(span)));
	start = window_before(view, *from, &end);
	if (start != *from || *from >= *to)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("span must be a whole number of the view's windows"),
				 errdetail("Its windows are %s long.", DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(&view->spec.size))))));
}

static char *
rolling_layer(const WindowView *view, TimestampTz from, TimestampTz to)
{
	char	   *keys = window_key_list(view->query, "s.");
	char	   *group = *keys ? psprintf(" GROUP BY %s", keys + 2) : " HAVING count(*) > 0";

	return psprintf("SELECT %s AS window_start, %s AS window_end%s%s FROM %s s WHERE s.window_start >= %s AND s.window_start < %s%s",
					time_text(from), time_text(to), keys, window_combined(view->query), relation_name(view->state),
					time_text(from), time_text(to), group);
}

static Query *
view_tree(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	Query	   *tree = copyObject(get_view_query(rel));

	table_close(rel, NoLock);
	return tree;
}

/* The view's expressions are run with the rights of the batch form's owner. */
static void
require_one_owner(const WindowView *view)
{
	Relation	reading = table_open(view->reading, AccessShareLock);
	Oid			owner = reading->rd_rel->relowner;

	table_close(reading, NoLock);
	if (owner != view->owner)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("window view %s and its batch form have different owners", view->name),
				 errhint("ALTER VIEW %s OWNER TO %s;", relation_name(view->batch), quote_identifier(GetUserNameFromId(owner, false)))));
}

/* kappa.rolling(view anyelement, span interval, upto text) RETURNS SETOF anyelement */
Datum
kappa_rolling(PG_FUNCTION_ARGS)
{
	Oid			type = get_fn_expr_argtype(fcinfo->flinfo, 0);
	int32		id = view_of_type(type);
	WindowView *view;
	TimestampTz from;
	TimestampTz to;
	UserScope	scope;
	char	   *sql;

	require_argument(fcinfo, 1, "span");
	InitMaterializedSRF(fcinfo, 0);
	view = load_window_view(id);
	require_tumbling(view, "kappa.rolling()");
	require_one_owner(view);
	user_scope_begin(&scope, view->owner, "pg_catalog, pg_temp");
	rolling_range(view, PG_GETARG_INTERVAL_P(1), text_argument(fcinfo, 2, "upto"), &from, &to);
	sql = replace_layer(view_tree(get_typ_typrelid(type)), rolling_layer(view, from, to));
	SPI_connect();
	put_rows(fcinfo, sql);
	SPI_finish();
	user_scope_end(&scope);
	free_window_view(view);
	return (Datum) 0;
}

/* ---------------------------------------------------------------- roll_up */

/* Every longer window must be a whole number of the view's own. */
static void
check_nesting(const WindowView *view, const WindowSpec *longer)
{
	const Interval *small = &view->spec.size;
	const Interval *large = &longer->size;
	int64		small_us = small->time + small->day * USECS_PER_DAY;
	int64		large_us = large->time + large->day * USECS_PER_DAY;
	bool		whole;

	if (small->month != 0 || large->month != 0)
		whole = small->month == 0 ? small_us > 0 && USECS_PER_DAY % small_us == 0 :
			large->month != 0 && large->month % small->month == 0;
	else
		whole = large_us >= small_us && large_us % small_us == 0;
	if (!whole)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("size must be a whole number of the view's windows"),
				 errdetail("Its windows are %s long.", DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(small))))));
}

static char *
roll_up_layer(const WindowView *view, const WindowSpec *longer)
{
	char	   *keys = window_key_list(view->query, "s.");

	return psprintf("SELECT lower(s.win) AS window_start, upper(s.win) AS window_end%s%s FROM (SELECT %s AS win, t.* FROM %s t%s) s GROUP BY s.win%s",
					keys, window_combined(view->query), window_call(longer, "t.window_start"), relation_name(view->state),
					window_key_search(view->query, "t."), keys);
}

/* kappa.roll_up(name text, view text, size interval) RETURNS void */
Datum
kappa_roll_up(PG_FUNCTION_ARGS)
{
	char	   *name = text_argument(fcinfo, 0, "name");
	int32		subscription;
	WindowView *view = control_window_view(text_argument(fcinfo, 1, "view"), "kappa.roll_up()", &subscription);
	WindowSpec	longer = view->spec;
	char	   *target = new_view_name(name);
	char	   *sql;
	int			level;

	require_argument(fcinfo, 2, "size");
	require_tumbling(view, "kappa.roll_up()");
	longer.size = *PG_GETARG_INTERVAL_P(2);
	check_nesting(view, &longer);
	level = pin_sql_settings();
	sql = replace_layer(view_tree(view->reading), roll_up_layer(view, &longer));
	SPI_connect();
	if (SPI_execute(psprintf("CREATE VIEW %s AS %s", target, sql), false, 0) < 0)
		elog(ERROR, "could not make view %s", target);
	SPI_finish();
	AtEOXact_GUC(false, level);
	free_window_view(view);
	PG_RETURN_VOID();
}

/* ---------------------------------------------------------------- counts */

static char *
windows_query(const WindowView *view)
{
	if (view->spec.kind == WINDOW_TUMBLE)
		return psprintf("SELECT window_start, window_end FROM %s GROUP BY 1, 2", relation_name(view->state));
	if (view->spec.kind == WINDOW_HOP)
		return psprintf("SELECT window_start, window_end FROM kappa.window_hops(%d)", view->id);
	return psprintf("SELECT c.window_start, c.window_end FROM (%s) c",
					window_state_layer(view->query, view->id, relation_name(view->state)));
}

/* kappa.window_counts(view integer, OUT open_windows bigint, OUT final_windows bigint) */
Datum
kappa_window_counts(PG_FUNCTION_ARGS)
{
	WindowView *view = load_window_view(PG_GETARG_INT32(0));
	UserScope	scope;
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (view == NULL || !(is_member_of_role(GetUserId(), view->source_owner) || is_member_of_role(GetUserId(), ROLE_PG_MONITOR)))
		PG_RETURN_NULL();
	/* as the view's owner: the state may be of types and aggregates of his */
	user_scope_begin(&scope, view->owner, "pg_catalog, pg_temp");
	SPI_connect();
	catalog_execute(psprintf("SELECT count(*) FILTER (WHERE NOT f), count(*) FILTER (WHERE f) FROM "
							 "(SELECT w.window_end + %s <= (SELECT kappa.final_watermark(%d)) AS f FROM (%s) w) w",
							 interval_text(view->lateness), view->id, windows_query(view)), 0, NULL);
	values[0] = catalog_value(0, 1, &nulls[0]);
	values[1] = catalog_value(0, 2, &nulls[1]);
	SPI_finish();
	user_scope_end(&scope);
	free_window_view(view);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
