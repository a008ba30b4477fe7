/*
 * kafka_client.h
 *		The only door to librdkafka.
 *
 * Plain C without PostgreSQL: no function here calls the server, raises an
 * ereport or allocates with palloc, so no longjmp can cross the library.
 * Every function runs on the thread that opened the client.  Every blocking
 * one takes a timeout in ms (callers pass at most 500 and check for interrupts
 * between calls).  Failures come back as a KafkaError that the caller reports.
 */
#ifndef KAPPA_KAFKA_CLIENT_H
#define KAPPA_KAFKA_CLIENT_H

#include <stdbool.h>

#include "core/batch.h"

typedef struct KafkaClient KafkaClient;

/* One librdkafka property, by its own name ("bootstrap.servers"). */
typedef struct KafkaSetting
{
	const char *name;
	const char *value;
} KafkaSetting;

typedef enum KafkaErrorClass
{
	KAFKA_OK = 0,
	KAFKA_DISCONNECTED,			/* no broker can be reached: retry */
	KAFKA_TIMED_OUT,			/* no answer in time: call again */
	KAFKA_AUTHENTICATION,		/* who we are was refused, TLS included */
	KAFKA_AUTHORIZATION,		/* what we want was refused */
	KAFKA_UNKNOWN_TOPIC,		/* topic or partition does not exist */
	KAFKA_OUT_OF_RANGE,			/* the log does not hold that offset */
	KAFKA_BAD_SETTING,			/* a property or its value was refused */
	KAFKA_FATAL,				/* the handle is dead */
	KAFKA_OTHER
} KafkaErrorClass;

typedef struct KafkaError
{
	KafkaErrorClass class;
	char		name[64];		/* the library's name of the error */
	char		text[256];		/* safe to show: never a setting's value */
} KafkaError;

/* What else than a message a consumer can be told. */
typedef enum KafkaEventKind
{
	KAFKA_NO_EVENT = 0,
	KAFKA_END_OF_PARTITION,		/* place.offset = the next one to come */
	KAFKA_PARTITION_ERROR,		/* error and place are set */
	KAFKA_CLIENT_ERROR			/* error is set; concerns the whole handle */
} KafkaEventKind;

/* A place in a partition: of assignments, commits and look-ups. */
typedef struct KafkaPlace
{
	int32_t		part;
	int64_t		offset;			/* -1: none */
} KafkaPlace;

typedef struct KafkaEvent
{
	KafkaEventKind kind;
	KafkaPlace	place;
	KafkaError	error;
} KafkaEvent;

typedef struct KafkaTopic
{
	char	   *name;
	int			partitions;		/* -1: the broker gave an error for it */
	KafkaErrorClass error;
} KafkaTopic;

typedef struct KafkaBroker
{
	int32_t		id;
	char	   *host;
	int			port;
} KafkaBroker;

typedef struct KafkaMetadata
{
	int			ntopics;
	KafkaTopic *topics;			/* sorted by name */
	int			nbrokers;
	KafkaBroker *brokers;
	char	   *cluster_id;		/* NULL if the broker is too old */
} KafkaMetadata;

/*
 * Open a read_committed consumer with our fixed settings (design section 5)
 * over the caller's.  group_id may be NULL (a name of our own is used; nothing
 * is ever committed to it unless kafka_commit is called).
 */
extern KafkaClient *kafka_open(const KafkaSetting *settings, int nsettings,
							   const char *group_id, KafkaError *error);

/*
 * Close within timeout_ms, in a helper thread with all signals blocked.
 * false: the library did not end in time; the handle is leaked and the process
 * must leave by _exit when it ends (an exit handler of ours sees to it).
 * kafka_leaked() tells whether any was.  Messages not released are given back
 * here, and must not be released afterwards.  A kafka_commit that the broker has
 * not answered holds the library until socket.timeout.ms; all else ends at once.
 */
extern bool kafka_close(KafkaClient *client, int timeout_ms);
extern bool kafka_leaked(void);

/* Becomes readable when events wait; drain with kafka_fill before waiting again. */
extern int	kafka_wake_fd(KafkaClient *client);

