/*
 * window_make.c
 *		Window views made, and made anew.
 *
 *		NAME			the view that is read: the state's partials combined, is_final
 *		NAME_batch		the same result computed from the rows; it is the definition,
 *						and carries the dependencies on the columns that it uses
 *		kappa.window_state_N	the partials (window_state.c), written by workers only
 *		kappa.window_view		a row for it all
 *
 * The two views belong to whoever made them, the table to the extension's owner.
 *
 * A rebuild fills a state beside what readers see, and all changes with its commit.  With
 * another query it makes a table of its own and replaces the two views, as CREATE OR
 * REPLACE VIEW would: whoever may read or uses the view keeps that.  NAME is replaced last, so
 * readers are kept out for a moment only.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/varlena.h"

#include "arguments.h"
#include "catalog.h"
#include "subscription.h"
#include "window_batch.h"
#include "window_check.h"
#include "window_control.h"
#include "window_query.h"
#include "window_view.h"

#define STATE_FILLFACTOR	50	/* an update finds room on its own page */

PG_FUNCTION_INFO_V1(kappa_create_window_view);
PG_FUNCTION_INFO_V1(kappa_rebuild);

/* ---------------------------------------------------------------- the state's table */

/* A key in an index: what may be too long for a B-tree is there by its hash (window_plan.c). */
static char *
indexed_key(const WindowQuery *query, int k)
{
	const char *form = window_key_is_fixed(query, k) ? "k%d" : "kappa.key_hash(k%d)";

	return psprintf(form, k);
}

/* Besides the writer's index one for readers who ask for a key. */
static void
create_state_indexes(const WindowQuery *query, const char *table)
{
	bool		session = query->spec.kind == WINDOW_SESSION;
	StringInfoData sql;

	catalog_execute(psprintf("CREATE INDEX ON %s (%s)", table,
							 session ? "key_hash, window_start" : "window_start, key_hash"), 0, NULL);
	if (query->keys == NIL)
		return;
	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE INDEX ON %s (", table);
	for (int k = 1; k <= list_length(query->keys); k++)
		appendStringInfo(&sql, "%s, ", indexed_key(query, k));
	appendStringInfoString(&sql, "window_start)");
	catalog_execute(sql.data, 0, NULL);
}

static int32
next_view_id(void)
{
	CatalogScope scope;
	bool		null;
	int32		id;

	catalog_begin(&scope);
	catalog_execute("SELECT nextval('kappa.window_view_id_seq')::integer", 0, NULL);
	id = DatumGetInt32(catalog_value(0, 1, &null));
	catalog_end(&scope);
	return id;
}

static const char *
kind_word(WindowKind kind)
{
	static const char *const words[] = {"tumble", "hop", "session"};

	return words[kind];
}

typedef struct NewView
{
	char	   *name;			/* qualified and quoted, as are the next two */
	char	   *batch_name;
	char	   *state;
	char	   *text;
	Interval   *lateness;
	Datum		retention;
	bool		keep;			/* no retention */
} NewView;

static void
grant_state(const char *state, Oid reader)
{
	catalog_execute(psprintf("GRANT SELECT ON %s TO %s", state, quote_identifier(GetUserNameFromId(reader, false))), 0, NULL);
}

/* The table for the partials; number: of its name. */
static void
define_state(const WindowQuery *query, NewView *new, int32 number, Oid reader)
{
	CatalogScope scope;
	int			level = pin_sql_settings();

	new->state = psprintf("kappa.window_state_%d", number);
	catalog_begin(&scope);
	catalog_execute(psprintf("CREATE TABLE %s (window_start timestamptz NOT NULL, window_end timestamptz NOT NULL, "
							 "first_window timestamptz NOT NULL, key_hash uuid NOT NULL, worker integer NOT NULL%s) "
							 "USING heap WITH (fillfactor = %d)", new->state, window_state_columns(query), STATE_FILLFACTOR), 0, NULL);
	create_state_indexes(query, new->state);
	grant_state(new->state, reader);
	catalog_end(&scope);
	AtEOXact_GUC(false, level);
}

/* ---------------------------------------------------------------- the two views */

/* SELECT of the view that is read */
static char *
reading_query(const WindowQuery *query, int32 id, const NewView *new)
{
	/* a day of the lateness has 24 hours, whatever the reader's time zone */
	int64		lateness = new->lateness->time + new->lateness->day * USECS_PER_DAY;

	return window_outputs(query, window_state_layer(query, id, new->state),
						  psprintf(", w.window_end + '" INT64_FORMAT " microseconds'::interval <= (SELECT kappa.final_watermark(%d)) AS is_final",
								   lateness, id));
}

static void
name_new_view(NewView *new, const char *name)
{
	RangeVar   *var = makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name)));
	char	   *batch = psprintf("%s_batch", var->relname);
	Oid			namespace = RangeVarGetCreationNamespace(var);

	if (isTempNamespace(namespace))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a window view cannot be temporary"),
				 errhint("Name it in a schema that lasts.")));
	if (strlen(batch) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("name \"%s\" is too long for a window view", var->relname),
				 errdetail("Its batch form is named \"%s\".", batch)));
	new->name = quote_qualified_identifier(get_namespace_name(namespace), var->relname);
	new->batch_name = quote_qualified_identifier(get_namespace_name(namespace), batch);
}

