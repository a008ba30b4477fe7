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
 *
 * The library and the installed script may be of different versions: between the
 * restart with a new library and ALTER EXTENSION UPDATE, or the other way round.
 * Nothing works on tables that it does not know, so every scope compares first.
 * An update script locks kappa.subscription before it changes anything, and a
 * batch has read that table before it writes to any: so what a batch's later
 * scopes compare holds until its commit.
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
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#define EXTENSION_NAME	"pg_kappa"

/* Version of the extension and its owner; NULL where it is not installed here. */
static char *
look_at_extension(Oid *owner)
{
	char	   *version = NULL;
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
	{
		bool		null;

		*owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
		version = TextDatumGetCString(heap_getattr(tuple, Anum_pg_extension_extversion,
												   RelationGetDescr(rel), &null));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return version;
}

char *
catalog_version(void)
{
	Oid			owner;

	return look_at_extension(&owner);
}

CatalogState
catalog_state(void)
{
	char	   *version = catalog_version();

	if (version == NULL)
		return CATALOG_MISSING;
	return strcmp(version, KAPPA_VERSION) == 0 ? CATALOG_READY : CATALOG_OTHER_VERSION;
}

/* Versions as 1.0 or 1.10.2, part by part; what is no number counts as 0. */
static int
compare_versions(const char *a, const char *b)
{
	while (*a || *b)
	{
		long		x = strtol(a, NULL, 10);
		long		y = strtol(b, NULL, 10);

		if (x != y)
			return x < y ? -1 : 1;
		a += strcspn(a, ".");
		b += strcspn(b, ".");
		a += *a == '.';
		b += *b == '.';
	}
	return 0;
}

const char *
version_remedy(const char *installed)
{
	if (compare_versions(installed, KAPPA_VERSION) < 0)
		return "ALTER EXTENSION " EXTENSION_NAME " UPDATE;";
	return psprintf("-- install %s %s and restart the server: it still runs the library of %s",
					EXTENSION_NAME, installed, KAPPA_VERSION);
}

static void
check_extension(const char *version)
{
	if (version == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"%s\" is not installed in this database",
						EXTENSION_NAME),
				 errhint("Run CREATE EXTENSION %s CASCADE.", EXTENSION_NAME)));
	if (strcmp(version, KAPPA_VERSION) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"%s\" has version %s in this database, its library version %s",
						EXTENSION_NAME, version, KAPPA_VERSION),
				 errhint("%s", version_remedy(version))));
}

void
catalog_begin(CatalogScope *scope)
{
	Oid			owner = InvalidOid;

	check_extension(look_at_extension(&owner));
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
	AtEOXact_GUC(false, scope->guc_level);
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
