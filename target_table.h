/*
 * target_table.h
 *		Rows into the target, inside the caller's transaction.
 *
 * Order of calls, all in one transaction: target_open, then any number of
 * target_check and target_write attempts (an attempt that raises an ERROR inside a
 * subtransaction leaves nothing behind and may be repeated), target_close.
 */
#ifndef KAPPA_TARGET_TABLE_H
#define KAPPA_TARGET_TABLE_H

#include "postgres.h"

#include "utils/rel.h"

#include "subscription.h"

/* One row for the target; values, nulls and present by attno - 1. */
typedef struct Row
{
	int			message;		/* index of its message in the batch */
	int			number;			/* of the row in the batch: the later one wins */
	bool		delete;			/* upsert: only the key columns are set */
	Datum	   *values;
	bool	   *nulls;
	bool	   *present;
} Row;

/* What makes two values of a key column equal, and which comes first: its index says. */
typedef struct KeyEquality
{
	Oid			opclass;
	Oid			opfamily;
	Oid			type;			/* that the operators of the class take */
	Oid			collation;
} KeyEquality;

typedef struct TargetTable
{
	const Subscription *sub;
	Relation	rel;
	Oid			table_owner;
	bool		general;		/* SQL instead of the multi-insert */
	bool		diverted;		/* rows went to a partition by SQL: what is stored may differ */
	bool		needs_check;	/* constraints worth a pass of their own */
	/* upsert: the key columns */
	int			nkeys;
	AttrNumber *keys;
	Oid			key_index;		/* upsert.h; InvalidOid: there is none any more */
	KeyEquality *equality;		/* by key column, as key_index has it */
	bool		by_index;		/* upsert.h; otherwise by SQL */
	bool		careful;		/* an error is being looked for: by SQL, which waits as it should */
	int64		row_bytes;		/* of the columns that the last target_write stored */
} TargetTable;

/*
 * Locks the relation and checks that the subscription's owner may write it now:
 * 42P01, 42501, 0A000 (row security that binds him).
 */
extern TargetTable *target_open(const Subscription *sub);
extern void target_close(TargetTable *target);

/*
 * Between these two the current user is the table's owner under restriction, with
 * settings pinned: all code of the table's owner runs here.
 */
typedef struct UserScope
{
	Oid			save_userid;
	int			save_sec_context;
	int			guc_level;
} UserScope;
extern void user_scope_begin(UserScope *scope, Oid userid, const char *search_path);
extern void user_scope_end(UserScope *scope);

/*
 * The constraints of rows[from..n), without writing; ERROR at the first bad one,
 * whose number *at then holds.
 */
extern void target_check(TargetTable *target, Row *rows, int n, volatile int *at);

/*
 * Write the rows, fire their triggers.  Returns how many rows the target took
 * (fewer where a trigger dropped some); an upsert counts every row given.
 */
extern int64 target_write(TargetTable *target, Row *rows, int n);

#endif
