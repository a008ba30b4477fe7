/*
 * test/unit/test_csv.c
 *		csv_split and csv_unquote.
 */
#include "core/csv.h"
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#define MAX_FIELDS	5

typedef struct CsvCase
{
	const char *text;
	CsvError	error;
	int			nfields;
	const char *values[MAX_FIELDS]; /* unquoted; NULL: null */
} CsvCase;

static const CsvFormat standard = {',', '"', '"', "", 0};

static void
run_cases(const CsvFormat *format, const CsvCase *cases, size_t n)
{
	size_t		i;
	int			k;

	for (i = 0; i < n; i++)
	{
		CsvField	fields[MAX_FIELDS];
		size_t		len = strlen(cases[i].text);
		char	   *text = unit_exact(cases[i].text, len);
		int			nfields = -1;
		CsvError	error = csv_split(format, text, len, fields, MAX_FIELDS, &nfields);

		CHECK(error == cases[i].error, "%s: error %d", unit_show(text, len), error);
		CHECK(error == CSV_UNTERMINATED_QUOTE || nfields == cases[i].nfields, "%s: %d fields",
			  unit_show(text, len), nfields);
		for (k = 0; error == CSV_OK && k < nfields && k < cases[i].nfields; k++)
		{
			const char *expected = cases[i].values[k];
			char	   *out = malloc(fields[k].len);
			size_t		out_len = csv_unquote(format, &fields[k], out);

			CHECK(fields[k].null == (expected == NULL), "%s: field %d null is %d",
				  unit_show(text, len), k, fields[k].null);
			CHECK(expected == NULL || (out_len == strlen(expected) &&
									   memcmp(out, expected, out_len) == 0),
				  "%s: field %d is %s", unit_show(cases[i].text, len), k,
				  unit_show(out, out_len));
			CHECK(fields[k].quoted || out_len == fields[k].len, "unquoted stays as it is");
			free(out);
		}
		free(text);
	}
}

static void
test_standard(void)
{
	static const CsvCase cases[] = {
		{"", CSV_OK, 1, {NULL}}, {"a", CSV_OK, 1, {"a"}}, {"a,b", CSV_OK, 2, {"a", "b"}},
		{",", CSV_OK, 2, {NULL, NULL}}, {"a,", CSV_OK, 2, {"a", NULL}}, {",a", CSV_OK, 2, {NULL, "a"}},
		{"a,,b", CSV_OK, 3, {"a", NULL, "b"}}, {" a , b ", CSV_OK, 2, {" a ", " b "}},
		{"\"a\"", CSV_OK, 1, {"a"}}, {"\"\"", CSV_OK, 1, {""}}, {"\"\",\"\"", CSV_OK, 2, {"", ""}},
		{"\"a,b\",c", CSV_OK, 2, {"a,b", "c"}}, {"\"a\"\"b\"", CSV_OK, 1, {"a\"b"}},
		{"\"\"\"\"", CSV_OK, 1, {"\""}}, {"\"\"\"a\"\"\"", CSV_OK, 1, {"\"a\""}},
		{"\"\"\"\"\"\"", CSV_OK, 1, {"\"\""}}, {"\"a\nb\",c", CSV_OK, 2, {"a\nb", "c"}},
		{"\"a\r\nb\"", CSV_OK, 1, {"a\r\nb"}}, {"\"\n\"", CSV_OK, 1, {"\n"}},
		/* Quotes anywhere in a field, as COPY has it. */
		{"a\"b\"c", CSV_OK, 1, {"abc"}}, {"a\"b,c\"d,e", CSV_OK, 2, {"ab,cd", "e"}},
		{"\"a\"b\"c\"", CSV_OK, 1, {"abc"}}, {" \"a\"", CSV_OK, 1, {" a"}}, {"\"a\" ", CSV_OK, 1, {"a "}},
		{"\"a\"\"b", CSV_UNTERMINATED_QUOTE, 0, {NULL}}, {"\"", CSV_UNTERMINATED_QUOTE, 0, {NULL}},
		{"a,\"b", CSV_UNTERMINATED_QUOTE, 0, {NULL}}, {"\"\"\"", CSV_UNTERMINATED_QUOTE, 0, {NULL}},
		{"\"a\n", CSV_UNTERMINATED_QUOTE, 0, {NULL}}, {"a\"", CSV_UNTERMINATED_QUOTE, 0, {NULL}},
		/* One line break at the end. */
		{"a,b\n", CSV_OK, 2, {"a", "b"}}, {"a,b\r\n", CSV_OK, 2, {"a", "b"}}, {"a,b\r", CSV_OK, 2, {"a", "b"}},
		{"\n", CSV_OK, 1, {NULL}}, {"\r\n", CSV_OK, 1, {NULL}}, {"a,\n", CSV_OK, 2, {"a", NULL}},
		{"\"a\"\n", CSV_OK, 1, {"a"}}, {"\"\"\r\n", CSV_OK, 1, {""}},
		{"a\nb", CSV_SECOND_RECORD, 1, {NULL}}, {"a\n\n", CSV_SECOND_RECORD, 1, {NULL}},
		{"a\r\n\r\n", CSV_SECOND_RECORD, 1, {NULL}}, {"a\rb", CSV_SECOND_RECORD, 1, {NULL}},
		{"\n\n", CSV_SECOND_RECORD, 1, {NULL}}, {"a\n\r", CSV_SECOND_RECORD, 1, {NULL}},
		{"a,b\nc,d\n", CSV_SECOND_RECORD, 2, {NULL}}, {"\"a\"\n\"b\"", CSV_SECOND_RECORD, 1, {NULL}},
		{"1,2,3,4,5", CSV_OK, 5, {"1", "2", "3", "4", "5"}}, {"1,2,3,4,5,6", CSV_TOO_MANY_FIELDS, 6, {NULL}},
		{",,,,,,", CSV_TOO_MANY_FIELDS, 7, {NULL}}, {"1,2,3,4,5\n", CSV_OK, 5, {"1", "2", "3", "4", "5"}},
		/* No other character means anything. */
		{"\\.", CSV_OK, 1, {"\\."}}, {"a\\,b", CSV_OK, 2, {"a\\", "b"}}, {"\\N", CSV_OK, 1, {"\\N"}},
		{"\"a\\\"", CSV_OK, 1, {"a\\"}}, {"\xC3\xA9,\xFF", CSV_OK, 2, {"\xC3\xA9", "\xFF"}},
		{"'a,b'", CSV_OK, 2, {"'a", "b'"}}, {"a;b\tc", CSV_OK, 1, {"a;b\tc"}}, {"NULL", CSV_OK, 1, {"NULL"}},
	};

	run_cases(&standard, cases, sizeof(cases) / sizeof(cases[0]));
}

