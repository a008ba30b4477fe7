/*
 * infer_table.c
 *		kappa.infer_table: a CREATE TABLE that fits the last messages of a topic.
 *
 * What was seen of a field in all samples is a set of bits; its type is the
 * narrowest that holds every bit.  Nothing is created: the text is for a person
 * to read and change.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/heap.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/varlena.h"

#include "arguments.h"
#include "message_headers.h"
#include "sample.h"
#include "try_input.h"

PG_FUNCTION_INFO_V1(kappa_infer_table);

/* What was seen of a field, as bits. */
#define SEEN_BOOLEAN	0x001
#define SEEN_INTEGER	0x002	/* fits bigint */
#define SEEN_LONG		0x004	/* an integer beyond 15 digits */
#define SEEN_FRACTION	0x008	/* exact in double precision */
#define SEEN_EXACT		0x010	/* only numeric holds it */
#define SEEN_TIME		0x020
#define SEEN_DATE		0x040
#define SEEN_UUID		0x080
#define SEEN_TEXT		0x100
#define SEEN_NESTED		0x200

#define SEEN_NUMBER		(SEEN_INTEGER | SEEN_LONG | SEEN_FRACTION | SEEN_EXACT)

#define MAX_INFERRED	1500	/* a table cannot have many more columns */

typedef struct Field
{
	char	   *name;
	int			seen;
	int			sample;			/* where it was first seen ... */
	int			place;			/* ... and where in its text */
} Field;

typedef struct Inference
{
	Field	   *fields;
	int			nfields;
	int			allocated;
	int			objects;
	int			others;			/* no JSON objects */
	int			left_out;		/* fields that cannot be columns */
	bool		all_text;		/* every value is text */
} Inference;

static int
number_bits(Numeric number)
{
	char	   *text = DatumGetCString(DirectFunctionCall1(numeric_out,
														   NumericGetDatum(number)));
	const char *at = text + strspn(text, "-0.");
	int			digits = 0;
	Datum		value;

	for (; *at; at++)
	{
		if (*at != '.')
			digits++;
	}
	if (strchr(text, '.'))
		return digits <= 15 ? SEEN_FRACTION : SEEN_EXACT;
	if (!try_input(INT8OID, text, &value))
		return SEEN_EXACT;
	return digits <= 15 ? SEEN_INTEGER : SEEN_INTEGER | SEEN_LONG;
}

/* Does the text have the shape?  # is a digit, T is T or a space. */
static bool
has_shape(const char *text, const char *shape)
{
	for (; *shape; text++, shape++)
	{
		if (*shape == '#' ? !isdigit((unsigned char) *text) :
			*shape == 'T' ? (*text != 'T' && *text != ' ') : *text != *shape)
			return false;
	}
	return true;
}

static int
string_bits(char *text)
{
	size_t		len = strlen(text);
	Datum		value;

	if (has_shape(text, "####-##-##T##:##") && len <= 40)
		return try_input(TIMESTAMPTZOID, text, &value) ? SEEN_TIME : SEEN_TEXT;
	if (len == 10 && has_shape(text, "####-##-##"))
		return try_input(DATEOID, text, &value) ? SEEN_DATE : SEEN_TEXT;
	if (len == 36 && text[8] == '-' && text[13] == '-' && text[18] == '-' && text[23] == '-')
		return try_input(UUIDOID, text, &value) ? SEEN_UUID : SEEN_TEXT;
	return SEEN_TEXT;
}

static int
value_bits(JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return 0;
		case jbvBool:
			return SEEN_BOOLEAN;
		case jbvNumeric:
			return number_bits(value->val.numeric);
		case jbvString:
			return string_bits(pnstrdup(value->val.string.val, value->val.string.len));
		default:
			return SEEN_NESTED;
	}
}

/* The type that holds all that was seen. */
static const char *
inferred_type(int seen)
{
	if (seen & SEEN_NESTED)
		return "jsonb";
	if (seen == SEEN_BOOLEAN)
		return "boolean";
	if (seen != 0 && (seen & ~SEEN_NUMBER) == 0)
	{
		if (seen & SEEN_EXACT)
			return "numeric";
		if (seen & SEEN_FRACTION)
			return seen & SEEN_LONG ? "numeric" : "double precision";
		return "bigint";
	}
	if (seen == SEEN_DATE)
		return "date";
	if (seen & SEEN_TIME && (seen & ~(SEEN_TIME | SEEN_DATE)) == 0)
		return "timestamptz";
	if (seen == SEEN_UUID)
		return "uuid";
	return "text";
}

/* Can the field be a column beside those of the message itself? */
static bool
can_be_column(const char *name)
{
	static const char *const metadata[] = {
		"kafka_topic", "kafka_partition", "kafka_offset",
		"kafka_timestamp", "kafka_key", "kafka_headers"
	};

	for (int i = 0; i < lengthof(metadata); i++)
	{
		if (strcmp(name, metadata[i]) == 0)
			return false;
	}
	return *name != '\0' && strlen(name) < NAMEDATALEN &&
		SystemAttributeByName(name) == NULL;
}

