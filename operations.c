/*
 * operations.c
 *		What the views on indexes ask of a relation that may be locked: its size,
 *		the text of its definition.  And the request for the first sample of counters.
 *
 * The server's own functions for both wait as long as somebody holds the table
 * exclusively (VACUUM FULL, ALTER TABLE), and a page that is opened because something
 * is stuck must not get stuck itself.  These here take AccessShareLock only where
 * they get it at once, hold it for the call, and answer NULL where they do not.
 *
 * Owns nothing, reads no page: a size is the file's length, a definition is
 * the catalogs'.  Both are everybody's to know (pg_relation_size and pg_get_indexdef
 * ask for no right either).
 *
 * Crash story: none, nothing here outlives the call.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xlog.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "shmem.h"

PG_FUNCTION_INFO_V1(kappa_request_look);
PG_FUNCTION_INFO_V1(kappa_relation_bytes);
PG_FUNCTION_INFO_V1(kappa_index_definition);

/* For CREATE EXTENSION: from now on the database is known to the launcher. */
Datum
kappa_request_look(PG_FUNCTION_ARGS)
{
	notify_at_commit(0);		/* no subscription has this number */
	PG_RETURN_VOID();
}

/* Main fork only, as pg_relation_size(oid). */
Datum
kappa_relation_bytes(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Relation	rel;
	int64		bytes = 0;

	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		PG_RETURN_NULL();
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
	{
		UnlockRelationOid(relid, AccessShareLock);
		PG_RETURN_NULL();
	}
	/* what is unlogged has no file on a standby */
	if (RELKIND_HAS_STORAGE(rel->rd_rel->relkind) &&
		!(rel->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED && RecoveryInProgress()))
		bytes = (int64) RelationGetNumberOfBlocks(rel) * BLCKSZ;
	relation_close(rel, AccessShareLock);
	PG_RETURN_INT64(bytes);
}

/* pg_get_indexdef looks at the table's columns, and so locks the table. */
Datum
kappa_index_definition(PG_FUNCTION_ARGS)
{
	Oid			index = PG_GETARG_OID(0);
	Oid			table = IndexGetRelation(index, true);
	Datum		definition = (Datum) 0;

	if (!OidIsValid(table) || !ConditionalLockRelationOid(table, AccessShareLock))
		PG_RETURN_NULL();
	/* dropped before we had the lock? */
	if (SearchSysCacheExists1(INDEXRELID, ObjectIdGetDatum(index)))
		definition = DirectFunctionCall1(pg_get_indexdef, ObjectIdGetDatum(index));
	UnlockRelationOid(table, AccessShareLock);
	if (definition == (Datum) 0)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(definition);
}
