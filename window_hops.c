/*
 * window_hops.c
 *		The windows of a hopping view that hold any row: what its panes are joined with to
 *		be read.
 *
 * The panes are found one by one over the state's index on window_start, so the cost
 * goes with their number, not with the number of rows or keys.  Where the query that
 * reads the view says which windows it wants, only their panes are looked at: the
 * server pushes a condition on window_start down into the view's subquery, and the
 * planner's support function finds it there and hands its bounds to the call.  The
 * condition itself stays where it is, so the bounds may be too wide, never too narrow.
 *
 * Reads with the snapshot of the query that calls it; no locks but those of a SELECT.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "nodes/supportnodes.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

#include "catalog.h"
#include "window_grid.h"
#include "window_view.h"

PG_FUNCTION_INFO_V1(kappa_window_hops);
PG_FUNCTION_INFO_V1(kappa_window_hops_support);

enum
{
	ARG_VIEW,
	ARG_FROM,
	ARG_TO,
	NARGS
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

/* ---------------------------------------------------------------- the planner */

typedef struct Bounds
{
	Index		rtindex;		/* of the call in FROM */
	Node	   *from;			/* NULL: none found */
	Node	   *to;
} Bounds;

static bool
any_var_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var) || IsA(node, PlaceHolderVar) || IsA(node, SubLink) || IsA(node, SubPlan))
		return true;
	return expression_tree_walker(node, any_var_walker, context);
}

/* Known before the first row is read, and the same for all of them? */
static bool
is_known(Node *expr)
{
	return !any_var_walker(expr, NULL) && !contain_volatile_functions(expr);
}

static bool
is_window_start(const Bounds *bounds, Node *node)
{
	return IsA(node, Var) && ((Var *) node)->varno == bounds->rtindex && ((Var *) node)->varattno == 1 &&
		((Var *) node)->varlevelsup == 0;
}

static void
take_comparison(Bounds *bounds, OpExpr *op)
{
	Node	   *left = linitial(op->args);
	Node	   *right = lsecond(op->args);
	bool		swapped = is_window_start(bounds, right);
	Node	   *value = swapped ? left : right;
	bool		below;

	if (!(swapped || is_window_start(bounds, left)) || !is_known(value))
		return;
	set_opfuncid(op);
	switch (op->opfuncid)
	{
		case F_TIMESTAMPTZ_EQ:
			bounds->from = bounds->to = value;
			return;
		case F_TIMESTAMPTZ_LT:
		case F_TIMESTAMPTZ_LE:
			below = !swapped;
			break;
		case F_TIMESTAMPTZ_GT:
		case F_TIMESTAMPTZ_GE:
			below = swapped;
			break;
		default:
			return;
	}
	/* one of several is enough, and an equality the best */
	if (below && bounds->to == NULL)
		bounds->to = value;
	if (!below && bounds->from == NULL)
		bounds->from = value;
}

/* Conditions that all must hold. */
static void
find_bounds(Bounds *bounds, Node *qual)
{
	ListCell   *lc;
	List	   *parts = NIL;

	if (qual == NULL)
		return;
	if (IsA(qual, List))
		parts = (List *) qual;
	else if (is_andclause(qual))
		parts = ((BoolExpr *) qual)->args;
	else if (IsA(qual, OpExpr) && list_length(((OpExpr *) qual)->args) == 2)
		take_comparison(bounds, (OpExpr *) qual);
	foreach(lc, parts)
		find_bounds(bounds, lfirst(lc));
}

/* The one call in FROM; 0: none, or several. */
static Index
call_in_from(Query *query, Oid function)
{
	Index		found = 0;
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);
		RangeTblFunction *call;

		if (rte->rtekind != RTE_FUNCTION || list_length(rte->functions) != 1)
			continue;
		call = linitial_node(RangeTblFunction, rte->functions);
		if (!IsA(call->funcexpr, FuncExpr) || ((FuncExpr *) call->funcexpr)->funcid != function)
			continue;
		if (found != 0)
			return 0;
		found = foreach_current_index(lc) + 1;
	}
	return found;
}

static bool
is_null(Node *node)
{
	return IsA(node, Const) && ((Const *) node)->constisnull;
}

static Node *
bound_or_null(Node *bound)
{
	return bound ? copyObject(bound) : (Node *) makeNullConst(TIMESTAMPTZOID, -1, InvalidOid);
}

/* The call with the bounds that the query has for window_start; NULL: as it was. */
static Node *
bounded_call(SupportRequestSimplify *request)
{
	FuncExpr   *call = request->fcall;
	Bounds		bounds = {0};
	FuncExpr   *bounded;

	if (request->root == NULL || request->root->parse->hasTargetSRFs || list_length(call->args) != NARGS ||
		!is_null(list_nth(call->args, ARG_FROM)) || !is_null(list_nth(call->args, ARG_TO)))
		return NULL;
	bounds.rtindex = call_in_from(request->root->parse, call->funcid);
	if (bounds.rtindex == 0)
		return NULL;
	find_bounds(&bounds, request->root->parse->havingQual);
	if (bounds.from == NULL && bounds.to == NULL)
		return NULL;
	bounded = copyObject(call);
	bounded->args = list_make3(linitial(bounded->args), bound_or_null(bounds.from), bound_or_null(bounds.to));
	return (Node *) bounded;
}

/* One window is the common case; else pg_proc's number of rows stands. */
static bool
few_rows(SupportRequestRows *request)
{
	FuncExpr   *call = (FuncExpr *) request->node;

	if (!IsA(call, FuncExpr) || list_length(call->args) != NARGS || is_null(list_nth(call->args, ARG_FROM)) ||
		!equal(list_nth(call->args, ARG_FROM), list_nth(call->args, ARG_TO)))
		return false;
	request->rows = 1;
	return true;
}

/* Planner support function of kappa.window_hops. */
Datum
kappa_window_hops_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);

	if (IsA(request, SupportRequestSimplify))
		PG_RETURN_POINTER(bounded_call((SupportRequestSimplify *) request));
	if (IsA(request, SupportRequestRows) && few_rows((SupportRequestRows *) request))
		PG_RETURN_POINTER(request);
	PG_RETURN_POINTER(NULL);
}
