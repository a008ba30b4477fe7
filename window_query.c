/*
 * window_query.c
 *		A window view's query, taken apart and put together anew.
 *
 * The user's SELECT is analyzed once, when the view is made.  It becomes three
 * layers: r gives a row its time, keys and arguments (and does all that is in FROM
 * and WHERE), c aggregates by window and keys, and above it stand the user's own
 * expressions over keys and aggregates.  Layer c exists twice, over the rows (the
 * batch form) and over the partials of the state table; the other two are the same
 * text in both, so the two forms can only differ in what was aggregated.
 *
 * The text goes through the server's own deparser, so names are qualified and the
 * stored views follow renames and carry the dependencies.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parse_agg.h"
#include "parser/parse_func.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "compat.h"
#include "partial.h"
#include "window_check.h"
#include "window_query.h"

/* ---------------------------------------------------------------- the function */

static Oid
window_function(const char *name, int nargs)
{
	Oid			args[] = {TIMESTAMPTZOID, INTERVALOID, TIMESTAMPTZOID, TEXTOID, TEXTOID};

	if (nargs == 5)
	{
		args[2] = INTERVALOID;
		args[3] = TIMESTAMPTZOID;
	}
	return LookupFuncName(list_make2(makeString("kappa"), makeString(pstrdup(name))), nargs, args, true);
}

bool
is_window_function(Oid function, WindowKind *kind)
{
	static const struct
	{
		const char *name;
		int			nargs;
		WindowKind	kind;
	}			functions[] = {
		{"tumble", 4, WINDOW_TUMBLE}, {"hop", 5, WINDOW_HOP}, {"session", 2, WINDOW_SESSION},
		{"session_window", 2, WINDOW_SESSION}
	};

	if (!OidIsValid(function))
		return false;
	for (int i = 0; i < lengthof(functions); i++)
		if (function == window_function(functions[i].name, functions[i].nargs))
		{
			*kind = functions[i].kind;
			return true;
		}
	return false;
}

static Const *
constant_argument(FuncExpr *call, int number, const char *name, bool null_allowed)
{
	Const	   *constant = list_nth(call->args, number);

	if (!IsA(constant, Const))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s of a window must be a constant", name),
				 errposition(exprLocation((Node *) constant) + 1)));
	if (constant->constisnull && !null_allowed)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s of a window must not be NULL", name),
				 errposition(exprLocation((Node *) call) + 1)));
	return constant;
}

WindowSpec
window_spec(FuncExpr *call)
{
	WindowSpec	spec = {0};
	Const	   *constant;
	int			arg = 1;

	/* named arguments to their places, defaults filled in, constants folded */
	call = castNode(FuncExpr, eval_const_expressions(NULL, (Node *) copyObject(call)));
	if (!is_window_function(call->funcid, &spec.kind))
		elog(ERROR, "function %u makes no windows", call->funcid);
	constant = constant_argument(call, arg++, spec.kind == WINDOW_SESSION ? "the gap" : "the size", false);
	spec.size = *DatumGetIntervalP(constant->constvalue);
	if (spec.kind == WINDOW_SESSION)
		return spec;
	if (spec.kind == WINDOW_HOP)
		spec.slide = *DatumGetIntervalP(constant_argument(call, arg++, "the slide", false)->constvalue);
	constant = constant_argument(call, arg++, "the origin", true);
	spec.has_origin = !constant->constisnull;
	if (spec.has_origin)
		spec.origin = DatumGetTimestampTz(constant->constvalue);
	constant = constant_argument(call, arg++, "the time zone", true);
	if (!constant->constisnull)
		spec.zone = TextDatumGetCString(constant->constvalue);
	return spec;
}

/* ---------------------------------------------------------------- parsing */

static void
query_error_context(void *arg)
{
	int			position = geterrposition();

	if (position <= 0)
		return;
	errposition(0);
	internalerrposition(position);
	internalerrquery(arg);
}

