/*
 * wal.c
 *		What the WAL was written for: by relation and record type, by update.
 *
 * Behind kappa.wal_volume, kappa.hot_misses and kappa.stream_wal, whose levels and
 * sentences stand in SQL.  Numbers come from the records themselves (wal_scan.c, with
 * its bound) or from the workers' counters in shared memory (stream_wal.c).
 *
 * How a record's bytes are split: each full-page image belongs to the relation of its
 * block, all else of the record, and the record itself, to the relation of its first
 * block; a record without blocks to none.  So every byte of xl_tot_len is counted once,
 * and the sums are those of pg_get_wal_stats.
 *
 * An update that was not HOT wrote its new version either on another page (the record
 * has two blocks: no room where the row stood, whatever else) or on the same one
 * (heap_update found room, so an indexed column has changed): what n_tup_newpage_upd
 * counts from 16 on.
 *
 * Locks: AccessShareLock on pg_class for a moment, to find a file's relation.  Memory:
 * one entry a relation and record type.  Rights: pg_stat_scan_tables, because numbers
 * of all databases are shown, but nothing of what the rows hold.
 *
 * Crash story: none, nothing outlives the call.
 */
#include "postgres.h"

#include "access/heapam_xlog.h"
#include "access/relation.h"
#include "access/rmgr.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogreader.h"
#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "shmem.h"
#include "wal_scan.h"

PG_FUNCTION_INFO_V1(kappa_wal_records);
PG_FUNCTION_INFO_V1(kappa_wal_updates);
PG_FUNCTION_INFO_V1(kappa_pages_unless_locked);
PG_FUNCTION_INFO_V1(kappa_worker_wal);
PG_FUNCTION_INFO_V1(kappa_newpage_updates);

typedef struct FileKey
{
	Oid			tablespace;
	Oid			database;
	Oid			file;			/* 0: the record has no block */
} FileKey;

typedef struct RecordKey
{
	FileKey		file;
	uint8		manager;
	uint8		info;
} RecordKey;

typedef struct RecordSum
{
	RecordKey	key;
	int64		records;
	int64		bytes;
	int64		image_bytes;
} RecordSum;

typedef struct UpdateSum
{
	FileKey		file;
	int64		hot;
	int64		same_page;
	int64		new_page;
} UpdateSum;

