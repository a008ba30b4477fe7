/*
 * decode.c
 *		Message bytes to column values.
 *
 * The program says for each column of the target where its value comes from:
 *
 *		columns => NULL		kafka_* columns from the message's metadata, every other
 *							column from the JSON member of its name, from the next
 *							CSV field, or (text, bytea) column "value" from it all
 *		columns => {...}	those named there; metadata columns still by name, and what
 *							is not JSON as above
 *
 * Generated columns are never filled.  A column that nothing fills takes its
 * default (complete_row).  Everything is allocated in the batch's memory context;
 * a program lives for one batch, so it can never be older than the table.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/jsonb.h"

#include "message_headers.h"
#include "core/csv.h"
#include "decode.h"
#include "position.h"


typedef struct CsvSettings
{
	CsvFormat	format;
	bool		header;
	int			nfields;		/* that the target's columns take */
	CsvField   *fields;
} CsvSettings;

static DecodeResult
bad(int *sqlstate, const char **error, int state, const char *text)
{
	*sqlstate = state;
	*error = text;
	return DECODE_BAD;
}

/* ---------------------------------------------------------------- options */

static const char *const format_options[] = {"delimiter", "quote", "escape", "null", "header"};

bool
is_format_option(const char *name)
{
	for (int i = 0; i < lengthof(format_options); i++)
		if (strcmp(name, format_options[i]) == 0)
			return true;
	return false;
}

/* Text of a member of a jsonb object, NULL where there is none. */
static char *
jsonb_member(Jsonb *object, const char *name)
{
	JsonbValue	value;

	if (object == NULL ||
		getKeyJsonValueFromContainer(&object->root, name, strlen(name), &value) == NULL)
		return NULL;
	if (value.type == jbvString)
		return pnstrdup(value.val.string.val, value.val.string.len);
	if (value.type == jbvBool)
		return pstrdup(value.val.boolean ? "true" : "false");
	return NULL;
}

static char
option_char(Jsonb *options, const char *name, char otherwise)
{
	char	   *value = jsonb_member(options, name);

	if (value == NULL)
		return otherwise;
	if (strlen(value) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" must be a single one-byte character", name)));
	return value[0];
}

static CsvSettings *
csv_settings(Jsonb *options)
{
	CsvSettings *csv = palloc0(sizeof(CsvSettings));
	char	   *header = jsonb_member(options, "header");
	char	   *null = jsonb_member(options, "null");

	csv->format.delimiter = option_char(options, "delimiter", ',');
	csv->format.quote = option_char(options, "quote", '"');
	csv->format.escape = option_char(options, "escape", csv->format.quote);
	csv->format.null = null ? null : "";
	csv->format.null_len = strlen(csv->format.null);
	csv->header = header != NULL && strcmp(header, "true") == 0;
	return csv;
}

/* ---------------------------------------------------------------- program */

static bool
metadata_source(const char *name, ColumnSource *source)
{
	static const struct
	{
		const char *name;
		ColumnSource source;
	}			known[] = {
		{"kafka_topic", COLUMN_TOPIC},
		{"kafka_partition", COLUMN_PARTITION},
		{"kafka_offset", COLUMN_OFFSET},
		{"kafka_timestamp", COLUMN_TIMESTAMP},
		{"kafka_key", COLUMN_KEY},
		{"kafka_headers", COLUMN_HEADERS}
	};

	for (int i = 0; i < lengthof(known); i++)
		if (strcmp(name, known[i].name) == 0)
		{
			*source = known[i].source;
			return true;
		}
	return false;
}

static int
unit_digits(const char *unit)
{
	if (unit == NULL)
		return -1;
	return strcmp(unit, "s") == 0 ? 0 : strcmp(unit, "ms") == 0 ? 3 :
		strcmp(unit, "us") == 0 ? 6 : 9;
}

/* JSON paths collected while the columns are looked at. */
typedef struct PathList
{
	int			n;
	JsonPath   *paths;
} PathList;

