/*
 * target_table.c
 *		Rows into the target: the fast path, the general path, upsert.
 *
 *		fast path		plain and partitioned tables: rows go to table_multi_insert in
 *						groups, as COPY does, with the table's generated columns,
 *						constraints, indexes and AFTER triggers
 *		general path	INSERT ... SELECT from the batch as a named tuplestore: BEFORE
 *						ROW triggers, rules, views, foreign tables, and tables that
 *						another extension routes by hooks
 *		upsert			one row a key, in the order of the key, so that two workers never
 *						wait for each other in a ring; plain tables by their key's index
 *						(upsert.c), all others by SQL with ON CONFLICT
 *
 * Both paths end in identical tables; t/ holds them to it.  Everything that an
 * attempt opens (executor state, indexes, partitions) lives and dies inside it: after
 * an ERROR the subtransaction's abort releases what the relation cache holds, and
 * the memory goes with the attempt.
 *
 * The table owner's code (triggers, defaults, constraints) runs as him under
 * SECURITY_RESTRICTED_OPERATION, so it cannot get at the worker's rights.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/heapam.h"
#include "access/hio.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/execPartition.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/ruleutils.h"
#include "utils/sortsupport.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "compat.h"
#include "fault.h"
#include "index_entries.h"
#include "key_table.h"
#include "stream_wal.h"
#include "target_table.h"
#include "upsert.h"

#define GROUP_ROWS		1000	/* rows in one table_multi_insert */
#define GROUP_BYTES		65536	/* about; not worth measuring each tuple */
#define MAX_GROUPS		32		/* partitions with an open group, as COPY */
#define ROWS_RELATION	"kappa_rows"

/* ---------------------------------------------------------------- opening */

/* Does some other extension route this table's rows by planner or utility hooks? */
static bool
routed_elsewhere(Relation rel)
{
	CatalogScope scope;
	char	   *query = NULL;
	bool		found;

	if (OidIsValid(get_extension_oid("citus", true)))
		query = psprintf("SELECT 1 FROM pg_catalog.pg_dist_partition WHERE logicalrelid OPERATOR(pg_catalog.=) %u",
						 RelationGetRelid(rel));
	else if (OidIsValid(get_extension_oid("timescaledb", true)))
		query = psprintf("SELECT 1 FROM _timescaledb_catalog.hypertable "
						 "WHERE schema_name OPERATOR(pg_catalog.=) %s AND table_name OPERATOR(pg_catalog.=) %s",
						 quote_literal_cstr(get_namespace_name(RelationGetNamespace(rel))),
						 quote_literal_cstr(RelationGetRelationName(rel)));
	if (query == NULL)
		return false;
	catalog_begin(&scope);
	found = catalog_execute(query, 0, NULL) > 0;
	catalog_end(&scope);
	return found;
}

static bool
has_insert_rule(Relation rel)
{
	for (int i = 0; rel->rd_rules && i < rel->rd_rules->numLocks; i++)
		if (rel->rd_rules->rules[i]->event == CMD_INSERT)
			return true;
	return false;
}

static bool
needs_general_path(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;
	bool		partitioned = rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;

	if (rel->rd_rel->relkind != RELKIND_RELATION && !partitioned)
		return true;
	if (triggers && (triggers->trig_insert_before_row || triggers->trig_insert_instead_row ||
					 (partitioned && triggers->trig_insert_new_table)))
		return true;
	return has_insert_rule(rel) || routed_elsewhere(rel);
}

static void
check_rights(const Subscription *sub, Relation rel)
{
	AclMode		mode = sub->upsert ? ACL_INSERT | ACL_SELECT | ACL_UPDATE | ACL_DELETE : ACL_INSERT;
	Oid			table_owner = rel->rd_rel->relowner;

	if (pg_class_aclmask(RelationGetRelid(rel), sub->owner, mode, ACLMASK_ALL) != mode)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for relation \"%s\"", RelationGetRelationName(rel)),
				 errdetail("Role \"%s\", the owner of subscription \"%s\", lacks %s.",
						   GetUserNameFromId(sub->owner, true), sub->name,
						   sub->upsert ? "one of INSERT, SELECT, UPDATE, DELETE" : "INSERT")));
	if (!can_set_role(sub->owner, table_owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" cannot become the owner of relation \"%s\"",
						GetUserNameFromId(sub->owner, true), RelationGetRelationName(rel)),
				 errdetail("Rows are written as the table's owner, so that his triggers run with his own rights."),
				 errhint("GRANT %s TO %s.", quote_identifier(GetUserNameFromId(table_owner, false)),
						 quote_identifier(GetUserNameFromId(sub->owner, false)))));
	if (check_enable_rls(RelationGetRelid(rel), sub->owner, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("row security of relation \"%s\" binds role \"%s\"",
						RelationGetRelationName(rel), GetUserNameFromId(sub->owner, true)),
				 errhint("Use a subscription owner that bypasses row security.")));
}

