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

/*
 * Update and delete the rows that are there, each key once, in the order of the keys.
 * What is not there goes to fresh (to be inserted), what another transaction has just
 * in hand to rest (to be written by SQL, which waits as it should); both have room
 * for n.
 */
extern void upsert_by_index(TargetTable *target, Row *rows, int n,
							Row *fresh, int *nfresh, Row *rest, int *nrest);

#endif
