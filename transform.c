/*
 * transform.c
 *		A subscription's transform: messages in, rows for the target out.
 *
 * The transform is an ordinary query over the relation "message", which is a
 * tuplestore of the batch.  To know which message each result row belongs to, the
 * parsed query gets two columns more, message.part and message.kafka_offset; the
 * rules that subscribe checks (one top-level "message", no aggregate, window
 * function, DISTINCT, LIMIT or set operation) make that the same as running it for each
 * message alone.
 *
 * Runs as the subscription's owner; the rows are then written under the table
 * owner's rules like any other (target_table.c).
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/execdesc.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_coerce.h"
#include "parser/parse_node.h"
#include "rewrite/rewriteHandler.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/queryenvironment.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "message_headers.h"
#include "compat.h"
#include "position.h"
#include "transform.h"
#include "transform_query.h"
#include "value.h"

/* A message's place, to find its index from what the query gives back. */
typedef struct MessagePlace
{
	int32		part;
	int64		offset;
	int			index;
} MessagePlace;

struct Transform
{
	const Subscription *sub;
	TupleDesc	desc;			/* the target's */
	PlannedStmt *plan;
	TupleDesc	message_desc;
	int			ncolumns;		/* of the query, without the two added */
	AttrNumber *attnos;			/* in the target, by column */
	bool	   *present;		/* by attno - 1 */
};

/* ---------------------------------------------------------------- preparing */

static int
message_rtindex(Query *query)
{
	ListCell   *lc;
	int			rtindex = 0;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		rtindex++;
		if (rte->rtekind == RTE_NAMEDTUPLESTORE && strcmp(rte->enrname, TRANSFORM_RELATION) == 0)
			return rtindex;
	}
	elog(ERROR, "transform does not read relation \"%s\"", TRANSFORM_RELATION);
}

static void
add_place_column(Query *query, int rtindex, AttrNumber attno, Oid type, const char *name)
{
	Var		   *var = makeVar(rtindex, attno, type, -1, InvalidOid, 0);

	query->targetList = lappend(query->targetList,
								makeTargetEntry((Expr *) var, list_length(query->targetList) + 1,
												pstrdup(name), false));
}

/* Column by column: which one of the target, and the cast to its type. */
static List *
coerce_columns(Transform *transform, Query *query, Relation target)
{
	ParseState *pstate = make_parsestate(NULL);
	List	   *columns = NIL;
	ListCell   *lc;

	transform->attnos = palloc(sizeof(AttrNumber) * Max(list_length(query->targetList), 1));
	foreach(lc, query->targetList)
	{
		TargetEntry *entry = lfirst(lc);
		AttrNumber	attno;
		Form_pg_attribute att;

		if (entry->resjunk)
			continue;
		attno = get_attnum(RelationGetRelid(target), entry->resname);
		if (attno <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of the transform does not exist in relation \"%s\"",
							entry->resname, RelationGetRelationName(target))));
		att = TupleDescAttr(transform->desc, attno - 1);
		entry->expr = (Expr *)
			coerce_to_target_type(pstate, (Node *) entry->expr, exprType((Node *) entry->expr),
								  att->atttypid, att->atttypmod, COERCION_ASSIGNMENT,
								  COERCE_IMPLICIT_CAST, -1);
		if (entry->expr == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of the transform cannot be assigned to type %s",
							entry->resname, format_type_be(att->atttypid))));
		transform->attnos[transform->ncolumns++] = attno;
		transform->present[attno - 1] = true;
		columns = lappend(columns, entry);
	}
	free_parsestate(pstate);
	return columns;
}

/*
 * ORDER BY columns that are not selected are junk entries, which stand last; the
 * order has no meaning for a table, so it goes.
 */
static void
drop_order(Query *query, List *columns)
{
	AttrNumber	resno = 1;
	ListCell   *lc;

	query->sortClause = NIL;
	query->targetList = columns;
	foreach(lc, columns)
	{
		TargetEntry *entry = lfirst(lc);

		entry->resno = resno++;
		entry->ressortgroupref = 0;
	}
}

Transform *
transform_prepare(const Subscription *sub, Relation target)
{
	Transform  *transform = palloc0(sizeof(Transform));
	Query	   *query = analyze_transform(sub);
	List	   *rewritten;
	int			rtindex;

	transform->sub = sub;
	transform->desc = RelationGetDescr(target);
	transform->message_desc = transform_message_desc(sub->format);
	transform->present = palloc0(sizeof(bool) * Max(transform->desc->natts, 1));
	rtindex = message_rtindex(query);
	drop_order(query, coerce_columns(transform, query, target));
	add_place_column(query, rtindex, 2, INT4OID, "kappa_part");
	add_place_column(query, rtindex, 3, INT8OID, "kappa_offset");
	rewritten = QueryRewrite(query);
	if (list_length(rewritten) != 1)
		elog(ERROR, "transform was rewritten to %d queries", list_length(rewritten));
	transform->plan = pg_plan_query(linitial(rewritten), sub->transform, 0, NULL);
	return transform;
}

const bool *
transform_columns(Transform *transform)
{
	return transform->present;
}

/* ---------------------------------------------------------------- messages */

static Datum
bytes_datum(const char *bytes, size_t len)
{
	return PointerGetDatum(cstring_to_text_with_len(bytes, (int) len));
}

