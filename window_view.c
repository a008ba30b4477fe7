/*
 * window_view.c
 *		Window views: what they consist of, made, dropped and loaded.
 *
 *		NAME			the view that is read: the state's partials combined, is_final
 *		NAME_batch		the same result computed from the rows; it is the definition,
 *						and carries the dependencies on the columns that it uses
 *		kappa.window_state_N	the partials (window_state.c), written by workers only
 *		kappa.window_view		a row for it all
 *
 * The two views belong to whoever made them, the table to the extension's owner.
 * A worker reads the definition from NAME_batch's own tree, so a renamed column or
 * function needs no care.
 *
 * Whoever changes a view holds the subscription's lock exclusively and raises its
 * generation: no batch in flight sees half of it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_agg.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteSupport.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/elog.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"
#include "utils/varlena.h"

#include "arguments.h"
#include "catalog.h"
#include "compat.h"
#include "shmem.h"
#include "subscription.h"
#include "target_table.h"
#include "window_batch.h"
#include "window_grid.h"
#include "window_query.h"
#include "window_read.h"
#include "window_view.h"

#define STATE_FILLFACTOR	50	/* an update finds room on its own page */

PG_FUNCTION_INFO_V1(kappa_create_window_view);
PG_FUNCTION_INFO_V1(kappa_drop_window_view);
PG_FUNCTION_INFO_V1(kappa_window_hops);

/* ---------------------------------------------------------------- stopping */

void
stop_window_view(const WindowView *view, const char *reason)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(view->id), CATALOG_TEXT(reason)};

	catalog_begin(&scope);
	catalog_execute("UPDATE kappa.window_view SET stop_reason = $2, stop_since = clock_timestamp() "
					"WHERE id = $1 AND stop_reason IS NULL", 2, args);
	catalog_end(&scope);
	ereport(LOG,
			(errmsg("window view \"%s\" stopped: %s", view->name, reason),
			 errhint("Mend the cause, then SELECT kappa.rebuild(%s).", quote_literal_cstr(view->name))));
}

/* ---------------------------------------------------------------- loading */

/*
 * The batch form belongs to the view's owner, who may put another query in its place:
 * nothing of its shape is certain.
 */
static void
require_shape(bool right)
{
	if (!right)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the batch form of a window view has been replaced by another query"),
				 errhint("Drop the window view and make it again.")));
}

/* The only subquery of a FROM. */
static Query *
only_source(Query *query)
{
	RangeTblRef *reference;
	RangeTblEntry *rte;

	require_shape(list_length(query->jointree->fromlist) == 1 &&
				  IsA(linitial(query->jointree->fromlist), RangeTblRef) && query->setOperations == NULL);
	reference = linitial_node(RangeTblRef, query->jointree->fromlist);
	rte = rt_fetch(reference->rtindex, query->rtable);
	require_shape(rte->rtekind == RTE_SUBQUERY);
	return rte->subquery;
}

/* A month has 31 days and a day 26 hours at most, wherever its clocks are changed. */
static int64
longest_span(const WindowLength *length)
{
	return length->micros + (length->days + length->months * INT64CONST(31)) * 26 * USECS_PER_HOUR;
}

