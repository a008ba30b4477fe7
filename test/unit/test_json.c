/*
 * test/unit/test_json.c
 *		json_scan and its helpers, by written cases.
 */
#include "core/json.h"
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PATHS	8

typedef struct Case
{
	const char *text;
	size_t		len;
	JsonError	error;
	long		at;				/* offset of the error, -1: not looked at */
} Case;

#define OK(text)			{text, sizeof(text) - 1, JSON_OK, -1}
#define BAD(text, error)	{text, sizeof(text) - 1, error, -1}
#define BAD_AT(text, error, at)	{text, sizeof(text) - 1, error, at}

/* Compile paths written as text; free() the plan. */
static JsonPlan *
plan_of(const char *const *texts, int n)
{
	JsonStep	steps[MAX_PATHS][8];
	JsonPath	paths[MAX_PATHS];
	int			i;

	for (i = 0; i < n; i++)
	{
		int			nsteps = json_parse_path(texts[i], strlen(texts[i]), steps[i], 8);

		CHECK(nsteps >= 0, "path %s", texts[i]);
		paths[i] = (JsonPath) {steps[i], nsteps};
	}
	/* Exact, so that the sanitizer sees a plan that outgrows its size. */
	return json_plan_build(malloc(json_plan_size(paths, n)), paths, n);
}

/* Scan an exact copy of the text; spans then point into *copy. */
static JsonError
scan_copy(const JsonPlan *plan, const char *text, size_t len, JsonSpan *spans,
		  JsonKind *top, size_t *at, char **copy)
{
	*copy = unit_exact(text, len);
	return json_scan(plan, *copy, len, spans, top, at);
}

static void
run_cases(const Case *cases, size_t n)
{
	static const char *const whole[] = {"$", "$.a", "$.a.b", "$[1]", "$.a[0].b"};
	JsonPlan   *plans[3];
	size_t		i;
	int			k;

	/* Nobody wants anything; the whole; members and elements. */
	plans[0] = plan_of(whole, 0);
	plans[1] = plan_of(whole, 1);
	plans[2] = plan_of(whole, 5);
	for (i = 0; i < n; i++)
	{
		for (k = 0; k < 3; k++)
		{
			JsonSpan	spans[MAX_PATHS];
			JsonKind	top;
			size_t		at;
			char	   *copy;
			JsonError	error = scan_copy(plans[k], cases[i].text, cases[i].len,
										  spans, &top, &at, &copy);

			CHECK(error == cases[i].error, "%s: error %d, expected %d",
				  unit_show(cases[i].text, cases[i].len), error, cases[i].error);
			CHECK((error == JSON_OK) == (top != JSON_ABSENT), "%s: top %d",
				  unit_show(cases[i].text, cases[i].len), top);
			CHECK(at <= cases[i].len, "offset %zu beyond the text", at);
			CHECK(cases[i].at < 0 || (size_t) cases[i].at == at,
				  "%s: error at %zu, expected %ld",
				  unit_show(cases[i].text, cases[i].len), at, cases[i].at);
			CHECK(k == 0 || error == JSON_OK || spans[0].kind == JSON_ABSENT,
				  "%s: a span after an error", unit_show(cases[i].text, cases[i].len));
			free(copy);
		}
	}
	for (k = 0; k < 3; k++)
		free(plans[k]);
}

static void
test_valid(void)
{
	static const Case cases[] = {
		OK("null"), OK("true"), OK("false"), OK("0"), OK("-0"), OK("1"),
		OK("-1"), OK("10"), OK("1234567890123456789012345678901234567890"),
		OK("0.0"), OK("-0.5"), OK("1.25"), OK("1e5"), OK("1E5"), OK("1e+5"),
		OK("1e-5"), OK("0e0"), OK("-0.0e-0"), OK("123456789.987654321e+123"),
		OK("1e999999"), OK("\"\""), OK("\"a\""), OK("\"0123456789abcdef\""),
		OK("\"0123456789abcdef0123456789abcdef!\""), OK("\"\\\"\""),
		OK("\"\\\\\""), OK("\"\\/\\b\\f\\n\\r\\t\""), OK("\"\\u0041\""),
		OK("\"\\u00e9\\u00E9\""), OK("\"\\u0000\""), OK("\"\\uFFFF\""),
		OK("\"\\uD83D\\uDE00\""), OK("\"\\ud800\\udc00\""),
		OK("\"\\udbff\\udfff\""), OK("\"\\ud7ff\\ue000\""), OK("\"\x7f\""),
		OK("\"\xC2\x80\""), OK("\"\xDF\xBF\""), OK("\"\xE0\xA0\x80\""),
		OK("\"\xED\x9F\xBF\""), OK("\"\xEE\x80\x80\""), OK("\"\xEF\xBF\xBF\""),
		OK("\"\xEF\xBB\xBF\""), OK("\"\xF0\x90\x80\x80\""),
		OK("\"\xF4\x8F\xBF\xBF\""), OK("\"\xD0\x9F\xD1\x80 ok \xE4\xB8\xAD\""),
		OK("[]"), OK("[ ]"), OK("{}"), OK("{ }"), OK("[1]"), OK("[1,2]"),
		OK("[ 1 , 2 ]"), OK("[[]]"), OK("[[],[[]],{}]"), OK("[{},{}]"),
		OK("{\"a\":1}"), OK("{\"a\":1,\"b\":2}"), OK("{ \"a\" : 1 , \"b\" : 2 }"),
		OK("{\"\":0}"), OK("{\"a\":{\"b\":{\"c\":[]}}}"), OK("{\"a\":1,\"a\":2}"),
		OK("{\"a\":[1,{\"b\":2}],\"c\":{}}"), OK(" \t\r\n1\n\r\t "),
		OK("\n{\r\"a\"\t:\n[\r]\t}\n"), OK("[true,false,null,\"\",0]"),
		OK("{\"\\u0061\":1}"), OK("{\"a\\\"b\":1}"), OK("[\"\\\\\",\"\\\\\\\"\"]"),
		OK("[0,-0,0.0,-0.0]"), OK("{\"a\":[{\"b\":1}]}"), OK("[\"]\",\"}\",\"[\",\"{\"]"),
		OK("{\"a\":[[1,2],[3,[4]]],\"b\":[{\"c\":[]},{}]}"),
	};

	run_cases(cases, sizeof(cases) / sizeof(cases[0]));
}

