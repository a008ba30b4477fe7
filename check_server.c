/*
 * check_server.c
 *		kappa.check_server: which step of reaching a Kafka server fails.
 *
 * One row a step, in the order of a connection: names, ports, TLS, login,
 * metadata, then each address that the brokers advertise.  The first two are
 * tried by probes of our own, because the library does not tell them apart; the
 * next three are one question to the library, and its error says which of them
 * failed.  Every step ends within its own patience, so the function does too.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "broker.h"
#include "broker_options.h"
#include "broker_policy.h"
#include "compat.h"
#include "core/address.h"
#include "kafka_probe.h"
#include "monotonic.h"

#define CHECK_MS		10000	/* patience with a silent broker */
#define CHECK_DOWN_MS	3000	/* and where its port is known to be open */
#define PROBE_MS		5000

PG_FUNCTION_INFO_V1(kappa_check_server);

typedef enum StepResult
{
	STEP_FAILED = 0,
	STEP_OK,
	STEP_NONE					/* does not apply, or was not reached */
} StepResult;

typedef struct CheckRun
{
	FunctionCallInfo fcinfo;
	BrokerSettings *settings;
	bool		tls;
	bool		sasl;
} CheckRun;

/* Probes that a memory context ends. */
typedef struct ProbeSet
{
	int			n;
	KafkaProbe **probes;
	MemoryContextCallback callback;
} ProbeSet;

static void
put_step(CheckRun *run, const char *step, StepResult result, const char *detail)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) run->fcinfo->resultinfo;
	Datum		values[3];
	bool		nulls[3] = {false};

	values[0] = CStringGetTextDatum(step);
	values[1] = BoolGetDatum(result == STEP_OK);
	nulls[1] = result == STEP_NONE;
	values[2] = CStringGetTextDatum(detail);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static const char *
setting_value(BrokerSettings *settings, const char *name)
{
	for (int i = 0; i < settings->nsettings; i++)
	{
		if (strcmp(settings->settings[i].name, name) == 0)
			return settings->settings[i].value;
	}
	return NULL;
}

static void
end_probes(void *arg)
{
	ProbeSet   *set = arg;

	for (int i = 0; i < set->n; i++)
	{
		if (set->probes[i])
			kafka_probe_end(set->probes[i]);
		set->probes[i] = NULL;
	}
}

/* Probe all addresses at once, for at most twice PROBE_MS. */
static KafkaProbeState *
probe_all(BrokerAddress *addresses, int n)
{
	KafkaProbeState *states = palloc0(sizeof(KafkaProbeState) * Max(n, 1));
	ProbeSet   *set = palloc0(sizeof(ProbeSet));
	int64		end = monotonic_ms() + 2 * PROBE_MS;

	set->probes = palloc0(sizeof(KafkaProbe *) * Max(n, 1));
	set->n = n;
	set->callback.func = end_probes;
	set->callback.arg = set;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &set->callback);
	for (int i = 0; i < n; i++)
		set->probes[i] = kafka_probe_start(addresses[i].host, addresses[i].port, PROBE_MS);
	for (int i = 0; i < n; i++)
	{
		while (set->probes[i])
		{
			states[i] = kafka_probe_wait(set->probes[i], 200);
			CHECK_FOR_INTERRUPTS();
			if ((states[i] != PROBE_RESOLVING && states[i] != PROBE_CONNECTING) ||
				monotonic_ms() >= end)
				break;
		}
	}
	end_probes(set);
	return states;
}

static bool
is_resolved(KafkaProbeState state)
{
	return state != PROBE_RESOLVING && state != PROBE_UNRESOLVED;
}

static const char *
probe_text(KafkaProbeState state)
{
	switch (state)
	{
		case PROBE_CONNECTED:
			return "reachable";
		case PROBE_UNRESOLVED:
			return "the name could not be resolved";
		case PROBE_RESOLVING:
			return "the name could not be resolved in time";
		case PROBE_REFUSED:
			return "the connection was refused";
		default:
			return "no answer in time";
	}
}

/* Lists the addresses whose state is not good enough, after a count. */
static char *
probe_summary(BrokerAddress *addresses, KafkaProbeState *states, int n,
			  bool names, int *good)
{
	StringInfoData bad;

	initStringInfo(&bad);
	*good = 0;
	for (int i = 0; i < n; i++)
	{
		if (names ? is_resolved(states[i]) : states[i] == PROBE_CONNECTED)
			(*good)++;
		else
			appendStringInfo(&bad, "; %s%s%s: %s", addresses[i].host,
							 names ? "" : ":", names ? "" : addresses[i].port,
							 probe_text(states[i]));
	}
	return psprintf("%d of %d %s%s", *good, n,
					names ? "names resolved" : "addresses reachable", bad.data);
}

/* Steps dns and tcp; false where the next ones cannot be tried. */
static bool
check_addresses_step(CheckRun *run)
{
	int			n;
	BrokerAddress *addresses;
	KafkaProbeState *states;
	char	   *detail;
	int			good;

	addresses = bootstrap_addresses(setting_value(run->settings, "bootstrap.servers"), &n);
	states = probe_all(addresses, n);
	detail = probe_summary(addresses, states, n, true, &good);
	put_step(run, "dns", good > 0 ? STEP_OK : STEP_FAILED, detail);
	if (good == 0)
	{
		put_step(run, "tcp", STEP_NONE, "not reached");
		return false;
	}
	detail = probe_summary(addresses, states, n, false, &good);
	put_step(run, "tcp", good > 0 ? STEP_OK : STEP_FAILED, detail);
	return good > 0;
}

