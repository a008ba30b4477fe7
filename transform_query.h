/*
 * transform_query.h
 *		A transform's text: parsed, and held to the rules.
 */
#ifndef KAPPA_TRANSFORM_QUERY_H
#define KAPPA_TRANSFORM_QUERY_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "nodes/parsenodes.h"

#include "subscription.h"

#define TRANSFORM_RELATION	"message"

/* Row type of the relation "message". */
extern TupleDesc transform_message_desc(MessageFormat format);

/* Analysed as the subscription's owner with the stored search_path. */
extern Query *analyze_transform(const Subscription *sub);

#endif
