/*
 * btree.c
 *		What a B-tree looks like, and how many pages it would have after
 *		REINDEX, from a sample of its pages.
 *
 * What is read: the meta page, and pages of the index as page_sample.c chooses them.  As the
 * entries themselves are read, partial indexes and indexes on expressions need no other
 * rule, and no planner statistics are asked.
 *
 * The rule: the entries of the leaf pages read are put into pages as a build does (btree_build.c).
 * Pages so filled, times all pages / pages read, are the leaf pages needed.  Above them come
 * internal pages of downlinks of the size of the high keys seen, 70 % full
 * (BTREE_NONLEAF_FILLFACTOR), and the meta page.
 *
 * Equal keys that run over the end of a page (its high key then carries a heap TID, as nothing
 * else tells the neighbours apart) are one run.  It is put together where the right neighbour
 * is in the sample too.  Of the others it is not known how long they are; but they are as many as
 * there are pieces of such runs less the ends of pages that are run over, so that many runs of
 * their mean length are built.
 *
 * Entries of rows that are dead but not yet vacuumed away look like any others, and REINDEX leaves
 * them out.  What share of the table's entries is needed is an argument (kappa.index_bloat
 * samples the table where its counters tell of dead rows); so many of each page's entries
 * are built, those that a scan has marked dead (LP_DEAD) first left out, then others at random.
 *
 * Shape: the pages' kinds, and density and fragmentation as pgstatindex defines them.
 *
 * Locks, bound, crash story: page_sample.c.  A page is copied before it is looked at, so its
 * lock is short.
 */
#include "postgres.h"

#include <math.h>

#include "access/nbtree.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "btree_build.h"
#include "compat.h"
#include "page_sample.h"

PG_FUNCTION_INFO_V1(kappa_sample_indexes);

#define ROW_COLUMNS		18

/* The first and the last run of a leaf page */
typedef struct LeafEnds
{
	BlockNumber block;
	BlockNumber next;			/* right neighbour */
	bool		begins;			/* its left neighbour has no part of the first run for sure */
	bool		joined;			/* the left neighbour is in the sample */
	bool		runs_on;		/* the last run goes on to the right */
	bool		single;			/* they are the same */
	Run			first;
	Run			last;
} LeafEnds;

/* What was seen of an index */
typedef struct IndexSample
{
	Relation	rel;
	const char *problem;
	double		needed;			/* share of the table's entries; 1 where no row waits for VACUUM */
	double		survive;		/* the same of the page's entries that are not marked dead */
	int			level;			/* of the root: 0 where it is a leaf */
	BlockNumber pages_read;		/* the meta page is not among them */
	Build		build;
	PageSpread	spread;			/* of what a page's entries add to the build, in bytes */
	double		page_bytes;		/* the same of the page being read */
	LeafEnds   *ends;			/* of each leaf page read, by block */
	int64		nends;
	/* runs of which the length is not known */
	double		cut_tids;
	double		cut_runs;
	double		cut_key_bytes;	/* of as many keys as there are tids */
	/* pages */
	double		leaf;
	double		internal;
	double		deleted;
	double		half_dead;
	double		backward;		/* leaf pages whose right neighbour has a lower block number */
	double		forward;		/* whose right neighbour is the next block */
	/* bytes of leaf pages */
	double		room;
	double		free_space;
	/* entries */
	double		tids;
	double		keys;			/* distinct ones, page by page */
	double		high_keys;
	double		high_key_bytes;
} IndexSample;

static const char *
check_index(Relation rel)
{
	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_INDEX)
		return "it is a partitioned index without partitions, and has no pages";
	if (rel->rd_rel->relkind != RELKIND_INDEX)
		return "it is no index: ask kappa.table_bloat, or name an index";
	if (rel->rd_rel->relam != BTREE_AM_OID)
		return "its access method is not btree, the only one whose pages are known here";
	return NULL;
}

/* ---------------------------------------------------------------- pages */

/* A run within a page is complete; the first and the last wait until all pages are read. */
static void
count_run(IndexSample *sample, LeafEnds *ends, const Run *run, bool last)
{
	sample->keys++;
	sample->tids += run->tids;
	sample->page_bytes += run_bytes(&sample->build, run);
	if (ends->first.tids == 0)
	{
		ends->first = *run;
		ends->single = last;
	}
	else if (!last)
		build_run(&sample->build, run->key_size, run->tids);
	if (last)
		ends->last = *run;
}

