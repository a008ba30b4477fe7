/*
 * statistics.c
 *		What the planner's statistics are compared with: a fresh sample of a table's
 *		rows, and the plan of a query as it was estimated and as it ran.
 *
 * The sample: blocks evenly spread over the whole table, one at random out of each of
 * as many equal stretches, and of the visible rows on them a random few.  So a column
 * that grows with time, whose neighbours on a page are all alike, is met in every part
 * of its range; and one that does not gets many independent values.  Only row places
 * are returned; the caller's own SELECT fetches the values, under his rights.
 *
 * Locks: AccessShareLock on the table, for which nobody waits longer than 100 ms, to
 * the end of the transaction.  Cost: the blocks asked for, through a ring of buffers,
 * and once more the same blocks when the rows are fetched.
 *
 * The plan: EXPLAIN of one SELECT, run only on request, as the caller, in a read-only
 * scope: what would write is an ERROR.  statement_timeout counts as in any statement;
 * a lock is waited for as long as above, then it is an ERROR.
 *
 * Crash story: none, nothing outlives the call.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "arguments.h"

#define LOCK_WAIT_MS	100
#define LOCK_TRY_MS		5
#define MAX_KEPT		100000

PG_FUNCTION_INFO_V1(kappa_sample_rows);
PG_FUNCTION_INFO_V1(kappa_explain);

/* ---------------------------------------------------------------- the sample */

/*
 * Rows kept out of those seen: all of them as they come, and from MAX_KEPT on each
 * with the same chance (Vitter's algorithm R).
 */
typedef struct Sample
{
	int			n;
	int64		seen;
	ItemPointerData tids[MAX_KEPT];
} Sample;

static void
lock_briefly(Oid relid)
{
	int			waited = 0;

	while (!ConditionalLockRelationOid(relid, AccessShareLock))
	{
		if (waited >= LOCK_WAIT_MS)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("relation %u is locked", relid),
					 errdetail("A lock that even readers wait for was not released within %d ms.", LOCK_WAIT_MS)));
		CHECK_FOR_INTERRUPTS();
		pg_usleep(LOCK_TRY_MS * 1000L);
		waited += LOCK_TRY_MS;
	}
}

/* The table, locked; its places tell how many rows there are, so whoever may read some column may ask. */
static Relation
open_table(Oid relid)
{
	Relation	rel;

	lock_briefly(relid);
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation %u does not exist", relid)));
	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(relid, GetUserId(), ACL_SELECT, ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(rel->rd_rel->relkind), RelationGetRelationName(rel));
	if (!RELKIND_HAS_TABLE_AM(rel->rd_rel->relkind) || rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table of access method heap", RelationGetRelationName(rel))));
	if (RELATION_IS_OTHER_TEMP(rel))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"%s\" is a temporary table of another session", RelationGetRelationName(rel))));
	return rel;
}

static void
sample_add(Sample *sample, BlockNumber block, OffsetNumber offset)
{
	int64		place = sample->seen++;

	if (sample->n < MAX_KEPT)
		place = sample->n++;
	else
		place = (int64) pg_prng_uint64_range(&pg_global_prng_state, 0, (uint64) place);
	if (place < MAX_KEPT)
		ItemPointerSet(&sample->tids[place], block, offset);
}

static void
sample_block(Sample *sample, Relation rel, BlockNumber block, BufferAccessStrategy ring, Snapshot snapshot)
{
	Buffer		buffer = ReadBufferExtended(rel, MAIN_FORKNUM, block, RBM_NORMAL, ring);
	Page		page;
	OffsetNumber last;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	last = PageIsNew(page) ? InvalidOffsetNumber : PageGetMaxOffsetNumber(page);
	for (OffsetNumber offset = FirstOffsetNumber; offset <= last; offset++)
	{
		ItemId		item = PageGetItemId(page, offset);
		HeapTupleData tuple;

		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		tuple.t_tableOid = RelationGetRelid(rel);
		ItemPointerSet(&tuple.t_self, block, offset);
		if (HeapTupleSatisfiesVisibility(&tuple, snapshot, buffer))
			sample_add(sample, block, offset);
	}
	UnlockReleaseBuffer(buffer);
}

