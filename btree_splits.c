/*
 * btree_splits.c
 *		Page splits of B-trees, from the WAL.
 *
 * A split is a record Btree/SPLIT_L or SPLIT_R (the new entry went left or right), a further
 * level on top is Btree/NEWROOT.  Each makes one page: while no page is recycled the file
 * grows by splits + new roots.  Its blocks 0 and 1 are the page that was split and the new one.
 *
 * A split at the right end: the record carries all entries of the new page, and these take less
 * than 30 % of a page.  nbtree splits so where keys grow, and leaves the old page full to
 * the fillfactor; elsewhere it halves the page (_bt_findsplitloc).
 *
 * pages_before and pages_after: new pages at the end of the file come in the order of their
 * blocks, so from the last one down to the first that has no predecessor among them the file
 * has grown.  Recycled pages stand below, and apart unless they were the very last.
 *
 * Bound, locks, what is unreadable: wal_scan.c.  Memory: a block number a new page.
 * kappa.btree_splits (SQL) puts a sentence and advice to the numbers.
 *
 * Crash story: none, nothing outlives the call.
 */
#include "postgres.h"

#include "access/nbtxlog.h"
#include "access/rmgr.h"
#include "access/xlogreader.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"

#include "page_sample.h"
#include "wal_scan.h"

PG_FUNCTION_INFO_V1(kappa_split_records);

#define ROW_COLUMNS		14
#define RIGHT_END_BYTES	(BLCKSZ * 30 / 100)

typedef struct FileKey
{
	Oid			tablespace;
	Oid			file;
} FileKey;

/* An index of this database */
typedef struct SplitSum
{
	FileKey		key;
	WalBlock	block;			/* any of it */
	int64		inserts;		/* of leaf entries */
	int64		leaf_splits;
	int64		right_end;		/* of these */
	int64		internal_splits;
	int64		new_roots;
	int64		bytes;			/* of splits and new roots, with images */
	int64		image_bytes;
	/* new pages */
	BlockNumber *blocks;
	int			nblocks;
	int			room;
} SplitSum;

static void
add_new_page(SplitSum *sum, BlockNumber block)
{
	if (sum->nblocks == sum->room)
	{
		sum->room = Max(2 * sum->room, 16);
		sum->blocks = sum->blocks == NULL ? palloc_extended(sizeof(BlockNumber) * sum->room, MCXT_ALLOC_HUGE) :
			repalloc_huge(sum->blocks, sizeof(BlockNumber) * sum->room);
	}
	sum->blocks[sum->nblocks++] = block;
}

static void
add_bytes(SplitSum *sum, XLogReaderState *record)
{
	WalBlock	block;
	int			n;

	sum->bytes += XLogRecGetTotalLen(record);
	for (n = 0; n <= XLogRecMaxBlockId(record); n++)
		if (wal_block(record, n, &block))
			sum->image_bytes += block.image_bytes;
}

static void
count_split(SplitSum *sum, XLogReaderState *record)
{
	xl_btree_split *split = (xl_btree_split *) XLogRecGetData(record);
	WalBlock	block;
	Size		moved = 0;

	if (wal_block(record, 1, &block))
		add_new_page(sum, block.block);
	(void) XLogRecGetBlockData(record, 1, &moved);
	add_bytes(sum, record);
	if (split->level > 0)
	{
		sum->internal_splits++;
		return;
	}
	sum->leaf_splits++;
	/* the entry that did not fit is inserted by the same record */
	sum->inserts++;
	if (moved < RIGHT_END_BYTES)
		sum->right_end++;
}

static SplitSum *
sum_of(HTAB *sums, const WalBlock *block)
{
	FileKey		key = {block->tablespace, block->file};
	SplitSum   *sum;
	bool		found;

	sum = hash_search(sums, &key, HASH_ENTER, &found);
	if (!found)
	{
		memset((char *) sum + sizeof(FileKey), 0, sizeof(SplitSum) - sizeof(FileKey));
		sum->block = *block;
	}
	return sum;
}

static void
count_record(XLogReaderState *record, void *arg)
{
	SplitSum   *sum;
	WalBlock	block;

	if (XLogRecGetRmid(record) != RM_BTREE_ID || !wal_block(record, 0, &block) ||
		block.database != MyDatabaseId)
		return;
	sum = sum_of(arg, &block);
	switch (XLogRecGetInfo(record) & ~XLR_INFO_MASK)
	{
		case XLOG_BTREE_INSERT_LEAF:
		case XLOG_BTREE_INSERT_POST:
			sum->inserts++;
			break;
		case XLOG_BTREE_SPLIT_L:
		case XLOG_BTREE_SPLIT_R:
			count_split(sum, record);
			break;
		case XLOG_BTREE_NEWROOT:
			sum->new_roots++;
			add_new_page(sum, block.block);
			add_bytes(sum, record);
			break;
	}
}

static int
by_number(const void *a, const void *b)
{
	BlockNumber x = *(const BlockNumber *) a;
	BlockNumber y = *(const BlockNumber *) b;

	return x < y ? -1 : x > y ? 1 : 0;
}

/* The columns of kappa.split_records in their order */
static void
put_sum(ReturnSetInfo *rsinfo, SplitSum *sum, const WalScan *scan)
{
	Datum		values[ROW_COLUMNS];
	bool		nulls[ROW_COLUMNS] = {0};
	Oid			index = wal_relation(&sum->block);
	int			first = sum->nblocks - 1;

	values[0] = ObjectIdGetDatum(index);
	nulls[0] = !OidIsValid(index);
	values[1] = ObjectIdGetDatum(sum->key.file);
	values[2] = Int64GetDatum(sum->inserts);
	values[3] = Int64GetDatum(sum->leaf_splits);
	values[4] = Int64GetDatum(sum->right_end);
	values[5] = Int64GetDatum(sum->internal_splits);
	values[6] = Int64GetDatum(sum->new_roots);
	values[7] = Int64GetDatum(sum->bytes);
	values[8] = Int64GetDatum(sum->image_bytes);
	nulls[9] = nulls[10] = sum->nblocks == 0;
	if (sum->nblocks > 0)
	{
		qsort(sum->blocks, sum->nblocks, sizeof(BlockNumber), by_number);
		while (first > 0 && sum->blocks[first - 1] + 1 == sum->blocks[first])
			first--;
		values[9] = Int64GetDatum((int64) sum->blocks[first]);
		values[10] = Int64GetDatum((int64) sum->blocks[sum->nblocks - 1] + 1);
	}
	values[11] = LSNGetDatum(scan->from);
	values[12] = LSNGetDatum(scan->end);
	values[13] = BoolGetDatum(scan->cut);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* kappa.split_records(lsn1 pg_lsn, lsn2 pg_lsn, max_bytes bigint): a row an index */
Datum
kappa_split_records(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	HASHCTL		control = {.keysize = sizeof(FileKey), .entrysize = sizeof(SplitSum), .hcxt = CurrentMemoryContext};
	HASH_SEQ_STATUS status;
	SplitSum   *sum;
	WalScan		scan;
	HTAB	   *sums;

	sample_require_rights("btree_splits");
	wal_scan_arguments(fcinfo, 0, &scan);
	InitMaterializedSRF(fcinfo, 0);
	sums = hash_create("kappa splits", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	wal_scan(&scan, count_record, sums);
	hash_seq_init(&status, sums);
	while ((sum = hash_seq_search(&status)) != NULL)
		put_sum(rsinfo, sum, &scan);
	return (Datum) 0;
}