static int
tuple_tids(IndexTuple tuple)
{
	return BTreeTupleIsPosting(tuple) ? BTreeTupleGetNPosting(tuple) : 1;
}

/* What share of the page's entries not marked dead is needed, where so many of all are */
static double
share_to_build(const IndexSample *sample, Page page, BTPageOpaque opaque)
{
	double		alive = 0;
	double		marked = 0;
	OffsetNumber i;

	if (sample->needed >= 1)
		return 1;
	for (i = P_FIRSTDATAKEY(opaque); i <= PageGetMaxOffsetNumber(page); i++)
	{
		ItemId		item = PageGetItemId(page, i);
		int			tids = tuple_tids((IndexTuple) PageGetItem(page, item));

		if (ItemIdIsDead(item))
			marked += tids;
		else
			alive += tids;
	}
	return alive > 0 ? Min((alive + marked) * sample->needed / alive, 1) : 1;
}

/* How many of so many entries are built */
static int
survivors(const IndexSample *sample, int tids)
{
	int			n = 0;

	if (sample->survive >= 1)
		return tids;
	while (tids-- > 0)
		if (pg_prng_double(&pg_global_prng_state) < sample->survive)
			n++;
	return n;
}

/* Entries of a leaf page, in the order of their keys */
static void
count_entries(IndexSample *sample, Page page, BTPageOpaque opaque, LeafEnds *ends)
{
	int			nkeys = IndexRelationGetNumberOfKeyAttributes(sample->rel);
	OffsetNumber last = PageGetMaxOffsetNumber(page);
	IndexTuple	before = NULL;
	Run			run = {0, 0};
	OffsetNumber i;

	sample->survive = share_to_build(sample, page, opaque);
	for (i = P_FIRSTDATAKEY(opaque); i <= last; i++)
	{
		ItemId		item = PageGetItemId(page, i);
		IndexTuple	tuple = (IndexTuple) PageGetItem(page, item);
		int			tids = ItemIdIsDead(item) ? 0 : survivors(sample, tuple_tids(tuple));

		if (tids == 0)
			continue;
		if (before != NULL && _bt_keep_natts_fast(sample->rel, before, tuple) <= nkeys)
		{
			count_run(sample, ends, &run, false);
			run.tids = 0;
		}
		run.key_size = BTreeTupleIsPosting(tuple) ? BTreeTupleGetPostingOffset(tuple) : IndexTupleSize(tuple);
		run.tids += tids;
		before = tuple;
	}
	if (before != NULL)
		count_run(sample, ends, &run, true);
	else
		ends->single = true;
}

static int
by_block(const void *a, const void *b)
{
	BlockNumber x = ((const LeafEnds *) a)->block;
	BlockNumber y = ((const LeafEnds *) b)->block;

	return x < y ? -1 : x > y ? 1 : 0;
}

/* The page's right neighbour, where it was read too */
static LeafEnds *
right_neighbour(const IndexSample *sample, const LeafEnds *ends)
{
	LeafEnds	key = {.block = ends->next};

	if (ends->next == P_NONE)
		return NULL;
	return bsearch(&key, sample->ends, sample->nends, sizeof(LeafEnds), by_block);
}

/* cut: there may be more of it on pages that were not read */
static void
end_run(IndexSample *sample, const Run *run, bool cut)
{
	if (run->tids == 0)
		return;
	if (!cut)
	{
		build_run(&sample->build, run->key_size, run->tids);
		return;
	}
	sample->cut_runs++;
	sample->cut_tids += run->tids;
	sample->cut_key_bytes += run->key_size * (double) run->tids;
}