/* At most limit of the rows kept, evenly spread over the blocks again. */
static Datum
sample_array(Sample *sample, int limit)
{
	int			n = Min(limit, sample->n);
	Datum	   *values = palloc(sizeof(Datum) * Max(n, 1));
	double		shift = pg_prng_double(&pg_global_prng_state);

	for (int i = 0; i < n; i++)
	{
		int			at = n == sample->n ? i : (int) ((i + shift) * sample->n / n);

		values[i] = PointerGetDatum(&sample->tids[Min(at, sample->n - 1)]);
	}
	return PointerGetDatum(construct_array(values, n, TIDOID, sizeof(ItemPointerData), false, TYPALIGN_SHORT));
}

/* kappa.sample_rows(rel regclass, pages integer, n integer): places of n rows, blocks read, blocks there, rows seen */
Datum
kappa_sample_rows(PG_FUNCTION_ARGS)
{
	int			pages = PG_GETARG_INT32(1);
	int			limit = Max(1, PG_GETARG_INT32(2));
	Sample	   *sample = palloc(sizeof(Sample));
	BufferAccessStrategy ring = GetAccessStrategy(BAS_BULKREAD);
	Relation	rel = open_table(PG_GETARG_OID(0));
	BlockNumber there = RelationGetNumberOfBlocks(rel);
	BlockNumber read = Min(there, (BlockNumber) Max(pages, 1));
	TupleDesc	desc;
	Datum		values[4];
	bool		nulls[4] = {0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	sample->n = 0;
	sample->seen = 0;
	for (BlockNumber i = 0; i < read; i++)
	{
		BlockNumber from = (uint64) i * there / read;
		BlockNumber upto = (uint64) (i + 1) * there / read - 1;

		CHECK_FOR_INTERRUPTS();
		sample_block(sample, rel, (BlockNumber) pg_prng_uint64_range(&pg_global_prng_state, from, upto),
					 ring, GetActiveSnapshot());
	}
	FreeAccessStrategy(ring);
	relation_close(rel, NoLock);
	values[0] = sample_array(sample, limit);
	values[1] = Int64GetDatum(read);
	values[2] = Int64GetDatum(there);
	values[3] = Int64GetDatum(sample->seen);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* ---------------------------------------------------------------- the plan */

/* One SELECT and nothing else: EXPLAIN in front of two statements would run the second. */
static void
require_select(const char *query)
{
	List	   *statements = raw_parser(query, RAW_PARSE_DEFAULT);
	SelectStmt *select = NULL;

	if (list_length(statements) == 1 && IsA(linitial_node(RawStmt, statements)->stmt, SelectStmt))
		select = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
	/* INTO stands in the leftmost branch of a set operation */
	for (SelectStmt *leaf = select; leaf != NULL; leaf = leaf->larg)
		if (leaf->intoClause != NULL)
			select = NULL;
	if (select == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the query must be a single SELECT"),
				 errhint("Of INSERT, UPDATE or DELETE check the SELECT that finds their rows.")));
}

static char *
explain(const char *query, bool run)
{
	char	   *command = psprintf("EXPLAIN (%s, VERBOSE, FORMAT JSON) %s",
								   run ? "ANALYZE, TIMING off, SUMMARY off" : "COSTS", query);
	int			guc_level = NewGUCNestLevel();
	bool		read_only = XactReadOnly;
	char	   *plan;

	/* as SET would; 17 and later refuse that in a function.  An ERROR resets it with its (sub)transaction */
	XactReadOnly = true;
	if (LockTimeout == 0 || LockTimeout > LOCK_WAIT_MS)
		(void) set_config_option("lock_timeout", psprintf("%d", LOCK_WAIT_MS), PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	if (SPI_execute(command, false, 0) != SPI_OK_UTILITY || SPI_processed != 1)
		elog(ERROR, "EXPLAIN returned no plan");
	plan = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	AtEOXact_GUC(true, guc_level);
	XactReadOnly = read_only;
	return plan;
}

/* kappa.explain(query text, run boolean): the plan as text of JSON */
Datum
kappa_explain(PG_FUNCTION_ARGS)
{
	char	   *query = text_argument(fcinfo, 0, "query");
	bool		run = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	MemoryContext context = CurrentMemoryContext;
	char	   *plan;

	require_select(query);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	plan = MemoryContextStrdup(context, explain(query, run));
	SPI_finish();
	PG_RETURN_TEXT_P(cstring_to_text(plan));
}