/* Months have no fixed length, so no window could say when it is final. */
static Interval *
lateness_argument(FunctionCallInfo fcinfo, int number)
{
	(void) interval_argument(fcinfo, number, "allowed_lateness");
	if (PG_GETARG_INTERVAL_P(number)->month != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" cannot have months", "allowed_lateness"),
				 errhint("Use allowed_lateness => '30 days', for example.")));
	return PG_GETARG_INTERVAL_P(number);
}

static void
define_batch(const WindowQuery *query, const NewView *new, bool replace)
{
	int			level = pin_sql_settings();

	execute_as_caller(psprintf("CREATE %s VIEW %s AS %s", replace ? "OR REPLACE" : "", new->batch_name,
							   window_outputs(query, window_batch_layer(query, NULL, NULL), NULL)));
	AtEOXact_GUC(false, level);
}

static void
define_reading(const WindowQuery *query, const NewView *new, int32 id, bool replace)
{
	int			level = pin_sql_settings();

	execute_as_caller(psprintf("CREATE %s VIEW %s AS %s", replace ? "OR REPLACE" : "", new->name, reading_query(query, id, new)));
	AtEOXact_GUC(false, level);
}

/* ---------------------------------------------------------------- create_window_view */

static void
insert_view(const WindowQuery *query, int32 id, const NewView *new)
{
	CatalogScope scope;
	CatalogArg	args[] = {
		CATALOG_INT4(id), CATALOG_INT4(query->sub->id), CATALOG_TEXT(new->name), CATALOG_TEXT(new->batch_name),
		CATALOG_TEXT(new->state), CATALOG_TEXT(kind_word(query->spec.kind)), CATALOG_TEXT(new->text),
		{INTERVALOID, IntervalPGetDatum(new->lateness), false}, {INTERVALOID, new->retention, new->keep}
	};

	catalog_begin(&scope);
	catalog_execute("INSERT INTO kappa.window_view (id, subscription, view, batch, state, kind, query, allowed_lateness, retention) "
					"VALUES ($1, $2, $3::regclass, $4::regclass, $5::regclass, $6, $7, $8, $9)", lengthof(args), args);
	catalog_end(&scope);
}

/*
 * kappa.create_window_view(name text, query text, allowed_lateness interval,
 * retention interval) RETURNS bigint: rows that it was filled from.
 */
Datum
kappa_create_window_view(PG_FUNCTION_ARGS)
{
	char	   *name = text_argument(fcinfo, 0, "name");
	NewView		new = {.text = text_argument(fcinfo, 1, "query")};
	WindowQuery *query;
	Subscription *sub;
	WindowView *view;
	int64		rows;
	int32		id;

	new.lateness = lateness_argument(fcinfo, 2);
	new.keep = PG_ARGISNULL(3);
	if (!new.keep)
	{
		(void) interval_argument(fcinfo, 3, "retention");
		new.retention = PG_GETARG_DATUM(3);
	}
	check_isolation("kappa.create_window_view()");
	query = analyze_window_query(new.text);
	sub = control_subscription(query->sub->name, "kappa.create_window_view()");
	check_view_target(sub);
	name_new_view(&new, name);
	id = next_view_id();
	define_state(query, &new, id, GetUserId());
	define_batch(query, &new, false);
	define_reading(query, &new, id, false);
	insert_view(query, id, &new);
	CommandCounterIncrement();
	view = load_window_view(id);
	rows = window_fill(view, false);
	free_window_view(view);
	touch_subscription(sub->id);
	PG_RETURN_INT64(rows);
}

/* ---------------------------------------------------------------- rebuild */