static void
test_syntax(void)
{
	static const Case cases[] = {
		BAD_AT("", JSON_EMPTY, 0), BAD_AT(" ", JSON_EMPTY, 1),
		BAD_AT(" \n\t\r", JSON_EMPTY, 4),
		BAD_AT("\xEF\xBB\xBF{}", JSON_SYNTAX, 0), BAD_AT("NaN", JSON_SYNTAX, 0),
		BAD("nan", JSON_SYNTAX), BAD("Infinity", JSON_SYNTAX),
		BAD("-Infinity", JSON_SYNTAX), BAD("nul", JSON_SYNTAX), BAD("n", JSON_SYNTAX),
		BAD("tru", JSON_SYNTAX), BAD("fals", JSON_SYNTAX), BAD("True", JSON_SYNTAX),
		BAD("NULL", JSON_SYNTAX), BAD("-", JSON_SYNTAX), BAD("+1", JSON_SYNTAX),
		BAD(".5", JSON_SYNTAX), BAD("1.", JSON_SYNTAX), BAD("-.5", JSON_SYNTAX),
		BAD("1.e5", JSON_SYNTAX), BAD("1e", JSON_SYNTAX), BAD("1e+", JSON_SYNTAX),
		BAD("1E-", JSON_SYNTAX), BAD_AT("[01]", JSON_SYNTAX, 2),
		BAD("[-01]", JSON_SYNTAX), BAD("[00]", JSON_SYNTAX), BAD("[0x1]", JSON_SYNTAX),
		BAD("[1_000]", JSON_SYNTAX), BAD("[1.2.3]", JSON_SYNTAX),
		BAD("[1e5.5]", JSON_SYNTAX), BAD("[1-2]", JSON_SYNTAX), BAD("[--1]", JSON_SYNTAX),
		BAD("[", JSON_SYNTAX), BAD("]", JSON_SYNTAX), BAD("{", JSON_SYNTAX),
		BAD("}", JSON_SYNTAX), BAD(",", JSON_SYNTAX), BAD(":", JSON_SYNTAX),
		BAD("[1", JSON_SYNTAX), BAD("[1,", JSON_SYNTAX), BAD_AT("[1,]", JSON_SYNTAX, 3),
		BAD("[,1]", JSON_SYNTAX), BAD("[1,,2]", JSON_SYNTAX), BAD("[1 2]", JSON_SYNTAX),
		BAD("[1}", JSON_SYNTAX), BAD("{]", JSON_SYNTAX), BAD("[}", JSON_SYNTAX),
		BAD("{\"a\"}", JSON_SYNTAX), BAD("{\"a\":}", JSON_SYNTAX),
		BAD("{\"a\":1,}", JSON_SYNTAX), BAD("{,}", JSON_SYNTAX), BAD("{a:1}", JSON_SYNTAX),
		BAD("{'a':1}", JSON_SYNTAX), BAD("{\"a\" 1}", JSON_SYNTAX),
		BAD("{\"a\":1 \"b\":2}", JSON_SYNTAX), BAD("{1:2}", JSON_SYNTAX),
		BAD("{\"a\"::1}", JSON_SYNTAX), BAD("{\"a\":1]", JSON_SYNTAX),
		BAD("{null:1}", JSON_SYNTAX), BAD("{[]:1}", JSON_SYNTAX),
		BAD("[\"a\":1]", JSON_SYNTAX), BAD("\"", JSON_SYNTAX), BAD("\"a", JSON_SYNTAX),
		BAD("\"\\", JSON_SYNTAX), BAD("\"\\\"", JSON_SYNTAX), BAD("'a'", JSON_SYNTAX),
		BAD("// x\n1", JSON_SYNTAX), BAD("/**/1", JSON_SYNTAX), BAD("\f1", JSON_SYNTAX),
		BAD("\v1", JSON_SYNTAX), BAD("\xC2\xA0" "1", JSON_SYNTAX), BAD("\0", JSON_SYNTAX),
		BAD("[1\0]", JSON_SYNTAX), BAD("[\xFF]", JSON_SYNTAX), BAD("undefined", JSON_SYNTAX),
		BAD("{\"a\":tru}", JSON_SYNTAX), BAD("[nulll]", JSON_SYNTAX),
		BAD_AT("1 2", JSON_TRAILING, 2), BAD_AT("{}{}", JSON_TRAILING, 2),
		BAD("{} x", JSON_TRAILING), BAD("[]]", JSON_TRAILING), BAD("{}}", JSON_TRAILING),
		BAD("null\0", JSON_TRAILING), BAD("\"a\"\"b\"", JSON_TRAILING), BAD("01", JSON_TRAILING),
		BAD("1,", JSON_TRAILING), BAD("nullx", JSON_TRAILING), BAD("{}\n{}", JSON_TRAILING),
		BAD("truefalse", JSON_TRAILING), BAD("1true", JSON_TRAILING), BAD("{},", JSON_TRAILING),
	};

	run_cases(cases, sizeof(cases) / sizeof(cases[0]));
}

