/*
 * window_progress.h
 *		How far the fill of a window view has come, for other sessions to see.
 */
#ifndef KAPPA_WINDOW_PROGRESS_H
#define KAPPA_WINDOW_PROGRESS_H

#include "postgres.h"

#include "window_view.h"

/* total: rows that the planner expects.  An error ends it, as the end does. */
extern void window_progress_begin(const WindowView *view, bool rebuild, double total);
extern void window_progress_step(int64 done);
extern void window_progress_end(void);

#endif
