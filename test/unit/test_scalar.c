/*
 * test/unit/test_scalar.c
 *		Text to numbers and times: edge values, and loops against libc.
 *
 * Expected results were seen with a PostgreSQL server; U is where the module
 * leaves the answer to it.
 */
#include "core/scalar.h"
#include "unit.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK	SCALAR_OK
#define U	SCALAR_UNSURE
#define BAD SCALAR_SYNTAX
#define OUT SCALAR_RANGE

/* A text with its length, so that it may hold a NUL. */
#define T(text) text, sizeof(text) - 1
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

typedef struct IntCase
{
	const char *text;
	size_t		len;
	ScalarResult result;
	int64_t		value;
} IntCase;

static void
test_int64(void)
{
	static const IntCase cases[] = {
		{T("0"), OK, 0}, {T("-0"), OK, 0}, {T("+0"), OK, 0}, {T("1"), OK, 1},
		{T("-1"), OK, -1}, {T("+1"), OK, 1}, {T("007"), OK, 7}, {T("-007"), OK, -7},
		{T("9223372036854775807"), OK, INT64_MAX},
		{T("+9223372036854775807"), OK, INT64_MAX},
		{T("-9223372036854775808"), OK, INT64_MIN},
		{T("-9223372036854775807"), OK, -INT64_MAX},
		{T("9223372036854775808"), OUT, 0}, {T("-9223372036854775809"), OUT, 0},
		{T("9999999999999999999"), OUT, 0}, {T("18446744073709551615"), OUT, 0},
		{T("18446744073709551616"), OUT, 0}, {T("18446744073709551617"), OUT, 0},
		{T("100000000000000000000000000"), OUT, 0},
		{T("-100000000000000000000000000"), OUT, 0},
		{T("00000000000000000000000000000000000042"), OK, 42},
		{T("0000000000009223372036854775807"), OK, INT64_MAX},
		{T("0000000000009223372036854775808"), OUT, 0},
		{T("1000000000000000000"), OK, INT64_C(1000000000000000000)},
		{T("999999999999999999"), OK, INT64_C(999999999999999999)},
		{T(" 1"), OK, 1}, {T("1 "), OK, 1}, {T("  -1  "), OK, -1}, {T("\t\n\v\f\r1\t\n\v\f\r"), OK, 1},
		{T(""), BAD, 0}, {T(" "), BAD, 0}, {T("-"), BAD, 0}, {T("+"), BAD, 0},
		{T("--1"), BAD, 0}, {T("+-1"), BAD, 0}, {T("- 1"), BAD, 0}, {T("1-"), BAD, 0},
		{T("1 2"), BAD, 0}, {T("1.5"), BAD, 0}, {T("1."), BAD, 0}, {T(".5"), BAD, 0},
		{T("1e3"), BAD, 0}, {T("1E3"), BAD, 0}, {T("1,000"), BAD, 0}, {T("1'000"), BAD, 0},
		{T("abc"), BAD, 0}, {T("1a"), BAD, 0}, {T("a1"), BAD, 0}, {T("true"), BAD, 0},
		{T("null"), BAD, 0}, {T("NaN"), BAD, 0}, {T("inf"), BAD, 0}, {T("\"1\""), BAD, 0},
		{T("$1"), BAD, 0}, {T("(1)"), BAD, 0}, {T("box"), BAD, 0}, {T("1x"), BAD, 0},
		{T("0x1F"), U, 0}, {T("0X1f"), U, 0}, {T("-0x1"), U, 0}, {T("0o17"), U, 0},
		{T("0b101"), U, 0}, {T("0B1"), U, 0}, {T("1_000"), U, 0}, {T("_1"), U, 0}, {T("0x"), U, 0},
		{T("9223372036854775808x"), U, 0}, {T("9223372036854775807x"), BAD, 0},
		{T("1\0"), BAD, 0}, {T("\0"), BAD, 0}, {T("0x1\0"), BAD, 0},
		{T("\xC2\xA0" "1"), U, 0}, {T("1\xA0"), U, 0}, {T("\xD9\xA1"), U, 0},
	};
	size_t		i;

	for (i = 0; i < COUNT(cases); i++)
	{
		char	   *text = unit_exact(cases[i].text, cases[i].len);
		int64_t		value = 12345;
		ScalarResult result = scalar_int64(text, cases[i].len, &value);

		CHECK(result == cases[i].result, "%s: %d", unit_show(text, cases[i].len), result);
		CHECK(result != OK || value == cases[i].value, "%s: %" PRId64,
			  unit_show(text, cases[i].len), value);
		free(text);
	}
}