static void
open_keys(TargetTable *target)
{
	ListCell   *lc;
	int			n = list_length(target->sub->key_columns);

	target->keys = palloc(sizeof(AttrNumber) * Max(n, 1));
	foreach(lc, target->sub->key_columns)
	{
		AttrNumber	attno = get_attnum(RelationGetRelid(target->rel), lfirst(lc));

		if (attno <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("key column \"%s\" does not exist in relation \"%s\"",
							(char *) lfirst(lc), RelationGetRelationName(target->rel))));
		target->keys[target->nkeys++] = attno;
	}
}

TargetTable *
target_open(const Subscription *sub)
{
	TargetTable *target = palloc0(sizeof(TargetTable));
	Relation	rel = try_relation_open(sub->target, RowExclusiveLock);
	TupleConstr *constr;

	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the target of subscription \"%s\" does not exist any more", sub->name),
				 errhint("SELECT kappa.alter_subscription(%s, target => '...').",
						 quote_literal_cstr(sub->name))));
	target->sub = sub;
	target->rel = rel;
	target->table_owner = rel->rd_rel->relowner;
	check_rights(sub, rel);
	target->general = sub->upsert || needs_general_path(rel);
	constr = RelationGetDescr(rel)->constr;
	target->needs_check = !target->general &&
		((constr && (constr->num_check > 0 || constr->has_generated_stored)) ||
		 rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE || rel->rd_rel->relispartition);
	if (sub->upsert)
	{
		open_keys(target);
		upsert_open(target);
	}
	return target;
}

void
target_close(TargetTable *target)
{
	relation_close(target->rel, NoLock);
}

/* ---------------------------------------------------------------- users */

