/*
 * kafka_client.h
 *		The only door to librdkafka: open and close a client.
 *
 * What it is asked is in kafka_question.h, how it consumes in kafka_consume.h;
 * what follows holds for all three.
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
#include <stddef.h>
#include <stdint.h>

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
	KAFKA_UNREADABLE,			/* what it holds is damaged, or too large for us */
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

/* Did it fail while TLS was set up?  A KAFKA_AUTHENTICATION or KAFKA_BAD_SETTING. */
extern bool kafka_error_of_tls(const KafkaError *error);

/* A place in a partition: of assignments, commits and look-ups. */
typedef struct KafkaPlace
{
	int32_t		part;
	int64_t		offset;			/* -1: none */
} KafkaPlace;

/*
 * Open a read_committed consumer with our fixed settings (design section 5)
 * over the caller's.  group_id may be NULL (a name of our own is used; nothing
 * is ever committed to it unless kafka_commit is called).  The pseudo setting
 * KAFKA_ALLOWED_SETTING, a list as in core/address.h, names the addresses that
 * may be connected to, whichever ones the brokers advertise.
 */
#define KAFKA_ALLOWED_SETTING	"kappa.allowed.brokers"

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

/* Next waiting log line of the library; false: none.  level is syslog's. */
extern bool kafka_next_log(KafkaClient *client, int *level,
						   char *line, size_t line_size);

/*
 * Was a fetch answered with an error since the client was opened: topic unknown,
 * leader moved?  Then the log that it reads now may be another one.  Known once all
 * log lines are read that were written before: call kafka_next_log until there are
 * no more, after the messages in question were taken.
 */
extern bool kafka_fetch_failed(KafkaClient *client);

/* "2.0.2" as linked at run time, and its number (0x020002ff). */
extern const char *kafka_library_version(void);
extern int	kafka_library_version_number(void);

#endif