/* int32 and int16 share the code: their edges, and +- 3 around them. */
static void
test_small_ints(void)
{
	static const int64_t limits[] = {
		INT32_MAX, INT32_MIN, INT16_MAX, INT16_MIN, 0, INT64_C(4294967296), 65536, -65536
	};
	size_t		i;
	int			k;

	for (i = 0; i < COUNT(limits); i++)
	{
		for (k = -3; k <= 3; k++)
		{
			char		text[32];
			int64_t		n = limits[i] + k;
			size_t		len = (size_t) snprintf(text, sizeof(text), " %" PRId64 " ", n);
			int32_t		i32 = 0;
			int16_t		i16 = 0;
			ScalarResult r32 = scalar_int32(text, len, &i32);
			ScalarResult r16 = scalar_int16(text, len, &i16);

			CHECK(r32 == (n < INT32_MIN || n > INT32_MAX ? OUT : OK), "%s: %d", text, r32);
			CHECK(r32 != OK || i32 == n, "%s: %d", text, i32);
			CHECK(r16 == (n < INT16_MIN || n > INT16_MAX ? OUT : OK), "%s: %d", text, r16);
			CHECK(r16 != OK || i16 == n, "%s: %d", text, i16);
		}
	}
	{
		int32_t		i32;
		int16_t		i16;

		CHECK(scalar_int32("1.5", 3, &i32) == BAD, "1.5");
		CHECK(scalar_int16("1e3", 3, &i16) == BAD, "1e3");
		CHECK(scalar_int32("", 0, &i32) == BAD, "empty");
		CHECK(scalar_int16("99999x", 6, &i16) == U, "out of range, then garbage");
		CHECK(scalar_int16("0x7", 3, &i16) == U, "0x7");
	}
}

static void
test_int_random(void)
{
	uint64_t	random = unit_seed;
	int			i;

	for (i = 0; i < 100000; i++)
	{
		int64_t		n = (int64_t) unit_random(&random) >> (unit_random(&random) % 64);
		char		text[32];
		size_t		len = (size_t) snprintf(text, sizeof(text), "%" PRId64, n);
		char	   *copy = unit_exact(text, len);
		int64_t		value = 0;

		CHECK(scalar_int64(copy, len, &value) == OK && value == n, "%s", text);
		free(copy);
	}
}

typedef struct TextCase
{
	const char *text;
	size_t		len;
	ScalarResult result;
} TextCase;

/* Where accepted, the value must be the bits that strtod gives. */
static void
check_double(const char *text, size_t len, ScalarResult expected, bool any)
{
	char	   *copy = unit_exact(text, len);
	double		value = 0;
	double		libc;
	char		buffer[200];
	ScalarResult result = scalar_double(copy, len, &value);

	CHECK(any || result == expected, "%s: %d", unit_show(text, len), result);
	if (result == OK)
	{
		snprintf(buffer, sizeof(buffer), "%.*s", (int) len, text);
		libc = strtod(buffer, NULL);
		CHECK(memcmp(&libc, &value, sizeof(value)) == 0, "%s: %a, strtod %a",
			  unit_show(text, len), value, libc);
	}
	free(copy);
}

static void
test_double(void)
{
	static const TextCase cases[] = {
		{T("0"), OK}, {T("-0"), OK}, {T("+0"), OK}, {T("0.0"), OK}, {T("-0.0"), OK},
		{T("1"), OK}, {T("-1"), OK}, {T("+1.5"), OK}, {T("0.1"), OK}, {T("0.2"), OK},
		{T("0.3"), OK}, {T("1."), OK}, {T(".5"), OK}, {T("-.5"), OK}, {T("1.e3"), OK},
		{T(".5e1"), OK}, {T("1e0"), OK}, {T("1e22"), OK}, {T("1E+22"), OK}, {T("1e-22"), OK},
		{T("1e23"), U}, {T("1e-23"), U}, {T("123456789012345"), OK}, {T("999999999999999"), OK},
		{T("999999999999999e22"), OK}, {T("999999999999999e-22"), OK},
		{T("1234567890123456"), U}, {T("9007199254740993"), U}, {T("0.1234567890123456"), U},
		{T("0.123456789012345"), OK}, {T("12345.6789012345"), OK}, {T("000000000000000000001"), OK},
		{T("0.0000000000000000000001"), OK}, {T("0.00000000000000000000001"), U},
		{T("52.520008"), OK}, {T("-13.404954"), OK}, {T("3.14159265358979"), OK},
		{T("1e400"), U}, {T("-1e400"), U}, {T("1e-400"), U}, {T("4.9e-324"), U},
		{T("1e99999999999999999999"), U}, {T("1.7976931348623157e308"), U},
		{T(" 1.5 "), OK}, {T("\t1\n"), OK}, {T("NaN"), U}, {T("nan"), U}, {T("inf"), U},
		{T("-Infinity"), U}, {T("+inf"), U}, {T("infinite"), U}, {T("0x1p3"), U}, {T("0X10"), U},
		{T("-0x1"), U}, {T("nullx"), U}, {T("1e400x"), U},
		{T(""), BAD}, {T("  "), BAD}, {T("."), BAD}, {T("-"), BAD}, {T("+"), BAD}, {T("-."), BAD},
		{T("e5"), BAD}, {T(".e5"), BAD}, {T("1e"), BAD}, {T("1e+"), BAD}, {T("1.5e-"), BAD},
		{T("1.5.5"), BAD}, {T("1,5"), BAD}, {T("1 2"), BAD}, {T("- 1"), BAD}, {T("--1"), BAD},
		{T("1x"), BAD}, {T("x"), BAD}, {T("abc"), BAD}, {T("true"), BAD}, {T("1_000"), BAD},
		{T("1.5f"), BAD}, {T("$1"), BAD}, {T("1\0"), BAD}, {T("1e400\0"), BAD}, {T("1\xC2\xA0"), U},
	};
	size_t		i;

	for (i = 0; i < COUNT(cases); i++)
		check_double(cases[i].text, cases[i].len, cases[i].result, false);
}

