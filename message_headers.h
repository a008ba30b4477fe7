/*
 * message_headers.h
 *		A message's headers as jsonb, and which bytes are text.
 */
#ifndef KAPPA_MESSAGE_HEADERS_H
#define KAPPA_MESSAGE_HEADERS_H

#include "postgres.h"

#include "utils/jsonb.h"

#include "core/batch.h"

/* Headers as the documented jsonb object; NULL where the message has none. */
extern Jsonb *message_headers(const KafkaMessage *message);

/* Can the bytes be shown as text in this database? */
extern bool bytes_are_text(const char *bytes, size_t len);

#endif
