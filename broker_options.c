/*
 * broker_options.c
 *		SERVER and USER MAPPING options, and what they amount to.
 *
 * Default deny: an option exists only if a rule names it.  A rule says who may
 * set it (anyone who may create a server, or a superuser, because the setting
 * names a file, a URL or a weaker protection), where it may stand (secrets never
 * on the server, whose options everyone can read), and which values it takes.
 * librdkafka's names are used with underscores for dots, so "sasl.username" is
 * sasl_username; the secrets file uses the dots.
 *
 * Who may set an option is decided when it is set: what stands in the catalog
 * was allowed to whoever put it there.  Where it stands and its value are
 * checked again when it is used, for a catalog may come from a dump of an older
 * version.  An ALTER by an ordinary role is refused where a superuser's option
 * stands beside, as the validator sees the whole list and not what changed.
 *
 * No message here shows a value, neither ours nor librdkafka's (which quotes
 * them).
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/reloptions.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "broker_options.h"
#include "compat.h"

#define SECRET_OPTION	"secret"
#define ALLOWED_SETTING	"kappa.allowed.brokers"
#define SECRETS_MAX		(1024 * 1024)

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

#define TUNING			(ON_SERVER | IN_FILE | IN_OPTIONS)
#define INTEGER(n, lo, hi)		{n, TUNING, false, false, KIND_INTEGER, lo, hi, NULL}
#define FOR_PRODUCER(n, lo, hi)	{n, TUNING, false, true, KIND_INTEGER, lo, hi, NULL}
#define PRODUCER_WORD(n, w)		{n, TUNING, false, true, KIND_WORD, 0, 0, w}
#define OWNER(n, k, d)			{n, ON_SERVER | IN_FILE, false, false, k, 0, 0, d}
#define SUPER(n, k, d)			{n, ON_SERVER | ON_MAPPING | IN_FILE, true, false, k, 0, 0, d}
#define SECRET(n, k)			{n, ON_MAPPING | IN_FILE, false, false, k, 0, 0, NULL}
#define SUPER_SECRET(n, k)		{n, ON_MAPPING | IN_FILE, true, false, k, 0, 0, NULL}
#define REFUSED(n, why)			{n, 0, false, false, KIND_REFUSED, 0, 0, why}

#define WHY_FIXED		"pg_kappa sets it itself: exactness rests on it."
#define WHY_CODE		"It would load code into the server."
#define WHY_SHELL		"It would run a shell command in the server."
#define WHY_FILES		"It would let the library write files of its own."
#define WHY_CALLBACK	"It is a pointer inside the program, not a setting."
#define WHY_OLD_BROKER	"pg_kappa asks the broker for its version."
#define WHY_INTERNAL	"It is an internal of the library."
#define WHY_GROUP		"pg_kappa assigns partitions itself and joins no group."
#define WHY_PRODUCER	"pg_kappa sets it itself for what it produces."
#define WHY_ALIAS(n)	"It is another name of " n "."
#define WHY_NO_USE		"pg_kappa does not offer it."

static const OptionRule rules[] = {
	/* where and how to connect */
	OWNER("bootstrap.servers", KIND_ADDRESSES, NULL),
	OWNER("security.protocol", KIND_WORD, "plaintext|ssl|sasl_plaintext|sasl_ssl"),
	OWNER("sasl.mechanism", KIND_WORD, "SCRAM-SHA-256|SCRAM-SHA-512|PLAIN|GSSAPI|OAUTHBEARER"),
	OWNER("ssl.ca.pem", KIND_PEM, NULL),
	{"ssl.certificate.pem", ON_SERVER | ON_MAPPING | IN_FILE, false, false, KIND_PEM, 0, 0, NULL},
	OWNER("ssl.endpoint.identification.algorithm", KIND_WORD, "https|none"),
	OWNER("enable.ssl.certificate.verification", KIND_BOOLEAN, NULL),
	OWNER("broker.address.family", KIND_WORD, "any|v4|v6"),
	OWNER("client.dns.lookup", KIND_WORD,
		"use_all_dns_ips|resolve_canonical_bootstrap_servers_only"),

	/* tuning, with caps */
	{"client.id", TUNING, false, false, KIND_TEXT, 0, 0, NULL},
	INTEGER("fetch.wait.max.ms", 0, 5000),
	INTEGER("fetch.min.bytes", 1, 1000000),
	INTEGER("fetch.max.bytes", 1000000, 67108864),
	INTEGER("fetch.message.max.bytes", 1000, 67108864),
	INTEGER("max.partition.fetch.bytes", 1000, 67108864),
	INTEGER("fetch.error.backoff.ms", 0, 60000),
	INTEGER("fetch.queue.backoff.ms", 0, 10000),
	INTEGER("queued.min.messages", 1, 10000000),
	INTEGER("queued.max.messages.kbytes", 1024, 1048576),
	INTEGER("receive.message.max.bytes", 1000000, 268435456),
	INTEGER("message.max.bytes", 1000, 67108864),
	INTEGER("socket.timeout.ms", 1000, 60000),
	INTEGER("socket.connection.setup.timeout.ms", 1000, 60000),
	{"socket.keepalive.enable", TUNING, false, false, KIND_BOOLEAN, 0, 0, NULL},
	INTEGER("reconnect.backoff.ms", 0, 10000),
	INTEGER("reconnect.backoff.max.ms", 0, 60000),
	INTEGER("topic.metadata.refresh.interval.ms", 5000, 300000),
	INTEGER("metadata.max.age.ms", 15000, 900000),
	FOR_PRODUCER("retry.backoff.ms", 1, 60000),
	FOR_PRODUCER("retry.backoff.max.ms", 1, 60000),
	FOR_PRODUCER("linger.ms", 0, 10000),
	FOR_PRODUCER("batch.num.messages", 1, 1000000),
	FOR_PRODUCER("batch.size", 1, 67108864),
	FOR_PRODUCER("compression.level", -1, 12),
	PRODUCER_WORD("compression.type", "none|gzip|snappy|lz4|zstd"),
	PRODUCER_WORD("compression.codec", "none|gzip|snappy|lz4|zstd"),

	/* secrets */
	SECRET("sasl.username", KIND_TEXT),
	SECRET("sasl.password", KIND_TEXT),
	SECRET("ssl.key.pem", KIND_PEM),
	SECRET("ssl.key.password", KIND_TEXT),
	SECRET("sasl.oauthbearer.client.id", KIND_TEXT),
	SECRET("sasl.oauthbearer.client.secret", KIND_TEXT),
	SECRET("sasl.oauthbearer.client.credentials.client.id", KIND_TEXT),
	SECRET("sasl.oauthbearer.client.credentials.client.secret", KIND_TEXT),
	SECRET("sasl.oauthbearer.assertion.private.key.passphrase", KIND_TEXT),
	SECRET("sasl.oauthbearer.assertion.private.key.pem", KIND_PEM),
	SUPER_SECRET("ssl.keystore.password", KIND_TEXT),

	/* files, URLs, weaker protection */
	SUPER(SECRET_OPTION, KIND_TEXT, NULL),
	SUPER("ssl.ca.location", KIND_TEXT, NULL),
	SUPER("ssl.certificate.location", KIND_TEXT, NULL),
	SUPER("ssl.key.location", KIND_TEXT, NULL),
	SUPER("ssl.crl.location", KIND_TEXT, NULL),
	SUPER("ssl.keystore.location", KIND_TEXT, NULL),
	SUPER("https.ca.location", KIND_TEXT, NULL),
	SUPER("https.ca.pem", KIND_PEM, NULL),
	SUPER("sasl.kerberos.service.name", KIND_TEXT, NULL),
	SUPER("sasl.kerberos.principal", KIND_TEXT, NULL),
	SUPER("sasl.kerberos.keytab", KIND_TEXT, NULL),
	SUPER("sasl.oauthbearer.config", KIND_TEXT, NULL),
	SUPER("sasl.oauthbearer.method", KIND_WORD, "default|oidc"),
	SUPER("sasl.oauthbearer.scope", KIND_TEXT, NULL),
	SUPER("sasl.oauthbearer.extensions", KIND_TEXT, NULL),
	SUPER("sasl.oauthbearer.token.endpoint.url", KIND_TEXT, NULL),
	SUPER("sasl.oauthbearer.grant.type", KIND_TEXT, NULL),
	SUPER("sasl.oauthbearer.sub.claim.name", KIND_TEXT, NULL),
	SUPER("sasl.oauthbearer.assertion.algorithm", KIND_WORD, "RS256|ES256"),
	SUPER("sasl.oauthbearer.assertion.private.key.file", KIND_TEXT, NULL),
	SUPER("sasl.oauthbearer.assertion.file", KIND_TEXT, NULL),
	SUPER("sasl.oauthbearer.assertion.claim.aud", KIND_TEXT, NULL),
	SUPER("sasl.oauthbearer.assertion.claim.exp.seconds", KIND_TEXT, NULL),
	SUPER("sasl.oauthbearer.assertion.claim.iss", KIND_TEXT, NULL),
	SUPER("sasl.oauthbearer.assertion.claim.jti.include", KIND_BOOLEAN, NULL),
	SUPER("sasl.oauthbearer.assertion.claim.nbf.seconds", KIND_TEXT, NULL),
	SUPER("sasl.oauthbearer.assertion.claim.sub", KIND_TEXT, NULL),
	SUPER("sasl.oauthbearer.assertion.jwt.template.file", KIND_TEXT, NULL),
	SUPER("sasl.oauthbearer.metadata.authentication.type", KIND_TEXT, NULL),
	SUPER("debug", KIND_TEXT, NULL),
	SUPER("log_level", KIND_INTEGER, NULL),

	/* what exactness rests on */
	REFUSED("auto.offset.reset", WHY_FIXED),
	REFUSED("enable.auto.commit", WHY_FIXED),
	REFUSED("auto.commit.enable", WHY_FIXED),
	REFUSED("auto.commit.interval.ms", WHY_FIXED),
	REFUSED("enable.auto.offset.store", WHY_FIXED),
	REFUSED("isolation.level", WHY_FIXED),
	REFUSED("check.crcs", WHY_FIXED),
	REFUSED("enable.partition.eof", WHY_FIXED),
	REFUSED("allow.auto.create.topics", WHY_FIXED),
	REFUSED("log.queue", WHY_FIXED),
	REFUSED("log.thread.name", WHY_FIXED),
	REFUSED("log.connection.close", WHY_FIXED),
	REFUSED("enable.metrics.push", WHY_FIXED),
	REFUSED("statistics.interval.ms", WHY_FIXED),
	REFUSED("topic.metadata.propagation.max.ms", WHY_FIXED),
	REFUSED("max.poll.interval.ms", WHY_FIXED),
	REFUSED("client.rack", WHY_FIXED),
	REFUSED("group.id", WHY_GROUP),
	REFUSED("group.instance.id", WHY_GROUP),
	REFUSED("group.protocol", WHY_GROUP),
	REFUSED("group.protocol.type", WHY_GROUP),
	REFUSED("group.remote.assignor", WHY_GROUP),
	REFUSED("partition.assignment.strategy", WHY_GROUP),
	REFUSED("session.timeout.ms", WHY_GROUP),
	REFUSED("heartbeat.interval.ms", WHY_GROUP),
	REFUSED("coordinator.query.interval.ms", WHY_GROUP),
	REFUSED("transactional.id", WHY_PRODUCER),
	REFUSED("transaction.timeout.ms", WHY_PRODUCER),
	REFUSED("enable.idempotence", WHY_PRODUCER),
	REFUSED("enable.gapless.guarantee", WHY_PRODUCER),
	REFUSED("acks", WHY_PRODUCER),
	REFUSED("request.required.acks", WHY_PRODUCER),
	REFUSED("request.timeout.ms", WHY_PRODUCER),
	REFUSED("message.timeout.ms", WHY_PRODUCER),
	REFUSED("delivery.timeout.ms", WHY_PRODUCER),
	REFUSED("message.send.max.retries", WHY_PRODUCER),
	REFUSED("retries", WHY_PRODUCER),
	REFUSED("max.in.flight", WHY_PRODUCER),
	REFUSED("max.in.flight.requests.per.connection", WHY_PRODUCER),
	REFUSED("queue.buffering.max.messages", WHY_PRODUCER),
	REFUSED("queue.buffering.max.kbytes", WHY_PRODUCER),
	REFUSED("queue.buffering.max.ms", WHY_PRODUCER),
	REFUSED("queue.buffering.backpressure.threshold", WHY_PRODUCER),
	REFUSED("delivery.report.only.error", WHY_PRODUCER),
	REFUSED("produce.offset.report", WHY_PRODUCER),
	REFUSED("partitioner", WHY_PRODUCER),
	REFUSED("sticky.partitioning.linger.ms", WHY_PRODUCER),

	/* what must never reach the library */
	REFUSED("plugin.library.paths", WHY_CODE),
	REFUSED("interceptors", WHY_CODE),
	REFUSED("ssl.engine.location", WHY_CODE),
	REFUSED("ssl.engine.id", WHY_CODE),
	REFUSED("ssl.providers", WHY_CODE),
	REFUSED("sasl.kerberos.kinit.cmd", WHY_SHELL),
	REFUSED("sasl.kerberos.min.time.before.relogin", WHY_SHELL),
	REFUSED("internal.termination.signal", "It would replace a signal handler of the server."),
	REFUSED("enable.sasl.oauthbearer.unsecure.jwt", "It would log in without a proof."),
	REFUSED("offset.store.path", WHY_FILES),
	REFUSED("offset.store.method", WHY_FILES),
	REFUSED("offset.store.sync.interval.ms", WHY_FILES),
	REFUSED("test.mock.num.brokers", "It would open listeners in the server."),
	REFUSED("test.mock.broker.rtt", "It would open listeners in the server."),
	REFUSED("api.version.request", WHY_OLD_BROKER),
	REFUSED("api.version.request.timeout.ms", WHY_OLD_BROKER),
	REFUSED("api.version.fallback.ms", WHY_OLD_BROKER),
	REFUSED("broker.version.fallback", WHY_OLD_BROKER),
	REFUSED("enabled_events", WHY_CALLBACK),
	REFUSED("opaque", WHY_CALLBACK),
	REFUSED("ssl_key", WHY_CALLBACK),
	REFUSED("ssl_certificate", WHY_CALLBACK),
	REFUSED("ssl_ca", WHY_CALLBACK),
	REFUSED("ssl_engine_callback_data", WHY_CALLBACK),
	REFUSED("default_topic_conf", WHY_CALLBACK),
	REFUSED("background_event_cb", WHY_CALLBACK),
	REFUSED("closesocket_cb", WHY_CALLBACK),
	REFUSED("connect_cb", WHY_CALLBACK),
	REFUSED("consume_cb", WHY_CALLBACK),
	REFUSED("dr_cb", WHY_CALLBACK),
	REFUSED("dr_msg_cb", WHY_CALLBACK),
	REFUSED("error_cb", WHY_CALLBACK),
	REFUSED("log_cb", WHY_CALLBACK),
	REFUSED("msg_order_cmp", WHY_CALLBACK),
	REFUSED("oauthbearer_token_refresh_cb", WHY_CALLBACK),
	REFUSED("offset_commit_cb", WHY_CALLBACK),
	REFUSED("open_cb", WHY_CALLBACK),
	REFUSED("partitioner_cb", WHY_CALLBACK),
	REFUSED("rebalance_cb", WHY_CALLBACK),
	REFUSED("resolve_cb", WHY_CALLBACK),
	REFUSED("socket_cb", WHY_CALLBACK),
	REFUSED("ssl.certificate.verify_cb", WHY_CALLBACK),
	REFUSED("stats_cb", WHY_CALLBACK),
	REFUSED("throttle_cb", WHY_CALLBACK),
	REFUSED("topic.blacklist", WHY_INTERNAL),
	REFUSED("message.copy.max.bytes", WHY_INTERNAL),
	REFUSED("queuing.strategy", WHY_INTERNAL),
	REFUSED("consume.callback.max.messages", WHY_INTERNAL),
	REFUSED("builtin.features", WHY_INTERNAL),
	REFUSED("enable.random.seed", WHY_INTERNAL),

	/* other names, and what nothing here needs */
	REFUSED("metadata.broker.list", WHY_ALIAS("bootstrap_servers")),
	REFUSED("sasl.mechanisms", WHY_ALIAS("sasl_mechanism")),
	REFUSED("metadata.recovery.strategy", WHY_NO_USE),
	REFUSED("metadata.recovery.rebootstrap.trigger.ms", WHY_NO_USE),
	REFUSED("topic.metadata.refresh.fast.interval.ms", WHY_NO_USE),
	REFUSED("topic.metadata.refresh.fast.cnt", WHY_NO_USE),
	REFUSED("topic.metadata.refresh.sparse", WHY_NO_USE),
	REFUSED("socket.blocking.max.ms", WHY_NO_USE),
	REFUSED("socket.send.buffer.bytes", WHY_NO_USE),
	REFUSED("socket.receive.buffer.bytes", WHY_NO_USE),
	REFUSED("socket.nagle.disable", WHY_NO_USE),
	REFUSED("socket.max.fails", WHY_NO_USE),
	REFUSED("broker.address.ttl", WHY_NO_USE),
	REFUSED("connections.max.idle.ms", WHY_NO_USE),
	REFUSED("reconnect.backoff.jitter.ms", WHY_NO_USE),
	REFUSED("ssl.cipher.suites", WHY_NO_USE),
	REFUSED("ssl.curves.list", WHY_NO_USE),
	REFUSED("ssl.sigalgs.list", WHY_NO_USE),
	REFUSED("ssl.ca.certificate.stores", WHY_NO_USE),
};

