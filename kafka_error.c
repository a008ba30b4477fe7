/*
 * kafka_error.c
 *		What the library's errors mean, and what of them may be shown.
 *
 * Errors of the handle (logins, broken connections) arrive on its main queue,
 * apart from the questions that they leave without an answer.  They are kept for
 * two readers: the next kafka_fill gets each of them as an event, and the next
 * unanswered question is explained by the most telling one since the last answer.
 */
#include "kafka_internal.h"

#include <stdio.h>
#include <string.h>

void
set_error(KafkaError *error, KafkaErrorClass class, const char *name,
		  const char *text)
{
	error->class = class;
	snprintf(error->name, sizeof(error->name), "%s", name);
	snprintf(error->text, sizeof(error->text), "%s", text);
}

void
clear_error(KafkaError *error)
{
	memset(error, 0, sizeof(*error));
}

bool
kafka_error_of_tls(const KafkaError *error)
{
	return strcmp(error->name, rd_kafka_err2name(RD_KAFKA_RESP_ERR__SSL)) == 0;
}

static KafkaErrorClass
classify_local(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR__TRANSPORT:
		case RD_KAFKA_RESP_ERR__RESOLVE:
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
		case RD_KAFKA_RESP_ERR__NODE_UPDATE:
			return KAFKA_DISCONNECTED;
		case RD_KAFKA_RESP_ERR__TIMED_OUT:
		case RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE:
		case RD_KAFKA_RESP_ERR__MSG_TIMED_OUT:
		case RD_KAFKA_RESP_ERR__WAIT_COORD:
		case RD_KAFKA_RESP_ERR__WAIT_CACHE:
		case RD_KAFKA_RESP_ERR__IN_PROGRESS:
		case RD_KAFKA_RESP_ERR__RETRY:
			return KAFKA_TIMED_OUT;
		case RD_KAFKA_RESP_ERR__AUTHENTICATION:
		case RD_KAFKA_RESP_ERR__SSL:
			return KAFKA_AUTHENTICATION;
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
			return KAFKA_UNKNOWN_TOPIC;
		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
#if RD_KAFKA_VERSION >= 0x020100ff
		case RD_KAFKA_RESP_ERR__LOG_TRUNCATION:
#endif
			return KAFKA_OUT_OF_RANGE;
		case RD_KAFKA_RESP_ERR__BAD_MSG:
		case RD_KAFKA_RESP_ERR__BAD_COMPRESSION:
		case RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED:
			return KAFKA_UNREADABLE;
		case RD_KAFKA_RESP_ERR__FATAL:
		case RD_KAFKA_RESP_ERR__DESTROY:
		case RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE:
			return KAFKA_FATAL;
		default:
			return KAFKA_OTHER;
	}
}

KafkaErrorClass
classify(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			return KAFKA_OK;
		case RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION:
		case RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION:
		case RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS:
		case RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_COORDINATOR:
		case RD_KAFKA_RESP_ERR_NOT_CONTROLLER:
		case RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR:
		case RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH:
		case RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH:
		case RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE:
			return KAFKA_DISCONNECTED;
		case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
			return KAFKA_TIMED_OUT;
		case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM:
		case RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE:
			return KAFKA_AUTHENTICATION;
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_DELEGATION_TOKEN_AUTHORIZATION_FAILED:
			return KAFKA_AUTHORIZATION;
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
			return KAFKA_UNKNOWN_TOPIC;
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
			return KAFKA_OUT_OF_RANGE;
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
			return KAFKA_UNREADABLE;
		default:
			return classify_local(err);
	}
}

/*
 * The library's sentences hold addresses and sometimes what a broker said, so
 * they are only looked at, never shown: what is shown comes from this table or
 * from the library's fixed description of the error code.
 */
