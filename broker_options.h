/*
 * broker_options.h
 *		SERVER and USER MAPPING options: which exist, who may set them, and the
 *		librdkafka settings that they amount to.  Default deny.
 */
#ifndef KAPPA_BROKER_OPTIONS_H
#define KAPPA_BROKER_OPTIONS_H

#include "postgres.h"

#include "utils/jsonb.h"

#include "kafka_client.h"

/* Settings of the server, defined in pg_kappa.c; NULL or empty: not set. */
extern char *kappa_secrets_file;
extern char *kappa_allowed_brokers;

/* One address of bootstrap_servers. */
typedef struct BrokerAddress
{
	char	   *host;			/* without brackets */
	char	   *port;
} BrokerAddress;

/* The addresses in a list of host:port; NULL where it is malformed. */
extern BrokerAddress *bootstrap_addresses(const char *list, int *n);

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
