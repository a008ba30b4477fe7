/*
 * message_headers.c
 *		A message's headers as jsonb.
 *
 * An object of the headers' names.  A name that stands once has its value, one
 * that stands more often an array of them in their order.  A value is text where
 * the database can show it as such, else its bytes as \x and hex digits.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "kafka_consume.h"
#include "message_headers.h"

/* Can the bytes be shown as text in this database? */
bool
bytes_are_text(const char *bytes, size_t len)
{
	if (memchr(bytes, '\0', len) != NULL)
		return false;
	if (GetDatabaseEncoding() == PG_UTF8)
		return pg_verify_mbstr(PG_UTF8, bytes, len, true);
	for (size_t i = 0; i < len; i++)
	{
		if (IS_HIGHBIT_SET(bytes[i]))
			return false;
	}
	return true;
}

static void
set_text(JsonbValue *to, const char *bytes, size_t len)
{
	to->type = jbvString;
	if (bytes_are_text(bytes, len))
	{
		to->val.string.val = (char *) bytes;
		to->val.string.len = len;
		return;
	}
	to->val.string.val = palloc(len * 2 + 3);
	memcpy(to->val.string.val, "\\x", 2);
	to->val.string.len = 2 + hex_encode(bytes, len, to->val.string.val + 2);
}

typedef struct Header
{
	JsonbValue	name;
	JsonbValue	value;
	int			number;
} Header;

static int
compare_headers(const void *a, const void *b)
{
	const Header *one = a;
	const Header *two = b;
	int			diff = one->name.val.string.len - two->name.val.string.len;

	if (diff == 0)
		diff = memcmp(one->name.val.string.val, two->name.val.string.val,
					  one->name.val.string.len);
	return diff != 0 ? diff : one->number - two->number;
}

static bool
same_header(const Header *one, const Header *two)
{
	return one->name.val.string.len == two->name.val.string.len &&
		memcmp(one->name.val.string.val, two->name.val.string.val,
			   one->name.val.string.len) == 0;
}

/* All headers of a message, those of one name side by side in their order. */
static Header *
read_headers(const KafkaMessage *message, int *n)
{
	int			allocated = 16;
	Header	   *headers = palloc(sizeof(Header) * allocated);
	const char *name;
	const char *value;
	size_t		len;

	for (*n = 0; kafka_header(message, *n, &name, &value, &len); (*n)++)
	{
		Header	   *header;

		if (*n == allocated)
		{
			allocated *= 2;
			headers = repalloc(headers, sizeof(Header) * allocated);
		}
		header = &headers[*n];
		set_text(&header->name, name, strlen(name));
		if (value)
			set_text(&header->value, value, len);
		else
			header->value.type = jbvNull;
		header->number = *n;
	}
	qsort(headers, *n, sizeof(Header), compare_headers);
	return headers;
}

Jsonb *
message_headers(const KafkaMessage *message)
{
	JsonbParseState *state = NULL;
	int			n;
	Header	   *headers;

	/* a dead letter's are jsonb already */
	if (message->handle == NULL)
		return (Jsonb *) message->headers;
	headers = read_headers(message, &n);
	if (n == 0)
		return NULL;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < n;)
	{
		int			end = i + 1;

		while (end < n && same_header(&headers[i], &headers[end]))
			end++;
		pushJsonbValue(&state, WJB_KEY, &headers[i].name);
		if (end == i + 1)
			pushJsonbValue(&state, WJB_VALUE, &headers[i++].value);
		else
		{
			pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
			while (i < end)
				pushJsonbValue(&state, WJB_ELEM, &headers[i++].value);
			pushJsonbValue(&state, WJB_END_ARRAY, NULL);
		}
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}
