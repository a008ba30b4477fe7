/*
 * btree_build.c
 *		How a B-tree's build fills leaf pages: sizes go in, pages come out.
 *
 * As _bt_load and _bt_buildadd do (nbtsort.c).  Where the build would deduplicate, entries of equal
 * keys are merged into posting lists of at most a tenth of a page (_bt_dedup_save_htid in
 * nbtdedup.c), else each TID has an entry of its own.  A page is full when less than what leaf
 * fillfactor leaves free is left on it, or when the next entry and a heap TID for the high key do
 * not fit; its last entry then moves to the next page, and stays behind as a high key
 * without its posting list.
 *
 * Reads and keeps nothing: plain arithmetic.
 */
#include "postgres.h"

#include <math.h>

#include "btree_build.h"

void
build_begin(Build *build, Relation index)
{
	memset(build, 0, sizeof(Build));
	/* as _bt_load decides */
	build->merges = !index->rd_index->indisunique && BTGetDeduplicateItems(index) &&
		_bt_allequalimage(index, false);
	build->leave_free = BTGetTargetPageFreeSpace(index);
}

/* list: how much of the size is a posting list, which a high key does not have */
static void
build_entry(Build *build, Size size, Size list)
{
	Size		used = build->used + sizeof(ItemIdData);
	Size		free_space = used < PAGE_ROOM ? PAGE_ROOM - used : 0;

	size = MAXALIGN(size);
	if (build->entries > 1 &&
		(free_space < size + MAXALIGN(sizeof(ItemPointerData)) ||
		 free_space + build->last_list < build->leave_free))
	{
		build->full++;
		build->full_bytes += build->used - build->last_size;
		/* the line pointer of the high key, and the last entry of the page before */
		build->used = sizeof(ItemIdData) + build->last_size;
		build->entries = 1;
	}
	if (build->entries == 0)
		build->used = sizeof(ItemIdData);
	build->last_size = size + sizeof(ItemIdData);
	build->last_list = list;
	build->used += build->last_size;
	build->entries++;
}

/* How many TIDs of one key the build puts into one entry at most */
static int
most_merged(const Build *build, Size key_size)
{
	Size		bytes = MAXALIGN_DOWN(MAXALIGN_DOWN(BLCKSZ * 10 / 100) - sizeof(ItemIdData));

	if (!build->merges || key_size + 2 * sizeof(ItemPointerData) > bytes)
		return 1;
	return (bytes - key_size) / sizeof(ItemPointerData);
}

void
build_run(Build *build, Size key_size, int64 tids)
{
	int			most = most_merged(build, key_size);

	while (tids > 0)
	{
		int			n = Min(most, tids);
		Size		size = n == 1 ? key_size : MAXALIGN(key_size + n * sizeof(ItemPointerData));

		build_entry(build, size, size - key_size);
		tids -= n;
	}
}

/* Bytes that such a run takes, without regard to where pages end */
double
run_bytes(const Build *build, const Run *run)
{
	int			most = most_merged(build, run->key_size);

	if (most == 1)
		return run->tids * (double) (run->key_size + sizeof(ItemIdData));
	return ceil((double) run->tids / most) * (run->key_size + sizeof(ItemIdData)) +
		run->tids * (double) sizeof(ItemPointerData);
}

double
build_pages(const Build *build)
{
	double		page_bytes = build->full > 0 ? build->full_bytes / build->full : PAGE_ROOM - build->leave_free;

	return build->full + Min(build->used / page_bytes, 1.0);
}