static void
put_last_steps(CheckRun *run, StepResult tls, const char *tls_detail,
			   StepResult auth, const char *auth_detail,
			   StepResult metadata, const char *metadata_detail)
{
	if (!run->tls)
		put_step(run, "tls", STEP_NONE, "the server is used without TLS");
	else
		put_step(run, "tls", tls, tls_detail);
	if (!run->sasl)
		put_step(run, "auth", STEP_NONE, "the server is used without SASL");
	else
		put_step(run, "auth", auth, auth_detail);
	put_step(run, "metadata", metadata, metadata_detail);
}

/* Which of the last three steps does the error belong to? */
static void
put_failed_steps(CheckRun *run, const KafkaError *error)
{
	const char *detail = psprintf("%s (%s)", error->text, error->name);
	bool		tls = kafka_error_of_tls(error) || error->class == KAFKA_BAD_SETTING;

	if (tls && run->tls)
		put_last_steps(run, STEP_FAILED, detail, STEP_NONE, "not reached",
					   STEP_NONE, "not reached");
	else if (error->class == KAFKA_AUTHENTICATION && run->sasl)
		put_last_steps(run, STEP_OK, "handshake done", STEP_FAILED, detail,
					   STEP_NONE, "not reached");
	else if (error->class == KAFKA_AUTHORIZATION)
		put_last_steps(run, STEP_OK, "handshake done", STEP_OK, "logged in",
					   STEP_FAILED, detail);
	else
	{
		if (error->class == KAFKA_DISCONNECTED || error->class == KAFKA_TIMED_OUT)
			detail = psprintf("%s; the port is open, so security_protocol may not fit it",
							  detail);
		put_last_steps(run, STEP_NONE, "not known: the broker did not answer",
					   STEP_NONE, "not known: the broker did not answer",
					   STEP_FAILED, detail);
	}
}

/* One row for each address that the brokers advertise.  Frees the metadata. */
static void
check_advertised(CheckRun *run, KafkaMetadata *metadata)
{
	int			n = metadata->nbrokers;
	BrokerAddress *addresses = palloc(sizeof(BrokerAddress) * Max(n, 1));
	int32	   *ids = palloc(sizeof(int32) * Max(n, 1));
	KafkaProbeState *states;
	int			allowed = 0;

	for (int i = 0; i < n; i++)
	{
		KafkaBroker *broker = &metadata->brokers[i];
		char	   *port = psprintf("%d", broker->port);

		if (!address_allowed(setting_value(run->settings, KAFKA_ALLOWED_SETTING),
							 broker->host, port))
		{
			put_step(run, psprintf("broker %d", broker->id), STEP_FAILED,
					 psprintf("%s:%s: not in kappa.allowed_brokers", broker->host, port));
			continue;
		}
		addresses[allowed].host = pstrdup(broker->host);
		addresses[allowed].port = port;
		ids[allowed++] = broker->id;
	}
	kafka_free_metadata(metadata);
	states = probe_all(addresses, allowed);
	for (int i = 0; i < allowed; i++)
		put_step(run, psprintf("broker %d", ids[i]),
				 states[i] == PROBE_CONNECTED ? STEP_OK : STEP_FAILED,
				 psprintf("%s:%s: %s", addresses[i].host, addresses[i].port,
						  probe_text(states[i])));
}

/* Steps tls, auth and metadata, by one question to the library. */
static void
check_broker(CheckRun *run, const char *server)
{
	BrokerSession *session;
	KafkaMetadata *metadata = NULL;
	KafkaError	error;
	Patience	patience;

	session = broker_open(server, run->settings, NULL, &error);
	begin_patience(&patience, CHECK_MS);
	patience.down_ms = CHECK_DOWN_MS;
	while (session->client &&
		   (metadata = kafka_metadata(session->client, NULL, BROKER_STEP_MS, &error)) == NULL &&
		   worth_asking_again(session, &error, &patience))
		;
	broker_disconnect(session);
	if (metadata == NULL)
	{
		put_failed_steps(run, &error);
		return;
	}
	put_last_steps(run, STEP_OK, "handshake done", STEP_OK, "logged in", STEP_OK,
				   psprintf("cluster %s, brokers: %d, topics: %d",
							metadata->cluster_id ? metadata->cluster_id : "of unknown id",
							metadata->nbrokers, metadata->ntopics));
	check_advertised(run, metadata);
}

Datum
kappa_check_server(PG_FUNCTION_ARGS)
{
	char	   *server = text_to_cstring(PG_GETARG_TEXT_PP(0));
	CheckRun	run = {fcinfo};
	const char *protocol;

	run.settings = broker_settings(server, GetUserId(), NULL);
	protocol = setting_value(run.settings, "security.protocol");
	run.tls = protocol && strstr(protocol, "ssl") != NULL;
	run.sasl = protocol && strncmp(protocol, "sasl", 4) == 0;
	InitMaterializedSRF(fcinfo, 0);
	if (check_addresses_step(&run))
		check_broker(&run, server);
	else
		put_last_steps(&run, STEP_NONE, "not reached", STEP_NONE, "not reached",
					   STEP_NONE, "not reached");
	return (Datum) 0;
}