static void
test_double_random(void)
{
	uint64_t	random = unit_seed;
	int			i;

	for (i = 0; i < 100000; i++)
	{
		char		text[64];
		uint64_t	digits = unit_random(&random) >> (unit_random(&random) % 64);
		int			exponent = (int) (unit_random(&random) % 61) - 30;
		size_t		len;

		digits %= UINT64_C(10000000000000000);
		if (i % 2)
			len = (size_t) snprintf(text, sizeof(text), "%s%" PRIu64 "e%d",
									i % 4 == 1 ? "-" : "", digits, exponent);
		else
			len = (size_t) snprintf(text, sizeof(text), "%" PRIu64 ".%0*" PRIu64,
									digits % 100000, i % 9 + 1, digits / 100000 % 1000);
		check_double(text, len, OK, true);
	}
}

static void
test_bool(void)
{
	static const struct
	{
		const char *text;
		size_t		len;
		ScalarResult result;
		bool		value;
	}			cases[] = {
		{T("t"), OK, true}, {T("tr"), OK, true}, {T("tru"), OK, true}, {T("true"), OK, true},
		{T("f"), OK, false}, {T("fa"), OK, false}, {T("fal"), OK, false}, {T("fals"), OK, false},
		{T("false"), OK, false}, {T("y"), OK, true}, {T("ye"), OK, true}, {T("yes"), OK, true},
		{T("n"), OK, false}, {T("no"), OK, false}, {T("on"), OK, true}, {T("of"), OK, false},
		{T("off"), OK, false}, {T("1"), OK, true}, {T("0"), OK, false}, {T("T"), OK, true},
		{T("TRUE"), OK, true}, {T("True"), OK, true}, {T("tRuE"), OK, true}, {T("F"), OK, false},
		{T("FALSE"), OK, false}, {T("Y"), OK, true}, {T("YES"), OK, true}, {T("N"), OK, false},
		{T("NO"), OK, false}, {T("ON"), OK, true}, {T("OF"), OK, false}, {T("OFF"), OK, false},
		{T(" t "), OK, true}, {T("\ttrue\n"), OK, true}, {T(" 0\r"), OK, false}, {T("\v1\f"), OK, true},
		{T(""), BAD, 0}, {T(" "), BAD, 0}, {T("o"), BAD, 0}, {T("O"), BAD, 0}, {T("o "), BAD, 0},
		{T("truex"), BAD, 0}, {T("true!"), BAD, 0}, {T("falsey"), BAD, 0}, {T("yess"), BAD, 0},
		{T("nope"), BAD, 0}, {T("offf"), BAD, 0}, {T("onn"), BAD, 0}, {T("ofn"), BAD, 0},
		{T("11"), BAD, 0}, {T("00"), BAD, 0}, {T("01"), BAD, 0}, {T("2"), BAD, 0}, {T("-1"), BAD, 0},
		{T("+1"), BAD, 0}, {T("1.0"), BAD, 0}, {T("null"), BAD, 0}, {T("t rue"), BAD, 0},
		{T("ja"), BAD, 0}, {T("enabled"), BAD, 0}, {T("\"true\""), BAD, 0}, {T("t\0"), BAD, 0},
		{T("tr\xC3\xBC"), U, 0}, {T("\xC2\xA0t"), U, 0}, {T("\xEF\xBD\x94"), U, 0},
	};
	size_t		i;

	for (i = 0; i < COUNT(cases); i++)
	{
		char	   *text = unit_exact(cases[i].text, cases[i].len);
		bool		value = !cases[i].value;
		ScalarResult result = scalar_bool(text, cases[i].len, &value);

		CHECK(result == cases[i].result, "%s: %d", unit_show(text, cases[i].len), result);
		CHECK(result != OK || value == cases[i].value, "%s", unit_show(text, cases[i].len));
		free(text);
	}
}

#define HEX "00112233445566778899aabbccddeeff"

