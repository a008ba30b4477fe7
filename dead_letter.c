/*
 * dead_letter.c
 *		Bad messages to kappa.dead_letter, with their bytes.
 *
 * One INSERT for all of a batch, from arrays, in the transaction that moves the
 * positions past them: so a dead letter is there exactly when its offset is passed.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

#include "catalog.h"
#include "dead_letter.h"
#include "message_headers.h"
#include "position.h"

/* A column of the dead letters as an array, for one INSERT of all of them. */
typedef struct Column
{
	Datum	   *values;
	bool	   *nulls;
} Column;

static Column
make_column(int n)
{
	Column		column = {palloc0(sizeof(Datum) * n), palloc0(sizeof(bool) * n)};

	return column;
}

static CatalogArg
column_arg(Column column, int n, Oid element, Oid array)
{
	int16		len;
	bool		byval;
	char		align;
	int			lbound = 1;
	CatalogArg	arg = {array, (Datum) 0, false};

	get_typlenbyvalalign(element, &len, &byval, &align);
	arg.value = PointerGetDatum(construct_md_array(column.values, column.nulls, 1, &n, &lbound,
												   element, len, byval, align));
	return arg;
}

static void
put_bytes(Column column, int i, const char *bytes, size_t len)
{
	column.nulls[i] = bytes == NULL;
	if (bytes)
		column.values[i] = PointerGetDatum(cstring_to_text_with_len(bytes, (int) len));
}

void
store_dead_letters(Batch *batch, int64 (*account_start) (void *arg, int32 part), void *arg)
{
	int			n = list_length(batch->dead);
	enum {PART, OFFSET, TIME, KEY, VALUE, HEADERS, STATE, ERROR_TEXT, START, NCOLUMNS};
	Column		columns[NCOLUMNS];
	CatalogScope scope;
	ListCell   *lc;
	int			i = 0;

	if (n == 0)
		return;
	catalog_begin(&scope);
	for (int c = 0; c < NCOLUMNS; c++)
		columns[c] = make_column(n);
	foreach(lc, batch->dead)
	{
		DeadLetter *letter = lfirst(lc);
		const KafkaMessage *message = &batch->messages[letter->message];
		Jsonb	   *headers = message_headers(message);

		columns[PART].values[i] = Int32GetDatum(message->part);
		columns[OFFSET].values[i] = Int64GetDatum(message->offset);
		columns[TIME].nulls[i] = message->timestamp < 0;
		columns[TIME].values[i] = message->timestamp < 0 ? (Datum) 0 :
			TimestampTzGetDatum(kafka_time(message->timestamp));
		put_bytes(columns[KEY], i, message->key, message->key_len);
		put_bytes(columns[VALUE], i, message->value, message->value_len);
		columns[HEADERS].nulls[i] = headers == NULL;
		columns[HEADERS].values[i] = JsonbPGetDatum(headers);
		columns[STATE].values[i] = CStringGetTextDatum(unpack_sql_state(letter->sqlstate));
		columns[ERROR_TEXT].values[i] = CStringGetTextDatum(letter->error);
		columns[START].values[i] = Int64GetDatum(account_start(arg, message->part));
		i++;
	}
	{
		CatalogArg	args[] = {
			CATALOG_INT4(batch->sub->id), CATALOG_TEXT(batch->sub->topic),
			column_arg(columns[PART], n, INT4OID, INT4ARRAYOID),
			column_arg(columns[OFFSET], n, INT8OID, INT8ARRAYOID),
			column_arg(columns[TIME], n, TIMESTAMPTZOID, TIMESTAMPTZARRAYOID),
			column_arg(columns[KEY], n, BYTEAOID, BYTEAARRAYOID),
			column_arg(columns[VALUE], n, BYTEAOID, BYTEAARRAYOID),
			column_arg(columns[HEADERS], n, JSONBOID, JSONBARRAYOID),
			column_arg(columns[STATE], n, TEXTOID, TEXTARRAYOID),
			column_arg(columns[ERROR_TEXT], n, TEXTOID, TEXTARRAYOID),
			column_arg(columns[START], n, INT8OID, INT8ARRAYOID)
		};

		catalog_execute("INSERT INTO kappa.dead_letter (subscription, topic, part, kafka_offset, "
						"kafka_timestamp, key, value, headers, sqlstate, error, account_start) "
						"SELECT $1, $2, d.* FROM unnest($3, $4, $5, $6, $7, $8, $9, $10, $11) AS d",
						lengthof(args), args);
	}
	catalog_end(&scope);
}
