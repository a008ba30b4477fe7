/*
 * vacuum.c
 *		What autovacuum would decide for each table of this database, with the
 *		numbers that it decides by.
 *
 * Autovacuum's decision is not to be seen from SQL: it compares in float4, takes
 * each parameter from the table's options, from its main table's (TOAST) or from
 * the settings, and shortens the multixact age when members run short.  So
 * autovacuum_state() walks pg_class as a worker does (do_autovacuum in the
 * server's postmaster/autovacuum.c: first plain tables and materialized views,
 * then TOAST tables, each in the order of the heap), reads the same counters and
 * the same variables, and returns terms and results.  Everything that a person
 * reads (names, severity, reason, advice) is SQL: kappa.vacuum_forecast and
 * kappa.freeze_status.
 *
 *		dead     n_dead > min(cap, threshold + scale * reltuples)		cap: from 18 on
 *		insert   n_ins > threshold + scale * reltuples * unfrozen		unfrozen: from 18 on, else 1
 *		analyze  n_mod > threshold + scale * reltuples
 *		forced   relfrozenxid < next xid - freeze_max_age; relminmxid likewise
 *
 * (relation_needs_vacanalyze.)  freeze_min_age and freeze_table_age are those that
 * an autovacuum of the table would use (table_recheck_autovac, and
 * vacuum_set_xid_limits or vacuum_get_cutoffs for their upper bounds).  The scores
 * are PostgreSQL 19's: value / threshold, age / limit.
 *
 * Owns nothing.  Locks: AccessShareLock on pg_class.  Cost: one pass over pg_class
 * for tables and one for TOAST, one look into the shared statistics a table; no
 * page of any table is read.  Crash story: none, nothing outlives the call.
 *
 * Rights: members of pg_monitor.  The check stands in the functions, not in the
 * grants, so that who is refused is told what to ask for.
 */
#include "postgres.h"

#include <math.h>

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/multixact.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_statistic.h"
#include "commands/vacuum.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/autovacuum.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "vacuum.h"

PG_FUNCTION_INFO_V1(kappa_require_monitor);
PG_FUNCTION_INFO_V1(kappa_autovacuum_state);

/* What holds for all tables of a call */
typedef struct ServerLimits
{
	TransactionId next_xid;
	MultiXactId next_mxid;
	int			multixact_freeze_max_age;	/* less than the setting when members run short */
	int			freeze_min_age; /* of a table without options of its own */
	int			freeze_table_age;
	int			multixact_freeze_min_age;
	int			multixact_freeze_table_age;
	int			failsafe_age;
	int			multixact_failsafe_age;
} ServerLimits;

/* A TOAST table's main table, and its options where it has any */
typedef struct MainTable
{
	Oid			toast;			/* key */
	Oid			main;
	bool		has_options;
	AutoVacOpts options;
} MainTable;

/* One table as a worker sees it; options: NULL where neither it nor its main table has any */
typedef struct TableCase
{
	HeapTuple	tuple;
	Form_pg_class form;
	AutoVacOpts *options;
	Oid			main;			/* of a TOAST table */
	bool		inherited;		/* the options are the main table's */
	int			place;			/* in the order in which a worker looks */
} TableCase;

/* Columns of kappa.autovacuum_state, in their order */
enum
{
	COL_RELATION, COL_MAIN, COL_INHERITED, COL_PLACE, COL_ENABLED, COL_ACTIVE,
	COL_DEAD, COL_DEAD_THRESHOLD, COL_DEAD_DUE,
	COL_INS, COL_INS_THRESHOLD, COL_INS_DUE,
	COL_MODS, COL_ANALYZE_THRESHOLD, COL_ANALYZE_DUE,
	COL_XID_AGE, COL_FREEZE_MAX_AGE, COL_XID_FORCED, COL_XID_SCORE,
	COL_MXID_AGE, COL_MXID_MAX_AGE, COL_MXID_FORCED, COL_MXID_SCORE,
	COL_FREEZE_MIN_AGE, COL_FREEZE_TABLE_AGE, COL_FAILSAFE_AGE,
	COL_MXID_MIN_AGE, COL_MXID_TABLE_AGE, COL_MXID_FAILSAFE_AGE,
	N_COLUMNS
};

typedef struct Row
{
	Datum		values[N_COLUMNS];
	bool		nulls[N_COLUMNS];
} Row;

