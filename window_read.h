/*
 * window_read.h
 *		A window view found by its name, for functions on it.
 */
#ifndef KAPPA_WINDOW_READ_H
#define KAPPA_WINDOW_READ_H

#include "postgres.h"

#include "window_view.h"

/*
 * For a change: the subscription's owner checked and its lock taken exclusively.
 * ERROR 42704 where there is no such window view.
 */
extern WindowView *control_window_view(const char *name, const char *function, int32 *subscription);

/* ERROR 0A000 where the transaction's snapshot may be older than the lock. */
extern void check_isolation(const char *function);

/* Qualified and quoted name of a relation as it is now. */
extern char *relation_name(Oid relid);

/* The same of a view that is to be made, in the schema that CREATE VIEW would choose. */
extern char *new_view_name(const char *name);

/* search_path = pg_catalog for SQL of our own; undo with AtEOXact_GUC(false, level). */
extern int	pin_search_path(void);

#endif