static void
test_strings(void)
{
	static const Case cases[] = {
		BAD_AT("\"\\x41\"", JSON_BAD_ESCAPE, 1), BAD("\"\\a\"", JSON_BAD_ESCAPE),
		BAD("\"\\'\"", JSON_BAD_ESCAPE), BAD("\"\\0\"", JSON_BAD_ESCAPE),
		BAD("\"\\u\"", JSON_BAD_ESCAPE), BAD("\"\\u1\"", JSON_BAD_ESCAPE),
		BAD("\"\\u12\"", JSON_BAD_ESCAPE), BAD("\"\\u123\"", JSON_BAD_ESCAPE),
		BAD("\"\\u123g\"", JSON_BAD_ESCAPE), BAD("\"\\U0041\"", JSON_BAD_ESCAPE),
		BAD("\"\\u 123\"", JSON_BAD_ESCAPE), BAD("\"\\u+123\"", JSON_BAD_ESCAPE),
		BAD("\"\\uD800\"", JSON_BAD_ESCAPE), BAD("\"\\uDBFF\"", JSON_BAD_ESCAPE),
		BAD("\"\\uDC00\"", JSON_BAD_ESCAPE), BAD("\"\\uDFFF\"", JSON_BAD_ESCAPE),
		BAD("\"\\uDC00\\uD800\"", JSON_BAD_ESCAPE),
		BAD("\"\\uD800\\uD800\"", JSON_BAD_ESCAPE),
		BAD("\"\\uD800\\uD800\\uDC00\"", JSON_BAD_ESCAPE),
		BAD("\"\\uD800x\"", JSON_BAD_ESCAPE), BAD("\"\\uD800\\n\"", JSON_BAD_ESCAPE),
		BAD("\"\\uD800\\u0041\"", JSON_BAD_ESCAPE), BAD("\"\\uD800\\uDC0\"", JSON_BAD_ESCAPE),
		BAD("\"\\uD800 \\uDC00\"", JSON_BAD_ESCAPE),
		BAD("\"\\uD83D\\uDE00\\uDE00\"", JSON_BAD_ESCAPE),
		BAD("{\"\\q\":1}", JSON_BAD_ESCAPE), BAD("[{\"a\":\"\\q\"}]", JSON_BAD_ESCAPE),
		BAD_AT("\"a\nb\"", JSON_CONTROL_CHARACTER, 2), BAD("\"\t\"", JSON_CONTROL_CHARACTER),
		BAD("\"\0\"", JSON_CONTROL_CHARACTER), BAD("\"\x1F\"", JSON_CONTROL_CHARACTER),
		BAD("\"\x01\"", JSON_CONTROL_CHARACTER), BAD("{\"\r\":1}", JSON_CONTROL_CHARACTER),
		BAD("\"0123456789abcdef0123456789abc\n\"", JSON_CONTROL_CHARACTER),
		BAD_AT("\"\x80\"", JSON_BAD_UTF8, 1), BAD("\"\xBF\"", JSON_BAD_UTF8),
		BAD("\"\xC0\x80\"", JSON_BAD_UTF8), BAD("\"\xC1\xBF\"", JSON_BAD_UTF8),
		BAD("\"\xC2\"", JSON_BAD_UTF8), BAD("\"\xC2\xC2\"", JSON_BAD_UTF8),
		BAD("\"\xE0\x80\x80\"", JSON_BAD_UTF8), BAD("\"\xE0\x9F\xBF\"", JSON_BAD_UTF8),
		BAD("\"\xE1\x80\"", JSON_BAD_UTF8), BAD("\"\xE1\x80\xC0\"", JSON_BAD_UTF8),
		BAD("\"\xED\xA0\x80\"", JSON_BAD_UTF8), BAD("\"\xED\xBF\xBF\"", JSON_BAD_UTF8),
		BAD("\"\xF0\x80\x80\x80\"", JSON_BAD_UTF8), BAD("\"\xF0\x8F\xBF\xBF\"", JSON_BAD_UTF8),
		BAD("\"\xF1\x80\x80\"", JSON_BAD_UTF8), BAD("\"\xF1\x80\x80\x7F\"", JSON_BAD_UTF8),
		BAD("\"\xF4\x90\x80\x80\"", JSON_BAD_UTF8), BAD("\"\xF5\x80\x80\x80\"", JSON_BAD_UTF8),
		BAD("\"\xF8\x88\x80\x80\x80\"", JSON_BAD_UTF8), BAD("\"\xFE\"", JSON_BAD_UTF8),
		BAD("\"\xFF\"", JSON_BAD_UTF8), BAD("\"\xF0\x9F\x98\"", JSON_BAD_UTF8),
		BAD("\"\xC2", JSON_BAD_UTF8), BAD("\"\xE1\x80", JSON_BAD_UTF8),
		BAD("\"\xF1\x80\x80", JSON_BAD_UTF8), BAD("{\"\xFF\":1}", JSON_BAD_UTF8),
		BAD("{\"x\":[\"\xFF\"]}", JSON_BAD_UTF8), BAD("\"ok \xD0\x9F\xD1\"", JSON_BAD_UTF8),
	};

	run_cases(cases, sizeof(cases) / sizeof(cases[0]));
}