static void
test_uuid(void)
{
	static const TextCase cases[] = {
		{T(HEX), OK}, {T("00112233445566778899AABBCCDDEEFF"), OK},
		{T("00112233-4455-6677-8899-aabbccddeeff"), OK},
		{T("00112233-4455-6677-8899-AABBccddEEff"), OK},
		{T("{00112233-4455-6677-8899-aabbccddeeff}"), OK}, {T("{" HEX "}"), OK},
		{T("0011-2233-4455-6677-8899-aabb-ccdd-eeff"), OK},
		{T("{0011-2233-4455-6677-8899-aabb-ccdd-eeff}"), OK},
		{T("001122334455-66778899aabbccddeeff"), OK}, {T("0011-22334455-66778899-aabbccdd-eeff"), OK},
		{T("00112233445566778899aabbccdd-eeff"), OK}, {T(""), BAD}, {T("{"), BAD}, {T("}"), BAD},
		{T("{}"), BAD}, {T("0"), BAD}, {T("00"), BAD}, {T("-"), BAD}, {T(HEX "0"), BAD}, {T(HEX "-"), BAD},
		{T(HEX " "), BAD}, {T(" " HEX), BAD}, {T("\t" HEX), BAD}, {T(HEX "\n"), BAD}, {T("{" HEX), BAD},
		{T(HEX "}"), BAD}, {T("{" HEX "} "), BAD}, {T("{" HEX "}}"), BAD}, {T("{{" HEX "}}"), BAD},
		{T("(" HEX ")"), BAD}, {T("{" HEX "-}"), BAD}, {T("{-" HEX "}"), BAD}, {T("-" HEX), BAD},
		{T("00112233-4455-6677-8899-aabbccddeef"), BAD}, {T("00112233-4455-6677-8899-aabbccddeeffa"), BAD},
		{T("00112233-4455-6677-8899-aabbccddeegf"), BAD}, {T("0011223-34455-6677-8899-aabbccddeeff"), BAD},
		{T("001122334-455-6677-8899-aabbccddeeff"), BAD}, {T("00112233--4455-6677-8899-aabbccddeeff"), BAD},
		{T("00-112233445566778899aabbccddeeff"), BAD}, {T("001-12233445566778899aabbccddeeff"), BAD},
		{T("001122-33445566778899aabbccddeeff"), BAD}, {T("00112233 4455 6677 8899 aabbccddeeff"), BAD},
		{T("00112233_4455_6677_8899_aabbccddeeff"), BAD}, {T("0x112233445566778899aabbccddeeff"), BAD},
		{T("+0112233445566778899aabbccddeeff"), BAD}, {T("00112233:4455:6677:8899:aabbccddeeff"), BAD},
		{T("urn:uuid:00112233-4455-6677-8899-aabbccddeeff"), BAD}, {T("g0112233445566778899aabbccddeeff"), BAD},
		{T("00112233445566778899aabbccddeef"), BAD}, {T("00112233445566778899aabbccddee"), BAD},
		{T("00112233445566778899aabbccddeef\0"), BAD}, {T("\0" "0112233445566778899aabbccddeeff"), BAD},
		{T("0011223344556677\0" "8899aabbccddeeff"), BAD}, {T("null"), BAD}, {T("\xC3\xA9" "112233445566778899aabbccddeeff"), BAD},
		{T("0011-"), BAD}, {T("0011-2233-"), BAD}, {T("{0011"), BAD}, {T("{00112233-4455-6677-8899-aabbccddeeff"), BAD},
		{T("00112233-4455-6677-8899-aabbccddeeff}"), BAD}, {T("00112233-4455-6677-8899-aabbccddeeff-"), BAD},
		{T("`0112233445566778899aabbccddeeff"), BAD}, {T("@0112233445566778899aabbccddeeff"), BAD},
		{T("/0112233445566778899aabbccddeeff"), BAD}, {T(":0112233445566778899aabbccddeeff"), BAD},
	};
	static const uint8_t expected[16] = {
		0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF
	};
	size_t		i;

	for (i = 0; i < COUNT(cases); i++)
	{
		char	   *text = unit_exact(cases[i].text, cases[i].len);
		uint8_t		value[16] = {0};
		ScalarResult result = scalar_uuid(text, cases[i].len, value);

		CHECK(result == cases[i].result, "%s: %d", unit_show(text, cases[i].len), result);
		CHECK(result != OK || memcmp(value, expected, 16) == 0, "%s",
			  unit_show(text, cases[i].len));
		free(text);
	}
}

