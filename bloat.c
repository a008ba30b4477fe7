/*
 * bloat.c
 *		How many pages a table would have after VACUUM FULL, from a sample of
 *		its pages.
 *
 * What is read: pages of the heap as page_sample.c chooses them, with the server's own
 * horizon for what is still needed (GetOldestNonRemovableTransactionId,
 * HeapTupleSatisfiesVacuum: what VACUUM FULL asks).  No planner statistics, so a table
 * that was never analyzed, and a role that may not see its columns, get the same answer.
 *
 * The rule: the rows that VACUUM FULL would keep are put into pages as it does, in their
 * order (raw_heap_insert in rewriteheap.c).  A page has BLCKSZ bytes less its header and less
 * the reserve of fillfactor; a row takes MAXALIGN(its length) and 4 bytes for its line
 * pointer; there are at most MaxHeapTuplesPerPage.  The length is that of the row written
 * anew: dropped columns as nulls, columns added with a default since as values.
 * The pages so filled, times all pages / pages read, are the pages needed.
 *
 * Three kinds of rows: needed; dead to everybody, so VACUUM frees their space; and dead but
 * kept for an old snapshot, which also VACUUM FULL has to copy ("kept" is a part of "needed").
 * Rows of transactions in progress count as needed.
 *
 * Also counted: the line pointers that indexes point to (rows that are no HOT versions, and what
 * pruning left of some), and how many of them lead to nothing that is needed, so that
 * kappa.index_bloat can tell which entries REINDEX would leave out before VACUUM has run.
 *
 * Values never leave: only lengths are added up, and toasted ones are not fetched.  A TOAST
 * table is a relation of its own to these functions.
 *
 * Locks, bound, crash story: page_sample.c.  kappa.table_bloat (SQL) puts levels, a sentence
 * and advice to the numbers.
 */
#include "postgres.h"

#include <math.h>

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "compat.h"
#include "page_sample.h"

PG_FUNCTION_INFO_V1(kappa_sample_tables);

#define ROW_COLUMNS		14

/* Rows being put into pages as VACUUM FULL does */
typedef struct Packing
{
	Size		room;			/* bytes of a page for rows and their line pointers */
	double		full;			/* pages that are full */
	Size		used;			/* of the page being filled */
	int			rows;			/* on it */
} Packing;

/* What was seen of a table */
typedef struct TableSample
{
	Relation	rel;
	TransactionId horizon;
	Packing		packing;
	PageSpread	spread;			/* of a page's needed bytes */
	double		rows;
	double		dead;			/* bytes, here and below */
	double		kept;
	double		padding;
	double		entries;		/* line pointers that an index points to */
	double		dead_entries;	/* of rows that are dead to everybody */
	double		page_bytes;		/* needed ones of the page being read */
	BlockNumber pages_read;
	BlockNumber tail_from;		/* all pages read from here on hold no needed row */
	/* columns of the row being looked at */
	Datum	   *values;
	bool	   *nulls;
} TableSample;