static void
require_scan_rights(const char *function)
{
	if (has_privs_of_role(GetUserId(), ROLE_PG_STAT_SCAN_TABLES))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for function %s", function),
			 errdetail("It needs the rights of pg_stat_scan_tables, which pg_monitor has too."),
			 errhint("GRANT pg_stat_scan_tables TO %s.",
					 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
}

static HTAB *
make_sums(Size key_size, Size entry_size)
{
	HASHCTL		info = {.keysize = key_size,.entrysize = entry_size,.hcxt = CurrentMemoryContext};

	return hash_create("sums of WAL", 256, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static FileKey
file_of(const WalBlock *block)
{
	return (FileKey) {block->tablespace, block->database, block->file};
}

/* The columns tablespace, database, file, rel; NULL where there is no block or no such relation here. */
static void
put_file(const FileKey *file, Datum *values, bool *nulls)
{
	WalBlock	block = {.tablespace = file->tablespace,.database = file->database,.file = file->file};
	Oid			relation = InvalidOid;

	if (OidIsValid(file->file))
		relation = wal_relation(&block);
	values[0] = ObjectIdGetDatum(file->tablespace);
	values[1] = ObjectIdGetDatum(file->database);
	values[2] = ObjectIdGetDatum(file->file);
	values[3] = ObjectIdGetDatum(relation);
	nulls[0] = nulls[1] = nulls[2] = !OidIsValid(file->file);
	nulls[3] = !OidIsValid(relation);
}

/* The columns from_lsn, to_lsn, asked_lsn, cut: where it began and ended, and where it should have. */
static void
put_scan(const WalScan *scan, Datum *values)
{
	values[0] = LSNGetDatum(scan->from);
	values[1] = LSNGetDatum(scan->end);
	values[2] = LSNGetDatum(scan->upto);
	values[3] = BoolGetDatum(scan->cut);
}

/* ---------------------------------------------------------------- by relation and record type */

static RecordSum *
record_sum(HTAB *sums, XLogReaderState *record, const FileKey *file)
{
	RecordKey	key;
	RecordSum  *sum;
	bool		found;

	memset(&key, 0, sizeof(key));	/* the hash sees the padding too */
	key.file = *file;
	key.manager = XLogRecGetRmid(record);
	key.info = XLogRecGetInfo(record) & ~XLR_INFO_MASK;
	/* the upper bit of a transaction's record tells what else it holds, not what it is */
	if (key.manager == RM_XACT_ID)
		key.info &= XLOG_XACT_OPMASK;
	sum = hash_search(sums, &key, HASH_ENTER, &found);
	if (!found)
		sum->records = sum->bytes = sum->image_bytes = 0;
	return sum;
}

static void
count_record(XLogReaderState *record, void *arg)
{
	HTAB	   *sums = arg;
	FileKey		first = {0};
	int64		rest = XLogRecGetTotalLen(record);
	RecordSum  *sum;
	WalBlock	block;

	for (int n = XLogRecMaxBlockId(record); n >= 0; n--)
	{
		if (!wal_block(record, n, &block))
			continue;
		first = file_of(&block);
		if (block.image_bytes == 0)
			continue;
		sum = record_sum(sums, record, &first);
		sum->bytes += block.image_bytes;
		sum->image_bytes += block.image_bytes;
		rest -= block.image_bytes;
	}
	sum = record_sum(sums, record, &first);
	sum->records++;
	sum->bytes += rest;
}

/*
 * kappa.wal_records(lsn1 pg_lsn, lsn2 pg_lsn, max_bytes bigint): a row a relation and
 * record type.
 */
Datum
kappa_wal_records(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	HTAB	   *sums = make_sums(sizeof(RecordKey), sizeof(RecordSum));
	HASH_SEQ_STATUS status;
	RecordSum  *sum;
	WalScan		scan;

	require_scan_rights("wal_volume");
	wal_scan_arguments(fcinfo, 0, &scan);
	InitMaterializedSRF(fcinfo, 0);
	wal_scan(&scan, count_record, sums);
	hash_seq_init(&status, sums);
	while ((sum = hash_seq_search(&status)) != NULL)
	{
		Datum		values[12];
		bool		nulls[12] = {0};

		put_file(&sum->key.file, values, nulls);
		values[4] = CStringGetTextDatum(wal_record_name(sum->key.manager, sum->key.info));
		values[5] = Int64GetDatum(sum->records);
		values[6] = Int64GetDatum(sum->bytes);
		values[7] = Int64GetDatum(sum->image_bytes);
		put_scan(&scan, values + 8);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ---------------------------------------------------------------- updates */

static void
count_update(XLogReaderState *record, void *arg)
{
	HTAB	   *sums = arg;
	uint8		what = XLogRecGetInfo(record) & XLOG_HEAP_OPMASK;
	WalBlock	block;
	FileKey		file;
	UpdateSum  *sum;
	bool		found;

	if (XLogRecGetRmid(record) != RM_HEAP_ID ||
		(what != XLOG_HEAP_UPDATE && what != XLOG_HEAP_HOT_UPDATE) || !wal_block(record, 0, &block))
		return;
	file = file_of(&block);
	sum = hash_search(sums, &file, HASH_ENTER, &found);
	if (!found)
		sum->hot = sum->same_page = sum->new_page = 0;
	if (what == XLOG_HEAP_HOT_UPDATE)
		sum->hot++;
	else if (wal_block(record, 1, &block))
		sum->new_page++;
	else
		sum->same_page++;
}

/* kappa.wal_updates(lsn1 pg_lsn, lsn2 pg_lsn, max_bytes bigint): a row a table. */
Datum
kappa_wal_updates(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	HTAB	   *sums = make_sums(sizeof(FileKey), sizeof(UpdateSum));
	HASH_SEQ_STATUS status;
	UpdateSum  *sum;
	WalScan		scan;

	require_scan_rights("hot_misses");
	wal_scan_arguments(fcinfo, 0, &scan);
	InitMaterializedSRF(fcinfo, 0);
	wal_scan(&scan, count_update, sums);
	hash_seq_init(&status, sums);
	while ((sum = hash_seq_search(&status)) != NULL)
	{
		Datum		values[11];
		bool		nulls[11] = {0};

		put_file(&sum->file, values, nulls);
		values[4] = Int64GetDatum(sum->hot);
		values[5] = Int64GetDatum(sum->new_page);
		values[6] = Int64GetDatum(sum->same_page);
		put_scan(&scan, values + 7);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* What n_tup_newpage_upd is where the server counts it */
Datum
kappa_newpage_updates(PG_FUNCTION_ARGS)
{
	PgStat_StatTabEntry *entry = pgstat_fetch_stat_tabentry(PG_GETARG_OID(0));
	int64		n = entry ? newpage_updates(entry) : 0;

	if (n < 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(n);
}

/* ---------------------------------------------------------------- sizes */

/* pg_relation_size() would wait behind VACUUM FULL. */
Datum
kappa_pages_unless_locked(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Relation	rel;
	int64		pages = -1;

	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		PG_RETURN_NULL();
	rel = try_relation_open(relid, NoLock);
	if (rel != NULL)
	{
		/* what is unlogged has no file on a standby */
		if (RELKIND_HAS_STORAGE(rel->rd_rel->relkind) &&
			!(rel->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED && RecoveryInProgress()))
			pages = RelationGetNumberOfBlocks(rel);
		relation_close(rel, NoLock);
	}
	UnlockRelationOid(relid, AccessShareLock);
	if (pages < 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(pages);
}

/* ---------------------------------------------------------------- streams */

/* "rel" or its number where it is gone */
static void
append_relation(StringInfo to, Oid relid)
{
	char	   *name = get_rel_name(relid);

	if (name == NULL)
		name = psprintf("%u", relid);
	else
		name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name);
	escape_json(to, name);
}

/* {"index": bytes, ...}, with what several cost together as "several indexes" */
static Datum
index_bytes(const StreamWal *wal)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < wal->nindexes; i++)
	{
		appendStringInfoString(&json, i > 0 ? ", " : "");
		append_relation(&json, wal->indexes[i]);
		appendStringInfo(&json, ": " INT64_FORMAT, wal->index_bytes[i]);
	}
	if (wal->other_index_bytes > 0)
		appendStringInfo(&json, "%s\"several indexes\": " INT64_FORMAT, wal->nindexes > 0 ? ", " : "",
						 wal->other_index_bytes);
	appendStringInfoChar(&json, '}');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

/* kappa.worker_wal(): a row a worker slot of this database; numbers only, so everybody's. */
Datum
kappa_worker_wal(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			n;
	WorkerSlot *slots;

	InitMaterializedSRF(fcinfo, 0);
	slots = worker_slots(MyDatabaseId, &n);
	for (int i = 0; i < n; i++)
	{
		const WorkerStats *stats = &slots[i].stats;
		Datum		values[10];
		bool		nulls[10] = {0};

		values[0] = Int32GetDatum(slots[i].subscription);
		values[1] = Int32GetDatum(slots[i].worker);
		values[2] = Int64GetDatum(stats->batches);
		values[3] = Int64GetDatum(stats->rows);
		values[4] = Int64GetDatum(stats->wal.row_bytes);
		values[5] = Int64GetDatum(stats->wal.records);
		values[6] = Int64GetDatum(stats->wal.images);
		values[7] = Int64GetDatum(stats->wal.bytes);
		nulls[8] = stats->wal.unsplit;
		if (!nulls[8])
			values[8] = index_bytes(&stats->wal);
		nulls[9] = stats->last_commit_time == 0;
		values[9] = TimestampTzGetDatum(stats->last_commit_time);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
