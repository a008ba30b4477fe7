/*
 * broker_policy.c
 *		Which options exist, who may set them, where they may stand and which
 *		values they take.
 *
 * Default deny: an option exists only if a rule names it.  A rule says who may
 * set it (anyone who may create a server, or a superuser, because the setting
 * names a file, a URL or a weaker protection), where it may stand (secrets never
 * on the server, whose options everyone can read), and which values it takes.
 * librdkafka's names are used with underscores for dots, so "sasl.username" is
 * sasl_username; the secrets file uses the dots.
 *
 * No message here shows a value.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

#include "broker_policy.h"
#include "core/address.h"

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

const OptionRule option_rules[] = {
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

const int	noption_rules = lengthof(option_rules);

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

const OptionRule *
find_option_rule(const char *name, bool dotted)
{
	for (int i = 0; i < lengthof(option_rules); i++)
	{
		if (same_name(option_rules[i].property, name, dotted))
			return &option_rules[i];
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
	for (int i = 0; i < lengthof(option_rules); i++)
	{
		char	   *candidate;
		int			distance;

		if ((option_rules[i].places & place) == 0)
			continue;
		candidate = option_name(option_rules[i].property);
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

void
report_unknown_option(const char *name, int place)
{
	char	   *near_name = nearest_name(name, place);

	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 near_name ?
			 errhint("Perhaps you meant the option \"%s\".", near_name) :
			 errhint("Options are librdkafka's names with underscores for dots, such as bootstrap_servers.")));
}

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

void
report_option_value(const char *name, const char *wanted)
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
		report_option_value(name, psprintf("an integer from " INT64_FORMAT " to " INT64_FORMAT,
										   min, max));
	return psprintf("%lld", number);
}

static void
check_text(const char *name, const char *value, bool pem)
{
	size_t		max = pem ? 262144 : 1024;

	if (*value == '\0' || strlen(value) > max)
		report_option_value(name, psprintf("1 to %zu bytes long", max));
	for (const char *c = value; *c; c++)
	{
		if ((unsigned char) *c < 0x20 && !(pem && strchr("\r\n\t", *c)))
			report_option_value(name, "text without control characters");
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
		report_option_value(name, "a list of host:port with commas between");
	for (int i = 0; i < n; i++)
	{
		if (!address_allowed(kappa_allowed_brokers,
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
				report_option_value(name, "true or false");
			return word;
		case KIND_WORD:
			word = find_word(rule->detail, value);
			if (word == NULL)
				report_option_value(name, list_words(rule->detail));
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
bool
weakens_protection(const OptionRule *rule, const char *value)
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
const OptionRule *
check_option(const char *name, const char *value, int place, char **checked)
{
	const OptionRule *rule = find_option_rule(name, place == IN_FILE);

	if (rule == NULL)
	{
		if (strncmp(name, "test_mock_", 10) == 0 || strncmp(name, "test.mock.", 10) == 0)
			rule = find_option_rule("test_mock_num_brokers", false);
		else
			report_unknown_option(name, place);
	}
	if ((rule->places & place) == 0)
		report_misplaced(rule, name, place);
	*checked = check_value(rule, name, value);
	return rule;
}
