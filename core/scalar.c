/*
 * core/scalar.c
 *		Text to numbers and times, as PostgreSQL's own input functions read it.
 *
 * The rule of every function here: an answer other than SCALAR_UNSURE is the
 * answer of every supported server version, whatever its settings (DateStyle,
 * TimeZone, locale).  So text that only some versions read (0x1F, 1_000) or that
 * depends on a setting is UNSURE, and so are rare forms that are not worth code
 * on the hot path.  A text with a NUL byte is always SCALAR_SYNTAX: no type
 * takes one, and an input function would only see what stands before it.
 */
#include "core/scalar.h"

#include <float.h>
#include <string.h>

#define MICROS_PER_SECOND	INT64_C(1000000)
#define MICROS_PER_DAY		INT64_C(86400000000)

/* Microseconds from 1970-01-01 to 2000-01-01. */
#define EPOCH_DISTANCE		INT64_C(946684800000000)

/* PostgreSQL's timestamp: 4714-11-24 BC to before 294277-01-01. */
#define FIRST_TIMESTAMP		INT64_C(-211813488000000000)
#define END_TIMESTAMP		INT64_C(9223371331200000000)

static inline bool
is_digit(char c)
{
	return (unsigned char) (c - '0') < 10;
}

/* isspace() of the C locale. */
static inline bool
is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static inline char
lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char) (c + ('a' - 'A')) : c;
}

/* Move *p and *end inwards over white space. */
static inline void
trim(const char **p, const char **end)
{
	while (*p < *end && is_space(**p))
		(*p)++;
	while (*p < *end && is_space((*end)[-1]))
		(*end)--;
}

static ScalarResult
unsure(const char *text, size_t len)
{
	return len > 0 && memchr(text, 0, len) != NULL ? SCALAR_SYNTAX : SCALAR_UNSURE;
}

/*
 * Text that does not fit the grammar: SYNTAX, but UNSURE where it has bytes that
 * a locale might take for white space.
 */
static ScalarResult
malformed(const char *text, size_t len)
{
	size_t		i;

	for (i = 0; i < len; i++)
	{
		if ((unsigned char) text[i] >= 0x80)
			return unsure(text, len);
	}
	return SCALAR_SYNTAX;
}

/* ---------- integers ---------- */

/* Text that is no decimal integer: newer servers read 0x1F, 0o17, 0b1, 1_000. */
static ScalarResult
malformed_integer(const char *text, size_t len, const char *p, const char *end)
{
	char		base = end - p > 1 && *p == '0' ? lower(p[1]) : 0;

	if (base == 'x' || base == 'o' || base == 'b' ||
		(len > 0 && memchr(text, '_', len) != NULL))
		return unsure(text, len);
	return malformed(text, len);
}

/* An integer of -max - 1 to max. */
static ScalarResult
parse_integer(const char *text, size_t len, uint64_t max, int64_t *value)
{
	const char *p = len > 0 ? text : "";
	const char *end = p + len;
	const char *start;
	const char *digits;
	uint64_t	number = 0;
	bool		negative;
	bool		overflow = false;

	trim(&p, &end);
	negative = p < end && *p == '-';
	if (negative || (p < end && *p == '+'))
		p++;
	start = p;
	if (p == end || !is_digit(*p))
		return malformed_integer(text, len, start, end);
	while (p < end && *p == '0')
		p++;
	for (digits = p; p < end && is_digit(*p); p++)
	{
		/* 19 digits fit in 64 bits. */
		if (p - digits < 19)
			number = number * 10 + (uint64_t) (*p - '0');
		else
			overflow = true;
	}
	if (number > max + (negative ? 1 : 0))
		overflow = true;
	if (p < end)
	{
		/* Versions differ in what they complain about first. */
		return overflow ? unsure(text, len) :
			malformed_integer(text, len, start, end);
	}
	if (overflow)
		return SCALAR_RANGE;
	/* Two steps, because -INT64_MIN is no int64. */
	*value = negative && number > 0 ? -(int64_t) (number - 1) - 1 : (int64_t) number;
	return SCALAR_OK;
}