static Field *
find_field(Inference *inference, const char *name)
{
	for (int i = 0; i < inference->nfields; i++)
	{
		if (strcmp(inference->fields[i].name, name) == 0)
			return &inference->fields[i];
	}
	return NULL;
}

/* jsonb has its own order of keys: remember where the text names the field. */
static void
add_field(Inference *inference, char *name, int seen, int sample, const char *text)
{
	Field	   *field = find_field(inference, name);

	if (field == NULL)
	{
		const char *found = strstr(text, psprintf("\"%s\"", name));

		if (!can_be_column(name) || inference->nfields == MAX_INFERRED)
		{
			inference->left_out++;
			return;
		}
		if (inference->nfields == inference->allocated)
		{
			inference->allocated *= 2;
			inference->fields = repalloc(inference->fields,
										 sizeof(Field) * inference->allocated);
		}
		field = &inference->fields[inference->nfields++];
		field->name = name;
		field->seen = 0;
		field->sample = sample;
		field->place = found ? found - text : (int) strlen(text);
	}
	field->seen |= seen;
}

static void
look_at_sample(Inference *inference, const Sample *sample, int number)
{
	char	   *bytes = VARDATA(sample->value);
	size_t		len = VARSIZE(sample->value) - VARHDRSZ;
	char	   *text;
	Datum		value;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *name = NULL;

	if (!bytes_are_text(bytes, len))
	{
		inference->all_text = false;
		inference->others++;
		return;
	}
	text = pnstrdup(bytes, len);
	if (!try_input(JSONBOID, text, &value) || !JB_ROOT_IS_OBJECT(DatumGetJsonbP(value)))
	{
		inference->others++;
		return;
	}
	inference->objects++;
	it = JsonbIteratorInit(&DatumGetJsonbP(value)->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE)
			add_field(inference, name, value_bits(&v), number, text);
	}
}

static int
compare_fields(const void *a, const void *b)
{
	const Field *one = a;
	const Field *two = b;

	if (one->sample != two->sample)
		return one->sample - two->sample;
	if (one->place != two->place)
		return one->place - two->place;
	return strcmp(one->name, two->name);
}

/* The name as CREATE TABLE wants it: each part quoted where it needs it. */
static char *
quoted_table_name(text *table_name, const char *topic)
{
	StringInfoData name;
	ListCell   *cell;

	if (table_name == NULL)
		return pstrdup(quote_identifier(topic));
	initStringInfo(&name);
	foreach(cell, textToQualifiedNameList(table_name))
		appendStringInfo(&name, "%s%s", name.len > 0 ? "." : "",
						 quote_identifier(strVal(lfirst(cell))));
	return name.data;
}

static char *
table_text(Inference *inference, const char *name)
{
	StringInfoData sql;
	bool		columns = inference->objects >= inference->others && inference->nfields > 0;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE TABLE %s (\n"
					 "\tkafka_partition integer,\n"
					 "\tkafka_offset bigint,\n"
					 "\tkafka_timestamp timestamptz", name);
	if (columns)
	{
		qsort(inference->fields, inference->nfields, sizeof(Field), compare_fields);
		for (int i = 0; i < inference->nfields; i++)
			appendStringInfo(&sql, ",\n\t%s %s",
							 quote_identifier(inference->fields[i].name),
							 inferred_type(inference->fields[i].seen));
	}
	else
		appendStringInfo(&sql, ",\n\tvalue %s",
						 inference->objects > 0 && inference->others == 0 ? "jsonb" :
						 inference->all_text ? "text" : "bytea");
	appendStringInfoString(&sql, "\n);");
	if (columns && inference->left_out > 0)
		appendStringInfo(&sql, "\n-- left out: fields whose names cannot be columns (seen %d times)",
						 inference->left_out);
	return sql.data;
}

Datum
kappa_infer_table(PG_FUNCTION_ARGS)
{
	char	   *server;
	char	   *topic;
	Inference	inference = {NULL, 0, 64, 0, 0, 0, true};
	Sample	  **samples;
	int			count;

	server = text_argument(fcinfo, 0, "server");
	topic = text_argument(fcinfo, 1, "topic");
	require_argument(fcinfo, 2, "n");
	check_sample_count(PG_GETARG_INT32(2));
	samples = last_samples(server, topic, PG_GETARG_INT32(2), NULL, &count);
	inference.fields = palloc(sizeof(Field) * inference.allocated);
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (samples[i]->value)
			look_at_sample(&inference, samples[i], i);
	}
	if (inference.objects + inference.others == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("topic \"%s\" holds no message to infer a table from", topic)));
	PG_RETURN_TEXT_P(cstring_to_text(table_text(&inference,
												quoted_table_name(PG_ARGISNULL(3) ? NULL : PG_GETARG_TEXT_PP(3),
																  topic))));
}
