/*
 * transform_query.c
 *		A transform's text: parsed, and held to the rules.
 *
 * A transform gives the rows of each message as if it ran for that message alone,
 * so that the balance can count by message.  The rules that make it so are checked
 * on the parsed query, by subscribe and again by whoever runs it: a view that it
 * reads may have changed since.
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "parser/parse_coerce.h"
#include "parser/parse_relation.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"

#include "transform_query.h"

TupleDesc
transform_message_desc(MessageFormat format)
{
	TupleDesc	desc = CreateTemplateTupleDesc(7);
	Oid			value = format == FORMAT_JSON ? JSONBOID :
		format == FORMAT_BYTEA ? BYTEAOID : TEXTOID;

	TupleDescInitEntry(desc, 1, "topic", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, 2, "part", INT4OID, -1, 0);
	TupleDescInitEntry(desc, 3, "kafka_offset", INT8OID, -1, 0);
	TupleDescInitEntry(desc, 4, "kafka_timestamp", TIMESTAMPTZOID, -1, 0);
	TupleDescInitEntry(desc, 5, "key", BYTEAOID, -1, 0);
	TupleDescInitEntry(desc, 6, "value", value, -1, 0);
	TupleDescInitEntry(desc, 7, "headers", JSONBOID, -1, 0);
	return desc;
}

static void
refuse_in_transform(bool found, const char *what)
{
	if (found)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("transform must not contain %s", what),
				 errdetail("A transform gives the rows of each message as if it ran for that message alone."),
				 errhint("Write one SELECT ... FROM message; aggregates belong in a window view or behind the table.")));
}

/* An error's position is one in the transform, not in the caller's statement. */
static void
transform_error_callback(void *arg)
{
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) arg);
	}
	else
		errcontext("transform of the subscription");
}

static RawStmt *
parse_transform(const char *transform)
{
	List	   *statements = pg_parse_query(transform);
	RawStmt    *raw = statements == NIL ? NULL : linitial_node(RawStmt, statements);

	if (list_length(statements) != 1 || !IsA(raw->stmt, SelectStmt) ||
		((SelectStmt *) raw->stmt)->intoClause != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("transform must be one SELECT"),
				 errhint("Use transform => 'SELECT value->>''a'' AS a FROM message'.")));
	return raw;
}

static bool
is_message(const RangeTblEntry *rte)
{
	return rte->rtekind == RTE_NAMEDTUPLESTORE &&
		strcmp(rte->enrname, TRANSFORM_RELATION) == 0;
}

/* Count the places in the whole query, sub-selects included, that read message. */
static bool
count_messages(Node *node, void *count)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		if (is_message((RangeTblEntry *) node))
			(*(int *) count)++;
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, count_messages, count,
								 QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, count_messages, count);
}

/* Can an outer join give rows without a message?  (those belong to no offset) */
static bool
message_is_nullable(Node *node, int rtindex, bool nullable)
{
	ListCell   *cell;

	if (IsA(node, RangeTblRef))
		return nullable && ((RangeTblRef *) node)->rtindex == rtindex;
	if (IsA(node, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) node;
		bool		full = join->jointype == JOIN_FULL;

		return message_is_nullable(join->larg, rtindex,
								   nullable || full || join->jointype == JOIN_RIGHT) ||
			message_is_nullable(join->rarg, rtindex,
								nullable || full || join->jointype == JOIN_LEFT);
	}
	foreach(cell, castNode(FromExpr, node)->fromlist)
	{
		if (message_is_nullable(lfirst(cell), rtindex, nullable))
			return true;
	}
	return false;
}

static void
check_transform_source(Query *query)
{
	ListCell   *cell;
	int			everywhere = 0;
	int			rtindex = 0;
	int			found = 0;

	foreach(cell, query->rtable)
	{
		rtindex++;
		if (is_message(lfirst(cell)))
		{
			found = rtindex;
			break;
		}
	}
	count_messages((Node *) query, &everywhere);
	if (found == 0 || everywhere != 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("transform must name the relation \"%s\" once, in its own FROM",
						TRANSFORM_RELATION),
				 errdetail_plural("It is named %d time, sub-selects included.",
								  "It is named %d times, sub-selects included.",
								  everywhere, everywhere),
				 errhint("Write SELECT ... FROM message; sub-selects may use its columns by LATERAL.")));
	refuse_in_transform(message_is_nullable((Node *) query->jointree, found, false),
						"an outer join that gives rows without a message");
}

static void
check_transform_shape(Query *query)
{
	refuse_in_transform(ExecCleanTargetListLength(query->targetList) == 0,
						"an empty list of columns");
	refuse_in_transform(query->setOperations != NULL, "a set operation (UNION, INTERSECT, EXCEPT)");
	refuse_in_transform(query->groupClause != NIL || query->groupingSets != NIL ||
						query->havingQual != NULL, "GROUP BY or HAVING");
	refuse_in_transform(query->hasAggs, "an aggregate");
	refuse_in_transform(query->hasWindowFuncs || query->windowClause != NIL, "a window function");
	refuse_in_transform(query->distinctClause != NIL, "DISTINCT");
	refuse_in_transform(query->limitCount != NULL || query->limitOffset != NULL,
						"LIMIT or OFFSET");
	refuse_in_transform(query->rowMarks != NIL, "FOR UPDATE or FOR SHARE");
	refuse_in_transform(query->hasModifyingCTE, "a data-modifying WITH query");
	refuse_in_transform(isQueryUsingTempRelation(query), "a temporary table or view");
}

/*
 * Parsed and held to the rules.  Names resolve as they will in the worker: by
 * the stored search_path, as the subscription's owner.
 */
Query *
analyze_transform(const Subscription *sub)
{
	ErrorContextCallback callback;
	QueryEnvironment *environment = create_queryEnv();
	EphemeralNamedRelation message = palloc0(sizeof(EphemeralNamedRelationData));
	Oid			save_userid;
	int			save_context;
	int			guc_level;
	Query	   *query;

	message->md.name = TRANSFORM_RELATION;
	message->md.reliddesc = InvalidOid;
	message->md.tupdesc = transform_message_desc(sub->format);
	message->md.enrtype = ENR_NAMED_TUPLESTORE;
	message->md.enrtuples = sub->batch_rows;	/* what the planner shall expect */
	register_ENR(environment, message);

	callback.callback = transform_error_callback;
	callback.arg = sub->transform;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	GetUserIdAndSecContext(&save_userid, &save_context);
	SetUserIdAndSecContext(sub->owner, save_context | SECURITY_RESTRICTED_OPERATION);
	guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", sub->search_path,
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);

	query = parse_analyze_fixedparams(parse_transform(sub->transform), sub->transform,
									  NULL, 0, environment);

	AtEOXact_GUC(true, guc_level);
	SetUserIdAndSecContext(save_userid, save_context);
	error_context_stack = callback.previous;
	check_transform_shape(query);
	check_transform_source(query);
	return query;
}
