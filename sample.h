/*
 * sample.h
 *		Copies of a few messages of a topic, for kappa.peek and kappa.infer_table.
 */
#ifndef KAPPA_SAMPLE_H
#define KAPPA_SAMPLE_H

#include "postgres.h"

#include "utils/jsonb.h"

typedef struct Sample
{
	int32		part;
	int64		offset;
	int64		timestamp;
	bytea	   *key;
	bytea	   *value;
	Jsonb	   *headers;
} Sample;

/* ERROR 22023 unless it is a number of messages that can be asked for. */
extern void check_sample_count(int n);

/* The last max messages of a topic, oldest first. */
extern Sample **last_samples(const char *server, const char *topic, int max,
							 Jsonb *options, int *count);

/* The first max messages from a start_from on, oldest first. */
extern Sample **first_samples(const char *server, const char *topic, int max,
							  const char *start_from, Jsonb *options, int *count);

#endif