PG_FUNCTION_INFO_V1(kafka_fdw_validator);

/* ------------------------------------------------------------------------
 * Names
 * ------------------------------------------------------------------------
 */

/* librdkafka's name as an option: underscores for dots. */
static char *
option_name(const char *property)
{
	char	   *name = pstrdup(property);

	for (char *c = name; *c; c++)
	{
		if (*c == '.')
			*c = '_';
	}
	return name;
}

static bool
same_name(const char *property, const char *name, bool dotted)
{
	if (dotted)
		return strcmp(property, name) == 0;
	for (; *property && *name; property++, name++)
	{
		if ((*property == '.' ? '_' : *property) != *name)
			return false;
	}
	return *property == *name;
}

static const OptionRule *
find_rule(const char *name, bool dotted)
{
	for (int i = 0; i < lengthof(rules); i++)
	{
		if (same_name(rules[i].property, name, dotted))
			return &rules[i];
	}
	return NULL;
}

/* The offered name nearest to a mistyped one, NULL where none is near. */
static char *
nearest_name(const char *name, int place)
{
	char	   *best = NULL;
	int			best_distance = Max(2, (int) strlen(name) / 3) + 1;

	if (strlen(name) > 100)
		return NULL;
	for (int i = 0; i < lengthof(rules); i++)
	{
		char	   *candidate;
		int			distance;

		if ((rules[i].places & place) == 0)
			continue;
		candidate = option_name(rules[i].property);
		distance = varstr_levenshtein(name, strlen(name),
									  candidate, strlen(candidate), 1, 1, 1, true);
		if (distance < best_distance)
		{
			best_distance = distance;
			best = candidate;
		}
	}
	return best;
}

