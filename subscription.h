/*
 * subscription.h
 *		A subscription's definition as its workers and functions see it.
 *
 * Load it inside a transaction; everything is allocated in the current memory
 * context.  The object lock decides who may use it (design section 5):
 * batches hold it in share mode, whoever changes the definition or runs batches
 * of his own holds it exclusively.
 */
#ifndef KAPPA_SUBSCRIPTION_H
#define KAPPA_SUBSCRIPTION_H

#include "postgres.h"

#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

typedef enum MessageFormat
{
	FORMAT_JSON,
	FORMAT_CSV,
	FORMAT_TEXT,
	FORMAT_BYTEA
} MessageFormat;

typedef struct Subscription
{
	int32		id;
	char	   *name;
	Oid			owner;
	char	   *server;
	char	   *topic;
	Oid			target;
	MessageFormat format;
	bool		upsert;
	List	   *key_columns;	/* of char *, NIL where not upsert */
	Jsonb	   *columns;		/* NULL: by name */
	char	   *transform;		/* NULL: none */
	char	   *search_path;	/* for the transform */
	char	   *event_time;		/* column, NULL: none */
	int64		watermark_delay;	/* microseconds */
	int64		idle_timeout;	/* microseconds */
	bool		stop_on_error;
	int			workers;
	int			batch_rows;
	int64		batch_wait;		/* microseconds */
	Jsonb	   *options;
	bool		enabled;
	int64		generation;
	bool		foreign_identity;	/* made in another cluster or database */
	char	   *topic_id;		/* NULL: unknown */
	bool		changed_here;	/* by the current transaction */
	List	   *window_views;	/* of WindowView: whoever runs batches loads them (window_view.h) */
} Subscription;

/* By name or id; missing: NULL if missing_ok, else ERROR 42704 with a hint. */
extern Subscription *subscription_by_name(const char *name, bool missing_ok);
extern Subscription *subscription_by_id(int32 id, bool missing_ok);

/* of SubscriptionWorkers (shmem.h): those whose workers shall run here */
extern List *subscriptions_to_run(void);

/*
 * The object lock, held to the end of the transaction.  Take it before the
 * snapshot that reads the definition.
 */
#define SUBSCRIPTION_BATCH_LOCK		ShareLock
#define SUBSCRIPTION_CONTROL_LOCK	AccessExclusiveLock
extern void lock_subscription(int32 id, LOCKMODE mode);

/* Does this transaction hold the control lock?  Then no worker can go on. */
extern bool subscription_locked_here(int32 id);

/* ERROR 42501 unless the current user is a member of the owner. */
extern void check_subscription_owner(const Subscription *sub);

/* By name for a function that changes it: owner checked, control lock taken. */
extern Subscription *control_subscription(const char *name, const char *function);

/* The present generation; -1 where the subscription is gone or disabled. */
extern int64 subscription_generation(int32 id);

/* raise generation; workers reload after this transaction's commit */
extern void touch_subscription(int32 id);

/* The words of the definition's columns; ERROR 22023 lists the right ones. */
extern MessageFormat parse_message_format(const char *word);
extern const char *message_format_word(MessageFormat format);
extern bool parse_upsert_mode(const char *word);
extern bool parse_stop_on_error(const char *word);

#endif
