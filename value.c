/*
 * value.c
 *		One JSON value, or one text, to a Datum.
 *
 * Rule: where core/scalar.h is sure, its answer is PostgreSQL's; wherever it is
 * not, the type's own input function decides.  So speed never changes a value.
 */
#include "postgres.h"

#include <float.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "core/scalar.h"
#include "value.h"

static bool
bad(ValueError *error, int sqlstate, const char *text)
{
	error->sqlstate = sqlstate;
	error->text = text;
	return false;
}

/* ---------------------------------------------------------------- types */

static ValueKind
scalar_kind(Oid typid, int32 typmod)
{
	switch (typid)
	{
		case INT2OID:
			return VALUE_INT2;
		case INT4OID:
			return VALUE_INT4;
		case INT8OID:
			return VALUE_INT8;
		case FLOAT8OID:
			return VALUE_FLOAT8;
		case BOOLOID:
			return VALUE_BOOL;
		case TEXTOID:
		case VARCHAROID:
			return VALUE_TEXT;
		case UUIDOID:
			return VALUE_UUID;
		case DATEOID:
			return VALUE_DATE;
		case TIMESTAMPOID:
			return typmod < 0 ? VALUE_TIMESTAMP : VALUE_INPUT;
		case TIMESTAMPTZOID:
			return typmod < 0 ? VALUE_TIMESTAMPTZ : VALUE_INPUT;
		case JSONOID:
			return VALUE_JSON;
		case JSONBOID:
			return VALUE_JSONB;
		default:
			return VALUE_INPUT;
	}
}

/* jsonb_populate_record finds its result type in the call's expression. */
static void
init_populate(ValueType *type)
{
	Const	   *null = makeNullConst(type->base, -1, InvalidOid);
	FuncExpr   *call = makeFuncExpr(F_JSONB_POPULATE_RECORD, type->base,
									list_make2(null, makeNullConst(JSONBOID, -1, InvalidOid)),
									InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);

	fmgr_info_cxt(F_JSONB_POPULATE_RECORD, &type->populate, type->context);
	fmgr_info_set_expr((Node *) call, &type->populate);
}

void
value_type_init(ValueType *type, Oid typid, int32 typmod)
{
	int32		base_typmod = typmod;
	Oid			element;
	Oid			input;

	memset(type, 0, sizeof(ValueType));
	type->typid = typid;
	type->typmod = typmod;
	type->context = CurrentMemoryContext;
	type->base = getBaseTypeAndTypmod(typid, &base_typmod);
	type->kind = scalar_kind(type->base, base_typmod);
	element = get_base_element_type(typid);
	if (OidIsValid(element))
	{
		type->kind = VALUE_ARRAY;
		type->element = palloc(sizeof(ValueType));
		value_type_init(type->element, element, base_typmod);
	}
	else if (get_typtype(type->base) == TYPTYPE_COMPOSITE)
	{
		type->kind = VALUE_COMPOSITE;
		init_populate(type);
	}
	if (type->base != typid)
	{
		/* a scalar domain's input function checks it; the others are checked after */
		type->domain = type->kind == VALUE_ARRAY || type->kind == VALUE_COMPOSITE ||
			type->kind == VALUE_JSON || type->kind == VALUE_JSONB;
		if (!type->domain)
			type->kind = VALUE_INPUT;
	}
	type->plain_text = type->kind == VALUE_TEXT && GetDatabaseEncoding() == PG_UTF8;
	type->max_len = typmod < 0 ? MaxAllocSize / 2 : typmod - VARHDRSZ;
	getTypeInputInfo(typid, &input, &type->ioparam);
	fmgr_info(input, &type->input);
}

/* ---------------------------------------------------------------- text */

char *
utf8_to_server(const char *text, size_t len)
{
	char	   *copy = pnstrdup(text, len);

	if (GetDatabaseEncoding() != PG_UTF8 && len > 0)
		return pg_any_to_server(copy, (int) len, PG_UTF8);
	return copy;
}