static void
report_unknown(const char *name, int place)
{
	char	   *near_name = nearest_name(name, place);

	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 near_name ?
			 errhint("Perhaps you meant the option \"%s\".", near_name) :
			 errhint("Options are librdkafka's names with underscores for dots, such as bootstrap_servers.")));
}

/* ------------------------------------------------------------------------
 * Checks
 * ------------------------------------------------------------------------
 */

static void
report_misplaced(const OptionRule *rule, const char *name, int place)
{
	if (rule->kind == KIND_REFUSED)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" cannot be set", name),
				 errdetail("%s", rule->detail)));
	if (place == ON_SERVER)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" belongs in a user mapping", name),
				 errdetail("The options of a server can be read by everyone."),
				 errhint("CREATE USER MAPPING FOR role SERVER server OPTIONS (%s ...)", name)));
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 (rule->places & ON_SERVER) ?
			 errmsg("option \"%s\" belongs on the server", name) :
			 errmsg("option \"%s\" belongs in a user mapping", name),
			 (rule->places & ON_SERVER) ?
			 errhint("ALTER SERVER server OPTIONS (ADD %s ...)", name) :
			 errhint("CREATE USER MAPPING FOR role SERVER server OPTIONS (%s ...)", name)));
}

static void
report_value(const char *name, const char *wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\"", name),
			 errdetail("It must be %s.", wanted)));
}