Query *
parse_window_query(const char *text)
{
	List	   *statements = raw_parser(text, RAW_PARSE_DEFAULT);
	RawStmt    *raw;

	if (list_length(statements) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("a window view needs one SELECT, not %d statements", list_length(statements))));
	raw = linitial(statements);
	if (!IsA(raw->stmt, SelectStmt) || castNode(SelectStmt, raw->stmt)->intoClause)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the query of a window view must be a SELECT")));
	return parse_analyze_fixedparams(raw, text, NULL, 0, NULL);
}

/* ---------------------------------------------------------------- the source */

typedef struct Source
{
	Oid			relid;
	int			times;
} Source;

static bool
count_source_walker(Node *node, void *context)
{
	Source	   *source = context;

	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		source->times += rte->rtekind == RTE_RELATION && rte->relid == source->relid;
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, count_source_walker, context, QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, count_source_walker, context);
}

static char *
subscription_of_target(Oid relid, bool *upsert)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_OID(relid)};
	MemoryContext context = CurrentMemoryContext;
	char	   *name = NULL;
	bool		null;
	int			n;

	catalog_begin(&scope);
	n = (int) catalog_execute("SELECT name, mode = 'upsert' FROM kappa.subscription WHERE target = $1", 1, args);
	if (n == 1)
	{
		name = MemoryContextStrdup(context, TextDatumGetCString(catalog_value(0, 1, &null)));
		*upsert = DatumGetBool(catalog_value(0, 2, &null));
	}
	catalog_end(&scope);
	if (n > 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("relation \"%s\" is the target of %d subscriptions", get_rel_name(relid), n),
				 errdetail("A window view needs a target that one subscription alone writes.")));
	return name;
}

/* The one relation of FROM that a subscription fills: its number in the range table. */
static Index
find_source(WindowQuery *result, Query *query)
{
	Index		found = 0;
	ListCell   *lc;
	Source		source = {InvalidOid, 0};

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);
		char	   *name;
		bool		upsert = false;

		if (rte->rtekind != RTE_RELATION || (name = subscription_of_target(rte->relid, &upsert)) == NULL)
			continue;
		if (upsert && found == 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("relation \"%s\" is the target of an upsert subscription", get_rel_name(rte->relid)),
					 errdetail("Its rows change and go; a window view counts rows that stay."),
					 errhint("Subscribe to the topic a second time with mode => 'append'.")));
		if (found != 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("the query reads the targets of two subscriptions, \"%s\" and \"%s\"",
							result->sub->name, name),
					 errhint("Two streams cannot be joined in one window view.")));
		found = foreach_current_index(lc) + 1;
		result->sub = subscription_by_name(name, false);
		source.relid = rte->relid;
	}
	if (found == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the query of a window view must read the target of a subscription"),
				 errhint("SELECT name, target FROM kappa.subscriptions.")));
	(void) query_tree_walker(query, count_source_walker, &source, QTW_EXAMINE_RTES_BEFORE);
	if (source.times != 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("relation \"%s\" stands %d times in the query of a window view",
						get_rel_name(source.relid), source.times),
				 errdetail("Each new row is seen once, when it comes.")));
	return found;
}

static void
check_event_time(WindowQuery *result, Query *query, Index source)
{
	Oid			relid = rt_fetch(source, query->rtable)->relid;
	Var		   *var = linitial(result->window->args);
	char	   *column = result->sub->event_time;

	if (column == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" has no event_time", result->sub->name),
				 errhint("SELECT kappa.alter_subscription(%s, event_time => '...').",
						 quote_literal_cstr(result->sub->name))));
	if (!IsA(var, Var) || var->varno != source || var->varlevelsup != 0 ||
		strcmp(get_attname(relid, var->varattno, false), column) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the window function's first argument must be the event_time column \"%s\"", column),
				 errdetail("The watermark of subscription \"%s\" is that column's.", result->sub->name),
				 errposition(exprLocation((Node *) var) + 1)));
}

