/*
 * compat.h
 *		Every test of the server's version, and nothing else.
 */
#ifndef KAPPA_COMPAT_H
#define KAPPA_COMPAT_H

#include "postgres.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/tableam.h"
#include "access/xlogreader.h"
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "parser/scansup.h"
#include "pgstat.h"
#include "postmaster/autovacuum.h"
#include "storage/bufpage.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/backend_status.h"
#include "utils/datetime.h"
#include "utils/rangetypes.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/sortsupport.h"
#include "utils/timestamp.h"
#if PG_VERSION_NUM >= 160000
#include "utils/relfilenumbermap.h"
#else
#include "utils/relfilenodemap.h"
#endif

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "pg_kappa supports PostgreSQL 15 to 18"
#endif

#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/* USAGE on a foreign server */
static inline AclResult
foreign_server_aclcheck(Oid server, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ForeignServerRelationId, server, role, ACL_USAGE);
#else
	return pg_foreign_server_aclcheck(server, role, ACL_USAGE);
#endif
}

/* EXECUTE on a function */
static inline bool
may_execute(Oid function, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE) == ACLCHECK_OK;
#else
	return pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK;
#endif
}

/* Of a leaf, as pgstatindex counts: before 18 without what another line pointer needs */
static inline Size
leaf_free_space(Page page)
{
#if PG_VERSION_NUM >= 180000
	return PageGetExactFreeSpace(page);
#else
	return PageGetFreeSpace(page);
#endif
}

/* A range of two bounds that are known to be in order */
static inline RangeType *
serialize_range(TypeCacheEntry *typcache, RangeBound *lower, RangeBound *upper)
{
#if PG_VERSION_NUM >= 160000
	return range_serialize(typcache, lower, upper, false, NULL);
#else
	return range_serialize(typcache, lower, upper, false);
#endif
}

/* Further rows of pin_settings: a slow batch must not end in FATAL. */
#if PG_VERSION_NUM >= 170000
#define PINNED_SINCE_17	{"transaction_timeout", "0"},
#else
#define PINNED_SINCE_17
#endif

/* 'infinity' is an interval since 17 */
static inline bool
interval_is_infinite(const Interval *interval)
{
#if PG_VERSION_NUM >= 170000
	return INTERVAL_NOT_FINITE(interval);
#else
	return false;
#endif
}

/*
 * A time zone by its name or abbreviation, as AT TIME ZONE reads it: names in
 * the abbreviation table come first.
 */
static inline pg_tz *
zone_by_name(const char *name)
{
#if PG_VERSION_NUM >= 160000
	return DecodeTimezoneNameToTz(name);
#else
	int			offset;
	pg_tz	   *zone = NULL;
	int			type;

	/* the table of abbreviations is in lower case */
	type = DecodeTimezoneAbbrev(0, downcase_truncate_identifier(name, strlen(name), false),
								&offset, &zone);
	if (type == TZ || type == DTZ)
		return pg_tzset_offset(-offset);
	if (type != DYNTZ)
		zone = pg_tzset(name);
	if (zone == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", name)));
	return zone;
#endif
}

/* May role member become role (SET ROLE)? */
static inline bool
can_set_role(Oid member, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return member_can_set_role(member, role);
#else
	return is_member_of_role(member, role);
#endif
}

/* Does this session hold the lock in exactly this mode? */
static inline bool
lock_held_by_me(const LOCKTAG *tag, LOCKMODE mode)
{
#if PG_VERSION_NUM >= 170000
	return LockHeldByMe(tag, mode, false);
#else
	return LockHeldByMe(tag, mode);
#endif
}

/* A range table of one relation that is being inserted into. */
static inline void
init_range_table(EState *estate, Relation rel)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);
#if PG_VERSION_NUM >= 160000
	List	   *perminfos = NIL;
#endif

	rte->rtekind = RTE_RELATION;
	rte->relid = RelationGetRelid(rel);
	rte->relkind = rel->rd_rel->relkind;
	rte->rellockmode = RowExclusiveLock;
#if PG_VERSION_NUM >= 160000
	(void) addRTEPermissionInfo(&perminfos, rte);
#endif
#if PG_VERSION_NUM >= 180000
	ExecInitRangeTable(estate, list_make1(rte), perminfos, bms_make_singleton(1));
