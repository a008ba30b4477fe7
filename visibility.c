/*
 * visibility.c
 *		What the visibility map says of a table, and which versions of its rows a
 *		page holds.
 *
 * visibility_maps() counts the bits of the map, two a page of the table, without
 * touching the table: the numbers of pg_visibility_map_summary.  heap_versions()
 * reads pages of the table, asks the server's own rule what each version is
 * (HeapTupleSatisfiesVacuumHorizon) and compares with the horizon that VACUUM
 * would take at this moment (GetOldestNonRemovableTransactionId): a version whose
 * deleter is older may go, a younger one is kept for somebody's snapshot.  Who
 * that is, SQL says (kappa.mvcc_versions joins kappa.vacuum_blockers).
 *
 * Bounds: MAX_PAGES of a relation, MAX_CALL_PAGES of a call, unless told.  A map of
 * more pages is sampled evenly.  Pages are read through a ring of buffers, so a
 * large table does not push others out of shared memory.
 *
 * Locks: AccessShareLock on the relation, taken only if it is free: nobody waits
 * behind a DDL, the row says "locked" instead.  A share lock on one buffer at a
 * time while its versions are judged; the map is read without one, as the server
 * does.  Judging may set hint bits, as any SELECT does.
 *
 * Rights: members of pg_stat_scan_tables, of which pg_monitor is one; no value of
 * any column leaves a page.  Crash story: none, nothing outlives the call.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/multixact.h"
#include "access/relation.h"
#include "access/transam.h"
#include "access/visibilitymapdefs.h"
#include "access/xlog.h"
#include "catalog/pg_am.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "storage/smgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "vacuum.h"

#define MAX_PAGES		256		/* of one relation */
#define MAX_CALL_PAGES	1024	/* of one call */

/* A page of the map: two bits a page of the table, all-visible the lower one */
#define MAP_BYTES		(BLCKSZ - MAXALIGN(SizeOfPageHeaderData))
#define MAP_HEAP_PAGES	(MAP_BYTES * (BITS_PER_BYTE / BITS_PER_HEAPBLOCK))
#define VISIBLE_BITS	UINT64CONST(0x5555555555555555)

PG_FUNCTION_INFO_V1(kappa_require_scan);
PG_FUNCTION_INFO_V1(kappa_visibility_maps);
PG_FUNCTION_INFO_V1(kappa_heap_versions);

/* What a page's line pointers and versions are */
typedef struct Version
{
	const char *state;
	TransactionId xmin;			/* Invalid: not shown */
	TransactionId xmax;
	TransactionId updater;		/* who made the next version, or deleted this one */
	TransactionId kept_for;		/* its deleter, when it is kept only for snapshots */
	ItemPointerData ctid;
	OffsetNumber next;			/* next version on this page */
	OffsetNumber root;			/* first version of the chain */
} Version;

Datum
kappa_require_scan(PG_FUNCTION_ARGS)
{
	require_diagnostics_role(ROLE_PG_STAT_SCAN_TABLES);
	PG_RETURN_BOOL(true);
}

/*
 * Open a table for reading, without waiting.  NULL and why: it is locked, gone,
 * of another kind, or somebody else's temporary table.
 */
