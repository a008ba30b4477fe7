/*
 * upsert.h
 *		Rows into a plain table by its key's index, without SQL.
 */
#ifndef KAPPA_UPSERT_H
#define KAPPA_UPSERT_H

#include "postgres.h"

#include "target_table.h"

/* The index that upsert_by_index works by; InvalidOid: this table needs SQL. */
extern Oid	upsert_key_index(TargetTable *target);

/* The rows, each key once and in the order of the keys. */
extern void upsert_by_index(TargetTable *target, Row *rows, int n);

#endif
