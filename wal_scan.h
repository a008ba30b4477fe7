/*
 * wal_scan.h
 *		This server's own WAL, record by record, between two positions and within
 *		a bound of bytes.
 */
#ifndef KAPPA_WAL_SCAN_H
#define KAPPA_WAL_SCAN_H

#include "postgres.h"

#include "access/xlogreader.h"
#include "common/relpath.h"
#include "storage/block.h"

/* What a call may read unless its caller says more */
#define WAL_SCAN_BYTES	(INT64CONST(64) * 1024 * 1024)

typedef struct WalScan
{
	XLogRecPtr	from;			/* in: the first record that begins here or behind; out: where it begins */
	XLogRecPtr	upto;			/* in: last record ends here or before, Invalid: now; out: what was meant */
	int64		max_bytes;		/* in: of WAL that may be read */
	XLogRecPtr	end;			/* out: end of the last record read */
	int64		records;		/* out */
	bool		cut;			/* out: max_bytes ended the scan before upto */
} WalScan;

/* A block that a record refers to */
typedef struct WalBlock
{
	Oid			tablespace;
	Oid			database;		/* 0: shared */
	Oid			file;			/* see wal_relation */
	ForkNumber	fork;
	BlockNumber block;
	uint32		image_bytes;	/* of its full-page image, 0: none */
} WalBlock;

/* Called for each record; macros XLogRec... of xlogreader.h read it. */
typedef void (*WalRecordCallback) (XLogReaderState *record, void *arg);

extern void wal_scan(WalScan *scan, WalRecordCallback callback, void *arg);

/* Arguments lsn1, lsn2 and max_bytes (each may be NULL) of an SQL function, first at n. */
extern void wal_scan_arguments(FunctionCallInfo fcinfo, int n, WalScan *scan);

/* false: the record has no block of this number. Numbers are 0 .. XLogRecMaxBlockId(record). */
extern bool wal_block(XLogReaderState *record, int n, WalBlock *block);

/* "Heap/INSERT", as pg_get_wal_stats names it, from XLogRecGetRmid and XLogRecGetInfo */
extern char *wal_record_name(uint8 resource_manager, uint8 info);

/* The relation of this database that has the file now; InvalidOid: none (dropped, rewritten, elsewhere). */
extern Oid	wal_relation(const WalBlock *block);

#endif
