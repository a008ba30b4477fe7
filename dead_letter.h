/*
 * dead_letter.h
 *		Bad messages to kappa.dead_letter, with their bytes.
 */
#ifndef KAPPA_DEAD_LETTER_H
#define KAPPA_DEAD_LETTER_H

#include "postgres.h"

#include "ingest_batch.h"

/* account_start gives the start_offset of the account that counts a partition's. */
extern void store_dead_letters(Batch *batch, int64 (*account_start) (void *arg, int32 part),
							   void *arg);

#endif