/* ---------------------------------------------------------------- windows, keys, aggregates */

/* tumble and hop of a timestamp or a date: what people try first. */
static void
refuse_other_window(Node *node)
{
	FuncExpr   *call = (FuncExpr *) node;
	char	   *name;

	if (!IsA(node, FuncExpr) || get_func_namespace(call->funcid) != get_namespace_oid("kappa", true))
		return;
	name = get_func_name(call->funcid);
	if (strcmp(name, "tumble") != 0 && strcmp(name, "hop") != 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("window views need a column of type timestamp with time zone, not %s",
					format_type_be(exprType(linitial(call->args)))),
			 errhint("ALTER TABLE ... ALTER COLUMN ... TYPE timestamptz USING ... AT TIME ZONE 'UTC'."),
			 errposition(exprLocation(node) + 1)));
}

static void
check_key(Node *key)
{
	TypeCacheEntry *type = lookup_type_cache(exprType(key), TYPECACHE_HASH_EXTENDED_PROC | TYPECACHE_EQ_OPR);

	if (!OidIsValid(type->hash_extended_proc) || !OidIsValid(type->eq_opr))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a key of type %s cannot be hashed", format_type_be(exprType(key))),
				 errhint("Group by another form of it, such as its text."),
				 errposition(exprLocation(key) + 1)));
}

static void
find_groups(WindowQuery *result, Query *query)
{
	ListCell   *lc;

	foreach(lc, query->groupClause)
	{
		Node	   *node = (Node *) get_sortgroupclause_tle(lfirst(lc), query->targetList)->expr;
		WindowKind	kind;

		if (!IsA(node, FuncExpr) || !is_window_function(((FuncExpr *) node)->funcid, &kind))
		{
			refuse_other_window(node);
			check_key(node);
			result->keys = lappend(result->keys, node);
			continue;
		}
		if (result->window != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("the query of a window view can group by one window only"),
					 errposition(exprLocation(node) + 1)));
		result->window = (FuncExpr *) node;
	}
	if (result->window == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the query of a window view must group by kappa.tumble, kappa.hop or kappa.session"),
				 errhint("SELECT kappa.tumble(ts, '1 minute'), count(*) FROM ... GROUP BY 1.")));
	result->spec = window_spec(result->window);
}

static void
check_aggregate_call(Aggref *call)
{
	const char *what = NULL;
	PartialAgg	agg;
	Oid			argtypes[FUNC_MAX_ARGS];
	int			nargs = get_aggregate_argtypes(call, argtypes);

	if (call->aggdistinct != NIL)
		what = "DISTINCT";
	else if (call->aggorder != NIL)
		what = "ORDER BY";
	else if (call->aggvariadic)
		what = "VARIADIC";
	if (what)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("aggregate %s with %s cannot be kept in a window view", format_procedure(call->aggfnoid), what),
				 strcmp(what, "DISTINCT") == 0 ?
				 errhint("Count distinct values with a sketch, such as hll_add_agg of postgresql-hll.") : 0,
				 errposition(exprLocation((Node *) call) + 1)));
	partial_agg_init(&agg, call->aggfnoid, argtypes, nargs, call->aggtype, call->inputcollid);
}

static bool
find_aggregates_walker(Node *node, void *context)
{
	WindowQuery *result = context;
	ListCell   *lc;
	WindowAggregate *found;

	if (node == NULL)
		return false;
	if (!IsA(node, Aggref))
		return expression_tree_walker(node, find_aggregates_walker, context);
	foreach(lc, result->aggregates)
		if (equal(((WindowAggregate *) lfirst(lc))->call, node))
			return false;
	check_aggregate_call((Aggref *) node);
	found = palloc0(sizeof(WindowAggregate));
	found->call = (Aggref *) node;
	result->aggregates = lappend(result->aggregates, found);
	return false;
}