#elif PG_VERSION_NUM >= 160000
	ExecInitRangeTable(estate, list_make1(rte), perminfos);
#else
	ExecInitRangeTable(estate, list_make1(rte));
#endif
}

/* Which columns of its one relation updates change: an index over others gets a hint that nothing has. */
static inline void
set_updated_columns(EState *estate, Bitmapset *columns)
{
#if PG_VERSION_NUM >= 160000
	linitial_node(RTEPermissionInfo, estate->es_rteperminfos)->updatedCols = columns;
#else
	exec_rt_fetch(1, estate)->updatedCols = columns;
#endif
}

/* Of the numbered sessions of pgstat_fetch_stat_numbackends() */
static inline LocalPgBackendStatus *
backend_status(int number)
{
#if PG_VERSION_NUM >= 160000
	return pgstat_get_local_beentry_by_index(number);
#else
	return pgstat_fetch_stat_local_beentry(number);
#endif
}

/* What stands behind a reference to a GROUP BY column, which is a relation of its own since 18. */
static inline Node *
group_expression(Query *query, Node *node)
{
#if PG_VERSION_NUM >= 180000
	Var		   *var = (Var *) node;

	if (query->hasGroupRTE && IsA(node, Var) && var->varlevelsup == 0 &&
		rt_fetch(var->varno, query->rtable)->rtekind == RTE_GROUP)
		return list_nth(rt_fetch(var->varno, query->rtable)->groupexprs, var->varattno - 1);
#endif
	return node;
}

static inline List *
insert_index_tuples(ResultRelInfo *rri, TupleTableSlot *slot, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	return ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL, false);
#else
	return ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL);
#endif
}

/* Which indexes need an entry for a new version of a row */
typedef enum IndexUpdate
{
	INDEXES_NONE,
	INDEXES_ALL,
	INDEXES_SUMMARIZING			/* BRIN, from 16 on */
} IndexUpdate;

/* A new version of the row at tid; false: it has changed meanwhile. */
static inline bool
update_row(Relation rel, ItemPointer tid, TupleTableSlot *slot, CommandId cid, IndexUpdate *indexes)
{
	TM_FailureData failure;
	LockTupleMode mode;
#if PG_VERSION_NUM >= 160000
	TU_UpdateIndexes update = TU_None;
#else
	bool		update = false;
#endif
	bool		done = table_tuple_update(rel, tid, slot, cid, GetActiveSnapshot(), InvalidSnapshot,
										  true, &failure, &mode, &update) == TM_Ok;

#if PG_VERSION_NUM >= 160000
	*indexes = update == TU_None ? INDEXES_NONE : update == TU_All ? INDEXES_ALL : INDEXES_SUMMARIZING;
#else
	*indexes = update ? INDEXES_ALL : INDEXES_NONE;
#endif
	return done;
}

static inline void
update_index_tuples(ResultRelInfo *rri, TupleTableSlot *slot, EState *estate, IndexUpdate indexes)
{
#if PG_VERSION_NUM >= 160000
	(void) ExecInsertIndexTuples(rri, slot, estate, true, false, NULL, NIL, indexes == INDEXES_SUMMARIZING);
#else
	(void) ExecInsertIndexTuples(rri, slot, estate, true, false, NULL, NIL);
#endif
}

/* For a row that is inserted speculatively: *conflict where one of the arbiters has its key. */
static inline void
insert_index_tuples_if_new(ResultRelInfo *rri, TupleTableSlot *slot, EState *estate,
						   bool *conflict, List *arbiters)
{
#if PG_VERSION_NUM >= 160000
	(void) ExecInsertIndexTuples(rri, slot, estate, false, true, conflict, arbiters, false);
#else
	(void) ExecInsertIndexTuples(rri, slot, estate, false, true, conflict, arbiters);
#endif
}

/* Another number after VACUUM FULL, CLUSTER or TRUNCATE */
static inline Oid
relation_file(Relation rel)
{
#if PG_VERSION_NUM >= 160000
	return rel->rd_locator.relNumber;
#else
	return rel->rd_node.relNode;
#endif
}

/* The relation of this database that has the file; InvalidOid: none.  As pg_filenode_relation. */
static inline Oid
relation_of_file(Oid tablespace, Oid file)
{
#if PG_VERSION_NUM >= 160000
	return RelidByRelfilenumber(tablespace, file);
#else
	return RelidByRelfilenode(tablespace, file);
#endif
}