/* The rule's word that the value is, in the library's spelling; NULL: none. */
static char *
find_word(const char *words, const char *value)
{
	const char *at = words;

	for (;;)
	{
		size_t		len = strcspn(at, "|");

		if (strlen(value) == len && pg_strncasecmp(at, value, len) == 0)
			return pnstrdup(at, len);
		if (at[len] == '\0')
			return NULL;
		at += len + 1;
	}
}

static char *
list_words(const char *words)
{
	StringInfoData list;

	initStringInfo(&list);
	appendStringInfoString(&list, "one of ");
	for (; *words; words++)
	{
		if (*words == '|')
			appendStringInfoString(&list, ", ");
		else
			appendStringInfoChar(&list, *words);
	}
	return list.data;
}

static char *
check_integer(const OptionRule *rule, const char *name, const char *value)
{
	char	   *end;
	long long	number;
	int64		min = rule->min;
	int64		max = (rule->min == 0 && rule->max == 0) ? 7 : rule->max;	/* log_level */

	errno = 0;
	number = strtoll(value, &end, 10);
	if (errno != 0 || end == value || *end != '\0' || number < min || number > max)
		report_value(name, psprintf("an integer from " INT64_FORMAT " to " INT64_FORMAT,
									min, max));
	return psprintf("%lld", number);
}