void
user_scope_begin(UserScope *scope, Oid userid, const char *search_path)
{
	static const char *const pinned[][2] = {
		{"TimeZone", "UTC"}, {"DateStyle", "ISO, MDY"}, {"IntervalStyle", "postgres"},
		{"xmloption", "content"}, {"array_nulls", "on"}, {"row_security", "off"},
		{"extra_float_digits", "1"}, {"bytea_output", "hex"}
	};

	GetUserIdAndSecContext(&scope->save_userid, &scope->save_sec_context);
	SetUserIdAndSecContext(userid, scope->save_sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	scope->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", search_path, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	for (int i = 0; i < lengthof(pinned); i++)
		(void) set_config_option(pinned[i][0], pinned[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

void
user_scope_end(UserScope *scope)
{
	/* not kept: a SET of the code that ran here must not outlive it */
	AtEOXact_GUC(false, scope->guc_level);
	SetUserIdAndSecContext(scope->save_userid, scope->save_sec_context);
}

/* ---------------------------------------------------------------- fast path */

/* Rows of one relation (the table, or one partition) waiting to be inserted. */
typedef struct InsertGroup
{
	ResultRelInfo *rri;
	BulkInsertState bistate;
	IndexEntries *entries;		/* of the indexes that wait for the end; NULL: none */
	TupleDesc	desc;			/* a copy that is not counted: a pin a slot costs more than the row */
	int			n;
	TupleTableSlot *slots[GROUP_ROWS];
} InsertGroup;

typedef struct FastInsert
{
	TargetTable *target;
	EState	   *estate;
	ModifyTableState *mtstate;
	ResultRelInfo *root;
	PartitionTupleRouting *proute;
	TupleTableSlot *root_slot;	/* partitioned: a row before it is routed */
	bool		write;			/* false: only check */
	int			ngroups;
	InsertGroup *groups[MAX_GROUPS];
	/* rows of partitions that need SQL (BEFORE ROW triggers, foreign tables) */
	int			nrest;
	Row		   *rest;
} FastInsert;

static void
fast_begin(FastInsert *insert, TargetTable *target, bool write)
{
	EState	   *estate = CreateExecutorState();
	ModifyTableState *mtstate = makeNode(ModifyTableState);

	memset(insert, 0, sizeof(FastInsert));
	insert->target = target;
	insert->estate = estate;
	insert->mtstate = mtstate;
	insert->write = write;
	init_range_table(estate, target->rel);
	estate->es_output_cid = GetCurrentCommandId(write);
	insert->root = makeNode(ResultRelInfo);
	ExecInitResultRelation(estate, insert->root, 1);
	ExecOpenIndices(insert->root, false);
	mtstate->ps.state = estate;
	mtstate->operation = CMD_INSERT;
	mtstate->mt_nrels = 1;
	mtstate->resultRelInfo = insert->root;
	mtstate->rootResultRelInfo = insert->root;
	if (write)
	{
		AfterTriggerBeginQuery();
		mtstate->mt_transition_capture = MakeTransitionCaptureState(target->rel->trigdesc,
																	RelationGetRelid(target->rel),
																	CMD_INSERT);
	}
	if (target->rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		insert->proute = ExecSetupPartitionTupleRouting(estate, target->rel);
		insert->root_slot = table_slot_create(target->rel, &estate->es_tupleTable);
	}
	if (write)
		ExecBSInsertTriggers(estate, insert->root);
}

/*
 * No ring buffer: its small size would make this process write its own dirty
 * pages and wait for WAL, and fresh rows are what readers want cached.
 */
static BulkInsertState
bulk_insert_state(void)
{
	BulkInsertState bistate = GetBulkInsertState();

	FreeAccessStrategy(bistate->strategy);
	bistate->strategy = NULL;
	return bistate;
}

static bool
all_wait(const InsertGroup *group)
{
	for (int i = 0; i < group->rri->ri_NumIndices; i++)
		if (group->rri->ri_IndexRelationDescs[i] != NULL)
			return false;
	return true;
}

/* The one index that is filled row by row; InvalidOid: there are several. */
static Oid
only_index(const ResultRelInfo *rri)
{
	Oid			found = InvalidOid;

	for (int i = 0; i < rri->ri_NumIndices; i++)
	{
		if (rri->ri_IndexRelationDescs[i] == NULL)
			continue;
		if (OidIsValid(found))
			return InvalidOid;
		found = RelationGetRelid(rri->ri_IndexRelationDescs[i]);
	}
	return found;
}

static void
group_flush(FastInsert *insert, InsertGroup *group)
{
	EState	   *estate = insert->estate;
	ResultRelInfo *rri = group->rri;
	bool		indexes = rri->ri_NumIndices > 0 && !all_wait(group);
	bool		triggers = rri->ri_TrigDesc != NULL &&
		(rri->ri_TrigDesc->trig_insert_after_row || rri->ri_TrigDesc->trig_insert_new_table);

	if (group->n == 0)
		return;
	table_multi_insert(rri->ri_RelationDesc, group->slots, group->n,
					   estate->es_output_cid, 0, group->bistate);
	FAULT_POINT("mid_insert");
	for (int i = 0; i < group->n; i++)
	{
		TupleTableSlot *slot = group->slots[i];
		List	   *recheck = NIL;

		insert->target->row_bytes += stream_row_bytes(slot);
		if (group->entries)
			index_entries_add(group->entries, slot);
		if (indexes)
		{
			int64		since = stream_wal_now();

			recheck = insert_index_tuples(rri, slot, estate);
			stream_wal_of_index(only_index(rri), since);
		}
		if (triggers)
			ExecARInsertTriggers(estate, rri, slot, recheck,
								 insert->mtstate->mt_transition_capture);
		ExecClearTuple(slot);
		ResetPerTupleExprContext(estate);
	}
	group->n = 0;
}

static void
group_end(FastInsert *insert, InsertGroup *group)
{
	group_flush(insert, group);
	if (group->entries)
		index_entries_end(group->entries, insert->estate);
	FreeBulkInsertState(group->bistate);
	table_finish_bulk_insert(group->rri->ri_RelationDesc, 0);
	for (int i = 0; i < GROUP_ROWS && group->slots[i] != NULL; i++)
		ExecDropSingleTupleTableSlot(group->slots[i]);
	FreeTupleDesc(group->desc);
	pfree(group);
}

static InsertGroup *
group_for(FastInsert *insert, ResultRelInfo *rri)
{
	InsertGroup *group;

	for (int i = insert->ngroups - 1; i >= 0; i--)
		if (insert->groups[i]->rri == rri)
			return insert->groups[i];
	if (insert->ngroups == MAX_GROUPS)
	{
		group_end(insert, insert->groups[0]);
		insert->ngroups--;
		memmove(insert->groups, insert->groups + 1, sizeof(InsertGroup *) * insert->ngroups);
	}
	group = palloc0(sizeof(InsertGroup));
	group->rri = rri;
	group->desc = CreateTupleDescCopyConstr(RelationGetDescr(rri->ri_RelationDesc));
	group->bistate = bulk_insert_state();
	if (insert->write)
		group->entries = index_entries_begin(rri);
	insert->groups[insert->ngroups++] = group;
	return group;
}

static TupleTableSlot *
group_next_slot(InsertGroup *group)
{
	if (group->slots[group->n] == NULL)
		group->slots[group->n] = MakeSingleTupleTableSlot(group->desc,
														  table_slot_callbacks(group->rri->ri_RelationDesc));
	return group->slots[group->n];
}

static void
fill_slot(TupleTableSlot *slot, const Row *row)
{
	int			natts = slot->tts_tupleDescriptor->natts;

	ExecClearTuple(slot);
	memcpy(slot->tts_values, row->values, sizeof(Datum) * natts);
	memcpy(slot->tts_isnull, row->nulls, sizeof(bool) * natts);
	ExecStoreVirtualTuple(slot);
}

/* The partition's own row shape, and the group that takes it; NULL: not for us. */
static TupleTableSlot *
route_row(FastInsert *insert, const Row *row, ResultRelInfo **rri, InsertGroup **group)
{
	TupleConversionMap *map;
	TriggerDesc *triggers;
	TupleTableSlot *slot;

	fill_slot(insert->root_slot, row);
	*rri = ExecFindPartition(insert->mtstate, insert->root, insert->proute,
							 insert->root_slot, insert->estate);
	triggers = (*rri)->ri_TrigDesc;
	if ((*rri)->ri_FdwRoutine != NULL || (triggers && triggers->trig_insert_before_row))
		return NULL;
	*group = group_for(insert, *rri);
	slot = group_next_slot(*group);
	map = root_to_child_map(*rri, insert->estate);
	if (map != NULL)
		return execute_attr_map_slot(map->attrMap, insert->root_slot, slot);
	ExecCopySlot(slot, insert->root_slot);
	return slot;
}

static void
check_slot(FastInsert *insert, ResultRelInfo *rri, TupleTableSlot *slot)
{
	TupleConstr *constr = RelationGetDescr(rri->ri_RelationDesc)->constr;

	slot->tts_tableOid = RelationGetRelid(rri->ri_RelationDesc);
	if (constr && constr->has_generated_stored)
		ExecComputeStoredGenerated(rri, insert->estate, slot, CMD_INSERT);
	if (constr)
		ExecConstraints(rri, slot, insert->estate);
	/* routing has already proved a partition's own constraint */
	if (insert->proute == NULL && rri->ri_RelationDesc->rd_rel->relispartition)
		ExecPartitionCheck(rri, slot, insert->estate, true);
}

static void
fast_row(FastInsert *insert, Row *row, int capacity)
{
	ResultRelInfo *rri = insert->root;
	InsertGroup *group;
	TupleTableSlot *slot;

	if (insert->proute)
	{
		slot = route_row(insert, row, &rri, &group);
		if (slot == NULL)
		{
			if (insert->rest == NULL)
				insert->rest = palloc(sizeof(Row) * capacity);
			insert->rest[insert->nrest++] = *row;
			return;
		}
	}
	else
	{
		group = group_for(insert, rri);
		slot = group_next_slot(group);
		fill_slot(slot, row);
	}
	check_slot(insert, rri, slot);
	if (!insert->write)
		ResetPerTupleExprContext(insert->estate);
	else if (++group->n == GROUP_ROWS)
		group_flush(insert, group);
}

static void
fast_end(FastInsert *insert)
{
	EState	   *estate = insert->estate;

	for (int i = 0; i < insert->ngroups; i++)
		group_end(insert, insert->groups[i]);
	if (insert->write)
	{
		ExecASInsertTriggers(estate, insert->root, insert->mtstate->mt_transition_capture);
		AfterTriggerEndQuery(estate);
	}
	if (insert->proute)
		ExecCleanupTupleRouting(insert->mtstate, insert->proute);
	ExecResetTupleTable(estate->es_tupleTable, false);
	ExecCloseResultRelations(estate);
	ExecCloseRangeTableRelations(estate);
	FreeExecutorState(estate);
	if (insert->write)
		CommandCounterIncrement();
}

void
target_check(TargetTable *target, Row *rows, int n, volatile int *at)
{
	FastInsert	insert;

	fast_begin(&insert, target, false);
	for (; *at < n; (*at)++)
	{
		CHECK_FOR_INTERRUPTS();
		fast_row(&insert, &rows[*at], n);
	}
	fast_end(&insert);
}

static int64 write_general(TargetTable *target, Row *rows, int n);

static int64
write_fast(TargetTable *target, Row *rows, int n)
{
	FastInsert	insert;
	int			nrest;
	Row		   *rest;

	fast_begin(&insert, target, true);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		fast_row(&insert, &rows[i], n);
	}
	nrest = insert.nrest;
	rest = insert.rest;
	target->diverted = target->diverted || nrest > 0;
	fast_end(&insert);
	return n - nrest + (nrest ? write_general(target, rest, nrest) : 0);
}

/* ---------------------------------------------------------------- SQL */

/* The columns that these rows fill, as their own row type; all rows alike. */
static TupleDesc
present_columns(TargetTable *target, const Row *row, bool keys_only, int *attnos)
{
	TupleDesc	desc = RelationGetDescr(target->rel);
	TupleDesc	result;
	int			n = 0;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		key = false;

		for (int k = 0; k < target->nkeys; k++)
			key |= target->keys[k] == att->attnum;
		if (!att->attisdropped && !att->attgenerated && row->present[i] && (key || !keys_only))
			attnos[n++] = att->attnum;
	}
	result = CreateTemplateTupleDesc(n);
	for (int i = 0; i < n; i++)
		TupleDescCopyEntry(result, i + 1, desc, attnos[i]);
	return result;
}

static Tuplestorestate *
store_rows(TupleDesc desc, const int *attnos, Row *rows, int n, int64 *bytes)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	Datum	   *values = palloc(sizeof(Datum) * Max(desc->natts, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(desc->natts, 1));

	for (int r = 0; r < n; r++)
	{
		for (int i = 0; i < desc->natts; i++)
		{
			values[i] = rows[r].values[attnos[i] - 1];
			nulls[i] = rows[r].nulls[attnos[i] - 1];
		}
		*bytes += heap_compute_data_size(desc, values, nulls);
		tuplestore_putvalues(store, desc, values, nulls);
	}
	return store;
}

/* Run sql, which reads the rows as relation kappa_rows. */
static int64
execute_on_rows(TargetTable *target, const char *sql, TupleDesc desc, const int *attnos,
				Row *rows, int n)
{
	EphemeralNamedRelation enr = palloc0(sizeof(EphemeralNamedRelationData));
	int64		bytes = 0;
	Tuplestorestate *store = store_rows(desc, attnos, rows, n, &bytes);
	int64		processed;
	int			rc;

	enr->md.name = ROWS_RELATION;
	enr->md.reliddesc = InvalidOid;
	enr->md.tupdesc = desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = n;
	enr->reldata = store;
	SPI_connect();
	if (SPI_register_relation(enr) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the batch as a relation");
	rc = SPI_execute(sql, false, 0);
	if (rc < 0)
		elog(ERROR, "could not write the batch: %s", SPI_result_code_string(rc));
	FAULT_POINT("mid_insert");
	processed = (int64) SPI_processed;
	SPI_finish();
	tuplestore_end(store);
	stream_wal_unsplit();
	if (!rows[0].delete)
		target->row_bytes += bytes;
	return processed;
}

static char *
qualified_target(TargetTable *target)
{
	return quote_qualified_identifier(get_namespace_name(RelationGetNamespace(target->rel)),
									  RelationGetRelationName(target->rel));
}

static void
append_columns(StringInfo sql, TupleDesc desc, const char *prefix)
{
	for (int i = 0; i < desc->natts; i++)
		appendStringInfo(sql, "%s%s%s", i > 0 ? ", " : "", prefix,
						 quote_identifier(NameStr(TupleDescAttr(desc, i)->attname)));
}

/* The key's index, and those that compare as it does: not every one on these columns. */
static void
append_arbiter(StringInfo sql, TargetTable *target)
{
	for (int k = 0; k < target->nkeys; k++)
	{
		const KeyEquality *equality = &target->equality[k];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(target->rel), target->keys[k] - 1);

		appendStringInfo(sql, "%s%s", k > 0 ? ", " : " ON CONFLICT (", quote_identifier(NameStr(att->attname)));
		if (OidIsValid(equality->collation))
			appendStringInfo(sql, " COLLATE %s", generate_collation_name(equality->collation));
		appendStringInfo(sql, " %s", generate_opclass_name(equality->opclass));
	}
	appendStringInfoChar(sql, ')');
}

/* What ON CONFLICT sets: all but the key and what only the server may write. */
static void
append_conflict(StringInfo sql, TargetTable *target, TupleDesc desc, const int *attnos)
{
	const char *separator = " DO UPDATE SET ";
	bool		any = false;

	append_arbiter(sql, target);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(target->rel), attnos[i] - 1);
		const char *name = quote_identifier(NameStr(att->attname));
		bool		key = false;

		for (int k = 0; k < target->nkeys; k++)
			key |= target->keys[k] == att->attnum;
		if (key || att->attidentity)
			continue;
		appendStringInfo(sql, "%s%s = EXCLUDED.%s", separator, name, name);
		separator = ", ";
		any = true;
	}
	if (!any)
		appendStringInfoString(sql, " DO NOTHING");
}