static bool
same_interval(const Interval *a, const Interval *b)
{
	return a->time == b->time && a->day == b->day && a->month == b->month;
}

/* Are the windows the same, whatever is counted in them? */
static bool
same_windows(const WindowSpec *a, const WindowSpec *b)
{
	if (a->kind != b->kind || !same_interval(&a->size, &b->size) || a->has_origin != b->has_origin)
		return false;
	if (a->kind == WINDOW_HOP && !same_interval(&a->slide, &b->slide))
		return false;
	if (a->has_origin && a->origin != b->origin)
		return false;
	return (a->zone == NULL) == (b->zone == NULL) && (a->zone == NULL || strcmp(a->zone, b->zone) == 0);
}

static char *
column_text(TupleDesc desc, int i)
{
	if (i >= desc->natts)
		return "missing";
	return psprintf("\"%s\" of type %s", NameStr(TupleDescAttr(desc, i)->attname),
					format_type_with_typemod(TupleDescAttr(desc, i)->atttypid, TupleDescAttr(desc, i)->atttypmod));
}

/* CREATE OR REPLACE VIEW would refuse, with advice that leads astray. */
static void
check_columns(const WindowView *view, const WindowQuery *query, const NewView *new)
{
	Relation	reading = table_open(view->reading, AccessShareLock);
	TupleDesc	is = RelationGetDescr(reading);
	TupleDesc	will;
	SPIPlanPtr	plan;
	int			level = pin_sql_settings();

	SPI_connect();
	plan = SPI_prepare(reading_query(query, view->id, new), 0, NULL);
	will = ((CachedPlanSource *) linitial(SPI_plan_get_plan_sources(plan)))->resultDesc;
	for (int i = 0; i < Max(is->natts, will->natts); i++)
		if (i >= is->natts || i >= will->natts || strcmp(column_text(is, i), column_text(will, i)) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
					 errmsg("kappa.rebuild() cannot change the columns of window view %s", view->name),
					 errdetail("Column %d is %s and would be %s.", i + 1, column_text(is, i), column_text(will, i)),
					 errhint("Drop the window view and make it again, or make another beside it.")));
	SPI_finish();
	AtEOXact_GUC(false, level);
	table_close(reading, NoLock);
}

/*
 * Late rows are listed by partition and offset.  Where a seek has made a stretch of a topic
 * be read twice, that names two rows, and which of them was late nobody can tell.
 */
static void
check_replays(const WindowView *view)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(view->id), CATALOG_INT4(view->subscription)};
	bool		twice;

	catalog_begin(&scope);
	twice = catalog_execute("SELECT FROM kappa.late_row l WHERE l.view = $1 AND (SELECT count(*) FROM "
							"(SELECT part, start_offset, next_offset FROM kappa.closed_account WHERE subscription = $2 UNION ALL "
							"SELECT part, start_offset, next_offset FROM kappa.position WHERE subscription = $2) a "
							"WHERE a.part = l.part AND l.kafka_offset >= a.start_offset AND l.kafka_offset < a.next_offset) > 1 LIMIT 1",
							lengthof(args), args) > 0;
	catalog_end(&scope);
	if (twice)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("window view %s has late rows that were read more than once", view->name),
				 errdetail("After a seek back partition and offset do not tell which of the copies was late."),
				 errhint("Drop the window view and make it again: all rows that are there count then.")));
}

/* The row of kappa.window_view as it will be; what was late for other windows is forgotten. */
static void
update_view(const WindowQuery *query, int32 id, const NewView *new, bool same)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(id), CATALOG_TEXT(new->state), CATALOG_TEXT(kind_word(query->spec.kind)), CATALOG_TEXT(new->text), CATALOG_BOOL(same)};

	catalog_begin(&scope);
	catalog_execute("UPDATE kappa.window_view SET state = $2::regclass, kind = $3, query = $4, closed_upto = NULL, "
					"trimmed_upto = CASE WHEN $5 THEN trimmed_upto END WHERE id = $1", lengthof(args), args);
	if (!same)
		catalog_execute("DELETE FROM kappa.late_row WHERE view = $1", 1, args);
	catalog_end(&scope);
}