static void
check_text(const char *name, const char *value, bool pem)
{
	size_t		max = pem ? 262144 : 1024;

	if (*value == '\0' || strlen(value) > max)
		report_value(name, psprintf("1 to %zu bytes long", max));
	for (const char *c = value; *c; c++)
	{
		if ((unsigned char) *c < 0x20 && !(pem && strchr("\r\n\t", *c)))
			report_value(name, "text without control characters");
	}
}

/* One "host:port", "host" or "[v6]:port" of the list; the port defaults to 9092. */
static bool
split_address(const char *address, char **host, char **port)
{
	const char *colon;

	if (*address == '[')
	{
		const char *end = strchr(address, ']');

		if (end == NULL || (end[1] != ':' && end[1] != '\0'))
			return false;
		*host = pnstrdup(address + 1, end - address - 1);
		colon = end[1] == ':' ? end + 1 : NULL;
	}
	else
	{
		colon = strchr(address, ':');
		*host = colon ? pnstrdup(address, colon - address) : pstrdup(address);
	}
	*port = pstrdup(colon ? colon + 1 : "9092");
	if (**host == '\0' || strspn(*port, "0123456789") != strlen(*port))
		return false;
	return strlen(*port) >= 1 && strlen(*port) <= 5 &&
		atoi(*port) >= 1 && atoi(*port) <= 65535;
}

BrokerAddress *
bootstrap_addresses(const char *list, int *n)
{
	BrokerAddress *addresses = palloc(sizeof(BrokerAddress) * (strlen(list) / 2 + 1));
	const char *at = list;

	*n = 0;
	for (;;)
	{
		size_t		len;
		char	   *address;

		at += strspn(at, " \t");
		len = strcspn(at, ",");
		address = pnstrdup(at, len);
		while (len > 0 && (address[len - 1] == ' ' || address[len - 1] == '\t'))
			address[--len] = '\0';
		if (strpbrk(address, " \t/\\@\"'") ||
			!split_address(address, &addresses[*n].host, &addresses[*n].port))
			return NULL;
		(*n)++;
		at += strcspn(at, ",");
		if (*at++ == '\0')
			return addresses;
	}
}

static void
check_addresses(const char *name, const char *value)
{
	int			n;
	BrokerAddress *addresses;

	check_text(name, value, false);
	addresses = bootstrap_addresses(value, &n);
	if (addresses == NULL)
		report_value(name, "a list of host:port with commas between");
	for (int i = 0; i < n; i++)
	{
		if (!kafka_address_allowed(kappa_allowed_brokers,
								   addresses[i].host, addresses[i].port))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("option \"%s\" names an address that is not allowed", name),
					 errdetail("Entry number %d is not in kappa.allowed_brokers.", i + 1)));
	}
}

/* Check a value and give it in the library's spelling. */
static char *
check_value(const OptionRule *rule, const char *name, const char *value)
{
	char	   *word;

	switch (rule->kind)
	{
		case KIND_INTEGER:
			return check_integer(rule, name, value);
		case KIND_BOOLEAN:
			word = find_word("true|false", value);
			if (word == NULL)
				report_value(name, "true or false");
			return word;
		case KIND_WORD:
			word = find_word(rule->detail, value);
			if (word == NULL)
				report_value(name, list_words(rule->detail));
			return word;
		case KIND_ADDRESSES:
			check_addresses(name, value);
			break;
		case KIND_PEM:
			check_text(name, value, true);
			break;
		case KIND_TEXT:
			check_text(name, value, false);
			break;
		case KIND_REFUSED:
			break;
	}
	return pstrdup(value);
}

/* Does the value weaken protection, so that only a superuser may set it? */
static bool
weakens(const OptionRule *rule, const char *value)
{
	if (rule->superuser)
		return true;
	if (strcmp(rule->property, "enable.ssl.certificate.verification") == 0)
		return strcmp(value, "false") == 0;
	if (strcmp(rule->property, "ssl.endpoint.identification.algorithm") == 0)
		return strcmp(value, "none") == 0;
	if (strcmp(rule->property, "sasl.mechanism") == 0)
		return strcmp(value, "GSSAPI") == 0 || strcmp(value, "OAUTHBEARER") == 0;
	return false;
}

/* Name, place and value of one option; returns its rule and checked value. */
static const OptionRule *
check_option(const char *name, const char *value, int place, char **checked)
{
	const OptionRule *rule = find_rule(name, place == IN_FILE);

	if (rule == NULL)
	{
		if (strncmp(name, "test_mock_", 10) == 0 || strncmp(name, "test.mock.", 10) == 0)
			rule = find_rule("test_mock_num_brokers", false);
		else
			report_unknown(name, place);
	}
	if ((rule->places & place) == 0)
		report_misplaced(rule, name, place);
	*checked = check_value(rule, name, value);
	return rule;
}

