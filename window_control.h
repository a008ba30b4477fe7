/*
 * window_control.h
 *		What functions on window views have in common.
 */
#ifndef KAPPA_WINDOW_CONTROL_H
#define KAPPA_WINDOW_CONTROL_H

#include "postgres.h"

#include "window_view.h"

/*
 * For a change: the subscription's owner checked and its lock taken exclusively.
 * ERROR 42704 where there is no such window view.
 */
extern WindowView *control_window_view(const char *name, const char *function, int32 *subscription);

/* To read: the same check, but batches go on beside it. */
extern WindowView *read_window_view(const char *name);

/* All window views of a subscription; the caller holds its lock. */
extern void drop_window_views(int32 subscription);

/* Their numbers. */
extern List *window_view_ids(int32 subscription);

/* ERROR 0A000 where the transaction's snapshot may be older than the lock. */
extern void check_isolation(const char *function);

/* The same of a view that is to be made, in the schema that CREATE VIEW would choose. */
extern char *new_view_name(const char *name);

/* Settings for SQL of our own (search_path = pg_catalog, ...); undo with AtEOXact_GUC(false, level). */
extern int	pin_sql_settings(void);

/* A statement with the caller's rights. */
extern void execute_as_caller(const char *sql);

/* ERROR 55006 where the subscription has window views. */
extern void refuse_window_views(const Subscription *sub, const char *hint);

/* ERROR 55006 where window views count the rows of another subscription in the target. */
extern void refuse_shared_target(const Subscription *sub);

/* ERROR 55006 where its window views rest on what differs. */
extern void refuse_change_below_views(const Subscription *before, const Subscription *sub);

#endif