static const char *
safe_text(rd_kafka_resp_err_t err, const char *said)
{
	static const struct
	{
		rd_kafka_resp_err_t err;
		const char *sign;
		const char *text;
	}			known[] = {
		{RD_KAFKA_RESP_ERR__SSL, "certificate verify failed",
		"the broker's certificate could not be verified: ssl_ca_pem does not fit it, it has expired, or it is for another host name"},
		{RD_KAFKA_RESP_ERR__SSL, "SSL_verify",
		"the broker's certificate could not be verified"},
		{RD_KAFKA_RESP_ERR__SSL, "certificate: SSL alert",
		"the broker wants another client certificate, or wants one at all"},
		{RD_KAFKA_RESP_ERR__SSL, "alert certificate",
		"the broker wants another client certificate, or wants one at all"},
		{RD_KAFKA_RESP_ERR__SSL, "alert unknown ca",
		"the broker wants another client certificate, or wants one at all"},
		{RD_KAFKA_RESP_ERR__SSL, "wrong version number",
		"the broker does not speak TLS on this port"},
		{RD_KAFKA_RESP_ERR__SSL, "connecting to a PLAINTEXT",
		"the broker does not speak TLS on this port"},
		{RD_KAFKA_RESP_ERR__SSL, "handshake failed",
		"the TLS handshake failed"},
		{RD_KAFKA_RESP_ERR__SSL, "alert",
		"the broker refused the TLS handshake"},
		{RD_KAFKA_RESP_ERR__AUTHENTICATION, "mechanism",
		"the broker refused the SASL mechanism or the login"},
		{RD_KAFKA_RESP_ERR__TRANSPORT, "security.protocol",
		"the broker closed the connection at the first request: security_protocol may not fit this port"},
		{RD_KAFKA_RESP_ERR__TRANSPORT, "SSL listener",
		"the broker closed the connection at the first request: security_protocol may not fit this port"},
		{RD_KAFKA_RESP_ERR__TRANSPORT, "Connection refused",
		"the connection was refused"},
		{RD_KAFKA_RESP_ERR__TRANSPORT, "setup timed out",
		"the connection could not be set up in time"},
		{RD_KAFKA_RESP_ERR__BAD_MSG, "Invalid response size",
		"what answers on this port is not Kafka, or security_protocol does not fit it"},
		{RD_KAFKA_RESP_ERR__BAD_MSG, "CRC",
		"the bytes that the broker holds do not fit their checksum (CRC)"},
		{RD_KAFKA_RESP_ERR__BAD_COMPRESSION, "",
		"the messages cannot be decompressed within receive_message_max_bytes"},
		{RD_KAFKA_RESP_ERR__RESOLVE, "",
		"a broker's host name could not be resolved"},
		{RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, "",
		"no broker can be reached"},
		{RD_KAFKA_RESP_ERR__TRANSPORT, "",
		"the connection to a broker failed"},
		{RD_KAFKA_RESP_ERR__TIMED_OUT, "",
		"no answer in time"},
		{RD_KAFKA_RESP_ERR__AUTHENTICATION, "",
		"the broker refused the login"},
		{RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET, "",
		"the partition does not hold the wanted offset"},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
	{
		if (known[i].err == err && strstr(said ? said : "", known[i].sign))
			return known[i].text;
	}
	return rd_kafka_err2str(err);
}

/*
 * A broker looks at the client's certificate only when the handshake of TLS 1.3 is
 * done for the client, whose first read then fails: the library takes that for a
 * broken connection.
 */
static bool
is_tls_alert(rd_kafka_resp_err_t err, const char *said)
{
	return err == RD_KAFKA_RESP_ERR__TRANSPORT && said && strstr(said, "SSL alert number");
}

void
map_error(KafkaError *error, rd_kafka_resp_err_t err, const char *said)
{
	if (is_tls_alert(err, said))
		err = RD_KAFKA_RESP_ERR__SSL;
	set_error(error, classify(err), rd_kafka_err2name(err), safe_text(err, said));
}

/* Does the error say more than the one that is kept? */
static bool
more_telling(const KafkaError *new, const KafkaError *kept)
{
	if (kept->class == KAFKA_OK)
		return true;
	if (new->class != KAFKA_DISCONNECTED)
		return true;
	if (kept->class != KAFKA_DISCONNECTED)
		return false;
	return strcmp(new->name, "_ALL_BROKERS_DOWN") != 0;
}

/* Keep an error of the handle, for the next event and for the next answer. */
static void
keep_error(KafkaClient *client, const KafkaError *error)
{
	if (client->npending == PENDING_MAX)
	{
		memmove(client->pending, client->pending + 1,
				sizeof(KafkaError) * (PENDING_MAX - 1));
		client->npending--;
	}
	client->pending[client->npending++] = *error;
	if (more_telling(error, &client->trouble))
		client->trouble = *error;
}

/* Take what waits on the main queue. */
void
serve_main_queue(KafkaClient *client)
{
	rd_kafka_event_t *event;

	while ((event = rd_kafka_queue_poll(client->main_queue, 0)) != NULL)
	{
		rd_kafka_resp_err_t err = rd_kafka_event_error(event);
		KafkaError	error;

		if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR && err)
		{
			map_error(&error, err, rd_kafka_event_error_string(event));
			keep_error(client, &error);
		}
		rd_kafka_event_destroy(event);
	}
}

/*
 * Why a question was not answered.  "No usable broker" alone may only mean
 * that a connection is still being made: it counts as no answer in time, unless
 * the handle has told of trouble.
 */
void
explain(KafkaClient *client, rd_kafka_resp_err_t err, KafkaError *error)
{
	serve_main_queue(client);
	map_error(error, err, NULL);
	if (error->class != KAFKA_DISCONNECTED && error->class != KAFKA_TIMED_OUT)
		return;
	if (__atomic_load_n(&client->refused, __ATOMIC_ACQUIRE))
		set_error(error, KAFKA_AUTHORIZATION, "_NOT_ALLOWED",
				  "a broker's address is not in kappa.allowed_brokers");
	else if (client->trouble.class != KAFKA_OK)
		*error = client->trouble;
	else if (err == RD_KAFKA_RESP_ERR__TRANSPORT)
		map_error(error, RD_KAFKA_RESP_ERR__TIMED_OUT, NULL);
}

bool
answered(KafkaClient *client, KafkaError *error)
{
	clear_error(&client->trouble);
	clear_error(error);
	return true;
}
