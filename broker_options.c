/*
 * broker_options.c
 *		SERVER and USER MAPPING options, and what they amount to.
 *
 * The option_rules are in broker_policy.c.  Who may set an option is decided when it is
 * set: what stands in the catalog was allowed to whoever put it there.  Where it
 * stands and its value are checked again when it is used, for a catalog may come
 * from a dump of an older version.  An ALTER by an ordinary role is refused where
 * a superuser's option stands beside, as the validator sees the whole list and
 * not what changed.
 *
 * No message here shows a value, neither ours nor librdkafka's (which quotes
 * them).
 */
#include "postgres.h"

#include <arpa/inet.h>

#include "access/reloptions.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/syscache.h"

#include "broker_options.h"
#include "broker_policy.h"
#include "compat.h"
#include "secrets_file.h"

PG_FUNCTION_INFO_V1(kafka_fdw_validator);

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
		if (weakens_protection(rule, value) && !superuser())
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
	if (find_option_rule(name, false) == NULL)
		report_unknown_option(name, IN_OPTIONS);
	if (value == NULL)
		report_option_value(name, "a string, a number or a boolean");
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
 * Settings
 * ------------------------------------------------------------------------
 */

typedef struct Collected
{
	const char **values;		/* one a rule, NULL: not set */
} Collected;

static const char *
collected_value(const Collected *all, const char *property)
{
	return all->values[find_option_rule(property, true) - option_rules];
}

static void
collect(void *arg, const OptionRule *rule, char *value)
{
	Collected  *all = arg;

	all->values[rule - option_rules] = value;
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
		read_secrets_entry(entry, collect, all);
}

static void
collect_one_option(const char *name, const char *value, void *arg)
{
	const OptionRule *rule = find_option_rule(name, false);
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

	settings->settings = palloc(sizeof(KafkaSetting) * (noption_rules + 1));
	for (int i = 0; i < noption_rules; i++)
	{
		KafkaSetting *setting = &settings->settings[settings->nsettings];

		if (all->values[i] == NULL || option_rules[i].producer)
			continue;
		setting->name = option_rules[i].property;
		setting->value = all->values[i];
		if (strcmp(setting->name, "client.id") == 0)
			setting->value = psprintf("pg_kappa-%s", setting->value);
		settings->nsettings++;
	}
	if (kappa_allowed_brokers && *kappa_allowed_brokers)
	{
		KafkaSetting *setting = &settings->settings[settings->nsettings++];

		setting->name = KAFKA_ALLOWED_SETTING;
		setting->value = pstrdup(kappa_allowed_brokers);
	}
	return settings;
}

BrokerSettings *
broker_settings(const char *server_name, Oid userid, Jsonb *options)
{
	ForeignServer *server = usable_server(server_name, userid);
	Collected  *all = palloc(sizeof(Collected));

	all->values = palloc0(sizeof(char *) * noption_rules);
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
		case KAFKA_UNREADABLE:
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
			if (kafka_error_of_tls(error))
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