/* Another query under the same name; returns the rows that it was computed from. */
static int64
replace_view(WindowView *view, Subscription *sub, char *text)
{
	NewView		new = {.name = view->name, .batch_name = relation_name(view->batch), .text = text, .lateness = palloc0(sizeof(Interval))};
	WindowQuery *query = analyze_window_query(text);
	bool		same = same_windows(&view->spec, &query->spec);
	WindowView *changed;
	CatalogScope scope;
	int64		rows;

	if (query->sub->id != sub->id)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("window view %s is filled by subscription \"%s\", its query would be by \"%s\"",
						view->name, sub->name, query->sub->name)));
	new.lateness->time = view->lateness;
	define_state(query, &new, next_view_id(), view->owner);
	check_columns(view, query, &new);
	define_batch(query, &new, true);
	update_view(query, view->id, &new, same);
	CommandCounterIncrement();
	changed = load_window_view(view->id);
	if (same)
	{
		require_metadata(changed);
		check_replays(changed);
	}
	rows = window_fill(changed, same);
	free_window_view(changed);
	define_reading(query, &new, view->id, true);
	catalog_begin(&scope);
	catalog_execute(psprintf("DROP TABLE %s", relation_name(view->state)), 0, NULL);
	catalog_end(&scope);
	return rows;
}

/* The same query once more. */
static int64
refill_view(WindowView *view)
{
	CatalogScope scope;

	require_metadata(view);
	check_replays(view);
	/* readers see the old state until we commit */
	catalog_begin(&scope);
	catalog_execute(psprintf("DELETE FROM %s", relation_name(view->state)), 0, NULL);
	/* the view may have got another owner */
	grant_state(relation_name(view->state), view->owner);
	catalog_end(&scope);
	CommandCounterIncrement();
	return window_fill(view, true);
}

/* The fill has judged what came while it stood still. */
static void
start_view(int32 id)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(id)};

	catalog_begin(&scope);
	catalog_execute("UPDATE kappa.window_view SET stop_reason = NULL, stop_since = NULL, stop_watermark = NULL, stop_positions = NULL "
					"WHERE id = $1", 1, args);
	catalog_end(&scope);
}

static void
comparing(void *arg)
{
	errcontext("comparing final windows with their rows before kappa.rebuild(); force => true leaves that out");
}

/* Then rows have come that it has not judged: the fill does that. */
static bool
stands_still(const WindowView *view)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(view->id)};
	bool		stopped;

	catalog_begin(&scope);
	stopped = catalog_execute("SELECT FROM kappa.window_view WHERE id = $1 AND stop_reason IS NOT NULL", 1, args) > 0;
	catalog_end(&scope);
	return stopped;
}

/* Rows that are gone from the table would be gone from final windows too. */
static void
check_final_windows(const WindowView *view)
{
	ErrorContextCallback callback = {.previous = error_context_stack, .callback = comparing};
	Oid			types[] = {TEXTOID, INT4OID, INT8OID};
	Datum		args[] = {CStringGetTextDatum(view->name), Int32GetDatum(view->id), Int64GetDatum(view->lateness)};
	int64		changed;
	bool		null;

	error_context_stack = &callback;
	SPI_connect();
	if (SPI_execute_with_args("SELECT count(*) FROM kappa.reconcile($1) r WHERE r.window_end + $3 * interval '1 microsecond' <= kappa.final_watermark($2)",
							  lengthof(types), types, args, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not compare window view %s", view->name);
	changed = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
	SPI_finish();
	error_context_stack = callback.previous;
	if (changed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a rebuild would change %lld final windows of %s", (long long) changed, view->name),
				 errdetail("Their rows have been deleted, changed or added by hand."),
				 errhint("SELECT * FROM kappa.reconcile(%s) shows them; kappa.rebuild(..., force => true) takes the rows as they are.",
						 quote_literal_cstr(view->name))));
}

/* kappa.rebuild(name text, query text, force boolean) RETURNS bigint: rows that it was computed from */
Datum
kappa_rebuild(PG_FUNCTION_ARGS)
{
	int32		subscription;
	WindowView *view = control_window_view(text_argument(fcinfo, 0, "name"), "kappa.rebuild()", &subscription);
	Subscription *sub = subscription_by_id(subscription, false);
	int64		rows;

	check_isolation("kappa.rebuild()");
	check_view_target(sub);
	if (PG_ARGISNULL(1) && (PG_ARGISNULL(2) || !PG_GETARG_BOOL(2)) && !stands_still(view))
		check_final_windows(view);
	rows = PG_ARGISNULL(1) ? refill_view(view) : replace_view(view, sub, text_argument(fcinfo, 1, "query"));
	start_view(view->id);
	free_window_view(view);
	touch_subscription(subscription);
	PG_RETURN_INT64(rows);
}