static Datum
text_datum(const char *text, size_t len)
{
	if (GetDatabaseEncoding() != PG_UTF8)
		return CStringGetTextDatum(utf8_to_server(text, len));
	return PointerGetDatum(cstring_to_text_with_len(text, (int) len));
}

static Datum
by_input(ValueType *type, const char *text, size_t len)
{
	return InputFunctionCall(&type->input, utf8_to_server(text, len),
							 type->ioparam, type->typmod);
}

static const char *
quoted(const char *format, const char *text, size_t len)
{
	return psprintf(format, utf8_to_server(text, Min(len, 100)));
}

/* Words of PostgreSQL's own input functions for what they surely refuse. */
static bool
refuse(ValueType *type, ScalarResult result, const char *text, size_t len, ValueError *error)
{
	bool		time = type->kind == VALUE_DATE || type->kind == VALUE_TIMESTAMP ||
		type->kind == VALUE_TIMESTAMPTZ;
	size_t		shown = pg_mbcliplen(text, (int) len, 100);

	if (result == SCALAR_RANGE)
		return bad(error, time ? ERRCODE_DATETIME_FIELD_OVERFLOW : ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
				   psprintf("value \"%s\" is out of range for type %s",
							utf8_to_server(text, shown), format_type_be(type->typid)));
	return bad(error, time ? ERRCODE_INVALID_DATETIME_FORMAT : ERRCODE_INVALID_TEXT_REPRESENTATION,
			   psprintf("invalid input syntax for type %s: \"%s\"",
						format_type_be(type->typid), utf8_to_server(text, shown)));
}

static ScalarResult
fast_scalar(ValueType *type, const char *text, size_t len, Datum *value)
{
	ScalarResult result = SCALAR_UNSURE;
	bool		zoned;

	switch (type->kind)
	{
		case VALUE_INT2:
			{
				int16		v;

				if ((result = scalar_int16(text, len, &v)) == SCALAR_OK)
					*value = Int16GetDatum(v);
				break;
			}
		case VALUE_INT4:
			{
				int32		v;

				if ((result = scalar_int32(text, len, &v)) == SCALAR_OK)
					*value = Int32GetDatum(v);
				break;
			}
		case VALUE_INT8:
			{
				int64_t		v;

				if ((result = scalar_int64(text, len, &v)) == SCALAR_OK)
					*value = Int64GetDatum(v);
				break;
			}
		case VALUE_FLOAT8:
			{
				double		v;

				if ((result = scalar_double(text, len, &v)) == SCALAR_OK)
					*value = Float8GetDatum(v);
				break;
			}
		case VALUE_BOOL:
			{
				bool		v;

				if ((result = scalar_bool(text, len, &v)) == SCALAR_OK)
					*value = BoolGetDatum(v);
				break;
			}
		case VALUE_DATE:
			{
				int32		v;

				if ((result = scalar_date(text, len, &v)) == SCALAR_OK)
					*value = DateADTGetDatum(v);
				break;
			}
		case VALUE_TIMESTAMPTZ:
		case VALUE_TIMESTAMP:
			{
				int64_t		v;

				result = scalar_timestamp(text, len, &v, &zoned);
				/* type timestamp ignores a zone, ours has applied it */
				if (result == SCALAR_OK && zoned && type->kind == VALUE_TIMESTAMP)
					result = SCALAR_UNSURE;
				if (result == SCALAR_OK)
					*value = TimestampTzGetDatum(v);
				break;
			}
		default:
			break;
	}
	return result;
}

static Datum
uuid_datum(const uint8 bytes[16])
{
	pg_uuid_t  *uuid = palloc(sizeof(pg_uuid_t));

	memcpy(uuid->data, bytes, UUID_LEN);
	return UUIDPGetDatum(uuid);
}