static void
test_date(void)
{
	static const IntCase cases[] = {
		{T("2000-01-01"), OK, 0}, {T("2000-01-02"), OK, 1}, {T("1999-12-31"), OK, -1},
		{T("1970-01-01"), OK, -10957}, {T("2000-02-29"), OK, 59}, {T("2000-03-01"), OK, 60},
		{T("2024-02-29"), OK, 8825}, {T("1900-02-28"), OK, -36466}, {T("1900-03-01"), OK, -36465},
		{T("0001-01-01"), OK, -730119}, {T("9999-12-31"), OK, 2921939}, {T("2023-06-15"), OK, 8566},
		{T("1582-10-15"), OK, -152384}, {T("1582-10-14"), OK, -152385}, {T("0004-02-29"), OK, -728965},
		{T(" 2000-01-01"), OK, 0}, {T("2000-01-01 "), OK, 0}, {T("\t2000-01-01\n"), OK, 0},
		{T("2001-02-29"), OUT, 0}, {T("1900-02-29"), OUT, 0}, {T("2100-02-29"), OUT, 0},
		{T("2000-02-30"), OUT, 0}, {T("2000-04-31"), OUT, 0}, {T("2000-06-31"), OUT, 0},
		{T("2000-09-31"), OUT, 0}, {T("2000-11-31"), OUT, 0}, {T("2000-01-32"), OUT, 0},
		{T("2000-12-32"), OUT, 0}, {T("2000-01-00"), OUT, 0}, {T("2000-00-01"), OUT, 0},
		{T("2000-13-01"), OUT, 0}, {T("2000-99-99"), OUT, 0}, {T("2000-00-00"), OUT, 0},
		{T("9999-13-01"), OUT, 0}, {T("0001-02-29"), OUT, 0}, {T(""), BAD, 0}, {T("  "), BAD, 0},
		{T("0000-01-01"), U, 0}, {T("10000-01-01"), U, 0}, {T("-001-01-01"), U, 0},
		{T("2000-1-1"), U, 0}, {T("20000101"), U, 0}, {T("2000/01/01"), U, 0}, {T("2000.01.01"), U, 0},
		{T("01-02-2000"), U, 0}, {T("01/02/2000"), U, 0}, {T("99-01-01"), U, 0}, {T("2000-Jan-01"), U, 0},
		{T("Jan 1, 2000"), U, 0}, {T("2000-01-01 BC"), U, 0}, {T("2000-01-01T00:00:00"), U, 0},
		{T("2000-01-01 00:00:00"), U, 0}, {T("today"), U, 0}, {T("now"), U, 0}, {T("epoch"), U, 0},
		{T("infinity"), U, 0}, {T("-infinity"), U, 0}, {T("J2451545"), U, 0}, {T("2000-001"), U, 0},
		{T("garbage"), U, 0}, {T("2000-01-0x"), U, 0}, {T("2000-01-01x"), U, 0}, {T("2000-01"), U, 0},
		{T("2000-01-01\0"), BAD, 0}, {T("today\0"), BAD, 0}, {T("2000-01-0\xB9"), U, 0},
		{T("\xC2\xA0" "2000-01-01"), U, 0}, {T("2000_01_01"), U, 0}, {T("2000-01 01"), U, 0},
	};
	size_t		i;

	for (i = 0; i < COUNT(cases); i++)
	{
		char	   *text = unit_exact(cases[i].text, cases[i].len);
		int32_t		days = 12345;
		ScalarResult result = scalar_date(text, cases[i].len, &days);

		CHECK(result == cases[i].result, "%s: %d", unit_show(text, cases[i].len), result);
		CHECK(result != OK || days == cases[i].value, "%s: %d",
			  unit_show(text, cases[i].len), days);
		free(text);
	}
}

/* All days of the years 1 to 9999, one after the other. */
static void
test_date_all(void)
{
	static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	int32_t		expected = -730119;
	int			year;
	int			month;
	int			day;

	for (year = 1; year <= 9999; year++)
	{
		for (month = 1; month <= 12; month++)
		{
			int			last = lengths[month - 1];

			if (month == 2 && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0))
				last = 29;
			for (day = 1; day <= last; day++, expected++)
			{
				char		text[11];
				int32_t		days = 0;

				text[0] = (char) ('0' + year / 1000);
				text[1] = (char) ('0' + year / 100 % 10);
				text[2] = (char) ('0' + year / 10 % 10);
				text[3] = (char) ('0' + year % 10);
				text[4] = text[7] = '-';
				text[5] = (char) ('0' + month / 10);
				text[6] = (char) ('0' + month % 10);
				text[8] = (char) ('0' + day / 10);
				text[9] = (char) ('0' + day % 10);
				CHECK(scalar_date(text, 10, &days) == OK && days == expected,
					  "%.10s: %d, expected %d", text, days, expected);
			}
		}
	}
}

#define SECOND	INT64_C(1000000)
#define HOUR	(3600 * SECOND)
#define DAY		(24 * HOUR)

