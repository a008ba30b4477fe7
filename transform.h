/*
 * transform.h
 *		A subscription's transform: messages in, rows for the target out.
 */
#ifndef KAPPA_TRANSFORM_H
#define KAPPA_TRANSFORM_H

#include "postgres.h"

#include "core/batch.h"
#include "subscription.h"
#include "target_table.h"

typedef struct Transform Transform;

/*
 * Parse the transform against the target, adding each message's place to what it
 * selects, and coercing its columns to the target's.  Call as the subscription's
 * owner with the stored search_path.  ERRORs as subscribe documents them (0A000,
 * 42703, 42804, ...).
 */
extern Transform *transform_prepare(const Subscription *sub, Relation target);

/* The columns that it fills, by attno - 1. */
extern const bool *transform_columns(Transform *transform);

/*
 * Run it over messages[from, to), skipping those with a set skip flag.  row is
 * called for each result row with the message's index; values live as long as
 * the current memory context.
 */
typedef void (*TransformRow) (void *arg, int message, Datum *values, bool *nulls);
extern void transform_run(Transform *transform, const KafkaMessage *messages,
						  int from, int to, const uint8 *skip,
						  TransformRow row, void *arg);

#endif
