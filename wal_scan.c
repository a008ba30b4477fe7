/*
 * wal_scan.c
 *		This server's own WAL, record by record.
 *
 * Reads the files of pg_wal through the server's own reader, from the first record
 * at or behind one position up to another, and no further than what is flushed
 * (in recovery: replayed).  Changes nothing, flushes nothing, holds no lock and no
 * replication slot: so a segment may be removed while it is read, which is an error
 * that says so.
 *
 * Cost: at most max_bytes of WAL (64 MB unless the caller says more), counted as the
 * distance of positions; then the scan is cut and says so.  Cancel is looked for at
 * each record.
 *
 * The reader's file is no resource that an aborted transaction closes: it is closed
 * on the way out of an ERROR too.
 *
 * Crash story: none, nothing outlives the call.
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "access/xlogrecovery.h"
#include "access/xlogutils.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/pg_lsn.h"

#include "compat.h"
#include "wal_scan.h"

/* Where the WAL that can be read ends */
static XLogRecPtr
wal_end(void)
{
	return RecoveryInProgress() ? GetXLogReplayRecPtr(NULL) : GetFlushRecPtr(NULL);
}

/* Where the WAL that exists ends: the end of a session's own last record may not be flushed yet. */
static XLogRecPtr
wal_insert_end(void)
{
	return RecoveryInProgress() ? GetXLogReplayRecPtr(NULL) : GetXLogInsertRecPtr();
}

static void
refuse_future(XLogRecPtr lsn, XLogRecPtr end)
{
	if (lsn <= end)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("WAL position %X/%X is in the future", LSN_FORMAT_ARGS(lsn)),
			 errdetail("The WAL of this server ends at %X/%X.", LSN_FORMAT_ARGS(end)),
			 RecoveryInProgress() ?
			 errhint("In recovery WAL can be read up to pg_last_wal_replay_lsn().") :
			 errhint("WAL can be read up to pg_current_wal_flush_lsn(); leave lsn2 out to read up to there.")));
}

void
wal_scan_arguments(FunctionCallInfo fcinfo, int n, WalScan *scan)
{
	memset(scan, 0, sizeof(*scan));
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("lsn1 must not be NULL"),
				 errhint("Take it from pg_current_wal_lsn() when the work to be looked at begins; "
						 "pg_control_checkpoint() has that of the last checkpoint.")));
	scan->from = PG_GETARG_LSN(n);
	if (!PG_ARGISNULL(n + 1))
	{
		scan->upto = PG_GETARG_LSN(n + 1);
		if (scan->upto < scan->from)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("lsn1 must not be behind lsn2"),
					 errdetail("lsn1 is %X/%X, lsn2 is %X/%X.",
							   LSN_FORMAT_ARGS(scan->from), LSN_FORMAT_ARGS(scan->upto))));
	}
	scan->max_bytes = PG_ARGISNULL(n + 2) ? WAL_SCAN_BYTES : PG_GETARG_INT64(n + 2);
	if (scan->max_bytes <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_bytes must be greater than 0")));
}

/* As the server's own wal_segment_open, with an error that says what can be done. */
static void
open_segment(XLogReaderState *reader, XLogSegNo segment, TimeLineID *timeline)
{
	char		path[MAXPGPATH];

	XLogFilePath(path, *timeline, segment, reader->segcxt.ws_segsize);
	reader->seg.ws_file = BasicOpenFile(path, O_RDONLY | PG_BINARY);
	if (reader->seg.ws_file >= 0)
		return;
	if (errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("WAL segment %s is not there", path + strlen(XLOGDIR "/")),
			 errdetail("It was removed or recycled, or came from an archive and was not kept."),
			 errhint("Begin at a later position: SELECT min(name) FROM pg_ls_waldir() names the oldest segment that is there. "
					 "wal_keep_size keeps more of them.")));
}