void
require_diagnostics_role(Oid role)
{
	if (!has_privs_of_role(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for diagnostics"),
				 errdetail("The current role is not a member of %s.",
						   GetUserNameFromId(role, false)),
				 errhint("Ask a superuser for: GRANT pg_monitor TO %s;",
						 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
}

Datum
kappa_require_monitor(PG_FUNCTION_ARGS)
{
	require_diagnostics_role(ROLE_PG_MONITOR);
	PG_RETURN_BOOL(true);
}

static void
set_value(Row *row, int column, Datum value)
{
	row->values[column] = value;
	row->nulls[column] = false;
}

/* A setting that a session may change for itself: what autovacuum would have is what this one began with. */
static int
setting_at_start(const char *name)
{
	return pg_strtoint32(GetConfigOptionResetString(name));
}

/* The settings that autovacuum would start with in this database */
static void
load_limits(ServerLimits *limits)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(MyDatabaseId));
	bool		freeze_early;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for database %u", MyDatabaseId);
	/* everything is frozen in databases that nobody may change */
	freeze_early = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate ||
		!((Form_pg_database) GETSTRUCT(tuple))->datallowconn;
	ReleaseSysCache(tuple);

	limits->next_xid = ReadNextTransactionId();
	limits->next_mxid = ReadNextMultiXactId();
	/* a standby does not know its members, and the server then assumes the worst */
	limits->multixact_freeze_max_age = RecoveryInProgress() ? autovacuum_multixact_freeze_max_age :
		MultiXactMemberFreezeThreshold();
	limits->freeze_min_age = freeze_early ? 0 : setting_at_start("vacuum_freeze_min_age");
	limits->freeze_table_age = freeze_early ? 0 : setting_at_start("vacuum_freeze_table_age");
	limits->multixact_freeze_min_age = freeze_early ? 0 : setting_at_start("vacuum_multixact_freeze_min_age");
	limits->multixact_freeze_table_age = freeze_early ? 0 : setting_at_start("vacuum_multixact_freeze_table_age");
	limits->failsafe_age = setting_at_start("vacuum_failsafe_age");
	limits->multixact_failsafe_age = setting_at_start("vacuum_multixact_failsafe_age");
}

/* A table's options as autovacuum reads them; NULL: it has none of any kind */
static AutoVacOpts *
read_options(HeapTuple tuple, TupleDesc desc)
{
	bytea	   *all = extractRelOptions(tuple, desc, NULL);
	AutoVacOpts *result;

	if (all == NULL)
		return NULL;
	result = palloc(sizeof(AutoVacOpts));
	memcpy(result, &((StdRdOptions *) all)->autovacuum, sizeof(AutoVacOpts));
	pfree(all);
	return result;
}

/* Option if it is set (from least on), else the setting */
#define OPTION(options, member, least, setting) \
	((options) && (options)->member >= (least) ? (options)->member : (setting))

/* The three counters against their thresholds, in float4 as the server does */
static void
put_counters(Row *row, const TableCase *table)
{
	const AutoVacOpts *options = table->options;
	PgStat_StatTabEntry *entry = pgstat_fetch_stat_tabentry_ext(table->form->relisshared,
																table->form->oid);
	TableCounters counters;
	float4		vac_scale = OPTION(options, vacuum_scale_factor, 0, autovacuum_vac_scale);
	float4		ins_scale = OPTION(options, vacuum_ins_scale_factor, 0, autovacuum_vac_ins_scale);
	float4		analyze_scale = OPTION(options, analyze_scale_factor, 0, autovacuum_anl_scale);
	int			ins_base = OPTION(options, vacuum_ins_threshold, -1, autovacuum_vac_ins_thresh);
	float4		tuples = Max(table->form->reltuples, 0);
	float4		threshold;

	/* nobody has counted anything: autovacuum passes the table by */
	if (entry == NULL)
		return;
	counters = table_counters(entry);

	threshold = (float4) OPTION(options, vacuum_threshold, 0, autovacuum_vac_thresh) + vac_scale * tuples;
	threshold = cap_vacuum_threshold(threshold, options);
	set_value(row, COL_DEAD, Int64GetDatum(counters.dead));
	set_value(row, COL_DEAD_THRESHOLD, Float8GetDatum(threshold));
	set_value(row, COL_DEAD_DUE, BoolGetDatum((float4) counters.dead > threshold));

	set_value(row, COL_INS, Int64GetDatum(counters.inserted));
	threshold = (float4) ins_base + ins_scale * tuples * unfrozen_share(table->form);
	if (ins_base >= 0)			/* -1 switches it off */
		set_value(row, COL_INS_THRESHOLD, Float8GetDatum(threshold));
	set_value(row, COL_INS_DUE, BoolGetDatum(ins_base >= 0 && (float4) counters.inserted > threshold));

	/* neither TOAST tables nor pg_statistic are ever analyzed */
	if (OidIsValid(table->main) || table->form->oid == StatisticRelationId)
		return;
	threshold = (float4) OPTION(options, analyze_threshold, 0, autovacuum_anl_thresh) + analyze_scale * tuples;
	set_value(row, COL_MODS, Int64GetDatum(counters.modified));
	set_value(row, COL_ANALYZE_THRESHOLD, Float8GetDatum(threshold));
	set_value(row, COL_ANALYZE_DUE, BoolGetDatum((float4) counters.modified > threshold));
}

/* Age of what a table stands at, 0 where that is a permanent id, or one of the future */
static uint32
age_of(uint32 next, uint32 at, uint32 first_normal)
{
	return at < first_normal || (int32) (next - at) < 0 ? 0 : next - at;
}

/* age / limit, and past the failsafe's age steeply up, as PostgreSQL 19 does */
static double
age_score(uint32 age, int limit, int failsafe)
{
	double		score = (double) age / Max(limit, 1);

	return age >= failsafe ? pow(score, Max(1.0, (double) age / 100000000)) : score;
}

static void
put_freeze(Row *row, const TableCase *table, const ServerLimits *limits)
{
	const AutoVacOpts *options = table->options;
	int			max_age = Min(OPTION(options, freeze_max_age, 0, autovacuum_freeze_max_age),
							  autovacuum_freeze_max_age);
	int			mxid_max_age = Min(OPTION(options, multixact_freeze_max_age, 0, limits->multixact_freeze_max_age),
								   limits->multixact_freeze_max_age);
	int			failsafe = Max(limits->failsafe_age, autovacuum_freeze_max_age * 1.05);
	int			mxid_failsafe = Max(limits->multixact_failsafe_age, autovacuum_multixact_freeze_max_age * 1.05);
	uint32		age = age_of(limits->next_xid, table->form->relfrozenxid, FirstNormalTransactionId);
	uint32		mxid_age = age_of(limits->next_mxid, table->form->relminmxid, FirstMultiXactId);
	TransactionId limit = limits->next_xid - max_age;
	MultiXactId mxid_limit = limits->next_mxid - mxid_max_age;

	if (limit < FirstNormalTransactionId)
		limit -= FirstNormalTransactionId;
	if (mxid_limit < FirstMultiXactId)
		mxid_limit -= FirstMultiXactId;

	set_value(row, COL_XID_AGE, Int64GetDatum(age));
	set_value(row, COL_FREEZE_MAX_AGE, Int32GetDatum(max_age));
	set_value(row, COL_XID_FORCED, BoolGetDatum(TransactionIdIsNormal(table->form->relfrozenxid) &&
												TransactionIdPrecedes(table->form->relfrozenxid, limit)));
	set_value(row, COL_XID_SCORE, Float8GetDatum(age_score(age, max_age, failsafe)));
	set_value(row, COL_MXID_AGE, Int64GetDatum(mxid_age));
	set_value(row, COL_MXID_MAX_AGE, Int32GetDatum(mxid_max_age));
	set_value(row, COL_MXID_FORCED, BoolGetDatum(MultiXactIdIsValid(table->form->relminmxid) &&
												 MultiXactIdPrecedes(table->form->relminmxid, mxid_limit)));
	set_value(row, COL_MXID_SCORE, Float8GetDatum(age_score(mxid_age, mxid_max_age, mxid_failsafe)));

	set_value(row, COL_FREEZE_MIN_AGE,
			  Int32GetDatum(Min(OPTION(options, freeze_min_age, 0, limits->freeze_min_age),
								autovacuum_freeze_max_age / 2)));
	set_value(row, COL_FREEZE_TABLE_AGE,
			  Int32GetDatum((int) Min(OPTION(options, freeze_table_age, 0, limits->freeze_table_age),
									  autovacuum_freeze_max_age * 0.95)));
	set_value(row, COL_FAILSAFE_AGE, Int32GetDatum(failsafe));
	set_value(row, COL_MXID_MIN_AGE,
			  Int32GetDatum(Min(OPTION(options, multixact_freeze_min_age, 0, limits->multixact_freeze_min_age),
								limits->multixact_freeze_max_age / 2)));
	set_value(row, COL_MXID_TABLE_AGE,
			  Int32GetDatum((int) Min(OPTION(options, multixact_freeze_table_age, 0,
											 limits->multixact_freeze_table_age),
									  limits->multixact_freeze_max_age * 0.95)));
	set_value(row, COL_MXID_FAILSAFE_AGE, Int32GetDatum(mxid_failsafe));
}

static void
put_table(ReturnSetInfo *result, const TableCase *table, const ServerLimits *limits)
{
	Row			row;

	memset(row.nulls, true, sizeof(row.nulls));
	set_value(&row, COL_RELATION, ObjectIdGetDatum(table->form->oid));
	if (OidIsValid(table->main))
		set_value(&row, COL_MAIN, ObjectIdGetDatum(table->main));
	set_value(&row, COL_INHERITED, BoolGetDatum(table->inherited));
	set_value(&row, COL_PLACE, Int32GetDatum(table->place));
	set_value(&row, COL_ENABLED, BoolGetDatum(table->options ? table->options->enabled : true));
	set_value(&row, COL_ACTIVE, BoolGetDatum(AutoVacuumingActive()));
	put_counters(&row, table);
	put_freeze(&row, table, limits);
	tuplestore_putvalues(result->setResult, result->setDesc, row.values, row.nulls);
}

static HTAB *
make_toast_map(void)
{
	HASHCTL		control;

	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(Oid);
	control.entrysize = sizeof(MainTable);
	control.hcxt = CurrentMemoryContext;
	return hash_create("kappa TOAST tables", 256, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* A TOAST table is looked at with its main table's options if it has none of its own. */
static void
remember_main(HTAB *map, const TableCase *table)
{
	MainTable  *entry;

	if (!OidIsValid(table->form->reltoastrelid))
		return;
	entry = hash_search(map, &table->form->reltoastrelid, HASH_ENTER, NULL);
	entry->main = table->form->oid;
	entry->has_options = table->options != NULL;
	if (entry->has_options)
		entry->options = *table->options;
}

static void
inherit_options(HTAB *map, TableCase *table)
{
	MainTable  *entry = hash_search(map, &table->form->oid, HASH_FIND, NULL);

	if (entry == NULL)
		return;
	table->main = entry->main;
	if (table->options == NULL && entry->has_options)
	{
		table->options = &entry->options;
		table->inherited = true;
	}
}

/* One of a worker's two passes over pg_class */
static void
scan_tables(ReturnSetInfo *result, Relation catalog, const ServerLimits *limits,
			bool toast, HTAB *map, int *place)
{
	TableScanDesc scan = table_beginscan_catalog(catalog, 0, NULL);
	TableCase	table;

	while ((table.tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		AutoVacOpts *own;

		CHECK_FOR_INTERRUPTS();
		table.form = (Form_pg_class) GETSTRUCT(table.tuple);
		if (toast ? table.form->relkind != RELKIND_TOASTVALUE :
			table.form->relkind != RELKIND_RELATION && table.form->relkind != RELKIND_MATVIEW)
			continue;
		if (table.form->relpersistence == RELPERSISTENCE_TEMP)
			continue;			/* autovacuum leaves them to their sessions */
		table.options = own = read_options(table.tuple, RelationGetDescr(catalog));
		table.main = InvalidOid;
		table.inherited = false;
		table.place = ++*place;
		if (toast)
			inherit_options(map, &table);
		else
			remember_main(map, &table);
		put_table(result, &table, limits);
		if (own)
			pfree(own);
	}
	table_endscan(scan);
}

Datum
kappa_autovacuum_state(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ServerLimits limits;
	Relation	catalog;
	HTAB	   *map;
	int			place = 0;

	require_diagnostics_role(ROLE_PG_MONITOR);
	InitMaterializedSRF(fcinfo, 0);
	load_limits(&limits);
	map = make_toast_map();
	catalog = table_open(RelationRelationId, AccessShareLock);
	scan_tables(result, catalog, &limits, false, map, &place);
	scan_tables(result, catalog, &limits, true, map, &place);
	table_close(catalog, AccessShareLock);
	hash_destroy(map);
	PG_RETURN_NULL();
}
