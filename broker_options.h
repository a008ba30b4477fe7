/*
 * broker_options.h
 *		The librdkafka settings that the options of a SERVER, a USER MAPPING and
 *		a subscription amount to.
 */
#ifndef KAPPA_BROKER_OPTIONS_H
#define KAPPA_BROKER_OPTIONS_H

#include "postgres.h"

#include "utils/jsonb.h"

#include "kafka_client.h"

typedef struct BrokerSettings
{
	int			nsettings;
	KafkaSetting *settings;		/* in the current memory context */
} BrokerSettings;

/*
 * Settings to reach the server as role userid (whose USAGE on it is checked:
 * 42501), with its user mapping (its own, else PUBLIC's, else none) and the
 * librdkafka options among a subscription's (NULL: none).  Unknown server: 42704.
 */
extern BrokerSettings *broker_settings(const char *server, Oid userid,
									   Jsonb *options);

/*
 * Check a subscription's options: those of librdkafka that its owner may set,
 * those of the format (is_format_option says which), nothing else.  ERROR HV00D
 * with the name, never with a value.
 */
extern void check_subscription_options(Jsonb *options,
									   bool (*is_format_option) (const char *name));

/* Raise what the Kafka library told us, in the words of the session's user. */
extern void report_kafka_error(int elevel, const KafkaError *error,
							   const char *server, const char *topic);

/* SQLSTATE that stands for the error (08006, 28000, 42501, 42704, ...). */
extern int	kafka_error_sqlstate(const KafkaError *error);

#endif