static Datum
value_datum(Transform *transform, const KafkaMessage *message)
{
	char	   *text;

	if (transform->sub->format == FORMAT_BYTEA)
		return bytes_datum(message->value, message->value_len);
	text = utf8_to_server(message->value, message->value_len);
	if (transform->sub->format == FORMAT_JSON)
		return DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
	return CStringGetTextDatum(text);
}

static void
put_message(Transform *transform, Tuplestorestate *store, const KafkaMessage *message, Datum topic)
{
	Datum		values[7] = {0};
	bool		nulls[7] = {false};
	Jsonb	   *headers = message_headers(message);

	values[0] = topic;
	values[1] = Int32GetDatum(message->part);
	values[2] = Int64GetDatum(message->offset);
	nulls[3] = message->timestamp < 0;
	if (!nulls[3])
		values[3] = TimestampTzGetDatum(kafka_time(message->timestamp));
	nulls[4] = message->key == NULL;
	if (!nulls[4])
		values[4] = bytes_datum(message->key, message->key_len);
	nulls[5] = message->value == NULL;
	if (!nulls[5])
		values[5] = value_datum(transform, message);
	nulls[6] = headers == NULL;
	if (!nulls[6])
		values[6] = JsonbPGetDatum(headers);
	tuplestore_putvalues(store, transform->message_desc, values, nulls);
}

static int
compare_places(const void *a, const void *b)
{
	const MessagePlace *x = a;
	const MessagePlace *y = b;

	if (x->part != y->part)
		return x->part < y->part ? -1 : 1;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* ---------------------------------------------------------------- running */

typedef struct RowReceiver
{
	DestReceiver pub;
	Transform  *transform;
	const MessagePlace *places;
	int			nplaces;
	MemoryContext context;		/* that the rows shall live in */
	TransformRow row;
	void	   *arg;
} RowReceiver;

static int
message_index(RowReceiver *receiver, TupleTableSlot *slot)
{
	int			n = receiver->transform->ncolumns;
	MessagePlace key = {
		DatumGetInt32(slot->tts_values[n]), DatumGetInt64(slot->tts_values[n + 1]), 0
	};
	const MessagePlace *found = bsearch(&key, receiver->places, receiver->nplaces,
										sizeof(MessagePlace), compare_places);

	if (found == NULL)
		elog(ERROR, "transform gave a row of a message that is not in the batch");
	return found->index;
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	RowReceiver *receiver = (RowReceiver *) self;
	Transform  *transform = receiver->transform;
	TupleDesc	desc = transform->desc;
	MemoryContext old = MemoryContextSwitchTo(receiver->context);
	Datum	   *values = palloc0(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);

	slot_getallattrs(slot);
	memset(nulls, true, desc->natts);
	for (int i = 0; i < transform->ncolumns; i++)
	{
		int			att = transform->attnos[i] - 1;

		nulls[att] = slot->tts_isnull[i];
		if (!nulls[att])
			values[att] = datumCopy(slot->tts_values[i], TupleDescAttr(desc, att)->attbyval,
									TupleDescAttr(desc, att)->attlen);
	}
	receiver->row(receiver->arg, message_index(receiver, slot), values, nulls);
	MemoryContextSwitchTo(old);
	return true;
}

static void
receive_startup(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
receive_nothing(DestReceiver *self)
{
}

static void
execute_transform(Transform *transform, Tuplestorestate *store, RowReceiver *receiver, int n)
{
	QueryEnvironment *environment = create_queryEnv();
	EphemeralNamedRelation enr = palloc0(sizeof(EphemeralNamedRelationData));
	QueryDesc  *query;

	enr->md.name = TRANSFORM_RELATION;
	enr->md.reliddesc = InvalidOid;
	enr->md.tupdesc = transform->message_desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = n;
	enr->reldata = store;
	register_ENR(environment, enr);
	query = CreateQueryDesc(transform->plan, transform->sub->transform, GetActiveSnapshot(),
							InvalidSnapshot, &receiver->pub, NULL, environment, 0);
	ExecutorStart(query, 0);
	executor_run(query);
	ExecutorFinish(query);
	ExecutorEnd(query);
	FreeQueryDesc(query);
}

void
transform_run(Transform *transform, const KafkaMessage *messages, int from, int to,
			  const uint8 *skip, TransformRow row, void *arg)
{
	Tuplestorestate *store = tuplestore_begin_heap(true, false, work_mem);
	MessagePlace *places = palloc(sizeof(MessagePlace) * Max(to - from, 1));
	Datum		topic = CStringGetTextDatum(transform->sub->topic);
	int			n = 0;
	RowReceiver receiver = {
		.pub = {
			.receiveSlot = receive_row, .rStartup = receive_startup,
			.rShutdown = receive_nothing, .rDestroy = receive_nothing, .mydest = DestNone
		},
		.transform = transform,.places = places,.context = CurrentMemoryContext,
		.row = row,.arg = arg
	};

	for (int i = from; i < to; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (skip[i])
			continue;
		put_message(transform, store, &messages[i], topic);
		places[n++] = (MessagePlace) {messages[i].part, messages[i].offset, i};
	}
	qsort(places, n, sizeof(MessagePlace), compare_places);
	receiver.nplaces = n;
	if (n > 0)
		execute_transform(transform, store, &receiver, n);
	tuplestore_end(store);
}