static Relation
open_heap(Oid oid, const char **problem)
{
	Relation	rel;

	if (!ConditionalLockRelationOid(oid, AccessShareLock))
	{
		*problem = "another session holds a lock on it";
		return NULL;
	}
	rel = try_relation_open(oid, NoLock);
	if (rel == NULL)
	{
		UnlockRelationOid(oid, AccessShareLock);
		*problem = "it does not exist any more";
		return NULL;
	}
	*problem = NULL;
	if (!RELKIND_HAS_TABLE_AM(rel->rd_rel->relkind))
		*problem = "it holds no rows itself";
	else if (rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		*problem = "its table access method is not heap";
	else if (RELATION_IS_OTHER_TEMP(rel))
		*problem = "it is a temporary table of another session";
	else if (RecoveryInProgress() && !RelationIsPermanent(rel))
		*problem = "it has no contents during recovery";
	if (*problem == NULL)
		return rel;
	relation_close(rel, AccessShareLock);
	return NULL;
}

/* ---------------------------------------------------------------- the map */

/* Bits of one page of the map, for the pages of the table that there are */
static void
count_map_page(Relation rel, BlockNumber block, BufferAccessStrategy ring,
			   int64 *visible, int64 *frozen)
{
	Buffer		buffer = ReadBufferExtended(rel, VISIBILITYMAP_FORKNUM, block, RBM_ZERO_ON_ERROR, ring);
	const uint64 *words = (const uint64 *) PageGetContents(BufferGetPage(buffer));
	int			i;

	for (i = 0; i < MAP_BYTES / sizeof(uint64); i++)
	{
		*visible += pg_popcount64(words[i] & VISIBLE_BITS);
		*frozen += pg_popcount64(words[i] & ~VISIBLE_BITS);
	}
	ReleaseBuffer(buffer);
}

/*
 * values: pages, all_visible, all_frozen, map_pages, map_read.  A sample of the map
 * is scaled up by the pages of the table that it stands for.
 */
static void
count_map(Relation rel, int64 limit, Datum *values)
{
	BlockNumber pages = RelationGetNumberOfBlocks(rel);
	BlockNumber map_pages = 0;
	BufferAccessStrategy ring = GetAccessStrategy(BAS_BULKREAD);
	int64		covered = 0;
	int64		visible = 0;
	int64		frozen = 0;
	int64		n;
	int64		i;

	if (smgrexists(RelationGetSmgr(rel), VISIBILITYMAP_FORKNUM))
		map_pages = RelationGetNumberOfBlocksInFork(rel, VISIBILITYMAP_FORKNUM);
	/* pages of the map beyond the table say nothing */
	map_pages = Min(map_pages, (pages + MAP_HEAP_PAGES - 1) / MAP_HEAP_PAGES);
	n = Min((int64) map_pages, limit);
	for (i = 0; i < n; i++)
	{
		BlockNumber block = (BlockNumber) (i * map_pages / n);

		CHECK_FOR_INTERRUPTS();
		count_map_page(rel, block, ring, &visible, &frozen);
		covered += Min((int64) MAP_HEAP_PAGES, (int64) pages - (int64) block * MAP_HEAP_PAGES);
	}
	if (n < map_pages && covered > 0)
	{
		visible = (int64) ((double) visible * pages / covered);
		frozen = (int64) ((double) frozen * pages / covered);
	}
	FreeAccessStrategy(ring);
	values[1] = Int64GetDatum(pages);
	values[2] = Int64GetDatum(visible);
	values[3] = Int64GetDatum(frozen);
	values[4] = Int64GetDatum(map_pages);
	values[5] = Int64GetDatum(n);
}

/* visibility_maps(relations oid[], exact boolean): one row a relation, in their order */
Datum
kappa_visibility_maps(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		exact = PG_GETARG_BOOL(1);
	int64		left = exact ? PG_INT64_MAX : MAX_CALL_PAGES;
	Datum	   *relations;
	int			n;
	int			i;

	require_diagnostics_role(ROLE_PG_STAT_SCAN_TABLES);
	InitMaterializedSRF(fcinfo, 0);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), OIDOID, sizeof(Oid), true, TYPALIGN_INT, &relations, NULL, &n);
	for (i = 0; i < n; i++)
	{
		Datum		values[7] = {0};
		bool		nulls[7] = {false, true, true, true, true, true, true};
		const char *problem;
		Relation	rel;

		CHECK_FOR_INTERRUPTS();
		values[0] = relations[i];
		rel = open_heap(DatumGetObjectId(relations[i]), &problem);
		if (rel)
		{
			count_map(rel, exact ? PG_INT64_MAX : Min(left, MAX_PAGES), values);
			left -= DatumGetInt64(values[5]);
			if (DatumGetInt64(values[4]) > 0 && DatumGetInt64(values[5]) == 0)
				problem = psprintf("the %d pages of visibility maps that one call reads were used up by larger tables",
								   MAX_CALL_PAGES);
			else
				memset(nulls, false, 6);
		}
		if (rel)
			relation_close(rel, AccessShareLock);
		if (problem)
		{
			values[6] = CStringGetTextDatum(problem);
			nulls[6] = false;
		}
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	PG_RETURN_NULL();
}

/* ---------------------------------------------------------------- versions */

