/*
 * page_sample.h
 *		Which pages of which relations a diagnostic function reads, and how
 *		far what it saw may be from the whole.
 */
#ifndef KAPPA_PAGE_SAMPLE_H
#define KAPPA_PAGE_SAMPLE_H

#include "postgres.h"

#include "fmgr.h"
#include "storage/block.h"
#include "storage/buf.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"

/* One relation of a call. */
typedef struct SampledRelation
{
	Oid			oid;
	BlockNumber blocks;			/* of its main fork; 0 where problem is set */
	BlockNumber share;			/* how many of them may be read */
	const char *problem;		/* why nothing is known of it, or NULL */
} SampledRelation;

/* What makes a relation unfit: a sentence, or NULL */
typedef const char *(*RelationCheck) (Relation rel);

/*
 * Reads the ith relation of a call and puts its row; rel is NULL where it has a problem,
 * which then is the row.  A reader that finds one sets it and puts nothing: it is called
 * again.
 */
typedef void (*RelationReader) (Relation rel, SampledRelation *relation, int i, void *arg);

/* All relations of a call: arguments (relations oid[], pages integer, exact boolean, bound integer) */
typedef struct SamplePlan
{
	SampledRelation *relations;
	int			n;
	RelationCheck check;
	int			bound;			/* pages of the whole call */
	int			waited_ms;		/* for locks, in the whole call */
} SamplePlan;

/* Blocks of a relation, evenly spaced, in ascending order */
typedef struct BlockWalk
{
	BlockNumber first;
	BlockNumber blocks;
	BlockNumber n;				/* how many of them are read */
	BlockNumber done;
	BlockNumber last;			/* less first */
} BlockWalk;

/* A quantity of each page, for the mean's error */
typedef struct PageSpread
{
	double		sum;
	double		squares;		/* of the differences of neighbours */
	double		last;
	int			n;
} PageSpread;

extern void sample_require_rights(const char *function);
extern SamplePlan *sample_plan(FunctionCallInfo fcinfo, RelationCheck check);
extern void sample_each(SamplePlan *plan, RelationReader reader, void *arg);

extern void walk_begin(BlockWalk *walk, BlockNumber first, BlockNumber blocks, BlockNumber n);
extern bool walk_next(BlockWalk *walk, BlockNumber *block);
extern Buffer walk_read(Relation rel, BlockNumber block, BufferAccessStrategy ring);

extern void spread_add(PageSpread *spread, double value);
extern double spread_interval(const PageSpread *spread, double pages);

#endif
