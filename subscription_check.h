/*
 * subscription_check.h
 *		What kappa.subscribe checks before it asks the broker, in its order.
 *
 * role is the (future) owner.  Each raises an ERROR that says what to type.
 */
#ifndef KAPPA_SUBSCRIPTION_CHECK_H
#define KAPPA_SUBSCRIPTION_CHECK_H

#include "postgres.h"

#include "access/attnum.h"
#include "utils/rel.h"

#include "subscription.h"

/* Server and target: they exist, are of a fit kind, and role may use them. */
extern void check_subscription_server(const char *server, Oid role);
extern void check_subscription_target(Oid target, Oid role, bool upsert);

/* What concerns the target's columns; fills in the key_columns of an upsert. */
extern void check_subscription_definition(Subscription *sub);

/* Numbers and options. */
extern void check_subscription_limits(const Subscription *sub);

/* A relation's name as messages show it; a column that argument speaks of. */
extern char *target_name(Oid target);
extern AttrNumber target_column(Relation target, const char *name, const char *argument);
extern Oid	target_column_type(Relation target, AttrNumber attnum);

#endif
