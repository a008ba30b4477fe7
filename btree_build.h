/*
 * btree_build.h
 *		How a B-tree's build fills leaf pages.
 */
#ifndef KAPPA_BTREE_BUILD_H
#define KAPPA_BTREE_BUILD_H

#include "postgres.h"

#include "access/nbtree.h"

/* What a page of a B-tree has for entries and their line pointers */
#define PAGE_ROOM		(BLCKSZ - SizeOfPageHeaderData - MAXALIGN(sizeof(BTPageOpaqueData)))

/* Leaf entries being put into pages as a build does */
typedef struct Build
{
	bool		merges;			/* deduplicates */
	Size		leave_free;		/* what fillfactor leaves free on a page */
	double		full;			/* pages that are full */
	double		full_bytes;		/* on those */
	Size		used;			/* of the page being filled, with line pointers */
	int			entries;		/* on it */
	Size		last_size;		/* of the last one of them */
	Size		last_list;		/* and of its posting list */
} Build;

/* Entries of one key on one page */
typedef struct Run
{
	Size		key_size;
	int64		tids;
} Run;

extern void build_begin(Build *build, Relation index);
extern void build_run(Build *build, Size key_size, int64 tids);
extern double run_bytes(const Build *build, const Run *run);
extern double build_pages(const Build *build);

#endif