static void
load_window(WindowView *view, Query *windows)
{
	Node	   *call = (Node *) linitial_node(TargetEntry, windows->targetList)->expr;
	WindowLength length;
	WindowLength slide;
	WindowStatus status;
	const int64_t *origin;
	ZoneCache  *zone = NULL;

	if (IsA(call, WindowFunc))
	{
		WindowFunc *over = (WindowFunc *) call;

		call = (Node *) makeFuncExpr(over->winfnoid, over->wintype, over->args, InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	}
	require_shape(IsA(call, FuncExpr) && is_window_function(((FuncExpr *) call)->funcid, &view->spec.kind));
	view->spec = window_spec((FuncExpr *) call);
	length = window_length(&view->spec.size, "size");
	if (view->spec.kind == WINDOW_SESSION)
	{
		int64_t		gap;

		status = window_gap(&length, &gap);
		view->gap = view->span = gap;
		if (status != WINDOW_OK)
			window_length_error(status, "gap");
		return;
	}
	view->span = longest_span(&length);
	origin = view->spec.has_origin ? &view->spec.origin : NULL;
	if (view->spec.zone)
	{
		zone = palloc0(sizeof(ZoneCache));
		zone_cache_open(zone, view->spec.zone);
	}
	if (view->spec.kind == WINDOW_TUMBLE)
	{
		status = window_grid_init(&view->grid, &window_axis_timestamp, &length, origin, zone ? &zone->zone : NULL);
		if (status != WINDOW_OK)
			window_length_error(status, "size");
		return;
	}
	slide = window_length(&view->spec.slide, "slide");
	status = window_hop_init(&view->hop, &window_axis_timestamp, &length, &slide, origin, zone ? &zone->zone : NULL);
	if (status != WINDOW_OK)
		window_length_error(status, "size and slide");
	window_hop_panes(&view->hop, &view->grid);
	view->may_miss = !view->hop.panes && view->hop.size < view->hop.slide.step;
}

static void
load_key(ViewKey *key, Node *expr)
{
	TypeCacheEntry *type = lookup_type_cache(exprType(expr), TYPECACHE_HASH_EXTENDED_PROC_FINFO | TYPECACHE_EQ_OPR_FINFO);

	key->type = type->type_id;
	key->collation = exprCollation(expr);
	key->byval = type->typbyval;
	key->len = type->typlen;
	fmgr_info_copy(&key->hash, &type->hash_extended_proc_finfo, CurrentMemoryContext);
	fmgr_info_copy(&key->equal, &type->eq_opr_finfo, CurrentMemoryContext);
}

/* Arguments are columns of "win, r.*": their places in r count from 0. */
static int
input_place(Node *column)
{
	require_shape(IsA(column, Var) && ((Var *) column)->varattno > 2);
	return ((Var *) column)->varattno - 2;
}

static void
load_aggregate(ViewAgg *agg, Aggref *call)
{
	Oid			argtypes[FUNC_MAX_ARGS];
	int			nargs = get_aggregate_argtypes(call, argtypes);
	ListCell   *lc;

	require_shape(call->aggdistinct == NIL && call->aggorder == NIL && call->aggkind == AGGKIND_NORMAL &&
				  list_length(call->args) == nargs);
	agg->argtypes = memcpy(palloc(sizeof(Oid) * Max(nargs, 1)), argtypes, sizeof(Oid) * nargs);
	partial_agg_init(&agg->agg, call->aggfnoid, argtypes, nargs, call->aggtype, call->inputcollid);
	agg->args = palloc(sizeof(int) * Max(nargs, 1));
	foreach(lc, call->args)
		agg->args[foreach_current_index(lc)] = input_place((Node *) lfirst_node(TargetEntry, lc)->expr);
	agg->filter = call->aggfilter ? input_place((Node *) call->aggfilter) : -1;
}

/* The same as window_query.c knows it: arguments are numbers of x columns. */
static WindowAggregate *
window_aggregate(const WindowView *view, const ViewAgg *agg, Aggref *call)
{
	WindowAggregate *result = palloc0(sizeof(WindowAggregate));

	result->call = copyObject(call);
	for (int i = 0; i < agg->agg.nargs; i++)
		result->args = lappend_int(result->args, agg->args[i] - view->nkeys);
	result->filter = agg->filter < 0 ? 0 : agg->filter - view->nkeys;
	return result;
}

/* From the tree of NAME_batch: the outputs over c over i over r. */
static void
load_definition(WindowView *view, Relation batch)
{
	Query	   *groups = only_source(get_view_query(batch));
	Query	   *windows = only_source(groups);
	ListCell   *lc;

	load_window(view, windows);
	view->input = copyObject(only_source(windows));
	view->query = palloc0(sizeof(WindowQuery));
	view->query->spec = view->spec;
	view->query->input = view->input;
	view->keys = palloc0(sizeof(ViewKey) * list_length(groups->targetList));
	view->aggs = palloc0(sizeof(ViewAgg) * list_length(groups->targetList));
	for_each_from(lc, groups->targetList, 2)
	{
		Node	   *expr = (Node *) lfirst_node(TargetEntry, lc)->expr;

		if (lfirst_node(TargetEntry, lc)->resjunk)
			continue;
		if (IsA(expr, Aggref))
		{
			load_aggregate(&view->aggs[view->naggs], (Aggref *) expr);
			view->query->aggregates = lappend(view->query->aggregates,
											  window_aggregate(view, &view->aggs[view->naggs++], (Aggref *) expr));
		}
		else
		{
			load_key(&view->keys[view->nkeys++], expr);
			view->query->keys = lappend(view->query->keys, copyObject(expr));
		}
	}
}

#define VIEW_COLUMNS \
	"id, subscription, view, batch, state, (extract(epoch FROM allowed_lateness) * 1000000)::bigint, " \
	"(extract(epoch FROM retention) * 1000000)::bigint"

static WindowView *
read_view(int row)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "window view", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	WindowView *view = palloc0(sizeof(WindowView));
	bool		null;
	Datum		value;

	view->context = context;
	view->id = DatumGetInt32(catalog_value(row, 1, &null));
	view->subscription = DatumGetInt32(catalog_value(row, 2, &null));
	view->reading = DatumGetObjectId(catalog_value(row, 3, &null));
	view->name = relation_name(view->reading);
	view->batch = DatumGetObjectId(catalog_value(row, 4, &null));
	view->state = DatumGetObjectId(catalog_value(row, 5, &null));
	view->lateness = DatumGetInt64(catalog_value(row, 6, &null));
	value = catalog_value(row, 7, &null);
	view->retention = null ? 0 : DatumGetInt64(value);
	MemoryContextSwitchTo(old);
	return view;
}