/* ------------------------------------------------------------------------
 * The validator
 * ------------------------------------------------------------------------
 */

static bool
is_loopback(const char *host)
{
	struct in_addr v4;
	struct in6_addr v6;

	if (pg_strcasecmp(host, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, host, &v4) == 1)
		return (ntohl(v4.s_addr) >> 24) == 127;
	if (inet_pton(AF_INET6, host, &v6) == 1)
		return IN6_IS_ADDR_LOOPBACK(&v6);
	return false;
}

/*
 * An ordinary role may leave TLS out only on loopback: plain connections, and
 * logins that send the password itself.
 */
static void
check_protection(const char *servers, const char *protocol, const char *mechanism)
{
	BrokerAddress *addresses;
	int			n;

	if (superuser() || servers == NULL)
		return;
	if (strcmp(protocol, "ssl") == 0 || strcmp(protocol, "sasl_ssl") == 0)
		return;
	if (strcmp(protocol, "sasl_plaintext") == 0 &&
		mechanism && strncmp(mechanism, "SCRAM", 5) == 0)
		return;
	addresses = bootstrap_addresses(servers, &n);
	for (int i = 0; i < n; i++)
	{
		if (!is_loopback(addresses[i].host))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("only a superuser may leave out TLS for brokers beyond loopback"),
					 errhint("Add the option security_protocol 'ssl' or 'sasl_ssl'.")));
	}
}

static void
check_server_or_mapping(List *options, int place)
{
	const char *servers = NULL;
	const char *protocol = "plaintext";
	const char *mechanism = NULL;
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *def = lfirst_node(DefElem, cell);
		const OptionRule *rule;
		char	   *value;

		rule = check_option(def->defname, defGetString(def), place, &value);
		if (weakens(rule, value) && !superuser())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("only a superuser may set option \"%s\"%s", def->defname,
							rule->superuser ? "" : " to this value")));
		if (strcmp(rule->property, "bootstrap.servers") == 0)
			servers = value;
		else if (strcmp(rule->property, "security.protocol") == 0)
			protocol = value;
		else if (strcmp(rule->property, "sasl.mechanism") == 0)
			mechanism = value;
	}
	check_protection(servers, protocol, mechanism);
}

Datum
kafka_fdw_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);

	if (catalog == ForeignServerRelationId)
		check_server_or_mapping(options, ON_SERVER);
	else if (catalog == UserMappingRelationId)
		check_server_or_mapping(options, ON_MAPPING);
	else if (options != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\"",
						linitial_node(DefElem, options)->defname),
				 errhint("Options stand on a SERVER or a USER MAPPING of foreign-data wrapper kafka.")));
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------------
 * A subscription's options
 * ------------------------------------------------------------------------
 */

static char *
scalar_text(JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		default:
			return NULL;
	}
}

typedef void (*OptionVisitor) (const char *name, const char *value, void *arg);

/* Call the visitor for each member; value is NULL where it is no scalar. */
static void
visit_options(Jsonb *options, OptionVisitor visit, void *arg)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *name = NULL;

	if (options == NULL)
		return;
	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object")));
	it = JsonbIteratorInit(&options->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE)
			visit(name, scalar_text(&v), arg);
	}
}

typedef struct FormatNames
{
	bool		(*is_format_option) (const char *name);
} FormatNames;

static void
check_one_option(const char *name, const char *value, void *arg)
{
	FormatNames *formats = arg;
	char	   *checked;

	if (formats->is_format_option && formats->is_format_option(name))
		return;
	if (find_rule(name, false) == NULL)
		report_unknown(name, IN_OPTIONS);
	if (value == NULL)
		report_value(name, "a string, a number or a boolean");
	check_option(name, value, IN_OPTIONS, &checked);
}

void
check_subscription_options(Jsonb *options,
						   bool (*is_format_option) (const char *name))
{
	FormatNames formats = {is_format_option};

	visit_options(options, check_one_option, &formats);
}

/* ------------------------------------------------------------------------
 * The secrets file
 * ------------------------------------------------------------------------
 */

static void
report_secrets_file(const char *message)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIG_FILE_ERROR),
			 errmsg("secrets file cannot be used: %s", message),
			 errhint("kappa.secrets_file must name a file of the server's operating-system user with mode 0600.")));
}

/* Read the file if nobody else can. */
static char *
read_secrets_file(void)
{
	struct stat st;
	char	   *text;
	int			fd;
	ssize_t		len;

	if (kappa_secrets_file == NULL || *kappa_secrets_file == '\0')
		report_secrets_file("kappa.secrets_file is not set");
	fd = OpenTransientFile(kappa_secrets_file, O_RDONLY | PG_BINARY);
	if (fd < 0)
		report_secrets_file(strerror(errno));
	if (fstat(fd, &st) != 0)
		report_secrets_file(strerror(errno));
	if (!S_ISREG(st.st_mode))
		report_secrets_file("it is not a regular file");
	if (st.st_uid != geteuid())
		report_secrets_file("it belongs to another user");
	if ((st.st_mode & (S_IRWXG | S_IRWXO)) != 0)
		report_secrets_file("group or others have access to it");
	if (st.st_size > SECRETS_MAX)
		report_secrets_file("it is too long");
	text = palloc(st.st_size + 1);
	len = read(fd, text, st.st_size);
	if (len < 0)
		report_secrets_file(strerror(errno));
	text[len] = '\0';
	CloseTransientFile(fd);
	return text;
}