static int
add_path(PathList *list, const char *text)
{
	JsonStep	steps[JSON_MAX_DEPTH];
	JsonPath   *path = &list->paths[list->n];
	int			n = json_parse_path(text, strlen(text), steps, JSON_MAX_DEPTH);

	if (n < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a path into a JSON document", text)));
	path->nsteps = n;
	path->steps = memcpy(palloc(sizeof(JsonStep) * Max(n, 1)), steps, sizeof(JsonStep) * n);
	return list->n++;
}

static int
add_member(PathList *list, const char *name)
{
	JsonPath   *path = &list->paths[list->n];
	JsonStep   *step = palloc0(sizeof(JsonStep));

	step->name = name;
	step->name_len = strlen(name);
	path->nsteps = 1;
	path->steps = step;
	return list->n++;
}

/* What the definition's "columns" says of this one; false: nothing. */
static bool
mapped_source(DecodeColumn *column, const char *name, Jsonb *columns, PathList *paths)
{
	JsonbValue	value;
	char	   *text;

	if (columns == NULL ||
		getKeyJsonValueFromContainer(&columns->root, name, strlen(name), &value) == NULL)
		return false;
	if (value.type == jbvBinary)
	{
		Jsonb	   *object = JsonbValueToJsonb(&value);

		text = jsonb_member(object, "path");
		column->unit = unit_digits(jsonb_member(object, "unit"));
	}
	else
		text = pnstrdup(value.val.string.val, value.val.string.len);
	if (strncmp(text, "kafka.", 6) == 0)
		return metadata_source(psprintf("kafka_%s", text + 6), &column->source);
	column->source = COLUMN_PATH;
	column->number = add_path(paths, pg_server_to_any(text, strlen(text), PG_UTF8));
	return true;
}

/* Where a column's value comes from when nothing is said of it. */
static bool
natural_source(DecodeColumn *column, const char *name, DecodeProgram *program, PathList *paths)
{
	if (metadata_source(name, &column->source))
		return true;
	/* elsewhere "columns" can only say where metadata goes, not where the value does */
	if (program->sub->format == FORMAT_JSON && program->sub->columns != NULL)
		return false;
	switch (program->sub->format)
	{
		case FORMAT_JSON:
			column->source = COLUMN_PATH;
			column->number = add_member(paths, name);
			return true;
		case FORMAT_CSV:
			column->source = COLUMN_FIELD;
			column->number = program->csv->nfields++;
			return true;
		default:
			column->source = COLUMN_VALUE;
			return strcmp(name, "value") == 0;
	}
}

static void
program_columns(DecodeProgram *program, PathList *paths)
{
	program->columns = palloc0(sizeof(DecodeColumn) * Max(program->desc->natts, 1));
	for (int i = 0; i < program->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(program->desc, i);
		DecodeColumn *column = &program->columns[program->ncolumns];
		char	   *name = pg_server_to_any(NameStr(att->attname), strlen(NameStr(att->attname)), PG_UTF8);

		if (att->attisdropped || att->attgenerated)
			continue;
		column->unit = -1;
		column->attno = att->attnum;
		if (!mapped_source(column, NameStr(att->attname), program->sub->columns, paths) &&
			!natural_source(column, name, program, paths))
			continue;
		value_type_init(&column->type, att->atttypid, att->atttypmod);
		program->ncolumns++;
		if (program->sub->event_time && strcmp(NameStr(att->attname), program->sub->event_time) == 0)
			program->event_time = att->attnum;
	}
}

static void
check_column(DecodeProgram *program, const char *name)
{
	if (get_attnum(RelationGetRelid(program->target), name) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" does not exist in relation \"%s\"",
						name, RelationGetRelationName(program->target)),
				 errdetail("The definition of subscription \"%s\" names it.",
						   program->sub->name)));
}

/* What the definition names may be gone by now; its values must not go with it. */
static void
check_definition_columns(DecodeProgram *program)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (program->sub->event_time)
		check_column(program, program->sub->event_time);
	if (program->sub->transform == NULL &&
		(program->sub->format == FORMAT_TEXT || program->sub->format == FORMAT_BYTEA))
		check_column(program, "value");
	if (program->sub->columns == NULL)
		return;
	it = JsonbIteratorInit(&program->sub->columns->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
		if (token == WJB_KEY)
			check_column(program, pnstrdup(value.val.string.val, value.val.string.len));
}