/* Each state counts its rows, asked for or not: what differs in reconcile is told by it. */
static Aggref *
count_star(void)
{
	Aggref	   *call = makeNode(Aggref);

	call->aggfnoid = F_COUNT_;
	call->aggtype = INT8OID;
	call->aggtranstype = InvalidOid;
	call->aggstar = true;
	call->aggkind = AGGKIND_NORMAL;
	call->aggsplit = AGGSPLIT_SIMPLE;
	call->aggno = call->aggtransno = -1;
	call->location = -1;
	return call;
}

/* ---------------------------------------------------------------- layer r */

/* Number of the x column for the expression, added where it is a new one. */
static int
input_column(List **columns, Expr *expr)
{
	ListCell   *lc;

	foreach(lc, *columns)
		if (equal(lfirst(lc), expr))
			return foreach_current_index(lc) + 1;
	*columns = lappend(*columns, expr);
	return list_length(*columns);
}

static TargetEntry *
column(List *targets, Node *expr, char *name)
{
	return makeTargetEntry(copyObject((Expr *) expr), list_length(targets) + 1, name, false);
}

/* The metadata column of the source, where it has it. */
static List *
add_metadata(List *targets, Index source, Oid relid, const char *name, Oid type)
{
	AttrNumber	attno = get_attnum(relid, name);

	if (attno <= 0 || get_atttype(relid, attno) != type)
		return targets;
	return lappend(targets, column(targets, (Node *) makeVar(source, attno, type, -1, InvalidOid, 0), pstrdup(name)));
}

static void
build_input(WindowQuery *result, Index source)
{
	Query	   *input = copyObject(result->analyzed);
	List	   *targets = NIL;
	List	   *columns = NIL;
	ListCell   *lc;

	targets = lappend(targets, column(targets, linitial(result->window->args), "ts"));
	foreach(lc, result->keys)
		targets = lappend(targets, column(targets, lfirst(lc), psprintf("k%d", foreach_current_index(lc) + 1)));
	foreach(lc, result->aggregates)
	{
		WindowAggregate *aggregate = lfirst(lc);
		ListCell   *arg;

		foreach(arg, aggregate->call->args)
			aggregate->args = lappend_int(aggregate->args,
										  input_column(&columns, ((TargetEntry *) lfirst(arg))->expr));
		if (aggregate->call->aggfilter)
			aggregate->filter = input_column(&columns, aggregate->call->aggfilter);
	}
	foreach(lc, columns)
		targets = lappend(targets, column(targets, lfirst(lc), psprintf("x%d", foreach_current_index(lc) + 1)));
	targets = add_metadata(targets, source, result->sub->target, "kafka_partition", INT4OID);
	targets = add_metadata(targets, source, result->sub->target, "kafka_offset", INT8OID);
	input->targetList = targets;
	input->groupClause = NIL;
	input->havingQual = NULL;
	input->hasAggs = false;
	input->hasTargetSRFs = false;
	input->constraintDeps = NIL;
	result->input = input;
}

WindowQuery *
analyze_window_query(const char *text)
{
	ErrorContextCallback callback = {.callback = query_error_context,.arg = pstrdup(text)};
	WindowQuery *result = palloc0(sizeof(WindowQuery));
	Index		source;

	callback.previous = error_context_stack;
	error_context_stack = &callback;
	result->analyzed = parse_window_query(text);
	flatten_groups(result->analyzed);
	check_window_clauses(result->analyzed);
	find_groups(result, result->analyzed);
	source = find_source(result, result->analyzed);
	check_event_time(result, result->analyzed, source);
	check_window_columns(result->analyzed, source);
	check_window_expressions(result->analyzed);
	(void) find_aggregates_walker((Node *) result->analyzed->targetList, result);
	(void) find_aggregates_walker(result->analyzed->havingQual, result);
	(void) find_aggregates_walker((Node *) count_star(), result);
	build_input(result, source);
	error_context_stack = callback.previous;
	return result;
}