/* Do the types of layer r, of the state's columns and of what we make of them agree? */
static void
check_layer(const WindowView *view)
{
	Relation	state = table_open(view->state, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(state);
	int			ncolumns = list_length(view->input->targetList);

	require_shape(desc->natts == STATE_KEYS - 1 + view->nkeys + view->naggs && ncolumns > view->nkeys &&
				  exprType((Node *) linitial_node(TargetEntry, view->input->targetList)->expr) == TIMESTAMPTZOID);
	for (int k = 0; k < view->nkeys; k++)
		require_shape(TupleDescAttr(desc, STATE_KEYS - 1 + k)->atttypid == view->keys[k].type &&
					  exprType((Node *) list_nth_node(TargetEntry, view->input->targetList, k + 1)->expr) == view->keys[k].type);
	for (int a = 0; a < view->naggs; a++)
	{
		const ViewAgg *agg = &view->aggs[a];

		require_shape(agg->filter < ncolumns);
		for (int i = 0; i < agg->agg.nargs; i++)
			require_shape(agg->args[i] < ncolumns &&
						  exprType((Node *) list_nth_node(TargetEntry, view->input->targetList, agg->args[i])->expr) == agg->argtypes[i]);
		require_shape(agg->filter < 0 ||
					  exprType((Node *) list_nth_node(TargetEntry, view->input->targetList, agg->filter)->expr) == BOOLOID);
	}
	table_close(state, AccessShareLock);
}

/* Views that are gone (dropped by hand) give nothing. */
static bool
complete_view(WindowView *view)
{
	Relation	batch = try_relation_open(view->batch, AccessShareLock);
	MemoryContext old;
	UserScope	scope;

	if (batch == NULL)
		return false;
	old = MemoryContextSwitchTo(view->context);
	view->owner = batch->rd_rel->relowner;
	/* constants are folded and types' input functions called on the way: his code */
	user_scope_begin(&scope, view->owner, "pg_catalog, pg_temp");
	require_shape(batch->rd_rel->relkind == RELKIND_VIEW);
	load_definition(view, batch);
	check_layer(view);
	user_scope_end(&scope);
	MemoryContextSwitchTo(old);
	relation_close(batch, NoLock);
	return true;
}

void
free_window_view(WindowView *view)
{
	MemoryContextDelete(view->context);
}

/*
 * stop: what is wrong with one view must not keep the subscription's worker from its
 * rows; it stops that view.
 */
static bool
try_complete_view(WindowView *view, bool stop)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool complete = false;

	if (!stop)
		return complete_view(view);
	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		complete = complete_view(view);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		CurrentResourceOwner = owner;
		stop_window_view(view, psprintf("%s: %s", unpack_sql_state(error->sqlerrcode), error->message));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return complete;
}

