/*
 * window_batch.h
 *		A batch's stored rows into the window views of its subscription; the rows of a
 *		table into a new one.
 */
#ifndef KAPPA_WINDOW_BATCH_H
#define KAPPA_WINDOW_BATCH_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "target_table.h"
#include "window_fold.h"
#include "window_view.h"

/*
 * In the transaction that stores the rows: add rows[0..n) to the view.  origins[i]
 * belongs to rows[i].  Raises whatever the view's expressions raise.
 */
extern void window_batch(WindowView *view, TargetTable *target, int worker,
						 const Row *rows, const FoldOrigin *origins, int n);

/*
 * What the view remembers of its state from batch to batch: to be called when the
 * transaction or subtransaction of a window_batch is rolled back.
 */
extern void window_forget(WindowView *view);

/*
 * All rows that are there into an empty state; late: those in the list of late rows are
 * left out of the windows that they were late for, else none is.  Returns how many.
 */
extern int64 window_fill(WindowView *view, bool late);

/* ERROR 55000 unless the rows carry kafka_partition and kafka_offset. */
extern void require_metadata(const WindowView *view);

#endif