static const char *
check_table(Relation rel)
{
	switch (rel->rd_rel->relkind)
	{
		case RELKIND_RELATION:
		case RELKIND_MATVIEW:
		case RELKIND_TOASTVALUE:
			break;
		case RELKIND_PARTITIONED_TABLE:
			return "it is partitioned and has no pages, nor has it a partition";
		case RELKIND_FOREIGN_TABLE:
			return "it is a foreign table, whose pages are not here";
		case RELKIND_INDEX:
		case RELKIND_PARTITIONED_INDEX:
			return "it is an index: ask kappa.index_bloat";
		default:
			return "it is no table";
	}
	if (rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		return "its access method is not heap, the only one whose pages are known here";
	return NULL;
}

static void
pack_row(Packing *packing, Size size)
{
	if (packing->rows > 0 &&
		(packing->used + size > packing->room || packing->rows == MaxHeapTuplesPerPage))
	{
		packing->full++;
		packing->used = 0;
		packing->rows = 0;
	}
	packing->used += size;
	packing->rows++;
}

/* Length of a value without what its alignment adds, as heap_form_tuple stores it */
static Size
value_length(Form_pg_attribute att, Datum value)
{
	struct varlena *varlena = (struct varlena *) DatumGetPointer(value);

	if (att->attlen > 0)
		return att->attlen;
	if (att->attlen == -2)
		return strlen(DatumGetCString(value)) + 1;
	if (att->attstorage != TYPSTORAGE_PLAIN && VARATT_CAN_MAKE_SHORT(varlena))
		return VARATT_CONVERTED_SHORT_SIZE(varlena);
	return VARSIZE_ANY(varlena);
}

/* Length of the row as it would be written anew; *padding is what alignment adds to it. */
static Size
rewritten_length(TableSample *sample, HeapTuple tuple, Size *padding)
{
	TupleDesc	desc = RelationGetDescr(sample->rel);
	bool		has_nulls = false;
	Size		header = SizeofHeapTupleHeader;
	Size		data;
	Size		values = 0;
	int			i;

	heap_deform_tuple(tuple, desc, sample->values, sample->nulls);
	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped)
			sample->nulls[i] = true;
		if (sample->nulls[i])
			has_nulls = true;
		else
			values += value_length(att, sample->values[i]);
	}
	if (has_nulls)
		header += BITMAPLEN(desc->natts);
	data = heap_compute_data_size(desc, sample->values, sample->nulls);
	*padding = MAXALIGN(data) - Min(values, data);
	return MAXALIGN(header) + data;
}

/* A row that VACUUM FULL would copy */
static void
count_needed(TableSample *sample, HeapTuple tuple, bool kept)
{
	Size		padding;
	Size		size = MAXALIGN(rewritten_length(sample, tuple, &padding)) + sizeof(ItemIdData);

	pack_row(&sample->packing, size);
	sample->page_bytes += size;
	sample->padding += padding;
	sample->rows++;
	if (kept)
		sample->kept += size;
}

static void
count_row(TableSample *sample, HeapTuple tuple, Buffer buffer)
{
	bool		entry = !HeapTupleIsHeapOnly(tuple);

	if (entry)
		sample->entries++;
	switch (HeapTupleSatisfiesVacuum(tuple, sample->horizon, buffer))
	{
		case HEAPTUPLE_DEAD:
			sample->dead += MAXALIGN(tuple->t_len) + sizeof(ItemIdData);
			/* else a HOT version behind it is what the entry leads to */
			if (entry && !HeapTupleIsHotUpdated(tuple))
				sample->dead_entries++;
			break;
		case HEAPTUPLE_RECENTLY_DEAD:
			count_needed(sample, tuple, true);
			break;
		default:
			count_needed(sample, tuple, false);
			break;
	}
}

/* A line pointer of which pruning has taken the row */
static void
count_pruned(TableSample *sample, ItemId item)
{
	if (ItemIdIsDead(item) || ItemIdIsRedirected(item))
		sample->entries++;
	if (ItemIdIsDead(item))
		sample->dead_entries++;
}

static void
count_page(TableSample *sample, BlockNumber block, Buffer buffer)
{
	Page		page = BufferGetPage(buffer);
	OffsetNumber last = PageIsNew(page) ? 0 : PageGetMaxOffsetNumber(page);
	OffsetNumber i;

	sample->page_bytes = 0;
	for (i = FirstOffsetNumber; i <= last; i++)
	{
		ItemId		item = PageGetItemId(page, i);
		HeapTupleData tuple;

		if (!ItemIdIsNormal(item))
		{
			count_pruned(sample, item);
			continue;
		}
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		tuple.t_tableOid = RelationGetRelid(sample->rel);
		ItemPointerSet(&tuple.t_self, block, i);
		count_row(sample, &tuple, buffer);
	}
	spread_add(&sample->spread, sample->page_bytes);
	sample->pages_read++;
	if (sample->page_bytes > 0)
		sample->tail_from = InvalidBlockNumber;
	else if (sample->tail_from == InvalidBlockNumber)
		sample->tail_from = block;
}

