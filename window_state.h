/*
 * window_state.h
 *		The table of a window view's partials, and the list of its late rows.
 */
#ifndef KAPPA_WINDOW_STATE_H
#define KAPPA_WINDOW_STATE_H

#include "postgres.h"

#include "window_fold.h"
#include "window_view.h"

/*
 * Make the worker's rows say what the fold says, in the current transaction, and
 * list its late rows.  Each write affects exactly one row, or raises 40001: another
 * owner was here.
 */
extern void window_state_store(WindowFold *fold, int worker);

/*
 * The groups that end by then take the place of the rows that they were read from
 * (window_fold_partial), as nobody's.
 */
extern void window_state_compact(WindowFold *fold, TimestampTz upto);

/* The rows only: the late ones are listed already. */
extern void window_state_store_groups(WindowFold *fold, int worker);

/* The late rows so far go to their list, where there are that many. */
extern void window_state_store_late(WindowFold *fold, int least);

#endif