/* A bad byte at each place of strings of each length, so in each SIMD lane. */
static void
test_string_lanes(void)
{
	static const struct
	{
		char		byte;
		JsonError	error;
	}			bad[] = {
		{'\n', JSON_CONTROL_CHARACTER}, {'\x80', JSON_BAD_UTF8},
		{'\xFF', JSON_BAD_UTF8}, {'\x1F', JSON_CONTROL_CHARACTER},
		{'"', JSON_TRAILING}, {'~', JSON_OK}, {'!', JSON_OK}, {'\x7F', JSON_OK},
		{' ', JSON_OK}, {'#', JSON_OK}, {'[', JSON_OK}, {']', JSON_OK}
	};
	static const char *const whole[] = {"$"};
	JsonPlan   *plan = plan_of(whole, 1);
	size_t		len;
	size_t		at;
	size_t		k;

	for (len = 1; len < 70; len++)
	{
		for (at = 0; at < len; at++)
		{
			for (k = 0; k < sizeof(bad) / sizeof(bad[0]); k++)
			{
				char		text[80];
				char	   *copy;
				JsonSpan	span;
				JsonKind	top;
				size_t		error_at;
				JsonError	error;

				memset(text, 'x', sizeof(text));
				text[0] = text[len + 1] = '"';
				text[at + 1] = bad[k].byte;
				error = scan_copy(plan, text, len + 2, &span, &top, &error_at, &copy);
				CHECK(error == bad[k].error, "length %zu, byte %02X at %zu: %d",
					  len, (unsigned char) bad[k].byte, at, error);
				CHECK(error != JSON_OK || span.len == len, "length %zu", span.len);
				CHECK(error == JSON_OK || error_at == at + 1 + (bad[k].byte == '"'),
					  "error at %zu of %zu", error_at, at);
				free(copy);
			}
		}
	}
	free(plan);
}

/* n times open, the innermost, n times close. */
static char *
nested(size_t n, const char *open, const char *inner, const char *close, size_t *len)
{
	size_t		a = strlen(open);
	size_t		b = strlen(inner);
	size_t		c = strlen(close);
	char	   *text;
	size_t		i;

	*len = n * (a + c) + b;
	text = malloc(*len);
	for (i = 0; i < n; i++)
	{
		memcpy(text + i * a, open, a);
		memcpy(text + n * a + b + i * c, close, c);
	}
	memcpy(text + n * a, inner, b);
	return text;
}

static void
test_depth(void)
{
	static const char *const paths[] = {"$", "$.a.a.a", "$[0][0]"};
	static const struct
	{
		size_t		depth;
		JsonError	error;
	}			cases[] = {
		{1, JSON_OK}, {255, JSON_OK}, {256, JSON_OK}, {257, JSON_TOO_DEEP},
		{258, JSON_TOO_DEEP}, {1000000, JSON_TOO_DEEP}
	};
	int			npaths;
	size_t		i;

	for (npaths = 0; npaths <= 3; npaths++)
	{
		JsonPlan   *plan = plan_of(paths, npaths);

		for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		{
			JsonSpan	spans[MAX_PATHS];
			JsonKind	top;
			size_t		at;
			size_t		len;
			size_t		n = cases[i].depth;
			char	   *text = nested(n, "[", "1", "]", &len);

			CHECK(json_scan(plan, text, len, spans, &top, &at) == cases[i].error,
				  "%zu arrays", n);
			CHECK(cases[i].error == JSON_OK || at == 256, "at %zu", at);
			/* Without the closing half. */
			CHECK(json_scan(plan, text, n, spans, &top, &at) ==
				  (n <= 256 ? JSON_SYNTAX : JSON_TOO_DEEP), "%zu open arrays", n);
			free(text);
			text = nested(n, "{\"a\":", "1", "}", &len);
			CHECK(json_scan(plan, text, len, spans, &top, &at) == cases[i].error,
				  "%zu objects", n);
			free(text);
			/* The innermost container is the one too many. */
			text = nested(n - 1, "[", "{}", "]", &len);
			CHECK(json_scan(plan, text, len, spans, &top, &at) == cases[i].error,
				  "%zu with an empty object", n);
			free(text);
		}
		free(plan);
	}
}

/* A path as deep as the deepest document, and deeper ones. */
static void
test_deep_path(void)
{
	static JsonStep steps[400];
	static const int depths[] = {255, 256, 257, 400};
	size_t		i;

	for (i = 0; i < 400; i++)
		steps[i] = (JsonStep) {"a", 1, 0};
	for (i = 0; i < 4; i++)
	{
		JsonPath	path = {steps, depths[i]};
		JsonPlan   *plan = json_plan_build(malloc(json_plan_size(&path, 1)), &path, 1);
		JsonSpan	span;
		JsonKind	top;
		size_t		at;
		size_t		len;
		char	   *text = nested(256, "{\"a\":", "1", "}", &len);

		CHECK(json_scan(plan, text, len, &span, &top, &at) == JSON_OK, "scan");
		CHECK((span.kind != JSON_ABSENT) == (depths[i] <= 256), "depth %d", depths[i]);
		free(text);
		free(plan);
	}
}