/* Updates that went to another page for want of room; -1: not counted */
static inline int64
newpage_updates(const PgStat_StatTabEntry *entry)
{
#if PG_VERSION_NUM >= 160000
	return entry->tuples_newpage_updated;
#else
	return -1;
#endif
}

/* Where a block that a WAL record refers to stands */
static inline void
record_block_place(XLogReaderState *record, int n, Oid *tablespace, Oid *database, Oid *file,
				   ForkNumber *fork, BlockNumber *block)
{
#if PG_VERSION_NUM >= 160000
	RelFileLocator locator;

	XLogRecGetBlockTag(record, n, &locator, fork, block);
	*tablespace = locator.spcOid;
	*database = locator.dbOid;
	*file = locator.relNumber;
#else
	RelFileNode node;

	XLogRecGetBlockTag(record, n, &node, fork, block);
	*tablespace = node.spcNode;
	*database = node.dbNode;
	*file = node.relNode;
#endif
}

/* A scan of the index */
static inline IndexScanDesc
index_begin(Relation rel, Relation index, Snapshot snapshot, int nkeys)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(rel, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(rel, index, snapshot, nkeys, 0);
#endif
}

/* The order of an index column; 18 takes the direction as a bool, where each strategy's number is true */
static inline void
prepare_index_sort(Relation index, bool descending, SortSupport sort)
{
#if PG_VERSION_NUM >= 180000
	PrepareSortSupportFromIndexRel(index, descending, sort);
#else
	PrepareSortSupportFromIndexRel(index, descending ? BTGreaterStrategyNumber : BTLessStrategyNumber, sort);
#endif
}

static inline TupleConversionMap *
root_to_child_map(ResultRelInfo *rri, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	return ExecGetRootToChildMap(rri, estate);
#else
	return rri->ri_RootToPartitionMap;
#endif
}

static inline void
executor_run(QueryDesc *query)
{
#if PG_VERSION_NUM >= 180000
	ExecutorRun(query, ForwardScanDirection, 0);
#else
	ExecutorRun(query, ForwardScanDirection, 0, true);
#endif
}

/* GROUP BY expressions where they are used, as before 18 gave them an entry of their own. */
static inline void
flatten_groups(Query *query)
{
#if PG_VERSION_NUM >= 180000
	if (!query->hasGroupRTE)
		return;
	query->targetList = (List *) flatten_group_exprs(NULL, query, (Node *) query->targetList);
	query->havingQual = flatten_group_exprs(NULL, query, query->havingQual);
	query->rtable = list_truncate(query->rtable, list_length(query->rtable) - 1);
	query->hasGroupRTE = false;
#endif
}

/* What autovacuum compares with its thresholds */
typedef struct TableCounters
{
	int64		dead;
	int64		inserted;		/* since the last vacuum */
	int64		modified;		/* since the last analyze */
} TableCounters;

static inline TableCounters
table_counters(const PgStat_StatTabEntry *entry)
{
	TableCounters counters;

#if PG_VERSION_NUM >= 160000
	counters.dead = entry->dead_tuples;
	counters.inserted = entry->ins_since_vacuum;
	counters.modified = entry->mod_since_analyze;
#else
	counters.dead = entry->n_dead_tuples;
	counters.inserted = entry->inserts_since_vacuum;
	counters.modified = entry->changes_since_analyze;
#endif
	return counters;
}

/* Since 18 the threshold of dead rows has an upper bound, -1 for none. */
static inline float4
cap_vacuum_threshold(float4 threshold, const AutoVacOpts *options)
{
#if PG_VERSION_NUM >= 180000
	int			cap = options && options->vacuum_max_threshold >= -1 ?
		options->vacuum_max_threshold : autovacuum_vac_max_thresh;

	if (cap >= 0 && threshold > (float4) cap)
		return (float4) cap;
#endif
	return threshold;
}

/* Since 18 the threshold of inserts grows with the pages that are not all-frozen only. */
static inline float4
unfrozen_share(Form_pg_class form)
{
#if PG_VERSION_NUM >= 180000
	if (form->relpages > 0 && form->relallfrozen > 0)
		return 1 - (float4) Min(form->relallfrozen, form->relpages) / form->relpages;
#endif
	return 1;
}

#endif