/* topic NULL: all topics.  Free with kafka_free_metadata. */
extern KafkaMetadata *kafka_metadata(KafkaClient *client, const char *topic,
									 int timeout_ms, KafkaError *error);
extern void kafka_free_metadata(KafkaMetadata *metadata);

/* First offset held, and the next one to be readable (read_committed). */
extern bool kafka_offsets(KafkaClient *client, const char *topic, int32_t part,
						  int64_t *low, int64_t *high,
						  int timeout_ms, KafkaError *error);

/* The same for partitions 0 to n - 1 in two questions. */
extern bool kafka_all_offsets(KafkaClient *client, const char *topic, int n,
							  int64_t *low, int64_t *high,
							  int timeout_ms, KafkaError *error);

/* In: offset = ms since the epoch.  Out: first offset at or after it, -1 none. */
extern bool kafka_offsets_for_time(KafkaClient *client, const char *topic,
								   KafkaPlace *places, int nplaces,
								   int timeout_ms, KafkaError *error);

/* Positions committed by the group that the client was opened with; -1 none. */
extern bool kafka_group_offsets(KafkaClient *client, const char *topic,
								KafkaPlace *places, int nplaces,
								int timeout_ms, KafkaError *error);

/*
 * The topic's id as text (base64), by the broker.  false with KAFKA_OK: this
 * library cannot tell (older than 2.3).
 */
extern bool kafka_topic_id(KafkaClient *client, const char *topic,
						   char *id, size_t id_size,
						   int timeout_ms, KafkaError *error);

/* Start fetching.  Once in a client's life. */
extern bool kafka_assign(KafkaClient *client, const char *topic,
						 const KafkaPlace *places, int nplaces,
						 KafkaError *error);

/*
 * Take up to max waiting messages without blocking, in the order they came per
 * partition.  Stops early at anything else, which is then in event (kind
 * KAFKA_NO_EVENT: nothing).  Drained: 0 messages and no event.  Messages must
 * be given back with kafka_release, once each (it clears the handle).
 */
extern int	kafka_fill(KafkaClient *client, KafkaMessage *messages, int max,
					   KafkaEvent *event);
extern void kafka_release(KafkaMessage *message);

/* Header number i of a message: false when there are no more.  value NULL: null. */
extern bool kafka_header(const KafkaMessage *message, int i,
						 const char **name,
						 const char **value, size_t *value_len);

/* High and low watermark as of the last fetch; no broker call.  -1 unknown. */
extern void kafka_cached_offsets(KafkaClient *client, const char *topic, int32_t part,
								 int64_t *low, int64_t *high);

/* Commit to the consumer group, asynchronously; failures are only logged. */
extern void kafka_commit(KafkaClient *client, const char *topic,
						 const KafkaPlace *places, int nplaces);

/* Next waiting log line of the library; false: none.  level is syslog's. */
extern bool kafka_next_log(KafkaClient *client, int *level,
						   char *line, size_t line_size);

/*
 * Does the list ("host:port", "host:*" or "*", comma between; NULL or empty: any)
 * name the address?  The list is given to kafka_open as the pseudo setting
 * "kappa.allowed.brokers", to hold for the addresses that brokers advertise.
 */
extern bool kafka_address_allowed(const char *list, const char *host,
								  const char *port);

/*
 * A probe resolves a name and connects to a port in a thread of its own, so that
 * the asker can wait in steps; end it at any time, once.
 */
typedef struct KafkaProbe KafkaProbe;

typedef enum KafkaProbeState
{
	PROBE_RESOLVING = 0,
	PROBE_CONNECTING,
	PROBE_CONNECTED,
	PROBE_UNRESOLVED,			/* the name has no address */
	PROBE_REFUSED,				/* nothing listens on the port */
	PROBE_NO_ANSWER
} KafkaProbeState;

extern KafkaProbe *kafka_probe_start(const char *host, const char *port, int timeout_ms);
extern KafkaProbeState kafka_probe_wait(KafkaProbe *probe, int timeout_ms);
extern void kafka_probe_end(KafkaProbe *probe);

/* "2.0.2" as linked at run time, and its number (0x020002ff). */
extern const char *kafka_library_version(void);
extern int	kafka_library_version_number(void);

#endif