static char *
trim(char *text)
{
	char	   *end = text + strlen(text);

	while (end > text && isspace((unsigned char) end[-1]))
		*--end = '\0';
	return text + strspn(text, " \t\r");
}

/* A PEM text stands in one line, \n for its line ends. */
static void
unfold_line_ends(char *value)
{
	char	   *to = value;

	for (char *from = value; *from; from++)
	{
		if (from[0] == '\\' && from[1] == 'n')
		{
			*to++ = '\n';
			from++;
		}
		else
			*to++ = *from;
	}
	*to = '\0';
}

/* ------------------------------------------------------------------------
 * Settings
 * ------------------------------------------------------------------------
 */

typedef struct Collected
{
	const char *values[lengthof(rules)];	/* NULL: not set */
} Collected;

static const char *
collected_value(const Collected *all, const char *property)
{
	return all->values[find_rule(property, true) - rules];
}

static void
collect(Collected *all, const OptionRule *rule, char *value)
{
	all->values[rule - rules] = value;
}

/* Take the lines of one entry of the secrets file. */
static void
collect_entry(Collected *all, const char *entry)
{
	char	   *next = read_secrets_file();
	bool		inside = false;
	bool		found = false;
	int			number = 0;
	char	   *line;

	while ((line = strsep(&next, "\n")) != NULL)
	{
		char	   *equals;
		char	   *name;
		char	   *value;
		const OptionRule *rule;

		number++;
		line = trim(line);
		if (*line == '\0' || *line == '#' || *line == ';')
			continue;
		if (*line == '[' && line[strlen(line) - 1] == ']')
		{
			line[strlen(line) - 1] = '\0';
			inside = strcmp(trim(line + 1), entry) == 0;
			found = found || inside;
			continue;
		}
		equals = strchr(line, '=');
		if (equals == NULL)
			report_secrets_file(psprintf("line %d is neither [entry] nor name = value", number));
		if (!inside)
			continue;
		*equals = '\0';
		name = trim(line);
		value = trim(equals + 1);
		rule = find_rule(name, true);
		if (rule == NULL || (rule->places & IN_FILE) == 0 || strcmp(name, SECRET_OPTION) == 0)
			report_secrets_file(psprintf("line %d does not name a setting that may stand there", number));
		if (rule->kind == KIND_PEM)
			unfold_line_ends(value);
		rule = check_option(name, value, IN_FILE, &value);
		collect(all, rule, value);
	}
	if (!found)
		report_secrets_file(psprintf("it has no entry \"%s\"", entry));
}

/* Options of a server or mapping, then those of the entry that it names. */
static void
collect_options(Collected *all, List *options, int place)
{
	const char *entry = NULL;
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *def = lfirst_node(DefElem, cell);
		const OptionRule *rule;
		char	   *value;

		rule = check_option(def->defname, defGetString(def), place, &value);
		if (strcmp(rule->property, SECRET_OPTION) == 0)
			entry = value;
		else
			collect(all, rule, value);
	}
	if (entry)
		collect_entry(all, entry);
}

static void
collect_one_option(const char *name, const char *value, void *arg)
{
	const OptionRule *rule = find_rule(name, false);
	char	   *checked;

	if (rule == NULL || value == NULL)
		return;					/* the format's */
	rule = check_option(name, value, IN_OPTIONS, &checked);
	collect(arg, rule, checked);
}

/* The server by name, if userid may use it. */
static ForeignServer *
usable_server(const char *name, Oid userid)
{
	ForeignServer *server = GetForeignServerByName(name, true);
	AclResult	acl;

	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", name),
				 errhint("CREATE SERVER %s FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers 'host:9092')",
						 quote_identifier(name))));
	acl = foreign_server_aclcheck(server->serverid, userid);
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_FOREIGN_SERVER, server->servername);
	if (strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, "kafka") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a Kafka server", name),
				 errhint("CREATE SERVER ... FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers 'host:9092')")));
	return server;
}

/* What only the whole can show: no address, SASL without mechanism or user. */
static void
check_complete(const Collected *all, const char *server)
{
	const char *protocol = collected_value(all, "security.protocol");
	const char *mechanism = collected_value(all, "sasl.mechanism");

	if (collected_value(all, "bootstrap.servers") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("server \"%s\" has no option bootstrap_servers", server),
				 errhint("ALTER SERVER %s OPTIONS (ADD bootstrap_servers 'host:9092')",
						 quote_identifier(server))));
	if (protocol == NULL || strncmp(protocol, "sasl", 4) != 0)
		return;
	if (mechanism == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("server \"%s\" uses SASL without a mechanism", server),
				 errhint("ALTER SERVER %s OPTIONS (ADD sasl_mechanism 'SCRAM-SHA-512')",
						 quote_identifier(server))));
	if ((strncmp(mechanism, "SCRAM", 5) == 0 || strcmp(mechanism, "PLAIN") == 0) &&
		(collected_value(all, "sasl.username") == NULL ||
		 collected_value(all, "sasl.password") == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("no login for server \"%s\"", server),
				 errdetail("The server uses SASL, and no user mapping of this role gives sasl_username and sasl_password."),
				 errhint("CREATE USER MAPPING FOR role SERVER %s OPTIONS (sasl_username '...', sasl_password '...')",
						 quote_identifier(server))));
}