/* Whether the one who deleted or updated this version did so, and who it was */
static TransactionId
deleter_of(HeapTupleHeader header)
{
	if ((header->t_infomask & HEAP_XMAX_INVALID) ||
		HEAP_XMAX_IS_LOCKED_ONLY(header->t_infomask))
		return InvalidTransactionId;
	return HeapTupleHeaderGetUpdateXid(header);
}

/* The server's verdict on a version, the buffer being locked */
static void
judge_tuple(Version *version, HeapTuple tuple, Buffer buffer, TransactionId horizon)
{
	TransactionId dead_after = InvalidTransactionId;

	switch (HeapTupleSatisfiesVacuumHorizon(tuple, buffer, &dead_after))
	{
		case HEAPTUPLE_DEAD:
			version->state = "dead";
			break;
		case HEAPTUPLE_RECENTLY_DEAD:
			version->state = "dead";
			if (!TransactionIdPrecedes(dead_after, horizon))
			{
				version->state = "recently dead";
				version->kept_for = dead_after;
			}
			break;
		case HEAPTUPLE_LIVE:
			version->state = "live";
			break;
		case HEAPTUPLE_INSERT_IN_PROGRESS:
			version->state = "insert in progress";
			break;
		case HEAPTUPLE_DELETE_IN_PROGRESS:
			version->state = "delete in progress";
			break;
	}
}

static void
read_item(Version *version, Relation rel, Buffer buffer, BlockNumber block, OffsetNumber lp,
		  TransactionId horizon)
{
	Page		page = BufferGetPage(buffer);
	ItemId		item = PageGetItemId(page, lp);
	HeapTupleData tuple;

	memset(version, 0, sizeof(*version));
	ItemPointerSetInvalid(&version->ctid);
	version->state = "unused";
	if (ItemIdIsDead(item))
		version->state = "dead pointer";
	else if (ItemIdIsRedirected(item))
	{
		version->state = "redirect";
		ItemPointerSet(&version->ctid, block, ItemIdGetRedirect(item));
	}
	if (!ItemIdIsNormal(item))
		return;

	tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
	tuple.t_len = ItemIdGetLength(item);
	tuple.t_tableOid = RelationGetRelid(rel);
	ItemPointerSet(&tuple.t_self, block, lp);
	judge_tuple(version, &tuple, buffer, horizon);
	version->xmin = HeapTupleHeaderGetRawXmin(tuple.t_data);
	version->updater = deleter_of(tuple.t_data);
	version->xmax = version->updater;
	version->ctid = tuple.t_data->t_ctid;
}

/*
 * Tie versions of one row together: the next one stands where ctid points to, and
 * was made by the transaction that ended this one (else the place has been taken
 * by another row).  Chains that go on to another page are cut at its edge.
 */
static void
link_versions(Version *versions, OffsetNumber n, BlockNumber block)
{
	OffsetNumber lp;

	for (lp = FirstOffsetNumber; lp <= n; lp++)
		versions[lp].root = lp;
	for (lp = FirstOffsetNumber; lp <= n; lp++)
	{
		Version    *version = &versions[lp];
		OffsetNumber to;

		if (!TransactionIdIsValid(version->updater) ||
			!ItemPointerIsValid(&version->ctid) || ItemPointerIndicatesMovedPartitions(&version->ctid) ||
			ItemPointerGetBlockNumber(&version->ctid) != block)
			continue;
		to = ItemPointerGetOffsetNumber(&version->ctid);
		if (to == lp || to > n || versions[to].xmin != version->updater)
			continue;
		version->next = to;
		versions[to].root = InvalidOffsetNumber;	/* is no first version */
	}
	for (lp = FirstOffsetNumber; lp <= n; lp++)
	{
		OffsetNumber at = lp;
		int			steps = 0;

		if (versions[lp].root != lp)
			continue;
		while ((at = versions[at].next) != InvalidOffsetNumber && steps++ < n)
			versions[at].root = lp;
	}
}

static int
chain_length(const Version *versions, OffsetNumber n, OffsetNumber root)
{
	int			length = 0;

	while (root != InvalidOffsetNumber && length <= n)
	{
		length++;
		root = versions[root].next;
	}
	return length;
}

