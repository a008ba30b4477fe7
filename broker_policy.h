/*
 * broker_policy.h
 *		Which options exist, who may set them, where they may stand and which
 *		values they take.  Default deny.
 */
#ifndef KAPPA_BROKER_POLICY_H
#define KAPPA_BROKER_POLICY_H

#include "postgres.h"

/* Setting of the server, defined in pg_kappa.c; NULL or empty: any address. */
extern char *kappa_allowed_brokers;

#define SECRET_OPTION	"secret"

/* Where an option may stand. */
#define ON_SERVER		0x01
#define ON_MAPPING		0x02
#define IN_FILE			0x04
#define IN_OPTIONS		0x08	/* a subscription's or a call's options */

typedef enum OptionKind
{
	KIND_TEXT,
	KIND_PEM,
	KIND_INTEGER,
	KIND_BOOLEAN,
	KIND_WORD,
	KIND_ADDRESSES,
	KIND_REFUSED				/* detail says why */
} OptionKind;

typedef struct OptionRule
{
	const char *property;		/* librdkafka's name */
	int			places;
	bool		superuser;		/* only a superuser may set it */
	bool		producer;		/* means nothing to a consumer */
	OptionKind	kind;
	int64		min;
	int64		max;
	const char *detail;			/* words, | between; or the reason */
} OptionRule;

extern const OptionRule option_rules[];
extern const int noption_rules;

/* The rule of an option, by librdkafka's name (dotted) or by ours; NULL: none. */
extern const OptionRule *find_option_rule(const char *name, bool dotted);

/*
 * Name, place and value of one option; returns its rule, and its value in the
 * library's spelling.  ERROR HV00D or 22023 with the name, never with the value.
 */
extern const OptionRule *check_option(const char *name, const char *value,
									  int place, char **checked);

/* Does the value weaken protection, so that only a superuser may set it? */
extern bool weakens_protection(const OptionRule *rule, const char *value);

/* The two errors that callers find by themselves. */
extern void report_unknown_option(const char *name, int place);
extern void report_option_value(const char *name, const char *wanted);

/* One address of bootstrap_servers. */
typedef struct BrokerAddress
{
	char	   *host;			/* without brackets */
	char	   *port;
} BrokerAddress;

/* The addresses in a list of host:port; NULL where it is malformed. */
extern BrokerAddress *bootstrap_addresses(const char *list, int *n);

#endif