static List *
load_views(const char *sql, int32 id, bool stop)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(id)};
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext old;
	List	   *read = NIL;
	List	   *views = NIL;
	ListCell   *lc;
	int			n;

	catalog_begin(&scope);
	n = (int) catalog_execute(sql, 1, args);
	old = MemoryContextSwitchTo(caller);
	for (int row = 0; row < n; row++)
		read = lappend(read, read_view(row));
	MemoryContextSwitchTo(old);
	catalog_end(&scope);
	foreach(lc, read)
	{
		WindowView *view = lfirst(lc);

		if (try_complete_view(view, stop))
			views = lappend(views, view);
		else
			free_window_view(view);
	}
	return views;
}

List *
load_window_views(int32 subscription)
{
	return load_views("SELECT " VIEW_COLUMNS " FROM kappa.window_view WHERE subscription = $1 "
					  "AND stop_reason IS NULL ORDER BY id", subscription, true);
}

WindowView *
load_window_view(int32 id)
{
	List	   *views = load_views("SELECT " VIEW_COLUMNS " FROM kappa.window_view WHERE id = $1", id, false);

	return views == NIL ? NULL : linitial(views);
}

/* ---------------------------------------------------------------- making */

/* search_path for deparsing and parsing what we make up ourselves */
int
pin_search_path(void)
{
	int			level = NewGUCNestLevel();

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	return level;
}

static void
execute_as_caller(const char *sql)
{
	SPI_connect();
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
	SPI_finish();
}

static bool
fixed_length_keys(const WindowQuery *query)
{
	ListCell   *lc;

	foreach(lc, query->keys)
		if (get_typlen(exprType(lfirst(lc))) < 0)
			return false;
	return query->keys != NIL;
}

/*
 * Besides the writer's index one for readers who ask for a key: a B-tree where no key can
 * be too long for it, else a hash of the first.
 */
static void
create_state_indexes(const WindowQuery *query, const char *table)
{
	bool		session = query->spec.kind == WINDOW_SESSION;
	StringInfoData sql;

	catalog_execute(psprintf("CREATE INDEX ON %s (%s)", table,
							 session ? "key_hash, window_start" : "window_start, key_hash"), 0, NULL);
	if (session)
		catalog_execute(psprintf("CREATE INDEX ON %s USING brin (window_start)", table), 0, NULL);
	if (query->keys == NIL)
		return;
	initStringInfo(&sql);
	if (fixed_length_keys(query))
	{
		appendStringInfo(&sql, "CREATE INDEX ON %s (k1", table);
		for (int k = 2; k <= list_length(query->keys); k++)
			appendStringInfo(&sql, ", k%d", k);
		appendStringInfoString(&sql, ", window_start)");
	}
	else
		appendStringInfo(&sql, "CREATE INDEX ON %s USING hash (k1)", table);
	catalog_execute(sql.data, 0, NULL);
}