typedef struct Found
{
	const char *text;
	const char *paths[4];
	const char *expected[4];	/* raw span, NULL: absent */
} Found;

static void
test_paths(void)
{
	static const Found cases[] = {
		{"{\"a\":1,\"b\":2}", {"$.a", "$.b", "$.c", "$"}, {"1", "2", NULL, "{\"a\":1,\"b\":2}"}},
		{"{\"b\":2,\"a\":1}", {"$.a", "$.b"}, {"1", "2"}},
		{"{\"x\":0,\"a\":\"s\",\"y\":[1],\"b\":null}", {"$.a", "$.b"}, {"s", "null"}},
		{" { \"a\" : [ 1 , 2 ] } ", {"$.a", "$.a[0]", "$.a[1]", "$.a[2]"}, {"[ 1 , 2 ]", "1", "2", NULL}},
		{"{\"a\":{\"b\":{\"c\":3}}}", {"$.a.b.c", "$.a.b", "$.a.c"}, {"3", "{\"c\":3}", NULL}},
		/* The last of repeated members wins, with all that is in it. */
		{"{\"a\":1,\"a\":2,\"a\":3}", {"$.a"}, {"3"}},
		{"{\"a\":1,\"b\":5,\"a\":null}", {"$.a", "$.b"}, {"null", "5"}},
		{"{\"a\":{\"b\":1},\"a\":{\"c\":2}}", {"$.a.b", "$.a.c"}, {NULL, "2"}},
		{"{\"a\":{\"b\":1,\"c\":{\"d\":1}},\"a\":7}", {"$.a.b", "$.a", "$.a.c.d"}, {NULL, "7", NULL}},
		{"{\"a\":[1,2,{\"x\":1}],\"a\":[3]}", {"$.a[0]", "$.a[1]", "$.a[2].x"}, {"3", NULL, NULL}},
		{"{\"a\":{\"b\":1},\"\\u0061\":{\"b\":2}}", {"$.a.b"}, {"2"}},
		/* Names match after unescaping. */
		{"{\"\\u0061\":1}", {"$.a"}, {"1"}},
		{"{\"\\u0061b\\u0063\":1,\"ab\\n\":2}", {"$.abc", "$['abc']"}, {"1", "1"}},
		{"{\"\\uD83D\\uDE00\":1}", {"$.\xF0\x9F\x98\x80"}, {"1"}},
		{"{\"\\u00e9\":1}", {"$.\xC3\xA9", "$.e"}, {"1", NULL}},
		{"{\"a\\/b\":1}", {"$['a/b']"}, {"1"}},
		{"{\"a\\\"b\":1}", {"$['a\"b']"}, {"1"}},
		{"{\"a\\u0000\":1,\"a\":2}", {"$.a"}, {"2"}},
		{"{\"a\\u0000\":1}", {"$.a"}, {NULL}},
		{"{\"aa\\n\":1,\"\\u0061\\u0061\\u0061\":2}", {"$.a", "$.aa", "$.aaa"}, {NULL, NULL, "2"}},
		/* Names near each other, short, of 8, 16 and more bytes. */
		{"{\"abcdefgh\":1,\"abcdefgi\":2,\"abcdefg\":3}", {"$.abcdefgh", "$.abcdefg", "$.abcdefgi"}, {"1", "3", "2"}},
		{"{\"0123456789abcdef\":1,\"0123456789abcdeg\":2}", {"$.0123456789abcdef", "$.0123456789abcdeg"}, {"1", "2"}},
		{"{\"01234567x89abcdef\":1,\"01234567y89abcdef\":2}", {"$.01234567x89abcdef", "$.01234567y89abcdef", "$.01234567z89abcdef"}, {"1", "2", NULL}},
		{"{\"\":1,\" \":2}", {"$.\"\"", "$.\" \""}, {"1", "2"}},
		{"{\"a b\":1,\"a.b\":2,\"[0]\":3}", {"$['a b']", "$.\"a.b\"", "$[\"[0]\"]"}, {"1", "2", "3"}},
		{"{\"A\":1}", {"$.a", "$.A"}, {NULL, "1"}},
		{"{\"@t\":1,\"$x\":2,\"a-b\":3}", {"$.@t", "$.$x", "$.a-b"}, {"1", "2", "3"}},
		/* The same path twice, a path within another. */
		{"{\"a\":{\"b\":1}}", {"$.a.b", "$.a.b", "$.a", "$.a"}, {"1", "1", "{\"b\":1}", "{\"b\":1}"}},
		{"[10,[20,21],{\"k\":30}]", {"$[0]", "$[1][1]", "$[2].k", "$[3]"}, {"10", "21", "30", NULL}},
		{"[10,11,12]", {"$[2]", "$[0]", "$[1]", "$[99]"}, {"12", "10", "11", NULL}},
		/* A member is no element, nor the other way round. */
		{"{\"0\":1}", {"$[0]", "$.0"}, {NULL, "1"}},
		{"[1]", {"$[0]", "$.0"}, {"1", NULL}},
		{"{\"a\":{\"b\":1}}", {"$.a[0]", "$.a.b", "$.a.b.c", "$.a.b[0]"}, {NULL, "1", NULL, NULL}},
		{"\"s\"", {"$", "$.a", "$[0]"}, {"s", NULL, NULL}},
		{" 12 ", {"$"}, {"12"}},
		{"\"\"", {"$"}, {""}},
	};
	size_t		i;
	int			n;
	int			k;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		JsonPlan   *plan;
		JsonSpan	spans[MAX_PATHS];
		JsonKind	top;
		size_t		at;
		char	   *copy;

		for (n = 0; n < 4 && cases[i].paths[n] != NULL; n++)
			;
		plan = plan_of(cases[i].paths, n);
		CHECK(scan_copy(plan, cases[i].text, strlen(cases[i].text), spans, &top, &at,
						&copy) == JSON_OK, "%s", cases[i].text);
		for (k = 0; k < n; k++)
		{
			const char *expected = cases[i].expected[k];

			CHECK((spans[k].kind == JSON_ABSENT) == (expected == NULL),
				  "%s: %s has kind %d", cases[i].text, cases[i].paths[k], spans[k].kind);
			CHECK(expected == NULL || spans[k].kind == JSON_ABSENT ||
				  (spans[k].len == strlen(expected) &&
				   memcmp(spans[k].start, expected, spans[k].len) == 0),
				  "%s: %s is %s", cases[i].text, cases[i].paths[k],
				  unit_show(spans[k].start, spans[k].len));
		}
		free(copy);
		free(plan);
	}
}

