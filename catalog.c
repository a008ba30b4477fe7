/*
 * catalog.c
 *		Statements on the extension's own tables.
 *
 * Owns nothing.  A scope lends its caller three things: the extension's owner
 * as current user (so callers need no rights on the tables), a search_path that
 * holds only pg_catalog (so nobody can plant an object in front of a name), and
 * a connection to SPI.  Scopes nest.
 *
 * All three are undone by the end of the (sub)transaction if an ERROR leaves a
 * scope open: the transaction system restores user, settings and SPI.  So there
 * is no PG_TRY here, and code that catches an ERROR must do so with a
 * subtransaction.
 *
 * Statements are never run read-only: each one takes a new snapshot where the
 * isolation level allows it, so a row read after a lock was waited for is the
 * row that the lock's last holder committed.
 */
#include "postgres.h"

#include "catalog.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#define EXTENSION_NAME	"pg_kappa"

/* Owner of the extension, InvalidOid where it is not installed here. */
static Oid
extension_owner(void)
{
	Oid			owner = InvalidOid;
	Relation	rel;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;

	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum(EXTENSION_NAME));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return owner;
}

bool
catalog_exists(void)
{
	return OidIsValid(extension_owner());
}

void
catalog_begin(CatalogScope *scope)
{
	Oid			owner = extension_owner();

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"%s\" is not installed in this database",
						EXTENSION_NAME),
				 errhint("Run CREATE EXTENSION %s CASCADE.", EXTENSION_NAME)));

	GetUserIdAndSecContext(&scope->save_userid, &scope->save_sec_context);
	SetUserIdAndSecContext(owner,
						   scope->save_sec_context |
						   SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_NOFORCE_RLS);
	scope->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
}

void
catalog_end(CatalogScope *scope)
{
	SPI_finish();
	AtEOXact_GUC(true, scope->guc_level);
	SetUserIdAndSecContext(scope->save_userid, scope->save_sec_context);
}

uint64
catalog_execute(const char *sql, int nargs, const CatalogArg *args)
{
	Oid		   *types = palloc(sizeof(Oid) * Max(nargs, 1));
	Datum	   *values = palloc(sizeof(Datum) * Max(nargs, 1));
	char	   *nulls = palloc(Max(nargs, 1));
	int			i;
	int			rc;

	for (i = 0; i < nargs; i++)
	{
		types[i] = args[i].type;
		values[i] = args[i].value;
		nulls[i] = args[i].null ? 'n' : ' ';
	}
	rc = SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0);
	if (rc < 0)
		elog(ERROR, "statement on the extension's tables failed: %s",
			 SPI_result_code_string(rc));
	return SPI_processed;
}

Datum
catalog_value(int row, int column, bool *null)
{
	Assert(row >= 0 && (uint64) row < SPI_tuptable->numvals);
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						 column, null);
}