/* Pages that are neighbours, from their leftmost on: the runs at their edges */
static void
build_chain(IndexSample *sample, const LeafEnds *page)
{
	Run			run = page->first;
	bool		cut = !page->begins;
	int64		steps;

	/* a chain is no longer than all pages, whatever stands in broken ones */
	for (steps = 0; steps < sample->nends; steps++)
	{
		LeafEnds   *next = right_neighbour(sample, page);

		if (!page->single)
		{
			end_run(sample, &run, cut);
			run = page->last;
			cut = false;
		}
		if (next == NULL || !page->runs_on)
		{
			end_run(sample, &run, cut || page->runs_on);
			cut = false;
			run.tids = 0;
		}
		if (next == NULL)
		{
			if (page->runs_on)
				sample->cut_runs--;
			return;
		}
		run.key_size = next->first.tids > 0 ? next->first.key_size : run.key_size;
		run.tids += next->first.tids;
		page = next;
	}
}

/* The first and last runs of all pages, when these are read */
static void
build_ends(IndexSample *sample)
{
	int64		runs;
	int64		i;

	for (i = 0; i < sample->nends; i++)
	{
		LeafEnds   *next = right_neighbour(sample, &sample->ends[i]);

		if (next != NULL)
			next->joined = true;
	}
	for (i = 0; i < sample->nends; i++)
		if (!sample->ends[i].joined)
			build_chain(sample, &sample->ends[i]);
	if (sample->cut_tids == 0)
		return;
	runs = Max(rint(sample->cut_runs), 1);
	for (i = 0; i < runs; i++)
		build_run(&sample->build, MAXALIGN((Size) rint(sample->cut_key_bytes / sample->cut_tids)),
				  (int64) floor((i + 1) * sample->cut_tids / runs) - (int64) floor(i * sample->cut_tids / runs));
}

/* Does the last run of the page go on to the right?  And how large are downlinks? */
static bool
runs_on(IndexSample *sample, Page page, BTPageOpaque opaque)
{
	IndexTuple	high;

	if (P_RIGHTMOST(opaque))
		return false;
	high = (IndexTuple) PageGetItem(page, PageGetItemId(page, P_HIKEY));
	sample->high_keys++;
	sample->high_key_bytes += MAXALIGN(IndexTupleSize(high));
	return BTreeTupleIsPivot(high) && BTreeTupleGetHeapTID(high) != NULL;
}

static void
count_leaf(IndexSample *sample, Page page, BlockNumber block, BTPageOpaque opaque)
{
	LeafEnds   *ends = &sample->ends[sample->nends++];

	memset(ends, 0, sizeof(LeafEnds));
	ends->block = block;
	ends->next = opaque->btpo_next;
	ends->begins = P_LEFTMOST(opaque);
	sample->leaf++;
	sample->room += ((PageHeader) page)->pd_special - SizeOfPageHeaderData;
	sample->free_space += leaf_free_space(page);
	if (opaque->btpo_next != P_NONE && opaque->btpo_next < block)
		sample->backward++;
	if (opaque->btpo_next == block + 1)
		sample->forward++;
	count_entries(sample, page, opaque, ends);
	ends->runs_on = runs_on(sample, page, opaque) && ends->first.tids > 0;
}

static void
count_page(IndexSample *sample, Page page, BlockNumber block)
{
	BTPageOpaque opaque = BTPageGetOpaque(page);

	sample->pages_read++;
	sample->page_bytes = 0;
	if (P_ISDELETED(opaque))
		sample->deleted++;
	else if (P_IGNORE(opaque))
		sample->half_dead++;
	else if (P_ISLEAF(opaque))
		count_leaf(sample, page, block, opaque);
	else
		sample->internal++;
	spread_add(&sample->spread, sample->page_bytes);
}

/* Whether each line pointer leads to an entry of its length within the page; the reader's own check sees the header only. */
static bool
entries_are_sound(Page page, BTPageOpaque opaque)
{
	Size		upto = ((PageHeader) page)->pd_special;
	OffsetNumber last = PageGetMaxOffsetNumber(page);

	if (!P_RIGHTMOST(opaque) && last < P_HIKEY)
		return false;
	for (OffsetNumber i = FirstOffsetNumber; i <= last; i++)
	{
		ItemId		item = PageGetItemId(page, i);

		if (!ItemIdHasStorage(item) || ItemIdGetOffset(item) < ((PageHeader) page)->pd_upper ||
			ItemIdGetOffset(item) + ItemIdGetLength(item) > upto ||
			ItemIdGetLength(item) < sizeof(IndexTupleData) ||
			IndexTupleSize((IndexTuple) PageGetItem(page, item)) > ItemIdGetLength(item))
			return false;
	}
	return true;
}