static void
test_kinds(void)
{
	static const char *const paths[] = {"$.a", "$.b", "$.c", "$.d", "$.e", "$.f", "$.g", "$.h"};
	static const char text[] =
		"{\"a\":null,\"b\":true,\"c\":false,\"d\":-1.5,\"e\":\"x\",\"f\":{\"q\":\"\\u0000\"},"
		"\"g\":[\"\\n\"]}";
	static const JsonKind kinds[] = {
		JSON_NULL, JSON_TRUE, JSON_FALSE, JSON_NUMBER, JSON_STRING, JSON_OBJECT,
		JSON_ARRAY, JSON_ABSENT
	};
	JsonPlan   *plan = plan_of(paths, 8);
	JsonSpan	spans[MAX_PATHS];
	JsonKind	top;
	size_t		at;
	int			i;

	CHECK(json_scan(plan, text, sizeof(text) - 1, spans, &top, &at) == JSON_OK, "scan");
	CHECK(top == JSON_OBJECT, "top %d", top);
	for (i = 0; i < 8; i++)
	{
		CHECK(spans[i].kind == kinds[i], "%s: %d", paths[i], spans[i].kind);
		CHECK(spans[i].has_nul == (i == 5), "%s: has_nul", paths[i]);
		CHECK(!spans[i].escaped, "%s: escaped", paths[i]);
	}
	free(plan);
}

static void
test_nul_and_escaped(void)
{
	static const char *const paths[] = {"$", "$.a", "$.b", "$.c", "$.d"};
	static const struct
	{
		const char *text;
		const char *nul;		/* one character a path */
		const char *escaped;
	}			cases[] = {
		{"{\"a\":\"\\u0000\",\"b\":\"\\n\",\"c\":\"x\"}", "11000", "01100"},
		{"{\"a\":\"x\",\"b\":\"\\\\u0000\",\"c\":\"\\u0001\"}", "00000", "00110"},
		{"{\"a\":{\"\\u0000\":1},\"b\":1,\"c\":[[\"\\u0000\"]],\"d\":2}", "11010", "00000"},
		{"{\"\\u0000\":1,\"a\":1}", "10000", "00000"},
		{"{\"\\u0061\":\"x\",\"b\":\"y\"}", "00000", "00000"},
		{"{\"a\":\"\\u0000\",\"a\":\"x\"}", "10000", "00000"},
	};
	JsonPlan   *plan = plan_of(paths, 5);
	size_t		i;
	int			k;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		JsonSpan	spans[MAX_PATHS];
		JsonKind	top;
		size_t		at;

		CHECK(json_scan(plan, cases[i].text, strlen(cases[i].text), spans, &top,
						&at) == JSON_OK, "%s", cases[i].text);
		for (k = 0; k < 5; k++)
		{
			CHECK(spans[k].has_nul == (cases[i].nul[k] == '1'), "%s: %s has_nul",
				  cases[i].text, paths[k]);
			CHECK(spans[k].escaped == (cases[i].escaped[k] == '1'), "%s: %s escaped",
				  cases[i].text, paths[k]);
		}
	}
	free(plan);
}

/* Many members, in and out of the plan's order. */
static void
test_many_members(void)
{
	enum
	{
		N = 300
	};
	static char names[N][40];
	static JsonStep steps[N];
	static JsonPath paths[N];
	static JsonSpan spans[N];
	static char text[N * 60];
	JsonPlan   *plan;
	JsonKind	top;
	size_t		at;
	int			order;
	int			i;

	for (i = 0; i < N; i++)
	{
		snprintf(names[i], sizeof(names[i]), "%.*smember%d", i % 15, "common_prefix__", i);
		steps[i] = (JsonStep) {names[i], strlen(names[i]), 0};
		paths[i] = (JsonPath) {&steps[i], 1};
	}
	plan = json_plan_build(malloc(json_plan_size(paths, N)), paths, N);
	for (order = 0; order < 3; order++)
	{
		size_t		len = 1;

		text[0] = '{';
		for (i = 0; i < N; i++)
		{
			int			k = order == 0 ? i : order == 1 ? N - 1 - i : i * 7 % N;

			len += (size_t) snprintf(text + len, sizeof(text) - len, "%s\"%s\":%d",
									 i > 0 ? "," : "", names[k], k);
		}
		text[len++] = '}';
		CHECK(json_scan(plan, text, len, spans, &top, &at) == JSON_OK, "order %d", order);
		for (i = 0; i < N; i++)
			CHECK(spans[i].kind == JSON_NUMBER && atoi(spans[i].start) == i,
				  "order %d, member %d", order, i);
	}
	free(plan);
}