/* The table for a new view's partials; its name, qualified. */
static char *
create_state_table(const WindowQuery *query, int32 id, Oid reader)
{
	char	   *table = psprintf("kappa.window_state_%d", id);
	CatalogScope scope;

	catalog_begin(&scope);
	catalog_execute(psprintf("CREATE TABLE %s (window_start timestamptz NOT NULL, window_end timestamptz NOT NULL, "
							 "first_window timestamptz NOT NULL, key_hash uuid NOT NULL, worker integer NOT NULL%s) "
							 "WITH (fillfactor = %d)", table, window_state_columns(query), STATE_FILLFACTOR), 0, NULL);
	create_state_indexes(query, table);
	catalog_execute(psprintf("GRANT SELECT ON %s TO %s", table,
							 quote_identifier(GetUserNameFromId(reader, false))), 0, NULL);
	catalog_end(&scope);
	return table;
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

/* SELECT of the view that is read */
static char *
reading_query(const WindowQuery *query, int32 id, const NewView *new)
{
	char	   *lateness = DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(new->lateness)));

	return window_outputs(query, window_state_layer(query, id, new->state),
						  psprintf(", w.window_end + %s::interval <= (SELECT kappa.final_watermark(%d)) AS is_final",
								   quote_literal_cstr(lateness), query->sub->id));
}

/* "schema"."name" of a view to be, in the schema that CREATE VIEW would choose */
char *
new_view_name(const char *name)
{
	RangeVar   *var = makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name)));

	return quote_qualified_identifier(get_namespace_name(RangeVarGetCreationNamespace(var)), var->relname);
}

static void
name_new_view(NewView *new, const char *name)
{
	RangeVar   *var = makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name)));
	char	   *batch = psprintf("%s_batch", var->relname);
	Oid			namespace = RangeVarGetCreationNamespace(var);

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
	return PG_GETARG_INTERVAL_P(number);
}

static void
check_target(const Subscription *sub)
{
	TargetTable *target = target_open(sub);

	if (target->general)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("relation \"%s\" cannot have window views", RelationGetRelationName(target->rel)),
				 errdetail("It is no plain table, or it has rules or BEFORE ROW triggers, so its rows are not what the messages say."),
				 errhint("Use a transform in the subscription instead of the trigger.")));
	target_close(target);
}

/* Rows that were committed before we had the lock must be seen. */
void
check_isolation(const char *function)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s cannot run in a REPEATABLE READ or SERIALIZABLE transaction", function),
				 errhint("Call it in a READ COMMITTED transaction.")));
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
	int			level;

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
	check_target(sub);
	name_new_view(&new, name);
	id = next_view_id();
	level = pin_search_path();
	new.state = create_state_table(query, id, GetUserId());
	execute_as_caller(psprintf("CREATE VIEW %s AS %s", new.name, reading_query(query, id, &new)));
	execute_as_caller(psprintf("CREATE VIEW %s AS %s", new.batch_name,
							   window_outputs(query, window_batch_layer(query, NULL, NULL), NULL)));
	AtEOXact_GUC(false, level);
	insert_view(query, id, &new);
	CommandCounterIncrement();
	view = load_window_view(id);
	rows = window_fill(view, false);
	free_window_view(view);
	touch_subscription(sub->id);
	PG_RETURN_INT64(rows);
}

/* ---------------------------------------------------------------- dropping */