/* A copy of the page; false: it is none of a B-tree, or damaged.  A page that is all zeroes counts as deleted. */
static bool
copy_page(IndexSample *sample, BlockNumber block, BufferAccessStrategy ring, Page copy)
{
	Buffer		buffer = walk_read(sample->rel, block, ring);
	Page		page = BufferGetPage(buffer);
	BTPageOpaque opaque;

	memcpy(copy, page, BLCKSZ);
	UnlockReleaseBuffer(buffer);
	if (PageIsNew(copy))
	{
		_bt_pageinit(copy, BLCKSZ);
		BTPageGetOpaque(copy)->btpo_flags = BTP_DELETED;
	}
	if (PageGetSpecialSize(copy) != MAXALIGN(sizeof(BTPageOpaqueData)))
		return false;
	/* of other pages no entry is read, and deleted ones have none */
	opaque = BTPageGetOpaque(copy);
	return !P_ISLEAF(opaque) || P_IGNORE(opaque) || entries_are_sound(copy, opaque);
}

/* The meta page; false where it is none */
static bool
read_meta(IndexSample *sample, BufferAccessStrategy ring, Page page)
{
	BTMetaPageData *meta = BTPageGetMeta(page);

	if (!copy_page(sample, BTREE_METAPAGE, ring, page) || !P_ISMETA(BTPageGetOpaque(page)) ||
		meta->btm_magic != BTREE_MAGIC)
		return false;
	sample->level = meta->btm_level;
	return true;
}

static void
read_index(IndexSample *sample, Relation rel, double needed, BlockNumber blocks, BlockNumber pages)
{
	BufferAccessStrategy ring = GetAccessStrategy(BAS_BULKREAD);
	Page		page = (Page) palloc(BLCKSZ);
	BlockWalk	walk;
	BlockNumber block;

	memset(sample, 0, sizeof(IndexSample));
	sample->rel = rel;
	sample->needed = needed;
	build_begin(&sample->build, rel);
	if (!read_meta(sample, ring, page))
		sample->problem = "its first page is no meta page of a B-tree: have amcheck look at it";
	walk_begin(&walk, 1, blocks - 1, Min(pages, blocks - 1));
	sample->ends = palloc_extended(sizeof(LeafEnds) * Max(walk.n, 1), MCXT_ALLOC_HUGE);
	while (sample->problem == NULL && walk_next(&walk, &block))
	{
		if (copy_page(sample, block, ring, page))
			count_page(sample, page, block);
		else
			sample->problem = psprintf("its page %u is no page of a B-tree: have amcheck look at it", block);
	}
	build_ends(sample);
	pfree(sample->ends);
	pfree(page);
	FreeAccessStrategy(ring);
}

/* ---------------------------------------------------------------- results */

/* Pages of the whole index after REINDEX */
static double
pages_needed(const IndexSample *sample, BlockNumber blocks)
{
	double		pages = build_pages(&sample->build);
	double		link = sample->high_keys > 0 ? sample->high_key_bytes / sample->high_keys : 16;
	double		links_per_page = (PAGE_ROOM * BTREE_NONLEAF_FILLFACTOR / 100.0) / (link + sizeof(ItemIdData));
	double		total = 1;

	if (sample->tids == 0)
		return 1;
	if (sample->pages_read == blocks - 1)
		pages = sample->build.full + 1;
	else
		pages = Max(ceil(pages * (blocks - 1) / sample->pages_read), 1);
	for (;;)
	{
		total += pages;
		if (pages <= 1)
			return total;
		pages = ceil(pages / Max(links_per_page, 2));
	}
}

static void
set_share(double part, double whole, Datum *value, bool *null)
{
	*null = whole <= 0;
	*value = Float8GetDatum(whole > 0 ? 100.0 * part / whole : 0);
}

