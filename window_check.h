/*
 * window_check.h
 *		What a window view cannot be made of, and what cannot change below one.
 */
#ifndef KAPPA_WINDOW_CHECK_H
#define KAPPA_WINDOW_CHECK_H

#include "postgres.h"

#include "nodes/parsenodes.h"

#include "subscription.h"

/* Of an analyzed query; source is the target's number in its range table.  ERROR 0A000. */
extern void check_window_clauses(Query *query);
extern void check_window_columns(Query *query, Index source);
extern void check_window_expressions(Query *query);

/* ERROR 0A000 where the rows that are stored may not be those that we decode. */
extern void check_view_target(const Subscription *sub);

#endif