ScalarResult
scalar_int64(const char *text, size_t len, int64_t *value)
{
	return parse_integer(text, len, INT64_MAX, value);
}

ScalarResult
scalar_int32(const char *text, size_t len, int32_t *value)
{
	int64_t		wide;
	ScalarResult result = parse_integer(text, len, INT32_MAX, &wide);

	if (result == SCALAR_OK)
		*value = (int32_t) wide;
	return result;
}

ScalarResult
scalar_int16(const char *text, size_t len, int16_t *value)
{
	int64_t		wide;
	ScalarResult result = parse_integer(text, len, INT16_MAX, &wide);

	if (result == SCALAR_OK)
		*value = (int16_t) wide;
	return result;
}

/* ---------- decimals ---------- */

/*
 * A decimal number as strtod reads it, not yet put together; leading zeros do
 * not count as digits.
 */
typedef struct Decimal
{
	bool		negative;
	bool		too_long;		/* more digits than mantissa holds */
	int			ndigits;		/* in mantissa, at most 15 */
	uint64_t	mantissa;
	int64_t		scale;			/* value = mantissa * 10^scale */
	const char *stop;			/* first byte that does not belong to it */
} Decimal;

static inline const char *
add_digits(Decimal *d, const char *p, const char *end, int64_t scale_step)
{
	for (; p < end && is_digit(*p); p++)
	{
		d->scale += scale_step;
		if (d->ndigits == 0 && *p == '0')
			continue;
		if (d->ndigits == 15)
		{
			d->too_long = true;
			continue;
		}
		d->ndigits++;
		d->mantissa = d->mantissa * 10 + (uint64_t) (*p - '0');
	}
	return p;
}

/* The exponent at p ("e" and digits), as strtod takes it: none if incomplete. */
static const char *
parse_exponent(const char *p, const char *end, int64_t *exponent)
{
	const char *at = p;
	bool		negative;

	*exponent = 0;
	if (at == end || lower(*at) != 'e')
		return p;
	at++;
	negative = at < end && *at == '-';
	if (negative || (at < end && *at == '+'))
		at++;
	if (at == end || !is_digit(*at))
		return p;
	for (; at < end && is_digit(*at); at++)
	{
		/* Far outside of every range, far from overflow. */
		if (*exponent < INT64_C(1000000000000))
			*exponent = *exponent * 10 + (*at - '0');
	}
	if (negative)
		*exponent = -*exponent;
	return at;
}

/* False where p does not start a decimal number. */
static bool
parse_decimal(const char *p, const char *end, Decimal *d)
{
	const char *start;
	const char *point;
	int64_t		exponent;

	memset(d, 0, sizeof(*d));
	d->negative = p < end && *p == '-';
	if (d->negative || (p < end && *p == '+'))
		p++;
	start = p;
	p = add_digits(d, p, end, 0);
	if (p < end && *p == '.')
	{
		point = p;
		p = add_digits(d, p + 1, end, -1);
		if (p - start == 1 && point == start)
			return false;
	}
	if (p == start)
		return false;
	d->stop = parse_exponent(p, end, &exponent);
	d->scale += exponent;
	return true;
}

/* Could strtod find a word or a hexadecimal number here? */
static bool
is_unusual_double(const char *p, const char *end)
{
	if (p < end && (*p == '-' || *p == '+'))
		p++;
	if (p == end)
		return false;
	if (lower(*p) == 'i' || lower(*p) == 'n')
		return true;
	return *p == '0' && p + 1 < end && lower(p[1]) == 'x';
}

ScalarResult
scalar_double(const char *text, size_t len, double *value)
{
	static const double power[] = {
		1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
		1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22
	};
	const char *p = len > 0 ? text : "";
	const char *end = p + len;
	Decimal		d;
	double		number;

	trim(&p, &end);
	if (!parse_decimal(p, end, &d))
		return is_unusual_double(p, end) ? unsure(text, len) : malformed(text, len);
	if (d.too_long || d.scale < -22 || d.scale > 22)
		return unsure(text, len);
	if (d.stop < end)
		return is_unusual_double(p, end) ? unsure(text, len) : malformed(text, len);

	/* One rounding of two exact numbers: only where double is not wider. */
	if (FLT_EVAL_METHOD != 0)
		return SCALAR_UNSURE;
	number = (double) d.mantissa;
	number = d.scale < 0 ? number / power[-d.scale] : number * power[d.scale];
	*value = d.negative ? -number : number;
	return SCALAR_OK;
}

