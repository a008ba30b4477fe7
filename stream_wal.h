/*
 * stream_wal.h
 *		The WAL that this process writes for its stream: all of it, and by index
 *		where that is known.
 */
#ifndef KAPPA_STREAM_WAL_H
#define KAPPA_STREAM_WAL_H

#include "postgres.h"

#include "executor/instrument.h"
#include "executor/tuptable.h"

#define STREAM_WAL_INDEXES	16

typedef struct StreamWal
{
	int64		records;
	int64		images;			/* full-page images */
	int64		bytes;
	int64		row_bytes;		/* of the rows stored, their columns alone */
	bool		unsplit;		/* some rows went by SQL: what their indexes cost is not known */
	int			nindexes;
	Oid			indexes[STREAM_WAL_INDEXES];
	int64		index_bytes[STREAM_WAL_INDEXES];
	int64		other_index_bytes;	/* of several indexes together, or of more than fit here */
} StreamWal;

/* Where WAL stands, for stream_wal_of_index */
static inline int64
stream_wal_now(void)
{
	return (int64) pgWalUsage.wal_bytes;
}

/* What has been written since was for the index; InvalidOid: for several. */
extern void stream_wal_of_index(Oid index, int64 since);

/* Rows went by SQL. */
extern void stream_wal_unsplit(void);

/* What has been written since the last call, or since the process began; row_bytes is the caller's to fill in. */
extern void stream_wal_take(StreamWal *taken);

extern void stream_wal_add(StreamWal *to, const StreamWal *from);

/* Bytes of a row's columns, without its header; a slot that has been stored knows them. */
extern int64 stream_row_bytes(TupleTableSlot *slot);

#endif
