/*
 * stream_wal.c
 *		The WAL that this process writes for its stream.
 *
 * The server counts each process's WAL in pgWalUsage; the difference of two readings
 * is exact, costs nothing and needs no right.  A worker does nothing but ingest, so all
 * that it writes is its stream's: rows, indexes, positions, dead letters, commits, also
 * of batches that failed and were tried again.
 *
 * By index: read before and after the entries of one index (index_entries.c), or of
 * all that the executor fills together.  What goes by SQL cannot be split.
 *
 * Owns the sums of this process since they were last taken (worker.c puts them into
 * the worker's slot).  A crash loses what was not taken, with the slot.
 */
#include "postgres.h"

#include "access/htup_details.h"

#include "stream_wal.h"

static WalUsage taken_to;
static StreamWal sums;			/* indexes and unsplit only */

static void
add_index(StreamWal *wal, Oid index, int64 bytes)
{
	int			i = 0;

	while (i < wal->nindexes && wal->indexes[i] != index)
		i++;
	if (!OidIsValid(index) || i == STREAM_WAL_INDEXES)
	{
		wal->other_index_bytes += bytes;
		return;
	}
	if (i == wal->nindexes)
	{
		wal->indexes[wal->nindexes++] = index;
		wal->index_bytes[i] = 0;
	}
	wal->index_bytes[i] += bytes;
}

void
stream_wal_of_index(Oid index, int64 since)
{
	int64		bytes = stream_wal_now() - since;

	if (bytes > 0)
		add_index(&sums, index, bytes);
}

void
stream_wal_unsplit(void)
{
	sums.unsplit = true;
}

void
stream_wal_take(StreamWal *taken)
{
	WalUsage	usage = {0};

	WalUsageAccumDiff(&usage, &pgWalUsage, &taken_to);
	taken_to = pgWalUsage;
	*taken = sums;
	memset(&sums, 0, sizeof(sums));
	taken->records = usage.wal_records;
	taken->images = usage.wal_fpi;
	taken->bytes = usage.wal_bytes;
}

/* Called under a spinlock: nothing here can fail. */
void
stream_wal_add(StreamWal *to, const StreamWal *from)
{
	to->records += from->records;
	to->images += from->images;
	to->bytes += from->bytes;
	to->row_bytes += from->row_bytes;
	to->unsplit |= from->unsplit;
	to->other_index_bytes += from->other_index_bytes;
	for (int i = 0; i < from->nindexes; i++)
		add_index(to, from->indexes[i], from->index_bytes[i]);
}

int64
stream_row_bytes(TupleTableSlot *slot)
{
	if (TTS_IS_BUFFERTUPLE(slot) || TTS_IS_HEAPTUPLE(slot))
	{
		HeapTuple	tuple = ((HeapTupleTableSlot *) slot)->tuple;

		if (tuple != NULL)
			return tuple->t_len - tuple->t_data->t_hoff;
	}
	slot_getallattrs(slot);
	return heap_compute_data_size(slot->tts_tupleDescriptor, slot->tts_values, slot->tts_isnull);
}
