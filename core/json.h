/*
 * core/json.h
 *		One pass over a JSON text: validate all of it, note where the wanted
 *		values stand.
 *
 * The wanted paths are compiled once into a JsonPlan (a trie of member names
 * and array indexes); json_scan then walks each document a single time, checks
 * the whole of it (RFC 8259 as PostgreSQL's json type reads it: no BOM, no NaN,
 * no trailing bytes, UTF-8 well formed, \u0000 noted, surrogates paired, depth
 * at most JSON_MAX_DEPTH) and fills one JsonSpan per path.  Of repeated members the
 * last one wins.  Names match exactly, after unescaping.
 *
 * No memory is allocated while scanning; the plan's memory is the caller's
 * (json_plan_size tells how much).  Thread-safe: a plan is read-only once built.
 */
#ifndef KAPPA_CORE_JSON_H
#define KAPPA_CORE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JSON_MAX_DEPTH	256

typedef enum JsonKind
{
	JSON_ABSENT = 0,
	JSON_NULL,
	JSON_TRUE,
	JSON_FALSE,
	JSON_NUMBER,
	JSON_STRING,				/* start/len without the quotes */
	JSON_OBJECT,
	JSON_ARRAY
} JsonKind;

typedef struct JsonSpan
{
	JsonKind	kind;
	bool		escaped;		/* a string with at least one backslash */
	bool		has_nul;		/* holds \u0000 somewhere inside */
	bool		small;			/* a number = mantissa / 10^scale, no -0, no exponent */
	int8_t		scale;			/* digits after its point */
	const char *start;
	size_t		len;
	int64_t		mantissa;		/* of a small number, at most 18 digits */
} JsonSpan;

typedef enum JsonError
{
	JSON_OK = 0,
	JSON_EMPTY,					/* nothing but white space */
	JSON_SYNTAX,
	JSON_TRAILING,				/* a second document or bytes after the first */
	JSON_BAD_UTF8,
	JSON_BAD_ESCAPE,			/* unknown escape or unpaired surrogate */
	JSON_CONTROL_CHARACTER,		/* raw byte below 0x20 in a string */
	JSON_TOO_DEEP
} JsonError;

typedef struct JsonPlan JsonPlan;

/* One step of a path: a member name, or an array index where name is NULL. */
typedef struct JsonStep
{
	const char *name;
	size_t		name_len;
	int			index;
} JsonStep;

typedef struct JsonPath
{
	const JsonStep *steps;
	int			nsteps;			/* 0: the whole document */
} JsonPath;

/*
 * Parse "$", "$.a.b", "$.a[0]", "$['a b']", "$.\"a b\"" (and a bare "a.b" is
 * refused) into steps, at most max of them.  Names point into text.  Returns
 * the number of steps, -1 where the text is no such path.
 */
extern int	json_parse_path(const char *text, size_t len, JsonStep *steps, int max);

/* Bytes that a plan of these paths needs. */
extern size_t json_plan_size(const JsonPath *paths, int npaths);

/* Build into memory (of json_plan_size bytes, max-aligned).  Names are copied. */
extern JsonPlan *json_plan_build(void *memory, const JsonPath *paths, int npaths);

/*
 * Scan one document.  spans has one entry a path; those not found are
 * JSON_ABSENT.  *top is the kind of the document itself.  *error_at is the byte
 * offset of an error.
 */
extern JsonError json_scan(const JsonPlan *plan, const char *text, size_t len,
						   JsonSpan *spans, JsonKind *top, size_t *error_at);

/*
 * Unescape a JSON_STRING span into out (never longer than the span) and return
 * its length.  The span must come from a successful scan.  \u0000 becomes a NUL
 * byte: check has_nul first.
 */
extern size_t json_unescape(const JsonSpan *span, char *out);

/* Step through the elements of a JSON_ARRAY span of a successful scan. */
typedef struct JsonElements
{
	const char *at;
	const char *end;
} JsonElements;

extern void json_elements(const JsonSpan *array, JsonElements *it);
extern bool json_next_element(JsonElements *it, JsonSpan *element);

/* Words for an error: "invalid JSON: ..." without any of the document's bytes. */
extern const char *json_error_text(JsonError error);

/* true where the bytes are well-formed UTF-8 (surrogates and overlongs refused). */
extern bool utf8_valid(const char *text, size_t len);

#endif