static void
read_table(TableSample *sample, Relation rel, BlockNumber blocks, BlockNumber pages)
{
	BufferAccessStrategy ring = GetAccessStrategy(BAS_BULKREAD);
	int			natts = RelationGetNumberOfAttributes(rel);
	BlockWalk	walk;
	BlockNumber block;

	memset(sample, 0, sizeof(TableSample));
	sample->rel = rel;
	sample->horizon = GetOldestNonRemovableTransactionId(rel);
	sample->packing.room = BLCKSZ - SizeOfPageHeaderData -
		RelationGetTargetPageFreeSpace(rel, HEAP_DEFAULT_FILLFACTOR);
	sample->tail_from = InvalidBlockNumber;
	sample->values = palloc(sizeof(Datum) * Max(natts, 1));
	sample->nulls = palloc(sizeof(bool) * Max(natts, 1));
	walk_begin(&walk, 0, blocks, pages);
	while (walk_next(&walk, &block))
	{
		Buffer		buffer = walk_read(rel, block, ring);

		count_page(sample, block, buffer);
		UnlockReleaseBuffer(buffer);
	}
	pfree(sample->values);
	pfree(sample->nulls);
	FreeAccessStrategy(ring);
}

/* Pages that VACUUM FULL would leave */
static double
pages_needed(const TableSample *sample, BlockNumber blocks)
{
	const Packing *packing = &sample->packing;

	if (sample->rows == 0)
		return 0;
	if (sample->pages_read == blocks)
		return packing->full + 1;
	return ceil((packing->full + (double) packing->used / packing->room) * blocks / sample->pages_read);
}

/* Half of the 95 % interval of that, in pages; NULL where too little was read */
static void
set_interval(const TableSample *sample, BlockNumber blocks, Datum *value, bool *null)
{
	const Packing *packing = &sample->packing;
	double		pages = packing->full + (double) packing->used / packing->room;
	double		page_bytes = pages > 0 ? sample->spread.sum / pages : packing->room;
	double		half = spread_interval(&sample->spread, blocks);

	*null = isnan(half);
	*value = Float8GetDatum(half / page_bytes * blocks);
}

/* The columns of kappa.sample_tables in their order */
static void
put_table(ReturnSetInfo *rsinfo, const SampledRelation *relation, const TableSample *sample)
{
	Datum		values[ROW_COLUMNS];
	bool		nulls[ROW_COLUMNS];
	double		scale;

	memset(nulls, relation->problem != NULL, sizeof(nulls));
	nulls[0] = false;
	values[0] = ObjectIdGetDatum(relation->oid);
	nulls[1] = relation->problem == NULL;
	if (relation->problem != NULL)
		values[1] = CStringGetTextDatum(relation->problem);
	else
	{
		scale = sample->pages_read > 0 ? (double) relation->blocks / sample->pages_read : 0;
		values[2] = Int64GetDatum(relation->blocks);
		values[3] = Int64GetDatum(sample->pages_read);
		values[4] = Float8GetDatum(pages_needed(sample, relation->blocks));
		set_interval(sample, relation->blocks, &values[5], &nulls[5]);
		values[6] = Float8GetDatum(sample->rows * scale);
		values[7] = Float8GetDatum(sample->dead * scale);
		values[8] = Float8GetDatum(sample->kept * scale);
		values[9] = Float8GetDatum(sample->padding * scale);
		values[10] = Int64GetDatum(sample->tail_from == InvalidBlockNumber ? 0 :
								   relation->blocks - sample->tail_from);
		values[11] = Int32GetDatum(RelationGetFillFactor(sample->rel, HEAP_DEFAULT_FILLFACTOR));
		values[12] = Float8GetDatum(sample->entries * scale);
		values[13] = Float8GetDatum(sample->dead_entries * scale);
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
table_row(Relation rel, SampledRelation *relation, int i, void *arg)
{
	TableSample sample;

	if (rel != NULL)
		read_table(&sample, rel, relation->blocks, relation->share);
	put_table(arg, relation, &sample);
}

/* kappa.sample_tables(relations oid[], pages integer, exact boolean, bound integer): a row for each */
Datum
kappa_sample_tables(PG_FUNCTION_ARGS)
{
	sample_require_rights("table_bloat");
	InitMaterializedSRF(fcinfo, 0);
	sample_each(sample_plan(fcinfo, check_table), table_row, fcinfo->resultinfo);
	return (Datum) 0;
}