/* Half of the 95 % interval of the pages needed; NULL where too little was read */
static void
set_interval(const IndexSample *sample, BlockNumber blocks, Datum *value, bool *null)
{
	double		pages = build_pages(&sample->build);
	double		page_bytes = pages > 0 ? sample->spread.sum / pages : 0;
	double		half = spread_interval(&sample->spread, blocks - 1.0);

	*null = isnan(half);
	*value = Float8GetDatum(page_bytes > 0 ? half / page_bytes * (blocks - 1) : 0);
}

/* The columns of kappa.sample_indexes in their order */
static void
put_index(ReturnSetInfo *rsinfo, const SampledRelation *relation, const IndexSample *sample)
{
	Datum		values[ROW_COLUMNS];
	bool		nulls[ROW_COLUMNS];
	BlockNumber blocks = relation->blocks;

	memset(nulls, relation->problem != NULL, sizeof(nulls));
	nulls[0] = false;
	values[0] = ObjectIdGetDatum(relation->oid);
	nulls[1] = relation->problem == NULL;
	if (relation->problem != NULL)
		values[1] = CStringGetTextDatum(relation->problem);
	else
	{
		double		scale = sample->pages_read > 0 ? (blocks - 1.0) / sample->pages_read : 0;

		values[2] = Int64GetDatum(blocks);
		values[3] = Int64GetDatum(sample->pages_read + 1);
		values[4] = Float8GetDatum(pages_needed(sample, blocks));
		set_interval(sample, blocks, &values[5], &nulls[5]);
		values[6] = Int32GetDatum(sample->level);
		values[7] = Float8GetDatum(round(sample->leaf * scale));
		values[8] = Float8GetDatum(round(sample->internal * scale));
		values[9] = Float8GetDatum(round(sample->deleted * scale));
		values[10] = Float8GetDatum(round(sample->half_dead * scale));
		set_share(sample->room - sample->free_space, sample->room, &values[11], &nulls[11]);
		set_share(sample->backward, sample->leaf, &values[12], &nulls[12]);
		set_share(sample->tids - sample->keys, sample->tids, &values[13], &nulls[13]);
		set_share(sample->forward, sample->leaf, &values[14], &nulls[14]);
		values[15] = Float8GetDatum(sample->tids * scale);
		values[16] = BoolGetDatum(sample->build.merges);
		values[17] = Int32GetDatum(BTGetFillFactor(sample->rel));
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Argument needed double precision[]: of each relation, NULL where nothing is left out */
static double *
needed_shares(ArrayType *array, int n)
{
	double	   *shares = palloc(sizeof(double) * Max(n, 1));
	Datum	   *values;
	bool	   *nulls;
	int			given;
	int			i;

	deconstruct_array(array, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &values, &nulls, &given);
	for (i = 0; i < n; i++)
		shares[i] = i < given && !nulls[i] ? DatumGetFloat8(values[i]) : 1;
	return shares;
}

typedef struct IndexCall
{
	ReturnSetInfo *rsinfo;
	double	   *needed;
} IndexCall;

static void
index_row(Relation rel, SampledRelation *relation, int i, void *arg)
{
	IndexCall  *call = arg;
	IndexSample sample;

	/* the meta page is one of its share */
	if (rel != NULL && relation->blocks == 0)
		relation->problem = "it has no pages yet: it is being built";
	else if (rel != NULL && relation->share < Min(relation->blocks, 2))
		relation->problem = "too few of its pages may be read: with pages => 2 or more there is an answer";
	else if (rel != NULL)
	{
		read_index(&sample, rel, call->needed[i], relation->blocks, relation->share - 1);
		relation->problem = sample.problem;
	}
	if (rel == NULL || relation->problem == NULL)
		put_index(call->rsinfo, relation, &sample);
}

/*
 * kappa.sample_indexes(relations oid[], pages integer, exact boolean, bound integer,
 * needed double precision[]): a row for each
 */
Datum
kappa_sample_indexes(PG_FUNCTION_ARGS)
{
	SamplePlan *plan;
	IndexCall	call;

	sample_require_rights("index_bloat");
	InitMaterializedSRF(fcinfo, 0);
	plan = sample_plan(fcinfo, check_index);
	call.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	call.needed = needed_shares(PG_GETARG_ARRAYTYPE_P(4), plan->n);
	sample_each(plan, index_row, &call);
	return (Datum) 0;
}
