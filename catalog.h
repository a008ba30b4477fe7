/*
 * catalog.h
 *		Statements on the extension's own tables.
 *
 * Run as the extension's owner with search_path pinned to pg_catalog, inside the
 * caller's transaction, so that a caller needs no rights on the tables and can
 * plant nothing in front of a name.
 */
#ifndef KAPPA_CATALOG_H
#define KAPPA_CATALOG_H

#include "postgres.h"

#include "executor/spi.h"
#include "utils/guc.h"

typedef struct CatalogScope
{
	Oid			save_userid;
	int			save_sec_context;
	int			guc_level;
} CatalogScope;

/*
 * Between these two the current user is the extension's owner, SPI is connected
 * and search_path is pinned.  An ERROR in between is undone by the abort of the
 * (sub)transaction.  catalog_begin fails with 42704 where the extension is not
 * installed in this database, with 55000 where it is of another version.
 */
extern void catalog_begin(CatalogScope *scope);
extern void catalog_end(CatalogScope *scope);

/*
 * The script's version that this library works with, as the control file's
 * default_version: a regression test compares.
 */
#define KAPPA_VERSION	"1.0"

typedef enum CatalogState
{
	CATALOG_MISSING,
	CATALOG_OTHER_VERSION,		/* installed, but its tables may not be as we know them */
	CATALOG_READY
} CatalogState;

/* Of this database, as seen by a new look at pg_extension (no ERROR). */
extern CatalogState catalog_state(void);

/* The installed version, palloc'd; NULL: the extension is not installed. */
extern char *catalog_version(void);

/* What to type so that an installed version and ours become the same. */
extern const char *version_remedy(const char *installed);

/*
 * SPI_execute_with_args with the arguments given as (type oid, Datum, is null)
 * triples; ERROR where the result code is not a success.  Returns SPI_processed.
 */
typedef struct CatalogArg
{
	Oid			type;
	Datum		value;
	bool		null;
} CatalogArg;
extern uint64 catalog_execute(const char *sql, int nargs, const CatalogArg *args);

/* Column of the result's row, by number from 1, in the current context (of SPI). */
extern Datum catalog_value(int row, int column, bool *null);

#define CATALOG_INT4(v)		{INT4OID, Int32GetDatum(v), false}
#define CATALOG_INT8(v)		{INT8OID, Int64GetDatum(v), false}
#define CATALOG_BOOL(v)		{BOOLOID, BoolGetDatum(v), false}
#define CATALOG_OID(v)		{OIDOID, ObjectIdGetDatum(v), false}
#define CATALOG_TEXT(v)		{TEXTOID, (v) ? CStringGetTextDatum(v) : (Datum) 0, (v) == NULL}
#define CATALOG_JSONB(v)	{JSONBOID, PointerGetDatum(v), (v) == NULL}
#define CATALOG_NULL(t)		{(t), (Datum) 0, true}

#endif
