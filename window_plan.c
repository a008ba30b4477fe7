/*
 * window_plan.c
 *		What the planner is told about window views: planner support functions.
 *
 * A query's conditions on window_start and on keys reach the view's subquery, because the
 * server pushes down what is said of GROUP BY columns.  Two things it cannot do with
 * them there, and the support functions, which are called when it plans that
 * subquery, do.  Both add what follows from a condition; the condition itself stays
 * where it is, so nothing can be lost but time.
 *
 *	- window_hops(view, NULL, NULL), the windows of a hopping view, gets the bounds that
 *	  window_start has.
 *	- key_given(k), which stands in WHERE for each key of a type without a fixed length, becomes
 *	  key_hash(k) = key_hash(value) where the query says k = value, else true.  Values of such
 *	  types can be too long for a B-tree; their hashes are not, so an index over them and
 *	  window_start finds the windows of a key in order (window_control.c).
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "nodes/supportnodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_func.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "compat.h"

#define HOPS_ARGS	3			/* view, from_start, to_start */
#define INT8_EQUAL	410			/* pg_operator names only some */

PG_FUNCTION_INFO_V1(kappa_window_hops_support);
PG_FUNCTION_INFO_V1(kappa_key_given);
PG_FUNCTION_INFO_V1(kappa_key_given_support);
PG_FUNCTION_INFO_V1(kappa_key_hash);
PG_FUNCTION_INFO_V1(kappa_key_hashes);

/* ---------------------------------------------------------------- conditions */

/* Those that all must hold, one by one. */
static List *
add_conditions(List *conditions, Node *qual)
{
	List	   *parts = NIL;
	ListCell   *lc;

	if (qual == NULL)
		return conditions;
	if (IsA(qual, List))
		parts = (List *) qual;
	else if (is_andclause(qual))
		parts = ((BoolExpr *) qual)->args;
	else
		return lappend(conditions, qual);
	foreach(lc, parts)
		conditions = add_conditions(conditions, lfirst(lc));
	return conditions;
}

/* Of the (sub)query that is being planned. */
static List *
conditions_of(PlannerInfo *root)
{
	return add_conditions(add_conditions(NIL, root->parse->havingQual), root->parse->jointree->quals);
}

static bool
any_var_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var) || IsA(node, PlaceHolderVar) || IsA(node, Aggref) || IsA(node, SubLink) || IsA(node, SubPlan))
		return true;
	return expression_tree_walker(node, any_var_walker, context);
}

/* Known before the first row is read, and the same for all of them? */
static bool
is_known(Node *expr)
{
	return !any_var_walker(expr, NULL) && !contain_volatile_functions(expr);
}

