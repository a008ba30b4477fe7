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
 * Add the groups to the worker's rows, in the current transaction.  Each write
 * affects exactly one row, or raises 40001: another owner was here.
 */
extern void window_state_add(WindowView *view, int worker, FoldGroup **groups, int n, AggContext *context);

extern void window_late_add(const WindowView *view, const LateRow *rows, int n);

#endif
