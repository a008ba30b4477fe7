/*
 * value.h
 *		One JSON value, or one text, to a Datum of a given type.
 *
 * As jsonb_populate_record reads it: a JSON string's text, or a number's or
 * boolean's, goes to the type's input function; arrays and objects go to arrays,
 * composites and json types.  The common types are read without their input
 * functions, with the same result (core/scalar.h).
 */
#ifndef KAPPA_VALUE_H
#define KAPPA_VALUE_H

#include "postgres.h"

#include "fmgr.h"

#include "core/json.h"

typedef enum ValueKind
{
	VALUE_INPUT,				/* by the type's input function */
	VALUE_INT2,
	VALUE_INT4,
	VALUE_INT8,
	VALUE_FLOAT8,
	VALUE_BOOL,
	VALUE_TEXT,					/* text, and varchar where it surely fits */
	VALUE_UUID,
	VALUE_DATE,
	VALUE_TIMESTAMP,
	VALUE_TIMESTAMPTZ,
	VALUE_JSON,
	VALUE_JSONB,
	VALUE_ARRAY,
	VALUE_COMPOSITE
} ValueKind;

typedef struct ValueType
{
	Oid			typid;
	int32		typmod;
	ValueKind	kind;			/* of the base type where it is a domain */
	bool		domain;			/* over an array, composite or json type */
	void	   *domain_extra;
	FmgrInfo	input;
	Oid			ioparam;
	struct ValueType *element;	/* VALUE_ARRAY */
	bool		plain_text;		/* UTF-8 of up to max_len bytes is the value as it stands */
	size_t		max_len;
	Oid			base;			/* without domains */
	FmgrInfo	populate;		/* VALUE_COMPOSITE: jsonb_populate_record */
	MemoryContext context;
} ValueType;

typedef struct ValueError
{
	int			sqlstate;
	const char *text;			/* palloc'd or constant */
} ValueError;

extern void value_type_init(ValueType *type, Oid typid, int32 typmod);

/*
 * The common case of value_from_json: a plain JSON scalar for a plain type.  false:
 * it is not that case, nothing is known.
 */
extern bool value_from_plain_json(const ValueType *type, const JsonSpan *span, Datum *value);

/* false: bad, *error says why.  May also raise an ERROR. */
extern bool value_from_json(ValueType *type, const JsonSpan *span,
							Datum *value, bool *null, ValueError *error);

/* UTF-8 bytes that need not end in NUL. */
extern bool value_from_text(ValueType *type, const char *text, size_t len,
							Datum *value, ValueError *error);

/* A value that came without the type's input function: a domain may refuse it (ERROR). */
extern void value_check_domain(ValueType *type, Datum value, bool null);
extern void value_check_null(ValueType *type);

/* 10^-digits seconds since the epoch, for timestamp and timestamptz. */
extern bool value_from_epoch(ValueType *type, int digits, const JsonSpan *span,
							 Datum *value, ValueError *error);

/* UTF-8 to the database's encoding, NUL-terminated, palloc'd. */
extern char *utf8_to_server(const char *text, size_t len);

#endif