static XLogReaderState *
open_reader(void)
{
	XLogReaderState *reader = XLogReaderAllocate(wal_segment_size, NULL,
												 XL_ROUTINE(.page_read = &read_local_xlog_page_no_wait,
															.segment_open = &open_segment,
															.segment_close = &wal_segment_close),
												 palloc0(sizeof(ReadLocalXLogPageNoWaitPrivate)));

	if (reader == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed while allocating a WAL reading processor.")));
	return reader;
}

static bool
at_end_of_wal(const XLogReaderState *reader)
{
	return ((ReadLocalXLogPageNoWaitPrivate *) reader->private_data)->end_of_wal;
}

/* false: no record has ended yet behind scan->from. */
static bool
find_first(XLogReaderState *reader, WalScan *scan)
{
	XLogRecPtr	first = XLogFindNextRecord(reader, scan->from);

	if (!XLogRecPtrIsInvalid(first))
	{
		scan->from = scan->end = first;
		return true;
	}
	if (!at_end_of_wal(reader))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no WAL record was found behind %X/%X", LSN_FORMAT_ARGS(scan->from)),
				 errhint("The position may be of another server or timeline.")));
	return false;
}

/* false: the WAL ends here, or in the midst of a record. */
static bool
next_record(XLogReaderState *reader)
{
	char	   *message;

	if (XLogReadRecord(reader, &message) != NULL)
		return true;
	if (at_end_of_wal(reader))
		return false;
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not read WAL at %X/%X", LSN_FORMAT_ARGS(reader->EndRecPtr)),
			 message ? errdetail_internal("%s", message) : 0));
}

static void
scan_records(XLogReaderState *reader, WalScan *scan, WalRecordCallback callback, void *arg)
{
	XLogRecPtr	limit;

	if (!find_first(reader, scan))
		return;
	limit = scan->from + scan->max_bytes;
	while (next_record(reader) && reader->EndRecPtr <= scan->upto)
	{
		CHECK_FOR_INTERRUPTS();
		if (reader->EndRecPtr > limit)
		{
			scan->cut = true;
			return;
		}
		callback(reader, arg);
		scan->end = reader->EndRecPtr;
		scan->records++;
	}
}

void
wal_scan(WalScan *scan, WalRecordCallback callback, void *arg)
{
	XLogReaderState *reader;
	XLogRecPtr	end = wal_end();

	if (scan->max_bytes <= 0)
		scan->max_bytes = WAL_SCAN_BYTES;
	refuse_future(scan->from, wal_insert_end());
	if (!XLogRecPtrIsInvalid(scan->upto))
		refuse_future(scan->upto, wal_insert_end());
	if (XLogRecPtrIsInvalid(scan->upto) || scan->upto > end)
		scan->upto = end;
	scan->records = 0;
	scan->cut = false;
	scan->end = scan->from;
	if (scan->from >= scan->upto)
		return;
	/* the very first page is bootstrap's, which the reader cannot read */
	scan->from = Max(scan->from, XLOG_BLCKSZ);
	reader = open_reader();
	PG_TRY();
	{
		scan_records(reader, scan, callback, arg);
	}
	PG_FINALLY();
	{
		pfree(reader->private_data);
		XLogReaderFree(reader);
	}
	PG_END_TRY();
}

bool
wal_block(XLogReaderState *record, int n, WalBlock *block)
{
	if (n > XLogRecMaxBlockId(record) || !XLogRecHasBlockRef(record, n))
		return false;
	record_block_place(record, n, &block->tablespace, &block->database, &block->file,
					   &block->fork, &block->block);
	block->image_bytes = XLogRecHasBlockImage(record, n) ? XLogRecGetBlock(record, n)->bimg_len : 0;
	return true;
}

char *
wal_record_name(uint8 resource_manager, uint8 info)
{
	RmgrData	manager;
	const char *name;

	/* of an extension that is not loaded here */
	if (!RmgrIdExists(resource_manager))
		return psprintf("custom %u/%X", resource_manager, info & ~XLR_INFO_MASK);
	manager = GetRmgr(resource_manager);
	name = manager.rm_identify(info);
	if (name == NULL)
		return psprintf("%s/UNKNOWN (%x)", manager.rm_name, info & ~XLR_INFO_MASK);
	return psprintf("%s/%s", manager.rm_name, name);
}

Oid
wal_relation(const WalBlock *block)
{
	if (block->database != MyDatabaseId && OidIsValid(block->database))
		return InvalidOid;
	return relation_of_file(block->tablespace, block->file);
}