static void
test_other_escape(void)
{
	static const CsvFormat format = {';', '\'', '\\', "NULL", 4};
	static const CsvCase cases[] = {
		{"a;b", CSV_OK, 2, {"a", "b"}}, {"NULL;'NULL';NULLx", CSV_OK, 3, {NULL, "NULL", "NULLx"}},
		{"", CSV_OK, 1, {""}}, {";", CSV_OK, 2, {"", ""}}, {"null", CSV_OK, 1, {"null"}},
		{"'a\\'b'", CSV_OK, 1, {"a'b"}}, {"'a\\\\b'", CSV_OK, 1, {"a\\b"}}, {"'a\\nb'", CSV_OK, 1, {"a\\nb"}},
		{"'a\\\\';b", CSV_OK, 2, {"a\\", "b"}}, {"'a''b'", CSV_OK, 1, {"ab"}}, {"a\\'b'", CSV_OK, 1, {"a\\b"}},
		{"'\\;';x", CSV_OK, 2, {"\\;", "x"}}, {"'a\\'", CSV_UNTERMINATED_QUOTE, 0, {NULL}},
		{"'a\\", CSV_UNTERMINATED_QUOTE, 0, {NULL}}, {"\"a\";b", CSV_OK, 2, {"\"a\"", "b"}},
		{"'a\\\nb'", CSV_OK, 1, {"a\\\nb"}}, {"NU'LL'", CSV_OK, 1, {"NULL"}},
	};

	run_cases(&format, cases, sizeof(cases) / sizeof(cases[0]));
}

/* Every prefix of a line, and the smallest arrays. */
static void
test_bounds(void)
{
	static const char line[] = "ab,\"c\"\"d\",,\"e\nf\"g,h\r\n";
	CsvField	fields[MAX_FIELDS];
	size_t		len;
	int			max;
	int			n;

	for (len = 0; len <= sizeof(line) - 1; len++)
	{
		for (max = 0; max <= MAX_FIELDS; max++)
		{
			char	   *text = unit_exact(line, len);
			CsvError	error = csv_split(&standard, text, len, fields, max, &n);
			int			i;

			CHECK(error != CSV_OK || n <= max, "%zu bytes: %d of %d fields", len, n, max);
			for (i = 0; error == CSV_OK && i < n; i++)
				CHECK(fields[i].start >= text && fields[i].start + fields[i].len <= text + len,
					  "field %d of %zu bytes", i, len);
			free(text);
		}
	}
	CHECK(csv_split(&standard, NULL, 0, fields, 1, &n) == CSV_OK && n == 1 && fields[0].null,
		  "no bytes");
	CHECK(csv_error_text(CSV_UNTERMINATED_QUOTE)[0] == 'i', "text");
}

const UnitTest csv_tests[] = {
	{"csv.standard", test_standard},
	{"csv.other_escape", test_other_escape},
	{"csv.bounds", test_bounds},
	{NULL, NULL}
};
