/*
 * window_view.c
 *		Window views, loaded for those who keep or read them.
 *
 * The definition is the tree of NAME_batch itself (window_control.c says what a view
 * consists of), so a renamed column or function needs no care.  That view belongs to
 * whoever made the window view, who may put any other in its place: the shape is
 * checked, and all that is called on the way is called as him.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_agg.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteSupport.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/ruleutils.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "target_table.h"
#include "window_grid.h"
#include "window_view.h"

/* ---------------------------------------------------------------- names */

char *
relation_name(Oid relid)
{
	char	   *name = get_rel_name(relid);

	if (name == NULL)
		return psprintf("%u", relid);	/* dropped by hand */
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name);
}

/* ---------------------------------------------------------------- stopping */

/*
 * The watermark kept here is no earlier than the one that readers have seen so far: the
 * least of all partitions, ours among them, which move with this transaction.
 */
void
stop_window_view(const WindowView *view, const char *reason)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(view->id), CATALOG_TEXT(reason)};

	catalog_begin(&scope);
	catalog_execute("UPDATE kappa.window_view v SET stop_reason = $2, stop_since = clock_timestamp(), "
					"(stop_watermark, stop_positions) = (SELECT coalesce(max(p.verdict_watermark), '-infinity'), "
					"coalesce(jsonb_object_agg(p.part, p.next_offset), '{}') FROM kappa.position p WHERE p.subscription = v.subscription) "
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
	require_shape(rte->rtekind == RTE_SUBQUERY && rte->subquery->commandType == CMD_SELECT);
	return rte->subquery;
}

/* A month has 31 days and a day 26 hours at most, wherever its clocks are changed. */
static int64
longest_span(const WindowLength *length)
{
	return length->micros + (length->days + length->months * INT64CONST(31)) * 26 * USECS_PER_HOUR;
}

static void
check_span(int64 span)
{
	if (span > MAX_WINDOW_YEARS * INT64CONST(366) * USECS_PER_DAY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("windows of a window view can be %d years long at most", MAX_WINDOW_YEARS)));
}

static void
load_window(WindowView *view, Query *windows)
{
	Node	   *call;
	WindowLength length;
	WindowLength slide;
	WindowStatus status;
	const int64_t *origin;
	ZoneCache  *zone = NULL;

	require_shape(windows->targetList != NIL);
	call = (Node *) linitial_node(TargetEntry, windows->targetList)->expr;
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
		check_span(view->span);
		return;
	}
	view->span = longest_span(&length);
	check_span(view->span);
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
	if (view->hop.npanes > MAX_HOPS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a row of a window view can be in %d hopping windows at most", MAX_HOPS),
				 errhint("Choose a longer slide.")));
	window_hop_panes(&view->hop, &view->grid);
	view->may_miss = !view->hop.panes && view->hop.size < view->hop.slide.step;
}

static KeyKind
key_kind(const TypeCacheEntry *type, Oid collation)
{
	switch (type->type_id)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return KEY_IMAGE;
		case TEXTOID:
		case VARCHAROID:
			return OidIsValid(collation) && get_collation_isdeterministic(collation) ? KEY_BYTES : KEY_OTHER;
		default:
			return type->typtype == TYPTYPE_ENUM ? KEY_IMAGE : KEY_OTHER;
	}
}

static void
load_key(ViewKey *key, Node *expr)
{
	TypeCacheEntry *type = lookup_type_cache(exprType(expr), TYPECACHE_HASH_EXTENDED_PROC_FINFO | TYPECACHE_EQ_OPR_FINFO);

	key->type = type->type_id;
	key->collation = exprCollation(expr);
	key->kind = key_kind(type, key->collation);
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
	"(extract(epoch FROM retention) * 1000000)::bigint, closed_upto, trimmed_upto, " \
	"(SELECT s.target::oid FROM kappa.subscription s WHERE s.id = window_view.subscription), " \
	"(SELECT s.owner::oid FROM kappa.subscription s WHERE s.id = window_view.subscription)"

static WindowView *
read_view(int row, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "window view", ALLOCSET_SMALL_SIZES);
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
	value = catalog_value(row, 8, &null);
	view->closed_upto = null ? DT_NOBEGIN : DatumGetTimestampTz(value);
	value = catalog_value(row, 9, &null);
	view->trimmed_upto = null ? DT_NOBEGIN : DatumGetTimestampTz(value);
	view->target = DatumGetObjectId(catalog_value(row, 10, &null));
	view->source_owner = DatumGetObjectId(catalog_value(row, 11, &null));
	view->shared = true;
	MemoryContextSwitchTo(old);
	return view;
}

/* Where FROM names the target: once, and as a table of its own. */
static void
find_target(WindowView *view)
{
	ListCell   *lc;

	view->source = 0;
	foreach(lc, view->input->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind != RTE_RELATION || rte->relid != view->target)
			continue;
		require_shape(view->source == 0);
		view->source = foreach_current_index(lc) + 1;
	}
	require_shape(view->source != 0);
}

/* Who may not see the subscription's rows any more gets no more of them in his windows. */
bool
window_owner_may(const WindowView *view)
{
	return OidIsValid(view->source_owner) && is_member_of_role(view->owner, view->source_owner);
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
	if (!window_owner_may(view))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the owner of window view \"%s\" is no member of the subscription's owner", view->name),
				 errhint("GRANT the role to him, or ALTER VIEW ... OWNER TO one who is.")));
	load_definition(view, batch);
	find_target(view);
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
 * What is wrong with one view must keep neither the others nor the rows: it stops that
 * view, and false is returned.
 */
bool
window_attempt(WindowView *view, void (*work) (WindowView *view, void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool done = false;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		MemoryContextSwitchTo(context);
		work(view, arg);
		ReleaseCurrentSubTransaction();
		done = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		CurrentResourceOwner = owner;
		if (window_error_passes(error->sqlerrcode))
			ThrowErrorData(error);
		stop_window_view(view, psprintf("%s: %s", unpack_sql_state(error->sqlerrcode), error->message));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return done;
}

static void
complete(WindowView *view, void *exists)
{
	*(bool *) exists = complete_view(view);
}

/* stop: an error stops the view instead of the caller. */
static bool
try_complete_view(WindowView *view, bool stop)
{
	bool		exists = false;

	if (!stop)
		return complete_view(view);
	return window_attempt(view, complete, &exists) && exists;
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
		read = lappend(read, read_view(row, caller));
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
