/*
 * page_sample.c
 *		Which pages of which relations a diagnostic function reads, and how
 *		far what it saw may be from the whole.
 *
 * Bound: a relation gives at most its argument "pages" (256 by default), a call
 * at most "bound" (1,024 or "pages", whichever is more).  Where that is not enough for all
 * relations of the call, the largest are read, each with 32 pages or more, and the
 * others get a problem that says so.  exact reads whole relations.  Reads go
 * through a bulk-read ring, so they push nothing else out of shared buffers.
 *
 * Which pages: the relation is cut into as many stretches of equal length as pages
 * may be read, and one block is taken at random in each.  So they are evenly spaced,
 * which finds a region that was emptied in its right proportion, and no period
 * of the table's contents can hide between them.
 *
 * The interval: of one element from each stretch the variance of the mean is
 * estimated from the differences of neighbours, sum((x[i] - x[i-1])^2) / (2 (n - 1) n),
 * (Wolter, Introduction to Variance Estimation, the estimator v2 of its chapter on
 * systematic sampling), times 1 - n/N, as nothing is left to chance when all is read.
 * 1.96 standard errors are 95 %; for few pages Student's t takes the place of 1.96.
 *
 * Locks: ACCESS SHARE on the relation, while it is read.  Nobody is waited for longer
 * than 100 ms in the whole call; what is still locked then gets a problem.
 * VACUUM's truncation needs ACCESS EXCLUSIVE, so no block vanishes under us.
 *
 * A page that cannot be read (its checksum, the disk) is a problem of its relation: each is
 * read in a subtransaction, so that one harmed table does not hide all others.
 *
 * Crash story: none, nothing here is written but hint bits, as any SELECT does.
 */
#include "postgres.h"

#include <math.h>

#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/float.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "page_sample.h"

#define LEAST_PAGES		32		/* where a call's bound is shared */
#define LONGEST_WAIT_MS	100
#define WAIT_STEP_MS	10

void
sample_require_rights(const char *function)
{
	if (!has_privs_of_role(GetUserId(), ROLE_PG_STAT_SCAN_TABLES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for function %s", function),
				 errdetail("It reads pages of tables and indexes."),
				 errhint("GRANT pg_stat_scan_tables TO the role, or pg_monitor, which is a member of it.")));
}

/* An AccessShareLock, or false once the call's time for waiting is over. */
static bool
lock_relation(SamplePlan *plan, Oid oid)
{
	while (!ConditionalLockRelationOid(oid, AccessShareLock))
	{
		CHECK_FOR_INTERRUPTS();
		if (plan->waited_ms >= LONGEST_WAIT_MS)
			return false;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, WAIT_STEP_MS,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		plan->waited_ms += WAIT_STEP_MS;
	}
	return true;
}

/* What makes any kind of relation unreadable */
static const char *
no_pages(Relation rel)
{
	if (RELATION_IS_OTHER_TEMP(rel))
		return "it is a temporary relation of another session, whose pages are in that session's memory";
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED && RecoveryInProgress())
		return "it is unlogged and has no pages while the server is in recovery";
	return NULL;
}

/* Locked and open, or NULL and its problem */
static Relation
sample_open(SamplePlan *plan, SampledRelation *relation)
{
	Relation	rel;

	if (!lock_relation(plan, relation->oid))
	{
		relation->problem = "it is locked: another session holds ACCESS EXCLUSIVE on it, and 100 ms were not enough";
		return NULL;
	}
	rel = try_relation_open(relation->oid, NoLock);
	if (rel == NULL)
	{
		UnlockRelationOid(relation->oid, AccessShareLock);
		relation->problem = "it does not exist";
		return NULL;
	}
	relation->problem = plan->check(rel);
	if (relation->problem == NULL)
		relation->problem = no_pages(rel);
	if (relation->problem == NULL)
		return rel;
	relation_close(rel, AccessShareLock);
	return NULL;
}

static int
larger_first(const void *a, const void *b)
{
	BlockNumber x = (*(SampledRelation *const *) a)->blocks;
	BlockNumber y = (*(SampledRelation *const *) b)->blocks;

	return x > y ? -1 : x < y ? 1 : 0;
}

/* Deal the call's pages out: every relation its least from the largest on, what is left evenly. */
static void
share_out(SamplePlan *plan, BlockNumber pages)
{
	SampledRelation **order = palloc(sizeof(SampledRelation *) * Max(plan->n, 1));
	BlockNumber left = plan->bound;
	int			chosen;
	int			i;

	for (i = 0; i < plan->n; i++)
		order[i] = &plan->relations[i];
	qsort(order, plan->n, sizeof(SampledRelation *), larger_first);
	for (chosen = 0; chosen < plan->n; chosen++)
	{
		BlockNumber least = Min(order[chosen]->blocks, Min(pages, LEAST_PAGES));

		if (least > left)
			break;
		order[chosen]->share = least;
		left -= least;
	}
	for (i = chosen - 1; i >= 0; i--)
	{
		BlockNumber more = Min(Min(order[i]->blocks, pages) - order[i]->share, left / (i + 1));

		order[i]->share += more;
		left -= more;
	}
	for (i = chosen; i < plan->n; i++)
		if (order[i]->problem == NULL)
			order[i]->problem = psprintf("the call's bound of %d pages is used up by larger ones: ask for it alone",
										 plan->bound);
	pfree(order);
}