static int64
insert_rows(TargetTable *target, Row *rows, int n)
{
	int		   *attnos = palloc(sizeof(int) * Max(RelationGetDescr(target->rel)->natts, 1));
	TupleDesc	desc = present_columns(target, &rows[0], false, attnos);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s ", qualified_target(target));
	if (desc->natts == 0)
	{
		/* nothing but defaults: a row for each message all the same */
		appendStringInfoString(&sql, "DEFAULT VALUES");
		for (int i = 1; i < n; i++)
			execute_on_rows(target, sql.data, desc, attnos, rows, 0);
		return execute_on_rows(target, sql.data, desc, attnos, rows, 0) * n;
	}
	appendStringInfoChar(&sql, '(');
	append_columns(&sql, desc, "");
	appendStringInfoString(&sql, ") OVERRIDING SYSTEM VALUE SELECT ");
	append_columns(&sql, desc, ROWS_RELATION ".");
	appendStringInfoString(&sql, " FROM " ROWS_RELATION);
	if (target->sub->upsert)
		append_conflict(&sql, target, desc, attnos);
	return execute_on_rows(target, sql.data, desc, attnos, rows, n);
}

/* The key of the table (t) is that of the row (r), as the key's index compares. */
static void
append_same_key(StringInfo sql, TargetTable *target)
{
	for (int k = 0; k < target->nkeys; k++)
	{
		const KeyEquality *equality = &target->equality[k];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(target->rel), target->keys[k] - 1);
		const char *name = quote_identifier(NameStr(att->attname));
		char	   *left = psprintf("t.%s", name);
		Oid			equal = get_opfamily_member(equality->opfamily, equality->type, equality->type,
												BTEqualStrategyNumber);

		if (!OidIsValid(equal))
			elog(ERROR, "missing operator of equality for type %u", equality->type);
		if (OidIsValid(equality->collation))
			left = psprintf("(t.%s COLLATE %s)", name, generate_collation_name(equality->collation));
		appendStringInfoString(sql, k > 0 ? " AND " : " WHERE ");
		generate_operator_clause(sql, left, att->atttypid, equal, psprintf("r.%s", name), att->atttypid);
	}
}