static BrokerSettings *
make_settings(const Collected *all)
{
	BrokerSettings *settings = palloc0(sizeof(BrokerSettings));

	settings->settings = palloc(sizeof(KafkaSetting) * (lengthof(rules) + 1));
	for (int i = 0; i < lengthof(rules); i++)
	{
		KafkaSetting *setting = &settings->settings[settings->nsettings];

		if (all->values[i] == NULL || rules[i].producer)
			continue;
		setting->name = rules[i].property;
		setting->value = all->values[i];
		if (strcmp(setting->name, "client.id") == 0)
			setting->value = psprintf("pg_kappa-%s", setting->value);
		settings->nsettings++;
	}
	if (kappa_allowed_brokers && *kappa_allowed_brokers)
	{
		KafkaSetting *setting = &settings->settings[settings->nsettings++];

		setting->name = ALLOWED_SETTING;
		setting->value = pstrdup(kappa_allowed_brokers);
	}
	return settings;
}

BrokerSettings *
broker_settings(const char *server_name, Oid userid, Jsonb *options)
{
	ForeignServer *server = usable_server(server_name, userid);
	Collected  *all = palloc0(sizeof(Collected));

	collect_options(all, server->options, ON_SERVER);
	if (SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(userid),
							  ObjectIdGetDatum(server->serverid)) ||
		SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
							  ObjectIdGetDatum(server->serverid)))
		collect_options(all, GetUserMapping(userid, server->serverid)->options,
						ON_MAPPING);
	visit_options(options, collect_one_option, all);
	check_complete(all, server_name);
	return make_settings(all);
}

/* ------------------------------------------------------------------------
 * Errors of the library in the words of the session's user
 * ------------------------------------------------------------------------
 */

int
kafka_error_sqlstate(const KafkaError *error)
{
	switch (error->class)
	{
		case KAFKA_OK:
			return ERRCODE_SUCCESSFUL_COMPLETION;
		case KAFKA_DISCONNECTED:
		case KAFKA_TIMED_OUT:
			return ERRCODE_CONNECTION_FAILURE;
		case KAFKA_AUTHENTICATION:
			return ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
		case KAFKA_AUTHORIZATION:
			return ERRCODE_INSUFFICIENT_PRIVILEGE;
		case KAFKA_UNKNOWN_TOPIC:
			return ERRCODE_UNDEFINED_OBJECT;
		case KAFKA_BAD_SETTING:
			return ERRCODE_FDW_INVALID_OPTION_NAME;
		case KAFKA_OUT_OF_RANGE:
			return ERRCODE_FDW_ERROR;
		case KAFKA_FATAL:
			return ERRCODE_SYSTEM_ERROR;
		case KAFKA_OTHER:
			break;
	}
	return ERRCODE_CONNECTION_EXCEPTION;
}

static char *
error_message(const KafkaError *error, const char *server, const char *topic)
{
	switch (error->class)
	{
		case KAFKA_DISCONNECTED:
			return psprintf("could not reach Kafka server \"%s\"", server);
		case KAFKA_TIMED_OUT:
			return psprintf("Kafka server \"%s\" did not answer in time", server);
		case KAFKA_AUTHENTICATION:
			if (strcmp(error->name, "_SSL") == 0)
				return psprintf("could not set up TLS with Kafka server \"%s\"", server);
			return psprintf("Kafka server \"%s\" refused the login", server);
		case KAFKA_AUTHORIZATION:
			if (strcmp(error->name, "_NOT_ALLOWED") == 0)
				return psprintf("Kafka server \"%s\" has an address that is not allowed", server);
			if (topic)
				return psprintf("permission denied by Kafka server \"%s\" for topic \"%s\"",
								server, topic);
			return psprintf("permission denied by Kafka server \"%s\"", server);
		case KAFKA_UNKNOWN_TOPIC:
			return psprintf("topic \"%s\" does not exist on Kafka server \"%s\"",
							topic ? topic : "", server);
		case KAFKA_OUT_OF_RANGE:
			return psprintf("topic \"%s\" does not hold the wanted offset", topic ? topic : "");
		case KAFKA_BAD_SETTING:
			return psprintf("options of Kafka server \"%s\" cannot be used", server);
		default:
			return psprintf("Kafka server \"%s\" failed", server);
	}
}

void
report_kafka_error(int elevel, const KafkaError *error, const char *server,
				   const char *topic)
{
	char	   *hint = NULL;
	char	   *literal = quote_literal_cstr(server);

	if (error->class == KAFKA_DISCONNECTED || error->class == KAFKA_TIMED_OUT ||
		error->class == KAFKA_AUTHENTICATION)
		hint = psprintf("SELECT * FROM kappa.check_server(%s) shows the step that fails.", literal);
	else if (error->class == KAFKA_UNKNOWN_TOPIC)
		hint = psprintf("SELECT * FROM kappa.topics(%s) lists the topics.", literal);
	ereport(elevel,
			(errcode(kafka_error_sqlstate(error)),
			 errmsg("%s", error_message(error, server, topic)),
			 error->text[0] ? errdetail("Kafka client: %s (%s).", error->text, error->name) : 0,
			 hint ? errhint("%s", hint) : 0));
}