/* The relations named in the arguments, their sizes, and how many pages each may give. */
SamplePlan *
sample_plan(FunctionCallInfo fcinfo, RelationCheck check)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(0);
	int32		pages = PG_GETARG_INT32(1);
	bool		exact = PG_GETARG_BOOL(2);
	int32		bound = PG_GETARG_INT32(3);
	SamplePlan *plan = palloc0(sizeof(SamplePlan));
	Datum	   *oids;
	int			i;

	if (pages < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("pages must be 1 or more")));
	deconstruct_array(array, OIDOID, sizeof(Oid), true, TYPALIGN_INT, &oids, NULL, &plan->n);
	plan->check = check;
	plan->bound = Max(bound, 0);
	plan->relations = palloc0(sizeof(SampledRelation) * Max(plan->n, 1));
	for (i = 0; i < plan->n; i++)
	{
		SampledRelation *relation = &plan->relations[i];
		Relation	rel;

		CHECK_FOR_INTERRUPTS();
		relation->oid = DatumGetObjectId(oids[i]);
		rel = sample_open(plan, relation);
		if (rel == NULL)
			continue;
		relation->blocks = RelationGetNumberOfBlocks(rel);
		relation->share = exact ? relation->blocks : 0;
		relation_close(rel, AccessShareLock);
	}
	if (!exact)
		share_out(plan, pages);
	return plan;
}

static void
read_relation(SamplePlan *plan, int i, RelationReader reader, void *arg)
{
	SampledRelation *relation = &plan->relations[i];
	Relation	rel = sample_open(plan, relation);

	if (rel == NULL)
		return;
	/* it may have been truncated since; what it has grown by does not count */
	relation->blocks = Min(relation->blocks, RelationGetNumberOfBlocks(rel));
	relation->share = Min(relation->share, relation->blocks);
	reader(rel, relation, i, arg);
	relation_close(rel, AccessShareLock);
}

/* The message, in the caller's memory, where a page could not be read; any other ERROR goes on. */
static const char *
unreadable_page(void)
{
	ErrorData  *error = CopyErrorData();

	FlushErrorState();
	RollbackAndReleaseCurrentSubTransaction();
	if (error->sqlerrcode != ERRCODE_DATA_CORRUPTED && error->sqlerrcode != ERRCODE_IO_ERROR)
		ReThrowError(error);
	return psprintf("one of its pages cannot be read: %s; restore it from a backup, or see what amcheck and pg_surgery can save",
					error->message);
}

static void
try_relation(SamplePlan *plan, int i, RelationReader reader, void *arg)
{
	MemoryContext memory = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(memory);
	PG_TRY();
	{
		read_relation(plan, i, reader, arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(memory);
		plan->relations[i].problem = unreadable_page();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(memory);
	CurrentResourceOwner = owner;
}

void
sample_each(SamplePlan *plan, RelationReader reader, void *arg)
{
	for (int i = 0; i < plan->n; i++)
	{
		if (plan->relations[i].problem == NULL)
			try_relation(plan, i, reader, arg);
		if (plan->relations[i].problem != NULL)
			reader(NULL, &plan->relations[i], i, arg);
	}
}

void
walk_begin(BlockWalk *walk, BlockNumber first, BlockNumber blocks, BlockNumber n)
{
	walk->first = first;
	walk->blocks = blocks;
	walk->n = Min(n, blocks);
	walk->done = 0;
}

/* One block at random from the next stretch; false: all are read. */
bool
walk_next(BlockWalk *walk, BlockNumber *block)
{
	double		length;
	double		at;

	CHECK_FOR_INTERRUPTS();
	if (walk->done == walk->n)
		return false;
	length = (double) walk->blocks / walk->n;
	if (walk->n == walk->blocks)
		at = walk->done;
	else
		at = floor((walk->done + pg_prng_double(&pg_global_prng_state)) * length);
	/* short stretches may meet in a block, which is not read twice */
	if (walk->done > 0)
		at = Max(at, walk->last + 1.0);
	walk->last = (BlockNumber) Min(at, walk->blocks - 1.0);
	*block = walk->first + walk->last;
	walk->done++;
	return true;
}

/* The page, pinned and locked in share mode */
Buffer
walk_read(Relation rel, BlockNumber block, BufferAccessStrategy ring)
{
	Buffer		buffer = ReadBufferExtended(rel, MAIN_FORKNUM, block, RBM_NORMAL, ring);

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	return buffer;
}

void
spread_add(PageSpread *spread, double value)
{
	if (spread->n > 0)
		spread->squares += (value - spread->last) * (value - spread->last);
	spread->last = value;
	spread->sum += value;
	spread->n++;
}

/* Student's t for 95 %: an expansion in 1/f that is right to 0.02 from 3 degrees of freedom on. */
static double
student_t(int freedom)
{
	double		f = Max(freedom, 1);

	return 1.96 + 2.372 / f + 2.823 / (f * f) + 2.556 / (f * f * f) + 1.590 / (f * f * f * f);
}

/*
 * Half of the 95 % interval of the mean, where so many pages were to be seen;
 * NaN where too few were for an answer.
 */
double
spread_interval(const PageSpread *spread, double pages)
{
	double		n = spread->n;

	if (n >= pages)
		return 0;
	if (n < 2)
		return get_float8_nan();
	return student_t(spread->n - 1) * sqrt(spread->squares / (2 * (n - 1) * n) * (1 - n / pages));
}