bool
value_from_text(ValueType *type, const char *text, size_t len, Datum *value, ValueError *error)
{
	ScalarResult result;
	uint8		uuid[16];

	if (type->kind == VALUE_TEXT && (type->typmod < 0 || len <= type->typmod - VARHDRSZ))
	{
		*value = text_datum(text, len);
		return true;
	}
	if (type->kind == VALUE_UUID && scalar_uuid(text, len, uuid) == SCALAR_OK)
	{
		*value = uuid_datum(uuid);
		return true;
	}
	result = fast_scalar(type, text, len, value);
	if (result == SCALAR_SYNTAX || result == SCALAR_RANGE)
		return refuse(type, result, text, len, error);
	if (result == SCALAR_UNSURE)
	{
		*value = by_input(type, text, len);
		if (type->domain)
			domain_check(*value, false, type->typid, &type->domain_extra, type->context);
	}
	return true;
}

void
value_check_domain(ValueType *type, Datum value, bool null)
{
	if (type->base != type->typid)
		domain_check(value, null, type->typid, &type->domain_extra, type->context);
}

void
value_check_null(ValueType *type)
{
	value_check_domain(type, (Datum) 0, true);
}

/* ---------------------------------------------------------------- JSON */

/* A container's or string's own text, quotes included. */
static void
json_slice(const JsonSpan *span, const char **text, size_t *len)
{
	bool		string = span->kind == JSON_STRING;

	*text = span->start - string;
	*len = span->len + 2 * string;
}

static Datum
slice_to_jsonb(const JsonSpan *span)
{
	const char *text;
	size_t		len;

	json_slice(span, &text, &len);
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(utf8_to_server(text, len)));
}

/*
 * jsonb keeps numbers as numeric, so 1e2 reads as 100 and -0 as 0; slices that
 * could differ take that way, all others are their own text already.
 */
static bool
needs_numeric(const JsonSpan *span)
{
	if (span->start[0] == '-' && span->len > 1 && span->start[1] == '0')
		return true;
	return memchr(span->start, 'e', span->len) || memchr(span->start, 'E', span->len);
}

