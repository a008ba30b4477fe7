/*
 * upsert.h
 *		Rows into a plain table by its key's index, without SQL.
 */
#ifndef KAPPA_UPSERT_H
#define KAPPA_UPSERT_H

#include "postgres.h"

#include "target_table.h"

/* Set key_index, equality and by_index: upsert_by_index can write this table. */
extern void upsert_open(TargetTable *target);

/* The rows, each key once and in the order of the keys. */
extern void upsert_by_index(TargetTable *target, Row *rows, int n);

#endif
