/*
 * test/unit/fuzz_json.c
 *		libFuzzer target for core/: the first byte chooses what is fed.
 *
 * Invariants, not values: spans lie inside the text and are values themselves,
 * unescaped text is no longer than its span and valid UTF-8, a plan never
 * changes what is accepted, integers print back to what was read.
 */
#include "core/address.h"
#include "core/csv.h"
#include "core/json.h"
#include "core/scalar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NPATHS	6
#define REQUIRE(condition) \
	do { \
		if (!(condition)) \
		{ \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static JsonPlan *
make_plan(int npaths)
{
	static const char *const texts[NPATHS] = {
		"$", "$.a", "$.b[0]", "$.a.b", "$[1].a", "$.abcdefghi"
	};
	JsonStep	steps[NPATHS][8];
	JsonPath	paths[NPATHS];
	int			i;

	for (i = 0; i < npaths; i++)
	{
		paths[i].steps = steps[i];
		paths[i].nsteps = json_parse_path(texts[i], strlen(texts[i]), steps[i], 8);
		REQUIRE(paths[i].nsteps >= 0);
	}
	return json_plan_build(malloc(json_plan_size(paths, npaths)), paths, npaths);
}

static void
check_string(const JsonSpan *span)
{
	char	   *out = malloc(span->len);
	size_t		len = json_unescape(span, out);

	REQUIRE(len <= span->len);
	REQUIRE(utf8_valid(out, len));
	REQUIRE(span->has_nul == (len > 0 && memchr(out, 0, len) != NULL));
	REQUIRE(span->escaped == (span->len > 0 && memchr(span->start, '\\', span->len) != NULL));
	free(out);
}

/* The span, and for an array all that is in it. */
static void
check_span(const JsonPlan *whole, const JsonSpan *span, const char *text, size_t size)
{
	JsonElements it;
	JsonSpan	element;
	JsonSpan	again;
	JsonKind	top;
	size_t		at;

	if (span->kind == JSON_ABSENT)
		return;
	REQUIRE(span->start >= text && span->start + span->len <= text + size);
	if (span->kind == JSON_STRING)
	{
		check_string(span);
		return;
	}
	REQUIRE(json_scan(whole, span->start, span->len, &again, &top, &at) == JSON_OK);
	REQUIRE(top == span->kind && again.len == span->len && again.has_nul == span->has_nul);
	if (span->kind != JSON_ARRAY)
		return;
	json_elements(span, &it);
	while (json_next_element(&it, &element))
		check_span(whole, &element, text, size);
	REQUIRE(it.at == it.end);
}

static void
fuzz_scan(const char *text, size_t size)
{
	static JsonPlan *nothing;
	static JsonPlan *whole;
	static JsonPlan *plan;
	JsonSpan	spans[NPATHS];
	JsonKind	top;
	JsonKind	other_top;
	size_t		at;
	size_t		other_at;
	JsonError	error;
	int			i;

	if (plan == NULL)
	{
		nothing = make_plan(0);
		whole = make_plan(1);
		plan = make_plan(NPATHS);
	}
	error = json_scan(plan, text, size, spans, &top, &at);
	REQUIRE(json_scan(nothing, text, size, NULL, &other_top, &other_at) == error);
	REQUIRE(other_top == top && other_at == at && at <= size);
	REQUIRE(error != JSON_OK || spans[0].kind == top);
	REQUIRE(error != JSON_OK || utf8_valid(text, size));
	for (i = 0; i < NPATHS; i++)
		check_span(whole, &spans[i], text, size);
}

static void
fuzz_path(const char *text, size_t size)
{
	JsonStep	steps[4];
	JsonPath	path = {steps, json_parse_path(text, size, steps, 4)};
	JsonSpan	span;
	JsonKind	top;
	size_t		at;
	JsonPlan   *plan;

	if (path.nsteps < 0)
		return;
	plan = json_plan_build(malloc(json_plan_size(&path, 1)), &path, 1);
	REQUIRE(json_scan(plan, "{\"a\":[{\"b\":1},2]}", 17, &span, &top, &at) == JSON_OK);
	REQUIRE((span.kind == JSON_OBJECT) || path.nsteps > 0);
	free(plan);
}

static void
fuzz_numbers(const char *text, size_t size)
{
	int64_t		i64;
	int32_t		i32;
	int16_t		i16;
	double		number;
	double		reread;
	char		buffer[40];
	ScalarResult r64 = scalar_int64(text, size, &i64);
	ScalarResult r32 = scalar_int32(text, size, &i32);
	ScalarResult r16 = scalar_int16(text, size, &i16);

	REQUIRE(r16 != SCALAR_OK || (r32 == SCALAR_OK && i16 == i32));
	REQUIRE(r32 != SCALAR_OK || (r64 == SCALAR_OK && i32 == i64));
	REQUIRE((r64 == SCALAR_SYNTAX) == (r32 == SCALAR_SYNTAX) || r32 == SCALAR_UNSURE);
	if (r64 == SCALAR_OK)
	{
		REQUIRE(size == 0 || memchr(text, 0, size) == NULL);
		snprintf(buffer, sizeof(buffer), "%lld", (long long) i64);
		REQUIRE(strtoll(buffer, NULL, 10) == i64);
		REQUIRE(scalar_double(text, size, &number) != SCALAR_SYNTAX);
	}
	if (scalar_double(text, size, &number) == SCALAR_OK && size < sizeof(buffer))
	{
		memcpy(buffer, text, size);
		buffer[size] = '\0';
		reread = strtod(buffer, NULL);
		REQUIRE(memcmp(&reread, &number, sizeof(number)) == 0);
	}
}

static void
fuzz_others(const char *text, size_t size)
{
	static const int digits[] = {0, 3, 6, 9};
	bool		flag;
	uint8_t		uuid[16];
	int32_t		days;
	int64_t		micros;
	int			i;

	scalar_bool(text, size, &flag);
	scalar_uuid(text, size, uuid);
	if (scalar_date(text, size, &days) == SCALAR_OK)
		REQUIRE(days >= -730119 && days <= 2921939);
	if (scalar_timestamp(text, size, &micros, &flag) == SCALAR_OK)
		REQUIRE(scalar_timestamp_in_range(micros));
	for (i = 0; i < 4; i++)
	{
		if (scalar_epoch(text, size, digits[i], &micros) == SCALAR_OK)
			REQUIRE(scalar_timestamp_in_range(micros));
	}
}

static void
fuzz_csv(const CsvFormat *format, const char *text, size_t size)
{
	CsvField	fields[4];
	int			n;
	int			i;
	CsvError	error = csv_split(format, text, size, fields, 4, &n);

	if (error != CSV_OK)
		return;
	REQUIRE(n >= 1 && n <= 4);
	for (i = 0; i < n; i++)
	{
		char	   *out = malloc(fields[i].len);
		size_t		len = csv_unquote(format, &fields[i], out);

		REQUIRE(len <= fields[i].len && (fields[i].quoted || len == fields[i].len));
		REQUIRE(!fields[i].null || !fields[i].quoted);
		REQUIRE(size == 0 ||
				(fields[i].start >= text && fields[i].start + fields[i].len <= text + size));
		free(out);
	}
}

/* Only a blank list, a star or the very host lets one through. */
static void
fuzz_address(const char *text, size_t size)
{
	char	   *list = malloc(size + 1);

	if (size > 0)
		memcpy(list, text, size);
	list[size] = '\0';
	if (address_allowed(list, "h", "9"))
		REQUIRE(list[strspn(list, " \t,")] == '\0' || strpbrk(list, "*hH") != NULL);
	free(list);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const CsvFormat standard = {',', '"', '"', "", 0};
	static const CsvFormat other = {';', '\'', '\\', "NULL", 4};
	char	   *text;

	if (size == 0)
		return 0;
	size--;
	text = malloc(size);
	if (size > 0)
		memcpy(text, data + 1, size);
	switch (data[0] % 8)
	{
		case 0:
			if (data[0] & 8)
				fuzz_address(text, size);
			else
				fuzz_path(text, size);
			break;
		case 1:
			fuzz_numbers(text, size);
			break;
		case 2:
			fuzz_others(text, size);
			break;
		case 3:
			fuzz_csv(data[0] & 8 ? &standard : &other, text, size);
			break;
		default:
			fuzz_scan(text, size);
	}
	free(text);
	return 0;
}