static void
program_keys(DecodeProgram *program)
{
	const Subscription *sub = program->sub;
	ListCell   *lc;
	PathList	paths = {0, palloc(sizeof(JsonPath) * (list_length(sub->key_columns) + 1))};

	/* one path a key column, and the whole document behind them */

	program->is_key = palloc0(sizeof(bool) * Max(program->desc->natts, 1));
	program->keys = palloc0(sizeof(DecodeColumn) * Max(list_length(sub->key_columns), 1));
	foreach(lc, sub->key_columns)
	{
		char	   *name = lfirst(lc);
		DecodeColumn *key = &program->keys[program->nkeys++];
		AttrNumber	attno = get_attnum(RelationGetRelid(program->target), name);

		if (attno <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("key column \"%s\" does not exist in relation \"%s\"",
							name, RelationGetRelationName(program->target))));
		key->attno = attno;
		key->number = add_member(&paths, pg_server_to_any(name, strlen(name), PG_UTF8));
		value_type_init(&key->type, TupleDescAttr(program->desc, attno - 1)->atttypid,
						TupleDescAttr(program->desc, attno - 1)->atttypmod);
		program->is_key[attno - 1] = true;
	}
	if (program->nkeys == 0)
		return;
	add_path(&paths, "$");
	program->key_plan = json_plan_build(palloc(json_plan_size(paths.paths, paths.n)),
										paths.paths, paths.n);
	program->key_spans = palloc(sizeof(JsonSpan) * paths.n);
}

/* Expressions for the columns that a message may leave out. */
static void
program_defaults(DecodeProgram *program, EState *estate)
{
	program->fill_defaults = program->target->rd_rel->relkind != RELKIND_VIEW;
	program->defaults = palloc0(sizeof(ExprState *) * Max(program->desc->natts, 1));
	program->domains = palloc0(sizeof(ValueType *) * Max(program->desc->natts, 1));
	program->insertable = palloc0(sizeof(bool) * Max(program->desc->natts, 1));
	program->checked = palloc(sizeof(int) * Max(program->desc->natts, 1));
	program->econtext = GetPerTupleExprContext(estate);
	if (!program->fill_defaults)
		return;
	for (int i = 0; i < program->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(program->desc, i);
		Node	   *expr;

		if (att->attisdropped || att->attgenerated)
			continue;
		expr = build_column_default(program->target, att->attnum);
		if (expr)
			program->defaults[i] = ExecInitExpr(expression_planner((Expr *) expr), NULL);
		else if (get_typtype(att->atttypid) == TYPTYPE_DOMAIN)
		{
			program->domains[i] = palloc(sizeof(ValueType));
			value_type_init(program->domains[i], att->atttypid, att->atttypmod);
		}
		program->insertable[i] = true;
		if (program->defaults[i] || program->domains[i] || att->attnotnull || program->is_key[i])
			program->checked[program->nchecked++] = i;
	}
}

DecodeProgram *
decode_program(const Subscription *sub, Relation target, EState *estate)
{
	DecodeProgram *program = palloc0(sizeof(DecodeProgram));
	PathList	paths;

	program->sub = sub;
	program->target = target;
	program->desc = RelationGetDescr(target);
	if (sub->format == FORMAT_CSV)
		program->csv = csv_settings(sub->options);
	paths.n = 0;
	paths.paths = palloc(sizeof(JsonPath) * Max(program->desc->natts, 1));
	check_definition_columns(program);
	program_columns(program, &paths);
	program_keys(program);
	program_defaults(program, estate);
	program->plan = json_plan_build(palloc(json_plan_size(paths.paths, paths.n)),
									paths.paths, paths.n);
	program->spans = palloc(sizeof(JsonSpan) * Max(paths.n, 1));
	if (program->csv)
		program->csv->fields = palloc(sizeof(CsvField) * Max(program->csv->nfields + 1, 1));
	return program;
}

/* ---------------------------------------------------------------- metadata */

/* The value as text, for a column that is not of the natural type. */
static Datum
convert_text(ValueType *type, const char *text)
{
	return InputFunctionCall(&type->input, (char *) text, type->ioparam, type->typmod);
}

static bool
key_value(DecodeColumn *column, const KafkaMessage *message, Datum *value, bool *null,
		  int *sqlstate, const char **error)
{
	ValueError	why;

	*null = message->key == NULL;
	if (*null)
		return true;
	if (column->type.base == BYTEAOID)
	{
		*value = PointerGetDatum(cstring_to_text_with_len(message->key, (int) message->key_len));
		return true;
	}
	if (!utf8_valid(message->key, message->key_len) ||
		memchr(message->key, '\0', message->key_len) != NULL)
	{
		bad(sqlstate, error, ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
			"the message key is not UTF-8 text");
		return false;
	}
	if (value_from_text(&column->type, message->key, message->key_len, value, &why))
		return true;
	bad(sqlstate, error, why.sqlstate, why.text);
	return false;
}