static void
test_timestamp(void)
{
	static const struct
	{
		const char *text;
		size_t		len;
		ScalarResult result;
		int64_t		value;
		bool		zoned;
	}			cases[] = {
		{T("2000-01-01 00:00:00"), OK, 0, false}, {T("2000-01-01T00:00:00"), OK, 0, false},
		{T("2000-01-01t00:00:00"), OK, 0, false}, {T("2000-01-01T00:00:00Z"), OK, 0, true},
		{T("2000-01-01 00:00:00z"), OK, 0, true}, {T("2000-01-01 00:00:00+00"), OK, 0, true},
		{T("2000-01-01 00:00:00-00"), OK, 0, true}, {T("2000-01-01 00:00:00+00:00"), OK, 0, true},
		{T("2000-01-01 00:00:00-0000"), OK, 0, true}, {T("2000-01-01 00:00:00+02"), OK, -2 * HOUR, true},
		{T("2000-01-01 00:00:00-02"), OK, 2 * HOUR, true},
		{T("2000-01-01T00:00:00+05:30"), OK, -5 * HOUR - HOUR / 2, true},
		{T("2000-01-01T00:00:00-0930"), OK, 9 * HOUR + HOUR / 2, true},
		{T("2000-01-01 00:00:00+15:59"), OK, -15 * HOUR - 59 * 60 * SECOND, true},
		{T("2000-01-01 00:00:00-1559"), OK, 15 * HOUR + 59 * 60 * SECOND, true},
		{T("2000-01-01 00:00:00.1"), OK, 100000, false}, {T("2000-01-01 00:00:00.12"), OK, 120000, false},
		{T("2000-01-01 00:00:00.123"), OK, 123000, false}, {T("2000-01-01 00:00:00.1234"), OK, 123400, false},
		{T("2000-01-01 00:00:00.12345"), OK, 123450, false},
		{T("2000-01-01 00:00:00.123456"), OK, 123456, false},
		{T("2000-01-01 00:00:00.000001Z"), OK, 1, true},
		{T("2000-01-01 00:00:00.999999+01"), OK, 999999 - HOUR, true},
		{T("1999-12-31 23:59:59.999999"), OK, -1, false}, {T("2000-01-01 23:59:59"), OK, DAY - SECOND, false},
		{T("1970-01-01T00:00:00Z"), OK, -10957 * DAY, true},
		{T("0001-01-01 00:00:00"), OK, -730119 * DAY, false},
		{T("0001-01-01 00:00:00+15"), OK, -730119 * DAY - 15 * HOUR, true},
		{T("9999-12-31 23:59:59.999999"), OK, 2921940 * DAY - 1, false},
		{T("2024-02-29T12:34:56.789Z"), OK, 8825 * DAY + 12 * HOUR + (34 * 60 + 56) * SECOND + 789000, true},
		{T(" 2000-01-01 00:00:00 "), OK, 0, false},
		{T("2000-02-30 00:00:00"), OUT, 0, 0}, {T("2001-02-29T00:00:00Z"), OUT, 0, 0},
		{T("2000-13-01 00:00:00"), OUT, 0, 0}, {T("2000-00-01 00:00:00"), OUT, 0, 0},
		{T("2000-01-00 00:00:00"), OUT, 0, 0}, {T("2000-01-32 00:00:00"), OUT, 0, 0},
		{T("2000-01-01 25:00:00"), OUT, 0, 0}, {T("2000-01-01 99:00:00"), OUT, 0, 0},
		{T("2000-01-01 00:60:00"), OUT, 0, 0}, {T("2000-01-01 00:00:61"), OUT, 0, 0},
		{T("2000-01-01 23:99:00"), OUT, 0, 0}, {T("2000-01-01T00:00:99.5Z"), OUT, 0, 0},
		{T(""), BAD, 0, 0}, {T(" \t"), BAD, 0, 0}, {T("2000-01-01 00:00:00\0"), BAD, 0, 0}, {T("now\0"), BAD, 0, 0},
		{T("2000-01-01 24:00:00"), U, 0, 0}, {T("2000-01-01 24:00:01"), U, 0, 0},
		{T("2000-01-01 00:00:60"), U, 0, 0}, {T("2000-01-01 23:59:60"), U, 0, 0},
		{T("0000-01-01 00:00:00"), U, 0, 0}, {T("10000-01-01 00:00:00"), U, 0, 0},
		{T("2000-01-01"), U, 0, 0}, {T("2000-01-01 00:00"), U, 0, 0}, {T("2000-01-01T00"), U, 0, 0},
		{T("2000-01-01 00:00:00."), U, 0, 0}, {T("2000-01-01 00:00:00.1234567"), U, 0, 0},
		{T("2000-01-01 00:00:00.123456789Z"), U, 0, 0}, {T("2000-01-01  00:00:00"), U, 0, 0},
		{T("2000-01-01 00:00:00 Z"), U, 0, 0}, {T("2000-01-01 00:00:00 +02"), U, 0, 0},
		{T("2000-01-01 00:00:00 UTC"), U, 0, 0}, {T("2000-01-01 00:00:00UTC"), U, 0, 0},
		{T("2000-01-01 00:00:00 Europe/Berlin"), U, 0, 0}, {T("2000-01-01 00:00:00 BC"), U, 0, 0},
		{T("2000-01-01 00:00:00 AM"), U, 0, 0}, {T("2000-01-01 00:00:00+16"), U, 0, 0},
		{T("2000-01-01 00:00:00+15:60"), U, 0, 0}, {T("2000-01-01 00:00:00+1"), U, 0, 0},
		{T("2000-01-01 00:00:00+"), U, 0, 0}, {T("2000-01-01 00:00:00+2:00"), U, 0, 0},
		{T("2000-01-01 00:00:00+02:0"), U, 0, 0}, {T("2000-01-01 00:00:00+02:00:00"), U, 0, 0},
		{T("2000-01-01 00:00:00+020000"), U, 0, 0}, {T("2000-01-01 00:00:00+02:"), U, 0, 0},
		{T("2000-01-01 00:00:00+0a"), U, 0, 0}, {T("2000-01-01 00:00:00ZZ"), U, 0, 0},
		{T("2000-01-01 00:00:00.5.5"), U, 0, 0}, {T("2000-01-01 00:00:00,5"), U, 0, 0},
		{T("2000-01-01 0:00:00"), U, 0, 0}, {T("2000-01-01 00.00.00"), U, 0, 0},
		{T("2000-01-01_00:00:00"), U, 0, 0}, {T("2000-1-1 00:00:00"), U, 0, 0},
		{T("20000101T000000"), U, 0, 0}, {T("1700000000"), U, 0, 0}, {T("now"), U, 0, 0},
		{T("infinity"), U, 0, 0}, {T("epoch"), U, 0, 0}, {T("Sat Jan 01 00:00:00 2000"), U, 0, 0},
		{T("2000-13-01 00:00:00+99"), U, 0, 0}, {T("2000-01-01 25:00:00 x"), U, 0, 0},
		{T("2000-01-01 0\xB9:00:00"), U, 0, 0},
	};
	size_t		i;

	for (i = 0; i < COUNT(cases); i++)
	{
		char	   *text = unit_exact(cases[i].text, cases[i].len);
		int64_t		value = 12345;
		bool		zoned = !cases[i].zoned;
		ScalarResult result = scalar_timestamp(text, cases[i].len, &value, &zoned);

		CHECK(result == cases[i].result, "%s: %d", unit_show(text, cases[i].len), result);
		CHECK(result != OK || (value == cases[i].value && zoned == cases[i].zoned),
			  "%s: %" PRId64 " %d", unit_show(text, cases[i].len), value, zoned);
		free(text);
	}
}