/* Every prefix of a document is an error, and is never read beyond. */
static void
test_truncation(void)
{
	static const char *const paths[] = {"$", "$.a", "$.b[1].c", "$.n", "$.\"\xC3\xA9\"", "$.t"};
	static const char *const texts[] = {
		"{\"a\":\"x\\n\\u0041\\uD83D\\uDE00y\",\"b\":[1,{\"c\":-1.5e+10}],\"n\":null,"
		"\"\xC3\xA9\":\"\xE4\xB8\xAD\xF0\x9F\x98\x80\",\"t\":true,\"f\":false,\"long string\":"
		"\"0123456789abcdef0123456789abcdef0123456789abcdef\",\"\\u0061\":{\"z\":[[],{}]}}",
		"[\"\\ud800\\udc00\", 123456789012345678901234567890, {\"b\": [ ] }, tru",
		"\"a long string with nothing in it but its length \xD0\x9F\xD1\x80\"",
	};
	JsonPlan   *plan = plan_of(paths, 6);
	size_t		i;
	size_t		len;

	for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
	{
		for (len = 0; len < strlen(texts[i]); len++)
		{
			JsonSpan	spans[MAX_PATHS];
			JsonKind	top;
			size_t		at;
			char	   *copy;
			JsonError	error = scan_copy(plan, texts[i], len, spans, &top, &at, &copy);

			CHECK(error != JSON_OK, "%zu bytes of %s", len, texts[i]);
			CHECK(at <= len, "error at %zu of %zu", at, len);
			free(copy);
		}
	}
	free(plan);
}

static void
test_unescape(void)
{
	static const struct
	{
		const char *text;
		const char *value;
		size_t		len;
	}			cases[] = {
		{"\"\"", "", 0}, {"\"abc\"", "abc", 3},
		{"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t", 8},
		{"\"\\u0041\\u00e9\\u4e2d\"", "A\xC3\xA9\xE4\xB8\xAD", 6},
		{"\"\\uD83D\\uDE00\"", "\xF0\x9F\x98\x80", 4},
		{"\"\\uD800\\uDC00\\uDBFF\\uDFFF\"", "\xF0\x90\x80\x80\xF4\x8F\xBF\xBF", 8},
		{"\"\\u007f\\u0080\\u07ff\\u0800\\uffff\"", "\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xEF\xBF\xBF", 11},
		{"\"a\\u0000b\"", "a\0b", 3}, {"\"\\\\u0041\"", "\\u0041", 6},
		{"\"x\\ny\xC3\xA9\"", "x\ny\xC3\xA9", 5},
	};
	static const char *const whole[] = {"$"};
	JsonPlan   *plan = plan_of(whole, 1);
	size_t		i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		JsonSpan	span;
		JsonKind	top;
		size_t		at;
		char	   *copy;
		char	   *out;
		size_t		len;

		CHECK(scan_copy(plan, cases[i].text, strlen(cases[i].text), &span, &top, &at,
						&copy) == JSON_OK, "%s", cases[i].text);
		out = malloc(span.len);
		len = json_unescape(&span, out);
		CHECK(len == cases[i].len && memcmp(out, cases[i].value, len) == 0,
			  "%s gives %s", cases[i].text, unit_show(out, len));
		free(out);
		free(copy);
	}
	free(plan);
}

static void
test_elements(void)
{
	static const struct
	{
		const char *text;
		const char *elements[5];
	}			cases[] = {
		{"[]", {NULL}}, {"[ \n]", {NULL}}, {"[1]", {"1"}}, {"[1,2,3]", {"1", "2", "3"}},
		{"[ \"a,b\" , [1,2] ,\n{\"x\":[]} ]", {"a,b", "[1,2]", "{\"x\":[]}"}},
		{"[null,true,false,\"]\"]", {"null", "true", "false", "]"}},
		{"[[],[[]]]", {"[]", "[[]]"}}, {"[\"\\\"\",\"\\u0000\"]", {"\\\"", "\\u0000"}},
	};
	static const char *const whole[] = {"$"};
	JsonPlan   *plan = plan_of(whole, 1);
	size_t		i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		JsonSpan	span;
		JsonSpan	element;
		JsonElements it;
		JsonKind	top;
		size_t		at;
		char	   *copy;
		int			n = 0;

		CHECK(scan_copy(plan, cases[i].text, strlen(cases[i].text), &span, &top, &at,
						&copy) == JSON_OK, "%s", cases[i].text);
		json_elements(&span, &it);
		while (json_next_element(&it, &element))
		{
			const char *expected = cases[i].elements[n];

			CHECK(expected != NULL && element.len == strlen(expected) &&
				  memcmp(element.start, expected, element.len) == 0,
				  "%s: element %d is %s", cases[i].text, n,
				  unit_show(element.start, element.len));
			CHECK(element.escaped == (element.kind == JSON_STRING &&
									  memchr(element.start, '\\', element.len) != NULL),
				  "%s: escaped", cases[i].text);
			n++;
		}
		CHECK(cases[i].elements[n] == NULL, "%s: %d elements", cases[i].text, n);
		free(copy);
	}
	free(plan);
}