static Datum
timestamp_value(DecodeColumn *column, const KafkaMessage *message)
{
	TimestampTz time = kafka_time(message->timestamp);

	if ((column->type.typid == TIMESTAMPTZOID || column->type.typid == TIMESTAMPOID) &&
		column->type.typmod < 0)
		return TimestampTzGetDatum(time);
	return convert_text(&column->type, timestamptz_to_str(time));
}

static Datum
number_value(DecodeColumn *column, int64 number)
{
	if (column->type.typid == INT8OID)
		return Int64GetDatum(number);
	if (column->type.typid == INT4OID && number == (int32) number)
		return Int32GetDatum((int32) number);
	return convert_text(&column->type, psprintf(INT64_FORMAT, number));
}

static Datum
headers_value(DecodeColumn *column, const KafkaMessage *message, bool *null)
{
	Jsonb	   *headers = message_headers(message);

	*null = headers == NULL;
	if (*null)
		return (Datum) 0;
	if (column->type.typid == JSONBOID)
		return JsonbPGetDatum(headers);
	return convert_text(&column->type, JsonbToCString(NULL, &headers->root, VARSIZE(headers)));
}

static bool
metadata_value(DecodeProgram *program, DecodeColumn *column, const KafkaMessage *message,
			   Datum *value, bool *null, int *sqlstate, const char **error)
{
	*null = false;
	switch (column->source)
	{
		case COLUMN_TOPIC:
			*value = convert_text(&column->type, program->sub->topic);
			break;
		case COLUMN_PARTITION:
			*value = number_value(column, message->part);
			break;
		case COLUMN_OFFSET:
			*value = number_value(column, message->offset);
			break;
		case COLUMN_TIMESTAMP:
			*null = message->timestamp < 0;
			*value = *null ? (Datum) 0 : timestamp_value(column, message);
			break;
		case COLUMN_HEADERS:
			*value = headers_value(column, message, null);
			break;
		default:
			if (!key_value(column, message, value, null, sqlstate, error))
				return false;
	}
	value_check_domain(&column->type, *value, *null);
	return true;
}

/* ---------------------------------------------------------------- formats */

static int
json_sqlstate(JsonError error)
{
	return error == JSON_BAD_UTF8 ? ERRCODE_CHARACTER_NOT_IN_REPERTOIRE :
		error == JSON_TOO_DEEP ? ERRCODE_STATEMENT_TOO_COMPLEX :
		ERRCODE_INVALID_TEXT_REPRESENTATION;
}

/* The scan of one message: its spans, or why there are none. */
static DecodeResult
scan_json(DecodeProgram *program, const KafkaMessage *message, int *sqlstate, const char **error)
{
	JsonKind	top;
	size_t		at;
	JsonError	result = json_scan(program->plan, message->value, message->value_len,
								   program->spans, &top, &at);

	if (result != JSON_OK)
		return bad(sqlstate, error, json_sqlstate(result),
				   psprintf("%s at byte %zu", json_error_text(result), at));
	/* whole documents ("$") may be anything; members need an object */
	if (top != JSON_OBJECT && program->sub->columns == NULL && program->sub->transform == NULL)
		return bad(sqlstate, error, ERRCODE_INVALID_TEXT_REPRESENTATION,
				   "the message is not a JSON object");
	return DECODE_ROW;
}

static DecodeResult
split_csv(DecodeProgram *program, const KafkaMessage *message, int *sqlstate, const char **error)
{
	CsvSettings *csv = program->csv;
	int			n;
	CsvError	result;

	if (!utf8_valid(message->value, message->value_len) ||
		memchr(message->value, '\0', message->value_len) != NULL)
		return bad(sqlstate, error, ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
				   "the message is not UTF-8 text");
	if (csv->header && message->offset == 0)
		return DECODE_FILTERED;
	result = csv_split(&csv->format, message->value, message->value_len,
					   csv->fields, csv->nfields + 1, &n);
	if (result == CSV_TOO_MANY_FIELDS || (result == CSV_OK && n > csv->nfields))
		return bad(sqlstate, error, ERRCODE_BAD_COPY_FILE_FORMAT,
				   "extra data after last expected column");
	if (result != CSV_OK)
		return bad(sqlstate, error, ERRCODE_BAD_COPY_FILE_FORMAT, csv_error_text(result));
	if (n < csv->nfields)
		return bad(sqlstate, error, ERRCODE_BAD_COPY_FILE_FORMAT,
				   psprintf("missing data: %d fields where %d columns are to be filled",
							n, csv->nfields));
	return DECODE_ROW;
}