static void
put_version(ReturnSetInfo *result, BlockNumber block, const Version *versions, OffsetNumber n, OffsetNumber lp)
{
	const Version *version = &versions[lp];
	ItemPointerData ctid = version->ctid;
	Datum		values[9] = {0};
	bool		nulls[9] = {false, false, false, true, true, true, true, true, true};

	values[0] = Int64GetDatum(block);
	values[1] = Int32GetDatum(lp);
	values[2] = CStringGetTextDatum(version->state);
	values[3] = TransactionIdGetDatum(version->xmin);
	nulls[3] = !TransactionIdIsValid(version->xmin);
	values[4] = TransactionIdGetDatum(version->xmax);
	nulls[4] = !TransactionIdIsValid(version->xmax);
	values[5] = PointerGetDatum(&ctid);
	nulls[5] = !ItemPointerIsValid(&ctid);
	if (!nulls[3])
	{
		values[6] = Int32GetDatum(chain_length(versions, n, version->root));
		nulls[6] = false;
	}
	values[7] = TransactionIdGetDatum(version->kept_for);
	nulls[7] = !TransactionIdIsValid(version->kept_for);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
read_versions(ReturnSetInfo *result, Relation rel, BlockNumber block, BufferAccessStrategy ring)
{
	TransactionId horizon = GetOldestNonRemovableTransactionId(rel);
	Buffer		buffer = ReadBufferExtended(rel, MAIN_FORKNUM, block, RBM_NORMAL, ring);
	Version    *versions;
	OffsetNumber n;
	OffsetNumber lp;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	n = PageIsNew(BufferGetPage(buffer)) ? 0 : PageGetMaxOffsetNumber(BufferGetPage(buffer));
	versions = palloc((n + 1) * sizeof(Version));
	for (lp = FirstOffsetNumber; lp <= n; lp++)
		read_item(&versions[lp], rel, buffer, block, lp, horizon);
	UnlockReleaseBuffer(buffer);

	link_versions(versions, n, block);
	for (lp = FirstOffsetNumber; lp <= n; lp++)
		put_version(result, block, versions, n, lp);
	pfree(versions);
}

/* A row that says why there is no answer */
static void
put_problem(ReturnSetInfo *result, const char *problem)
{
	Datum		values[9] = {0};
	bool		nulls[9] = {true, true, true, true, true, true, true, true, false};

	values[8] = CStringGetTextDatum(problem);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The block that was asked for, or pages of them, evenly spaced */
static void
read_blocks(ReturnSetInfo *result, Relation rel, int64 wanted, int pages)
{
	BufferAccessStrategy ring = GetAccessStrategy(BAS_BULKREAD);
	BlockNumber total = RelationGetNumberOfBlocks(rel);
	int64		n = Min((int64) total, pages);
	int64		i;

	if (wanted >= (int64) total)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("block %lld is not in relation \"%s\"", (long long) wanted, RelationGetRelationName(rel)),
				 errdetail("It has %u blocks, counted from 0.", total),
				 errhint("Leave blk out to see blocks from all over the relation.")));
	if (wanted >= 0)
		read_versions(result, rel, (BlockNumber) wanted, ring);
	else
		for (i = 0; i < n; i++)
		{
			CHECK_FOR_INTERRUPTS();
			read_versions(result, rel, (BlockNumber) (i * total / n), ring);
		}
	FreeAccessStrategy(ring);
}

/* heap_versions(rel regclass, blk bigint, pages integer); blk NULL: a sample */
Datum
kappa_heap_versions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	int64		wanted = PG_ARGISNULL(1) ? -1 : PG_GETARG_INT64(1);
	int			pages = PG_ARGISNULL(2) ? 1 : PG_GETARG_INT32(2);
	const char *problem;
	Relation	rel;

	require_diagnostics_role(ROLE_PG_STAT_SCAN_TABLES);
	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (!PG_ARGISNULL(1) && wanted < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"blk\" must not be negative"),
				 errhint("Leave it out to see blocks from all over the relation.")));
	if (pages < 1 || pages > MAX_PAGES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"pages\" must be between 1 and %d", MAX_PAGES),
				 errhint("Use pages => %d, or name a block: blk => 0.", MAX_PAGES)));
	rel = open_heap(PG_GETARG_OID(0), &problem);
	if (rel == NULL)
	{
		put_problem(result, problem);
		PG_RETURN_NULL();
	}
	read_blocks(result, rel, wanted, pages);
	relation_close(rel, AccessShareLock);
	PG_RETURN_NULL();
}