static void
test_parse_path(void)
{
	static const struct
	{
		const char *text;
		int			nsteps;
	}			cases[] = {
		{"$", 0}, {"$.a", 1}, {"$.a.b", 2}, {"$.a[0]", 2}, {"$[0]", 1}, {"$[12][3].x", 3},
		{"$['a b']", 1}, {"$[\"a b\"]", 1}, {"$.\"a b\"", 1}, {"$.\"\"", 1}, {"$.a_b1", 1},
		{"$.a-b", 1}, {"$.@t", 1}, {"$.$", 1}, {"$.1", 1}, {"$.\xC3\xA9", 1},
		{"$[2147483647]", 1}, {"$['a.b'].c", 2}, {"$.a.b.c.d", 4}, {"$['\"']", 1},
		{"", -1}, {"a", -1}, {"a.b", -1}, {".a", -1}, {"$a", -1}, {"$.", -1}, {"$..a", -1},
		{"$.a.", -1}, {"$[", -1}, {"$[]", -1}, {"$[a]", -1}, {"$[-1]", -1}, {"$[*]", -1},
		{"$.*", -1}, {"$[0", -1}, {"$[01]", -1}, {"$[ 0]", -1}, {"$[2147483648]", -1},
		{"$[99999999999999999999]", -1}, {"$['a]", -1}, {"$['a'", -1}, {"$.\"a", -1},
		{"$.\"a\"b", -1}, {"$.'a'", -1}, {"$ .a", -1}, {" $", -1}, {"$.a ", -1}, {"$.a b", -1},
		{"$.a?(@ > 1)", -1}, {"$.\"a\\\"b\"", -1}, {"$['a\\n']", -1}, {"lax $.a", -1},
		{"$.a.b.c.d.e", -1}, {"$$", -1}, {"$[0]a", -1}, {"$.a[", -1}, {"$.a()", -1},
	};
	JsonStep	steps[4];
	size_t		i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		char	   *copy = unit_exact(cases[i].text, strlen(cases[i].text));
		int			n = json_parse_path(copy, strlen(cases[i].text), steps, 4);

		CHECK(n == cases[i].nsteps, "%s: %d steps", cases[i].text, n);
		free(copy);
	}
	CHECK(json_parse_path("$.ab['c d'][7]", 14, steps, 4) == 3, "three steps");
	CHECK(steps[0].name_len == 2 && memcmp(steps[0].name, "ab", 2) == 0, "first");
	CHECK(steps[1].name_len == 3 && memcmp(steps[1].name, "c d", 3) == 0, "second");
	CHECK(steps[2].name == NULL && steps[2].index == 7, "third");
}

static void
test_utf8(void)
{
	static const struct
	{
		const char *text;
		bool		valid;
	}			cases[] = {
		{"", true}, {"plain", true}, {"0123456789abcdef0123456789", true},
		{"\xC3\xA9", true}, {"abcdefgh\xC3\xA9ijklmnop\xF0\x9F\x98\x80", true},
		{"\xEF\xBF\xBF", true}, {"\xF4\x8F\xBF\xBF", true}, {"\x80", false},
		{"\xC0\xAF", false}, {"\xE0\x9F\xBF", false}, {"\xED\xA0\x80", false},
		{"\xF0\x8F\xBF\xBF", false}, {"\xF4\x90\x80\x80", false}, {"\xFF", false},
		{"abcdefg\xC3", false}, {"abcdefgh\xE4\xB8", false}, {"\xF0\x9F\x98", false},
		{"\xC3\xA9\xC3", false}, {"\xC3(", false}, {"0123456\xFF", false},
	};
	size_t		i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		char	   *copy = unit_exact(cases[i].text, strlen(cases[i].text));

		CHECK(utf8_valid(copy, strlen(cases[i].text)) == cases[i].valid, "%s",
			  unit_show(cases[i].text, strlen(cases[i].text)));
		free(copy);
	}
	CHECK(utf8_valid(NULL, 0), "no bytes");
	CHECK(utf8_valid("a\0b", 3), "a NUL is a character");
}

static void
test_error_text(void)
{
	int			error;

	for (error = JSON_EMPTY; error <= JSON_TOO_DEEP; error++)
		CHECK(strncmp(json_error_text((JsonError) error), "invalid JSON: ", 14) == 0,
			  "%d: %s", error, json_error_text((JsonError) error));
}

const UnitTest json_tests[] = {
	{"json.valid", test_valid},
	{"json.syntax", test_syntax},
	{"json.strings", test_strings},
	{"json.string_lanes", test_string_lanes},
	{"json.depth", test_depth},
	{"json.deep_path", test_deep_path},
	{"json.paths", test_paths},
	{"json.kinds", test_kinds},
	{"json.nul_and_escaped", test_nul_and_escaped},
	{"json.many_members", test_many_members},
	{"json.truncation", test_truncation},
	{"json.unescape", test_unescape},
	{"json.elements", test_elements},
	{"json.parse_path", test_parse_path},
	{"json.utf8", test_utf8},
	{"json.error_text", test_error_text},
	{NULL, NULL}
};