static bool
number_to_value(ValueType *type, const JsonSpan *span, Datum *value, ValueError *error)
{
	Datum		number;
	char	   *text;

	if (!needs_numeric(span))
		return value_from_text(type, span->start, span->len, value, error);
	number = DirectFunctionCall3(numeric_in, CStringGetDatum(pnstrdup(span->start, span->len)),
								 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	text = DatumGetCString(DirectFunctionCall1(numeric_out, number));
	return value_from_text(type, text, strlen(text), value, error);
}

static bool
string_to_value(ValueType *type, const JsonSpan *span, Datum *value, ValueError *error)
{
	char		small[256];
	char	   *text;
	size_t		len;

	if (span->has_nul)
		return bad(error, ERRCODE_UNTRANSLATABLE_CHARACTER,
				   "\\u0000 cannot be converted to text");
	if (!span->escaped)
		return value_from_text(type, span->start, span->len, value, error);
	text = span->len <= sizeof(small) ? small : palloc(span->len);
	len = json_unescape(span, text);
	return value_from_text(type, text, len, value, error);
}

/* An object or array where a plain type is wanted: its text, as jsonb prints it. */
static bool
container_to_value(ValueType *type, const JsonSpan *span, Datum *value, ValueError *error)
{
	Jsonb	   *jb = DatumGetJsonbP(slice_to_jsonb(span));
	char	   *text = JsonbToCString(NULL, &jb->root, VARSIZE(jb));

	*value = InputFunctionCall(&type->input, text, type->ioparam, type->typmod);
	return true;
}

typedef struct ArrayBuild
{
	ValueType  *element;
	ArrayBuildState *state;
	int			ndims;			/* 0: not known yet */
	int			dims[JSON_MAX_DEPTH];	/* -1: not known yet; of the first ndims */
} ArrayBuild;

/* At the first level that holds no arrays; more than an array can have are refused last. */
static void
set_dimensions(ArrayBuild *build, int ndims)
{
	build->ndims = ndims;
	for (int i = 0; i < ndims; i++)
		build->dims[i] = -1;
}

/* Elements of one nesting level; false where the shape is not rectangular. */
static bool
array_level(ArrayBuild *build, const JsonSpan *span, int level, ValueError *error)
{
	JsonElements it;
	JsonSpan	element;
	int			count = 0;

	json_elements(span, &it);
	while (json_next_element(&it, &element))
	{
		/* the first element that is no array tells how many dimensions there are */
		bool		deeper = build->ndims == 0 ? element.kind == JSON_ARRAY :
			level + 1 < build->ndims;

		if (build->ndims == 0 && !deeper)
			set_dimensions(build, level + 1);
		if (deeper && element.kind != JSON_ARRAY)
			return bad(error, ERRCODE_INVALID_TEXT_REPRESENTATION,
					   "malformed JSON array: sub-arrays must have matching dimensions");
		if (deeper)
		{
			if (!array_level(build, &element, level + 1, error))
				return false;
		}
		else
		{
			Datum		value;
			bool		null;

			if (!value_from_json(build->element, &element, &value, &null, error))
				return false;
			build->state = accumArrayResult(build->state, value, null,
											build->element->typid, CurrentMemoryContext);
		}
		count++;
	}
	if (build->ndims == 0)
		set_dimensions(build, level + 1);	/* empty */
	if (build->dims[level] >= 0 && build->dims[level] != count)
		return bad(error, ERRCODE_INVALID_TEXT_REPRESENTATION,
				   "malformed JSON array: sub-arrays must have matching dimensions");
	build->dims[level] = count;
	return true;
}

static bool
array_to_value(ValueType *type, const JsonSpan *span, Datum *value, ValueError *error)
{
	ArrayBuild	build;
	int			lbs[MAXDIM] = {1, 1, 1, 1, 1, 1};

	build.element = type->element;
	build.state = NULL;
	build.ndims = 0;
	if (!array_level(&build, span, 0, error))
		return false;
	if (build.ndims > MAXDIM)
		return bad(error, ERRCODE_PROGRAM_LIMIT_EXCEEDED, "too many array dimensions");
	if (build.state == NULL)
		*value = PointerGetDatum(construct_empty_array(type->element->typid));
	else
		*value = makeMdArrayResult(build.state, build.ndims, build.dims, lbs,
								   CurrentMemoryContext, false);
	return true;
}

static bool
composite_to_value(ValueType *type, const JsonSpan *span, Datum *value, bool *null)
{
	LOCAL_FCINFO(fcinfo, 2);

	InitFunctionCallInfoData(*fcinfo, &type->populate, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = (Datum) 0;
	fcinfo->args[0].isnull = true;
	fcinfo->args[1].value = slice_to_jsonb(span);
	fcinfo->args[1].isnull = false;
	*value = FunctionCallInvoke(fcinfo);
	*null = fcinfo->isnull;
	return true;
}

static Datum
json_to_json(ValueType *type, const JsonSpan *span)
{
	const char *text;
	size_t		len;

	if (type->kind == VALUE_JSONB)
		return slice_to_jsonb(span);
	json_slice(span, &text, &len);
	return text_datum(text, len);
}

static bool
nonnull_from_json(ValueType *type, const JsonSpan *span, Datum *value, bool *null,
				  ValueError *error)
{
	bool		container = span->kind == JSON_OBJECT || span->kind == JSON_ARRAY;

	if (type->kind == VALUE_JSON || type->kind == VALUE_JSONB)
		*value = json_to_json(type, span);
	else if (type->kind == VALUE_ARRAY && span->kind == JSON_ARRAY)
		return array_to_value(type, span, value, error);
	else if (type->kind == VALUE_ARRAY && span->kind != JSON_STRING)
		return bad(error, ERRCODE_INVALID_TEXT_REPRESENTATION, "expected JSON array");
	else if (type->kind == VALUE_COMPOSITE && span->kind == JSON_OBJECT)
		return composite_to_value(type, span, value, null);
	else if (type->kind == VALUE_COMPOSITE && span->kind != JSON_STRING)
		return bad(error, ERRCODE_INVALID_PARAMETER_VALUE, "expected JSON object");
	else if (container)
		return container_to_value(type, span, value, error);
	else if (span->kind == JSON_NUMBER)
		return number_to_value(type, span, value, error);
	else if (span->kind == JSON_STRING)
		return string_to_value(type, span, value, error);
	else
		return value_from_text(type, span->kind == JSON_TRUE ? "true" : "false",
							   span->kind == JSON_TRUE ? 4 : 5, value, error);
	return true;
}

/* Both are exact below 2^53 and 10^22, so their quotient is rounded once, as strtod rounds. */
static bool
plain_double(const JsonSpan *span, Datum *value)
{
	static const double power[] = {
		1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14,
		1e15, 1e16, 1e17, 1e18
	};

	if (FLT_EVAL_METHOD != 0 || span->mantissa >= INT64CONST(1) << 53 ||
		span->mantissa <= -(INT64CONST(1) << 53))
		return false;
	*value = Float8GetDatum((double) span->mantissa / power[span->scale]);
	return true;
}

static bool
plain_number(const ValueType *type, const JsonSpan *span, Datum *value)
{
	int64		number = span->mantissa;

	if (type->kind == VALUE_FLOAT8)
		return plain_double(span, value);
	if (span->scale != 0)
		return false;
	switch (type->kind)
	{
		case VALUE_INT4:
			*value = Int32GetDatum((int32) number);
			return number == (int32) number;
		case VALUE_INT8:
			*value = Int64GetDatum(number);
			return true;
		case VALUE_INT2:
			*value = Int16GetDatum((int16) number);
			return number == (int16) number;
		default:
			return false;
	}
}

static bool
plain_string(const ValueType *type, const JsonSpan *span, Datum *value)
{
	if (type->plain_text && span->len <= type->max_len)
	{
		text	   *result = palloc(span->len + VARHDRSZ);

		SET_VARSIZE(result, span->len + VARHDRSZ);
		memcpy(VARDATA(result), span->start, span->len);
		*value = PointerGetDatum(result);
		return true;
	}
	if (type->kind == VALUE_TIMESTAMPTZ)
	{
		int64_t		micros;
		bool		zoned;

		if (scalar_timestamp(span->start, span->len, &micros, &zoned) != SCALAR_OK)
			return false;
		*value = TimestampTzGetDatum(micros);
		return true;
	}
	return false;
}

bool
value_from_plain_json(const ValueType *type, const JsonSpan *span, Datum *value)
{
	switch (span->kind)
	{
		case JSON_NUMBER:
			return span->small && plain_number(type, span, value);
		case JSON_STRING:
			return !span->escaped && plain_string(type, span, value);
		case JSON_TRUE:
		case JSON_FALSE:
			*value = BoolGetDatum(span->kind == JSON_TRUE);
			return type->kind == VALUE_BOOL;
		default:
			return false;
	}
}

bool
value_from_json(ValueType *type, const JsonSpan *span, Datum *value, bool *null,
				ValueError *error)
{
	*value = (Datum) 0;
	*null = span->kind == JSON_NULL;
	if (*null)
	{
		value_check_null(type);
		return true;
	}
	if (!nonnull_from_json(type, span, value, null, error))
		return false;
	if (type->domain)
		domain_check(*value, *null, type->typid, &type->domain_extra, type->context);
	return true;
}

bool
value_from_epoch(ValueType *type, int digits, const JsonSpan *span, Datum *value,
				 ValueError *error)
{
	int64_t		micros;
	ScalarResult result = SCALAR_SYNTAX;

	if (span->kind == JSON_NUMBER || (span->kind == JSON_STRING && !span->escaped))
		result = scalar_epoch(span->start, span->len, digits, &micros);
	if (result != SCALAR_OK)
		return bad(error, result == SCALAR_RANGE ? ERRCODE_DATETIME_FIELD_OVERFLOW
				   : ERRCODE_INVALID_DATETIME_FORMAT,
				   quoted("not a time since the epoch: \"%s\"", span->start,
						  pg_mbcliplen(span->start, (int) span->len, 100)));
	/* a precision or a domain is the input function's to apply */
	if (type->typmod >= 0 || type->base != type->typid)
	{
		const char *text = timestamptz_to_str(micros);

		*value = by_input(type, text, strlen(text));
	}
	else
		*value = TimestampTzGetDatum(micros);
	return true;
}