static void
delete_rows(TargetTable *target, Row *rows, int n)
{
	int		   *attnos = palloc(sizeof(int) * Max(RelationGetDescr(target->rel)->natts, 1));
	TupleDesc	desc = present_columns(target, &rows[0], true, attnos);
	StringInfoData sql;
	int			level = NewGUCNestLevel();

	initStringInfo(&sql);
	/* partitions are the table itself, tables that inherit from it are not */
	appendStringInfo(&sql, "DELETE FROM %s%s AS t USING " ROWS_RELATION " AS r",
					 target->rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ? "" : "ONLY ",
					 qualified_target(target));
	append_same_key(&sql, target);
	/* by the key's index, in the order of the rows, whatever the planner guesses */
	(void) set_config_option("enable_hashjoin", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("enable_mergejoin", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	execute_on_rows(target, sql.data, desc, attnos, rows, n);
	AtEOXact_GUC(true, level);
}

/* Runs of rows that fill the same columns: one statement each. */
static int64
write_general(TargetTable *target, Row *rows, int n)
{
	int			natts = RelationGetDescr(target->rel)->natts;
	int64		processed = 0;
	int			start = 0;

	for (int i = 1; i <= n; i++)
		if (i == n || memcmp(rows[i].present, rows[start].present, sizeof(bool) * natts) != 0)
		{
			processed += insert_rows(target, rows + start, i - start);
			start = i;
		}
	return processed;
}

/* ---------------------------------------------------------------- upsert */

static void
init_keys(KeyTable *keys, TargetTable *target)
{
	key_table_init(keys, target->nkeys, target->nkeys);
	for (int k = 0; k < target->nkeys; k++)
	{
		const KeyEquality *equality = &target->equality[k];
		Oid			less = get_opfamily_member(equality->opfamily, equality->type, equality->type,
											   BTLessStrategyNumber);

		keys->sort[k].ssup_collation = equality->collation;
		keys->sort[k].ssup_attno = k + 1;
		PrepareSortSupportFromOrderingOp(less, &keys->sort[k]);
	}
}

/* In the order of the key, the last row of each. */
static Row *
last_of_each_key(TargetTable *target, const Row *rows, int n, int *kept)
{
	Row		   *result = palloc(sizeof(Row) * n);
	KeyTable	keys;

	init_keys(&keys, target);
	for (int i = 0; i < n; i++)
	{
		uint32		row = key_table_next(&keys);

		for (int k = 0; k < target->nkeys; k++)
		{
			key_table_values(&keys, row)[k] = rows[i].values[target->keys[k] - 1];
			key_table_nulls(&keys, row)[k] = rows[i].nulls[target->keys[k] - 1];
		}
		key_table_add(&keys);
	}
	key_table_sort(&keys);
	*kept = 0;
	for (int i = 0; i < n; i++)
		if (i + 1 == n || key_table_compare(&keys, keys.order[i].row, keys.order[i + 1].row) != 0)
			result[(*kept)++] = rows[keys.order[i].row];
	return result;
}

/* One worker alone needs no common order of keys: deletes behind the rest. */
static void
deletes_last(Row *rows, int n)
{
	Row		   *deletes = palloc(sizeof(Row) * n);
	int			ndeletes = 0;
	int			kept = 0;

	for (int i = 0; i < n; i++)
		if (rows[i].delete)
			deletes[ndeletes++] = rows[i];
		else
			rows[kept++] = rows[i];
	memcpy(rows + kept, deletes, sizeof(Row) * ndeletes);
}

/* Runs of changes and of deletes: one statement each. */
static void
upsert_by_sql(TargetTable *target, Row *rows, int n)
{
	int			start = 0;

	if (target->sub->workers == 1)
		deletes_last(rows, n);
	for (int i = 1; i <= n; i++)
		if (i == n || rows[i].delete != rows[start].delete)
		{
			if (rows[start].delete)
				delete_rows(target, rows + start, i - start);
			else
				write_general(target, rows + start, i - start);
			start = i;
		}
}

static void
write_upsert(TargetTable *target, const Row *given, int n)
{
	int			kept;
	Row		   *rows;

	if (!OidIsValid(target->key_index))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("relation \"%s\" has no unique index on the key columns of subscription \"%s\" any more",
						RelationGetRelationName(target->rel), target->sub->name),
				 errhint("Make one that is neither deferrable nor partial and holds no expression, or name others by kappa.alter_subscription(%s, key_columns => '{...}').",
						 quote_literal_cstr(target->sub->name))));
	rows = last_of_each_key(target, given, n, &kept);
	if (target->by_index && !target->careful && !IsolationUsesXactSnapshot())
		upsert_by_index(target, rows, kept);
	else
		upsert_by_sql(target, rows, kept);
}

int64
target_write(TargetTable *target, Row *rows, int n)
{
	target->row_bytes = 0;
	if (n == 0)
		return 0;
	if (target->sub->upsert)
	{
		write_upsert(target, rows, n);
		return n;
	}
	return target->general ? write_general(target, rows, n) : write_fast(target, rows, n);
}