/* What a condition names: without casts that change no bit, and below GROUP BY. */
static Node *
bare(PlannerInfo *root, Node *node)
{
	while (IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	return group_expression(root->parse, node);
}

/* ---------------------------------------------------------------- the windows of hopping views */

typedef struct Bounds
{
	PlannerInfo *root;
	Index		rtindex;		/* of the call in FROM */
	Node	   *from;			/* NULL: none found */
	Node	   *to;
} Bounds;

static bool
is_window_start(const Bounds *bounds, Node *node)
{
	Var		   *var = (Var *) group_expression(bounds->root->parse, node);

	return IsA(var, Var) && var->varno == bounds->rtindex && var->varattno == 1 && var->varlevelsup == 0;
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
	switch (get_opcode(op->opno))
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
	Bounds		bounds = {request->root};
	FuncExpr   *bounded;
	ListCell   *lc;

	if (request->root == NULL || request->root->parse->hasTargetSRFs || list_length(call->args) != HOPS_ARGS ||
		!is_null(lsecond(call->args)) || !is_null(lthird(call->args)))
		return NULL;
	bounds.rtindex = call_in_from(request->root->parse, call->funcid);
	if (bounds.rtindex == 0)
		return NULL;
	foreach(lc, conditions_of(request->root))
		if (IsA(lfirst(lc), OpExpr) && list_length(((OpExpr *) lfirst(lc))->args) == 2)
			take_comparison(&bounds, lfirst(lc));
	if (bounds.from == NULL && bounds.to == NULL)
		return NULL;
	bounded = copyObject(call);
	bounded->args = list_make3(linitial(bounded->args), bound_or_null(bounds.from), bound_or_null(bounds.to));
	return (Node *) bounded;
}

/* One window is the common case; else pg_proc's number of rows stands. */
static bool
one_window(SupportRequestRows *request)
{
	FuncExpr   *call = (FuncExpr *) request->node;

	if (!IsA(call, FuncExpr) || list_length(call->args) != HOPS_ARGS || is_null(lsecond(call->args)) ||
		!equal(lsecond(call->args), lthird(call->args)))
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
	if (IsA(request, SupportRequestRows) && one_window((SupportRequestRows *) request))
		PG_RETURN_POINTER(request);
	PG_RETURN_POINTER(NULL);
}

/* ---------------------------------------------------------------- keys */

typedef struct KeyHint
{
	PlannerInfo *root;
	char	   *schema;			/* of our functions */
	Node	   *key;
	const TypeCacheEntry *type;
} KeyHint;

static Node *
hash_call(const KeyHint *hint, const char *name, Oid declared, Oid result, Node *arg)
{
	Oid			function = LookupFuncName(list_make2(makeString(hint->schema), makeString(pstrdup(name))), 1, &declared, false);

	return (Node *) makeFuncExpr(function, result, list_make1(copyObject(arg)), InvalidOid,
								 exprCollation(hint->key), COERCE_EXPLICIT_CALL);
}

/* Do equal values of that type and of the key have the same hash? */
static bool
hashes_alike(const KeyHint *hint, Oid type, Oid operator, Oid collation)
{
	return operator == hint->type->eq_opr && collation == exprCollation(hint->key) &&
		lookup_type_cache(type, TYPECACHE_HASH_EXTENDED_PROC)->hash_extended_proc == hint->type->hash_extended_proc;
}

static Node *
hash_is(const KeyHint *hint, OpExpr *op)
{
	Node	   *left = linitial(op->args);
	Node	   *right = lsecond(op->args);
	bool		swapped = equal(bare(hint->root, right), hint->key);
	Node	   *value = swapped ? left : right;

	if (!(swapped || equal(bare(hint->root, left), hint->key)) || !is_known(value) ||
		!hashes_alike(hint, exprType(value), op->opno, op->inputcollid))
		return NULL;
	return (Node *) make_opclause(INT8_EQUAL, BOOLOID, false,
								  (Expr *) hash_call(hint, "key_hash", ANYELEMENTOID, INT8OID, hint->key),
								  (Expr *) hash_call(hint, "key_hash", ANYELEMENTOID, INT8OID, value),
								  InvalidOid, InvalidOid);
}

/* k IN (...), k = ANY (...) */
static Node *
hash_is_any(const KeyHint *hint, ScalarArrayOpExpr *op)
{
	Node	   *values = lsecond(op->args);
	ScalarArrayOpExpr *result;

	if (!op->useOr || !equal(bare(hint->root, linitial(op->args)), hint->key) || !is_known(values) ||
		!hashes_alike(hint, get_element_type(exprType(values)), op->opno, op->inputcollid))
		return NULL;
	result = makeNode(ScalarArrayOpExpr);
	result->opno = INT8_EQUAL;
	result->useOr = true;
	result->args = list_make2(hash_call(hint, "key_hash", ANYELEMENTOID, INT8OID, hint->key),
							  hash_call(hint, "key_hashes", ANYARRAYOID, INT8ARRAYOID, values));
	result->location = -1;
	set_sa_opfuncid(result);
	return (Node *) result;
}

static Node *
key_condition(SupportRequestSimplify *request)
{
	KeyHint		hint = {request->root};
	ListCell   *lc;
	Node	   *result = NULL;

	if (request->root == NULL)
		return NULL;
	hint.schema = get_namespace_name(get_func_namespace(request->fcall->funcid));
	hint.key = linitial(request->fcall->args);
	hint.type = lookup_type_cache(exprType(hint.key), TYPECACHE_EQ_OPR | TYPECACHE_HASH_EXTENDED_PROC);
	foreach(lc, conditions_of(request->root))
	{
		Node	   *condition = lfirst(lc);

		if (IsA(condition, OpExpr) && list_length(((OpExpr *) condition)->args) == 2)
			result = hash_is(&hint, (OpExpr *) condition);
		else if (IsA(condition, ScalarArrayOpExpr))
			result = hash_is_any(&hint, (ScalarArrayOpExpr *) condition);
		if (result)
			return eval_const_expressions(request->root, result);
	}
	return makeBoolConst(true, false);
}

/* Planner support function of kappa.key_given. */
Datum
kappa_key_given_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);

	if (IsA(request, SupportRequestSimplify))
		PG_RETURN_POINTER(key_condition((SupportRequestSimplify *) request));
	PG_RETURN_POINTER(NULL);
}

/* kappa.key_given(key anyelement) RETURNS boolean: what has not been planned away is true. */
Datum
kappa_key_given(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(true);
}

static TypeCacheEntry *
hashed_type(FunctionCallInfo fcinfo, Oid type)
{
	TypeCacheEntry *entry = fcinfo->flinfo->fn_extra;

	if (entry == NULL || entry->type_id != type)
	{
		entry = lookup_type_cache(type, TYPECACHE_HASH_EXTENDED_PROC_FINFO);
		if (!OidIsValid(entry->hash_extended_proc))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("values of type %s cannot be hashed", format_type_be(type))));
		fcinfo->flinfo->fn_extra = entry;
	}
	return entry;
}

static Datum
hash_value(FunctionCallInfo fcinfo, TypeCacheEntry *type, Datum value)
{
	return FunctionCall2Coll(&type->hash_extended_proc_finfo, PG_GET_COLLATION(), value, Int64GetDatum(0));
}

/* kappa.key_hash(key anyelement) RETURNS bigint */
Datum
kappa_key_hash(PG_FUNCTION_ARGS)
{
	return hash_value(fcinfo, hashed_type(fcinfo, get_fn_expr_argtype(fcinfo->flinfo, 0)), PG_GETARG_DATUM(0));
}

/* kappa.key_hashes(keys anyarray) RETURNS bigint[] */
Datum
kappa_key_hashes(PG_FUNCTION_ARGS)
{
	ArrayType  *keys = PG_GETARG_ARRAYTYPE_P(0);
	TypeCacheEntry *type = hashed_type(fcinfo, ARR_ELEMTYPE(keys));
	Datum	   *values;
	bool	   *nulls;
	int			n;
	int			dims[1];
	int			lower[1] = {1};

	deconstruct_array(keys, type->type_id, type->typlen, type->typbyval, type->typalign, &values, &nulls, &n);
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			values[i] = hash_value(fcinfo, type, values[i]);
	dims[0] = n;
	PG_RETURN_ARRAYTYPE_P(construct_md_array(values, nulls, n > 0 ? 1 : 0, dims, lower, INT8OID, sizeof(int64), true, TYPALIGN_DOUBLE));
}