static DecodeResult
check_text(DecodeProgram *program, const KafkaMessage *message, int *sqlstate, const char **error)
{
	if (program->sub->format != FORMAT_BYTEA &&
		(!utf8_valid(message->value, message->value_len) ||
		 memchr(message->value, '\0', message->value_len) != NULL))
		return bad(sqlstate, error, ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
				   "the message is not UTF-8 text");
	return DECODE_ROW;
}

static DecodeResult
scan_message(DecodeProgram *program, const KafkaMessage *message, int *sqlstate, const char **error)
{
	switch (program->sub->format)
	{
		case FORMAT_JSON:
			return scan_json(program, message, sqlstate, error);
		case FORMAT_CSV:
			return split_csv(program, message, sqlstate, error);
		default:
			return check_text(program, message, sqlstate, error);
	}
}

/* ---------------------------------------------------------------- columns */

static bool
path_value(DecodeProgram *program, DecodeColumn *column, Datum *value, bool *null,
		   bool *present, ValueError *why)
{
	JsonSpan   *span = &program->spans[column->number];

	if (likely(column->unit < 0 && value_from_plain_json(&column->type, span, value)))
	{
		*null = false;
		return true;
	}
	*present = span->kind != JSON_ABSENT;
	if (!*present)
		return true;
	*value = (Datum) 0;
	if (column->unit < 0 || span->kind == JSON_NULL)
		return value_from_json(&column->type, span, value, null, why);
	*null = false;
	return value_from_epoch(&column->type, column->unit, span, value, why);
}

static bool
field_value(DecodeProgram *program, DecodeColumn *column, Datum *value, bool *null, ValueError *why)
{
	CsvSettings *csv = program->csv;
	CsvField   *field = &csv->fields[column->number];
	char	   *text;

	*null = field->null;
	if (*null)
	{
		value_check_null(&column->type);
		return true;
	}
	if (!field->quoted)
		return value_from_text(&column->type, field->start, field->len, value, why);
	text = palloc(field->len + 1);
	return value_from_text(&column->type, text,
						   csv_unquote(&csv->format, field, text), value, why);
}

static bool
whole_value(DecodeProgram *program, DecodeColumn *column, const KafkaMessage *message,
			Datum *value, bool *null, ValueError *why)
{
	*null = false;
	if (program->sub->format == FORMAT_TEXT)
		return value_from_text(&column->type, message->value, message->value_len, value, why);
	if (column->type.base != BYTEAOID)
	{
		why->sqlstate = ERRCODE_DATATYPE_MISMATCH;
		why->text = "column \"value\" must be of type bytea for format bytea";
		return false;
	}
	*value = PointerGetDatum(cstring_to_text_with_len(message->value, (int) message->value_len));
	value_check_domain(&column->type, *value, false);
	return true;
}

static bool
column_value(DecodeProgram *program, DecodeColumn *column, const KafkaMessage *message,
			 Datum *value, bool *null, bool *present, int *sqlstate, const char **error)
{
	ValueError	why = {0};
	bool		good;

	*present = true;
	if (column->source == COLUMN_PATH)
		good = path_value(program, column, value, null, present, &why);
	else if (column->source == COLUMN_FIELD)
		good = field_value(program, column, value, null, &why);
	else if (column->source == COLUMN_VALUE)
		good = whole_value(program, column, message, value, null, &why);
	else
		return metadata_value(program, column, message, value, null, sqlstate, error);
	if (good)
		return true;
	*sqlstate = why.sqlstate;
	*error = psprintf("column \"%s\": %s",
					  NameStr(TupleDescAttr(program->desc, column->attno - 1)->attname),
					  why.text);
	return false;
}

/* ---------------------------------------------------------------- tombstones */

/*
 * The key's JSON member of each key column; with one key column also the bare
 * value, JSON or not.
 */