#define EPOCH2000 INT64_C(946684800000000)

static void
test_epoch(void)
{
	static const struct
	{
		const char *text;
		size_t		len;
		int			digits;
		ScalarResult result;
		int64_t		unix_micros;
	}			cases[] = {
		{T("0"), 0, OK, 0}, {T("-0"), 3, OK, 0}, {T("1"), 0, OK, SECOND}, {T("1"), 3, OK, 1000},
		{T("1"), 6, OK, 1}, {T("1"), 9, OK, 0}, {T("999"), 9, OK, 0}, {T("1000"), 9, OK, 1},
		{T("1999"), 9, OK, 1}, {T("-1"), 0, OK, -SECOND}, {T("-1"), 3, OK, -1000}, {T("-1"), 6, OK, -1},
		{T("-1"), 9, OK, -1}, {T("-999"), 9, OK, -1}, {T("-1000"), 9, OK, -1}, {T("-1001"), 9, OK, -2},
		{T("946684800"), 0, OK, EPOCH2000}, {T("1700000000"), 0, OK, INT64_C(1700000000000000)},
		{T("1700000000123"), 3, OK, INT64_C(1700000000123000)},
		{T("1700000000123456"), 6, OK, INT64_C(1700000000123456)},
		{T("1700000000123456789"), 9, OK, INT64_C(1700000000123456)},
		{T("-1700000000123456789"), 9, OK, INT64_C(-1700000000123457)},
		{T("1700000000.5"), 0, OK, INT64_C(1700000000500000)},
		{T("1700000000.123456"), 0, OK, INT64_C(1700000000123456)},
		{T("1700000000.1234569"), 0, OK, INT64_C(1700000000123456)},
		{T("-1700000000.1234561"), 0, OK, INT64_C(-1700000000123457)},
		{T("-1700000000.123456"), 0, OK, INT64_C(-1700000000123456)},
		{T("-1700000000.123456000"), 0, OK, INT64_C(-1700000000123456)},
		{T("0.1"), 6, OK, 0}, {T("-0.1"), 6, OK, -1}, {T("-0.0"), 6, OK, 0}, {T("0.9999999999"), 6, OK, 0},
		{T("1e3"), 0, OK, 1000 * SECOND}, {T("1E+3"), 3, OK, SECOND}, {T("1.5e3"), 3, OK, 1500000},
		{T("1.7e9"), 0, OK, INT64_C(1700000000000000)}, {T("1.7e12"), 3, OK, INT64_C(1700000000000000)},
		{T("1700000000000e-3"), 0, OK, INT64_C(1700000000000000)}, {T("15e-1"), 6, OK, 1},
		{T("-15e-1"), 6, OK, -2}, {T("1e-7"), 0, OK, 0}, {T("-1e-7"), 0, OK, -1}, {T("1e-6"), 0, OK, 1},
		{T("1e-999999999999999999999"), 0, OK, 0}, {T("-1e-999999999999999999999"), 0, OK, -1},
		{T("0e999999999999999999999"), 0, OK, 0}, {T("0.000e999999999"), 0, OK, 0},
		{T("1e999999999999999999999"), 0, OUT, 0}, {T("1e20"), 9, OK, INT64_C(100000000000000000)},
		{T("0.000000000000000000000000000001e36"), 0, OK, INT64_C(1000000000000)},
		{T(" 5 "), 6, OK, 5}, {T("123456.7e1"), 6, OK, 1234567}, {T("123456.78e1"), 6, OK, 1234567},
		{T("9223372036854775807"), 6, OK, INT64_MAX}, {T("9224318015999999999"), 6, OK, 0},
		{T("9224318016000000000"), 6, OUT, 0}, {T("9224318015999.999999"), 0, OK, 0},
		{T("9224318016000"), 0, OUT, 0}, {T("9224318015999999"), 3, OK, 0}, {T("9224318016000000"), 3, OUT, 0},
		{T("-210866803200000000"), 6, OK, INT64_C(-210866803200000000)},
		{T("-210866803200000001"), 6, OUT, 0}, {T("-210866803200"), 0, OK, INT64_C(-210866803200000000)},
		{T("-210866803200.0000001"), 0, OUT, 0}, {T("-210866803201"), 0, OUT, 0},
		{T("18446744073709551615"), 6, OUT, 0}, {T("18446744073709551616"), 6, OUT, 0},
		{T("99999999999999999999999999"), 0, OUT, 0}, {T("-99999999999999999999999999"), 9, OUT, 0},
		{T("18446744073709551615.5"), 6, OUT, 0}, {T("-18446744073709551615.5"), 6, OUT, 0},
		{T(""), 0, BAD, 0}, {T("-"), 0, BAD, 0}, {T("+1"), 0, BAD, 0}, {T("01"), 0, BAD, 0}, {T("1."), 0, BAD, 0},
		{T(".5"), 0, BAD, 0}, {T("1e"), 0, BAD, 0}, {T("1e+"), 0, BAD, 0}, {T("1x"), 0, BAD, 0}, {T("abc"), 0, BAD, 0},
		{T("1 2"), 0, BAD, 0}, {T("--1"), 0, BAD, 0}, {T("NaN"), 0, BAD, 0}, {T("1.5.5"), 0, BAD, 0},
		{T("2000-01-01"), 0, BAD, 0}, {T("1\0"), 0, BAD, 0}, {T("1_000"), 0, BAD, 0}, {T("0x10"), 0, BAD, 0},
	};
	size_t		i;

	for (i = 0; i < COUNT(cases); i++)
	{
		char	   *text = unit_exact(cases[i].text, cases[i].len);
		int64_t		value = 12345;
		ScalarResult result = scalar_epoch(text, cases[i].len, cases[i].digits, &value);
		/* 0 stands for the values that are too far for a count from 1970. */
		bool		far = cases[i].unix_micros == 0 && strstr(cases[i].text, "9224318015999") != NULL;

		CHECK(result == cases[i].result, "%s: %d", unit_show(text, cases[i].len), result);
		CHECK(result != OK || far || value == cases[i].unix_micros - EPOCH2000, "%s: %" PRId64,
			  unit_show(text, cases[i].len), value);
		CHECK(result != OK || scalar_timestamp_in_range(value), "%s", unit_show(text, cases[i].len));
		free(text);
	}
	{
		int64_t		value;

		CHECK(scalar_epoch("9224318015999999999", 19, 6, &value) == OK &&
			  value == INT64_C(9223371331199999999), "the last timestamp: %" PRId64, value);
		CHECK(scalar_epoch("9224318015999999", 16, 3, &value) == OK &&
			  value == INT64_C(9223371331199999000), "in ms: %" PRId64, value);
	}
}