WindowView *
control_window_view(const char *name, const char *function, int32 *subscription_id)
{
	Oid			relid = RangeVarGetRelid(makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name))), NoLock, true);
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_OID(relid)};
	MemoryContext caller = CurrentMemoryContext;
	WindowView *view = NULL;
	char	   *subscription = NULL;
	int32		id = 0;
	bool		null;

	catalog_begin(&scope);
	if (OidIsValid(relid) &&
		catalog_execute("SELECT v.id, s.name FROM kappa.window_view v JOIN kappa.subscription s ON s.id = v.subscription "
						"WHERE v.view = $1", 1, args) == 1)
	{
		id = DatumGetInt32(catalog_value(0, 1, &null));
		subscription = MemoryContextStrdup(caller, TextDatumGetCString(catalog_value(0, 2, &null)));
	}
	catalog_end(&scope);
	if (subscription == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("window view \"%s\" does not exist", name),
				 errhint("SELECT name FROM kappa.window_views.")));
	*subscription_id = control_subscription(subscription, function)->id;
	view = load_window_view(id);
	if (view == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the batch form of window view \"%s\" does not exist any more", name)));
	return view;
}

char *
relation_name(Oid relid)
{
	char	   *name = get_rel_name(relid);

	if (name == NULL)
		return psprintf("%u", relid);	/* dropped by hand */
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name);
}

/* kappa.drop_window_view(name text) RETURNS void */
Datum
kappa_drop_window_view(PG_FUNCTION_ARGS)
{
	int32		subscription;
	WindowView *view = control_window_view(text_argument(fcinfo, 0, "name"), "kappa.drop_window_view()", &subscription);
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(view->id)};
	char	   *state = relation_name(view->state);
	bool		null;
	Oid			reading;

	catalog_begin(&scope);
	catalog_execute("DELETE FROM kappa.window_view WHERE id = $1 RETURNING view", 1, args);
	reading = DatumGetObjectId(catalog_value(0, 1, &null));
	catalog_execute("DELETE FROM kappa.late_row WHERE view = $1", 1, args);
	catalog_end(&scope);
	execute_as_caller(psprintf("DROP VIEW %s, %s", relation_name(reading), relation_name(view->batch)));
	catalog_begin(&scope);
	catalog_execute(psprintf("DROP TABLE %s", state), 0, NULL);
	catalog_end(&scope);
	free_window_view(view);
	touch_subscription(subscription);
	PG_RETURN_VOID();
}

/* ---------------------------------------------------------------- hopping windows to read */

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

/* All windows that hold the pane and begin behind the last one given. */
static void
put_windows(ReturnSetInfo *rsinfo, WindowView *view, TimestampTz pane, TimestampTz *last)
{
	WindowHopScan scan;

	if (window_hop_begin(&view->hop, pane, &scan) != WINDOW_OK)
		return;
	while (scan.left > 0)
	{
		int64_t		start;
		int64_t		end;
		Datum		values[2];
		bool		nulls[2] = {false, false};

		if (window_hop_next(&view->hop, &scan, &start, &end) != WINDOW_OK)
			return;
		if (start <= *last)
			continue;
		*last = start;
		values[0] = TimestampTzGetDatum(start);
		values[1] = TimestampTzGetDatum(end);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/*
 * kappa.window_hops(view integer) RETURNS TABLE (window_start timestamptz,
 * window_end timestamptz): the windows of a hopping view that hold any row,
 * ascending.  Reads with the snapshot of the query that calls it.
 */
Datum
kappa_window_hops(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	WindowView *view = load_window_view(PG_GETARG_INT32(0));
	TimestampTz pane = DT_NOBEGIN;
	TimestampTz last = DT_NOBEGIN;
	Oid			type = TIMESTAMPTZOID;
	CatalogScope scope;
	SPIPlanPtr	plan;

	InitMaterializedSRF(fcinfo, 0);
	if (view == NULL || view->spec.kind != WINDOW_HOP)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no hopping window view %d", PG_GETARG_INT32(0))));
	catalog_begin(&scope);
	plan = SPI_prepare(psprintf("SELECT min(window_start) FROM %s WHERE window_start > $1", relation_name(view->state)), 1, &type);
	while (next_pane(plan, pane, &pane))
	{
		CHECK_FOR_INTERRUPTS();
		put_windows(rsinfo, view, pane, &last);
	}
	catalog_end(&scope);
	free_window_view(view);
	return (Datum) 0;
}