static bool
key_column(DecodeProgram *program, DecodeColumn *key, const KafkaMessage *message,
		   bool object, bool json, Datum *value, bool *null, ValueError *why)
{
	bool		text_type = key->type.kind == VALUE_TEXT;
	JsonSpan   *whole = &program->key_spans[program->nkeys];

	if (object)
	{
		JsonSpan   *span = &program->key_spans[key->number];

		*null = span->kind == JSON_ABSENT;
		return *null || value_from_json(&key->type, span, value, null, why);
	}
	if (json && (whole->kind == JSON_STRING || !text_type))
		return value_from_json(&key->type, whole, value, null, why);
	*null = false;
	return value_from_text(&key->type, message->key, message->key_len, value, why);
}

static DecodeResult
decode_tombstone(DecodeProgram *program, const KafkaMessage *message, Datum *values, bool *nulls,
				 bool *present, int *sqlstate, const char **error)
{
	JsonKind	top = JSON_ABSENT;
	bool		json;
	size_t		at;

	if (message->key == NULL || !utf8_valid(message->key, message->key_len) ||
		memchr(message->key, '\0', message->key_len) != NULL)
		return bad(sqlstate, error, ERRCODE_NOT_NULL_VIOLATION,
				   "a tombstone without a key in UTF-8 names no row");
	json = json_scan(program->key_plan, message->key, message->key_len,
					 program->key_spans, &top, &at) == JSON_OK;
	if (program->nkeys > 1 && (!json || top != JSON_OBJECT))
		return bad(sqlstate, error, ERRCODE_INVALID_TEXT_REPRESENTATION,
				   "the key of a tombstone must be a JSON object that names the key columns");
	for (int i = 0; i < program->nkeys; i++)
	{
		DecodeColumn *key = &program->keys[i];
		ValueError	why = {0};
		bool		null = true;

		if (!key_column(program, key, message, json && top == JSON_OBJECT, json,
						&values[key->attno - 1], &null, &why))
			return bad(sqlstate, error, why.sqlstate, why.text);
		nulls[key->attno - 1] = null;
		present[key->attno - 1] = true;
		if (null)
			return bad(sqlstate, error, ERRCODE_NOT_NULL_VIOLATION,
					   psprintf("the key of a tombstone does not name column \"%s\"",
								NameStr(TupleDescAttr(program->desc, key->attno - 1)->attname)));
	}
	return DECODE_DELETE;
}

/* ---------------------------------------------------------------- messages */

DecodeResult
decode_message(DecodeProgram *program, const KafkaMessage *message,
			   Datum *values, bool *nulls, bool *present,
			   int *sqlstate, const char **error)
{
	DecodeResult result;

	memset(nulls, true, program->desc->natts);
	memset(present, false, program->desc->natts);
	memset(values, 0, sizeof(Datum) * program->desc->natts);
	if (message->value == NULL)
		return program->sub->upsert ?
			decode_tombstone(program, message, values, nulls, present, sqlstate, error) :
			DECODE_FILTERED;
	result = scan_message(program, message, sqlstate, error);
	if (result != DECODE_ROW)
		return result;
	for (int i = 0; i < program->ncolumns; i++)
	{
		DecodeColumn *column = &program->columns[i];
		int			att = column->attno - 1;

		if (!column_value(program, column, message, &values[att], &nulls[att],
						  &present[att], sqlstate, error))
			return DECODE_BAD;
	}
	return DECODE_ROW;
}

DecodeResult
check_message(DecodeProgram *program, const KafkaMessage *message, int *sqlstate, const char **error)
{
	if (program->sub->format == FORMAT_CSV)
		return check_text(program, message, sqlstate, error);
	return scan_message(program, message, sqlstate, error);
}

DecodeResult
complete_row(DecodeProgram *program, Datum *values, bool *nulls, bool *present,
			 int *sqlstate, const char **error)
{
	if (!program->fill_defaults)
		return DECODE_ROW;
	for (int c = 0; c < program->nchecked; c++)
	{
		int			i = program->checked[c];
		Form_pg_attribute att = TupleDescAttr(program->desc, i);

		if (!present[i] && program->defaults[i])
			values[i] = ExecEvalExpr(program->defaults[i], program->econtext, &nulls[i]);
		else if (!present[i] && program->domains[i])
			value_check_null(program->domains[i]);
		if (nulls[i] && (att->attnotnull || program->is_key[i]))
			return bad(sqlstate, error, ERRCODE_NOT_NULL_VIOLATION,
					   psprintf("null value in column \"%s\" of relation \"%s\" violates not-null constraint",
								NameStr(att->attname), RelationGetRelationName(program->target)));
	}
	memcpy(present, program->insertable, sizeof(bool) * program->desc->natts);
	return DECODE_ROW;
}