/* Random counts in all four units, with the point moved about. */
static void
test_epoch_random(void)
{
	static const int all_digits[] = {0, 3, 6, 9};
	uint64_t	random = unit_seed;
	int			i;

	for (i = 0; i < 100000; i++)
	{
		int			digits = all_digits[unit_random(&random) % 4];
		int64_t		nanos = (int64_t) (unit_random(&random) >> (1 + unit_random(&random) % 60)) + 1;
		int			exponent = (int) (unit_random(&random) % 19) - 9;
		bool		negative = unit_random(&random) % 2;
		int64_t		expected = nanos / 1000;
		int64_t		value = 0;
		char		text[64];
		size_t		len;

		/* nanos * 10^(digits - 9) is the count; write it as nanos e(...) or split. */
		if (i % 2)
			len = (size_t) snprintf(text, sizeof(text), "%s%" PRId64 "%0*de%d", negative ? "-" : "",
									nanos, exponent > 0 ? exponent : 1, 0,
									digits - 9 - (exponent > 0 ? exponent : 1));
		else
			len = (size_t) snprintf(text, sizeof(text), "%s%" PRId64 ".%09" PRId64 "e%d",
									negative ? "-" : "", nanos / 1000000000, nanos % 1000000000, digits);
		if (negative)
			expected = -expected - (nanos % 1000 != 0);
		CHECK(scalar_epoch(text, len, digits, &value) == OK && value == expected - EPOCH2000,
			  "%s with %d digits: %" PRId64 ", expected %" PRId64, text, digits, value,
			  expected - EPOCH2000);
	}
}

static void
test_timestamp_range(void)
{
	CHECK(scalar_timestamp_in_range(0), "2000");
	CHECK(scalar_timestamp_in_range(INT64_C(-211813488000000000)), "the first");
	CHECK(!scalar_timestamp_in_range(INT64_C(-211813488000000001)), "before the first");
	CHECK(scalar_timestamp_in_range(INT64_C(9223371331199999999)), "the last");
	CHECK(!scalar_timestamp_in_range(INT64_C(9223371331200000000)), "after the last");
	CHECK(!scalar_timestamp_in_range(INT64_MAX), "infinity");
	CHECK(!scalar_timestamp_in_range(INT64_MIN), "minus infinity");
}

const UnitTest scalar_tests[] = {
	{"scalar.int64", test_int64},
	{"scalar.small_ints", test_small_ints},
	{"scalar.int_random", test_int_random},
	{"scalar.double", test_double},
	{"scalar.double_random", test_double_random},
	{"scalar.bool", test_bool},
	{"scalar.uuid", test_uuid},
	{"scalar.date", test_date},
	{"scalar.date_all", test_date_all},
	{"scalar.timestamp", test_timestamp},
	{"scalar.epoch", test_epoch},
	{"scalar.epoch_random", test_epoch_random},
	{"scalar.timestamp_range", test_timestamp_range},
	{NULL, NULL}
};