/* ---------- boolean ---------- */

static bool
is_prefix(const char *p, size_t len, const char *word, size_t word_len)
{
	size_t		i;

	if (len > word_len)
		return false;
	for (i = 0; i < len; i++)
	{
		if (lower(p[i]) != word[i])
			return false;
	}
	return true;
}

ScalarResult
scalar_bool(const char *text, size_t len, bool *value)
{
	static const struct
	{
		const char *word;
		size_t		len;
		size_t		least;		/* shortest unique prefix */
		bool		value;
	}			words[] = {
		{"true", 4, 1, true}, {"false", 5, 1, false}, {"yes", 3, 1, true},
		{"no", 2, 1, false}, {"on", 2, 2, true}, {"off", 3, 2, false},
		{"1", 1, 1, true}, {"0", 1, 1, false}
	};
	const char *p = len > 0 ? text : "";
	const char *end = p + len;
	size_t		i;

	trim(&p, &end);
	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++)
	{
		size_t		n = (size_t) (end - p);

		if (n >= words[i].least && is_prefix(p, n, words[i].word, words[i].len))
		{
			*value = words[i].value;
			return SCALAR_OK;
		}
	}
	return malformed(text, len);
}

/* ---------- uuid ---------- */

static int
hex_digit(char c)
{
	if (is_digit(c))
		return c - '0';
	c = lower(c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* As uuid_in: a hyphen may follow any group of four digits but the last. */
ScalarResult
scalar_uuid(const char *text, size_t len, uint8_t value[16])
{
	const char *p = len > 0 ? text : "";
	const char *end = p + len;
	uint8_t		bytes[16];
	bool		braces = len > 0 && *p == '{';
	int			i;

	if (braces)
		p++;
	for (i = 0; i < 16; i++)
	{
		int			high = p < end ? hex_digit(p[0]) : -1;
		int			low = end - p > 1 ? hex_digit(p[1]) : -1;

		if (high < 0 || low < 0)
			return SCALAR_SYNTAX;
		bytes[i] = (uint8_t) (high << 4 | low);
		p += 2;
		if (p < end && *p == '-' && i % 2 == 1 && i < 15)
			p++;
	}
	if (braces && (p == end || *p++ != '}'))
		return SCALAR_SYNTAX;
	if (p != end)
		return SCALAR_SYNTAX;
	memcpy(value, bytes, sizeof(bytes));
	return SCALAR_OK;
}

/* ---------- dates and times ---------- */

/* The n digits at p, -1 where one of them is none. */
static inline int
fixed_digits(const char *p, int n)
{
	int			value = 0;
	int			i;

	for (i = 0; i < n; i++)
	{
		if (!is_digit(p[i]))
			return -1;
		value = value * 10 + (p[i] - '0');
	}
	return value;
}

/* Days from 2000-01-01, of a year from 1 on. */
static int32_t
days_since_2000(int year, int month, int day)
{
	/* Years that start in March have the leap day at their end. */
	int			y = month > 2 ? year : year - 1;
	int			m = month > 2 ? month - 3 : month + 9;

	return 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 730425;
}

static int
days_in_month(int year, int month)
{
	static const int8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool		leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

	return month == 2 && leap ? 29 : days[month - 1];
}

/*
 * yyyy-mm-dd in the 10 bytes at p.  RANGE is the caller's to give only once the
 * rest of the text is known to be in form.
 */
static ScalarResult
parse_date(const char *p, int32_t *days)
{
	int			year = fixed_digits(p, 4);
	int			month = fixed_digits(p + 5, 2);
	int			day = fixed_digits(p + 8, 2);

	if (year < 1 || month < 0 || day < 0 || p[4] != '-' || p[7] != '-')
		return SCALAR_UNSURE;
	if (month < 1 || month > 12 || day < 1 || day > days_in_month(year, month))
		return SCALAR_RANGE;
	*days = days_since_2000(year, month, day);
	return SCALAR_OK;
}

ScalarResult
scalar_date(const char *text, size_t len, int32_t *days)
{
	const char *p = len > 0 ? text : "";
	const char *end = p + len;
	ScalarResult result = SCALAR_UNSURE;

	trim(&p, &end);
	if (p == end)
		return SCALAR_SYNTAX;
	if (end - p == 10)
		result = parse_date(p, days);
	return result == SCALAR_UNSURE ? unsure(text, len) : result;
}

/* hh:mm:ss in the 8 bytes at p, to seconds. */
static ScalarResult
parse_time(const char *p, int *seconds)
{
	int			hour = fixed_digits(p, 2);
	int			minute = fixed_digits(p + 3, 2);
	int			second = fixed_digits(p + 6, 2);

	if (hour < 0 || minute < 0 || second < 0 || p[2] != ':' || p[5] != ':')
		return SCALAR_UNSURE;
	if (hour > 24 || minute > 59 || second > 60)
		return SCALAR_RANGE;
	/* 24:00:00 and second 60 have rules of their own. */
	if (hour == 24 || second == 60)
		return SCALAR_UNSURE;
	*seconds = (hour * 60 + minute) * 60 + second;
	return SCALAR_OK;
}

/* Z, +hh, +hhmm or +hh:mm up to end, to seconds east of UTC. */
static bool
parse_zone(const char *p, const char *end, int *seconds)
{
	int			hour;
	int			minute = 0;
	size_t		len = (size_t) (end - p);

	*seconds = 0;
	if (len == 1)
		return lower(*p) == 'z';
	if ((len != 3 && len != 5 && len != 6) || (*p != '+' && *p != '-'))
		return false;
	hour = fixed_digits(p + 1, 2);
	if (len == 5)
		minute = fixed_digits(p + 3, 2);
	else if (len == 6)
		minute = p[3] == ':' ? fixed_digits(p + 4, 2) : -1;
	if (hour < 0 || hour > 15 || minute < 0 || minute > 59)
		return false;
	*seconds = (hour * 60 + minute) * 60 * (*p == '-' ? -1 : 1);
	return true;
}

/* One to six digits after the point at *p, to microseconds; -1: other forms. */
static int
parse_fraction(const char **p, const char *end)
{
	int			micros = 0;
	int			n;

	(*p)++;
	for (n = 0; *p < end && is_digit(**p); n++, (*p)++)
	{
		if (n == 6)
			return -1;
		micros = micros * 10 + (**p - '0');
	}
	if (n == 0)
		return -1;
	for (; n < 6; n++)
		micros *= 10;
	return micros;
}

static ScalarResult
parse_timestamp(const char *p, const char *end, int64_t *micros, bool *zoned)
{
	ScalarResult date;
	ScalarResult time;
	int32_t		days = 0;
	int			seconds = 0;
	int			fraction = 0;
	int			zone = 0;

	if (end - p < 19 || (p[10] != ' ' && lower(p[10]) != 't'))
		return SCALAR_UNSURE;
	date = parse_date(p, &days);
	time = parse_time(p + 11, &seconds);
	p += 19;
	if (p < end && *p == '.' && (fraction = parse_fraction(&p, end)) < 0)
		return SCALAR_UNSURE;
	*zoned = p < end;
	if (*zoned && !parse_zone(p, end, &zone))
		return SCALAR_UNSURE;
	if (date == SCALAR_UNSURE || time == SCALAR_UNSURE)
		return SCALAR_UNSURE;
	if (date == SCALAR_RANGE || time == SCALAR_RANGE)
		return SCALAR_RANGE;
	*micros = days * MICROS_PER_DAY +
		(seconds - zone) * MICROS_PER_SECOND + fraction;
	return SCALAR_OK;
}

ScalarResult
scalar_timestamp(const char *text, size_t len, int64_t *micros, bool *zoned)
{
	const char *p = len > 0 ? text : "";
	const char *end = p + len;
	ScalarResult result;

	trim(&p, &end);
	if (p == end)
		return SCALAR_SYNTAX;
	result = parse_timestamp(p, end, micros, zoned);
	return result == SCALAR_UNSURE ? unsure(text, len) : result;
}

bool
scalar_timestamp_in_range(int64_t micros)
{
	return micros >= FIRST_TIMESTAMP && micros < END_TIMESTAMP;
}

/* ---------- times as numbers ---------- */

/* The parts of a JSON number. */
typedef struct Number
{
	const char *whole;
	const char *whole_end;
	const char *fraction;		/* = fraction_end where there is none */
	const char *fraction_end;
	int64_t		exponent;
} Number;

static const char *
skip_digits(const char *p, const char *end)
{
	while (p < end && is_digit(*p))
		p++;
	return p;
}

/* The JSON number [p, end) without its sign; false where it is none. */
static bool
parse_number(const char *p, const char *end, Number *n)
{
	n->whole = p;
	n->whole_end = p = skip_digits(p, end);
	if (p == n->whole || (*n->whole == '0' && p - n->whole > 1))
		return false;
	n->fraction = n->fraction_end = p;
	if (p < end && *p == '.')
	{
		n->fraction = p + 1;
		n->fraction_end = p = skip_digits(p + 1, end);
		if (n->fraction == p)
			return false;
	}
	return parse_exponent(p, end, &n->exponent) == end;
}

/*
 * |number| * 10^shift, rounded up where up says so, to *micros; false where it
 * is beyond 64 bits.  Digit by digit, so no rounding but the last.
 */
static bool
shifted(const Number *n, int64_t shift, bool up, uint64_t *micros)
{
	const char *p = n->whole;
	int64_t		left = (n->whole_end - n->whole) + n->exponent + shift;
	uint64_t	value = 0;
	bool		rest = false;

	/* left counts the digits before the (moved) decimal point. */
	for (;; left--)
	{
		uint64_t	digit;

		if (p == n->whole_end)
			p = n->fraction;
		if (p == n->fraction_end)
			break;
		digit = (uint64_t) (*p++ - '0');
		if (left <= 0)
			rest |= digit != 0;
		else if (value > (UINT64_MAX - digit) / 10)
			return false;
		else
			value = value * 10 + digit;
	}
	for (; left > 0 && value != 0; left--)
	{
		if (value > UINT64_MAX / 10)
			return false;
		value *= 10;
	}
	if (rest && up)
	{
		if (value == UINT64_MAX)
			return false;
		value++;
	}
	*micros = value;
	return true;
}

ScalarResult
scalar_epoch(const char *text, size_t len, int digits, int64_t *micros)
{
	const char *p = len > 0 ? text : "";
	const char *end = p + len;
	bool		negative;
	Number		n;
	uint64_t	distance;

	trim(&p, &end);
	negative = p < end && *p == '-';
	if (negative)
		p++;
	if (!parse_number(p, end, &n))
		return malformed(text, len);

	/* Towards minus infinity: the magnitude of a negative number rounds up. */
	if (!shifted(&n, 6 - digits, negative, &distance))
		return SCALAR_RANGE;
	if (negative)
	{
		if (distance > (uint64_t) (-FIRST_TIMESTAMP - EPOCH_DISTANCE))
			return SCALAR_RANGE;
		*micros = -(int64_t) distance - EPOCH_DISTANCE;
	}
	else
	{
		/* Seen from 1970 the last timestamps are beyond int64. */
		if (distance >= (uint64_t) END_TIMESTAMP + (uint64_t) EPOCH_DISTANCE)
			return SCALAR_RANGE;
		*micros = distance < (uint64_t) EPOCH_DISTANCE ?
			(int64_t) distance - EPOCH_DISTANCE :
			(int64_t) (distance - (uint64_t) EPOCH_DISTANCE);
	}
	return SCALAR_OK;
}
