/*
 * core/csv.c
 *		One CSV record to fields, as COPY ... (FORMAT csv) reads a line.
 *
 * Splitting only notes where fields stand; a field that had quotes is copied
 * without them by csv_unquote.  As in COPY, quotes may open and close anywhere
 * in a field, the escape character means something only inside quotes and only
 * before itself or a quote, and a carriage return ends a line as a line feed
 * does.  "\." has no special meaning: a message ends where it ends.
 */
#include "core/csv.h"

#include <string.h>

/*
 * One character of quoted text at *p; true when it is the closing quote, else
 * *c is the character meant.
 */
static inline bool
quoted_character(const CsvFormat *format, const char **p, const char *end,
				 char *c)
{
	*c = *(*p)++;
	if (*c == format->escape && *p < end &&
		(**p == format->escape || **p == format->quote))
	{
		*c = *(*p)++;
		return false;
	}
	return *c == format->quote;
}

/* From p (after an opening quote) past the closing one; NULL: there is none. */
static const char *
skip_quoted(const CsvFormat *format, const char *p, const char *end)
{
	char		c;

	while (p < end)
	{
		if (quoted_character(format, &p, end, &c))
			return p;
	}
	return NULL;
}

/* First delimiter, quote or line break at or after p, or end. */
static inline const char *
plain_end(const CsvFormat *format, const char *p, const char *end)
{
	while (p < end && *p != format->delimiter && *p != format->quote &&
		   *p != '\n' && *p != '\r')
		p++;
	return p;
}

/* The end of the field that starts at p; NULL: a quote is not closed. */
static const char *
field_end(const CsvFormat *format, const char *p, const char *end, bool *quoted)
{
	*quoted = false;
	for (;;)
	{
		p = plain_end(format, p, end);
		/* The delimiter is tested first, as COPY does. */
		if (p == end || *p == format->delimiter || *p != format->quote)
			return p;
		*quoted = true;
		p = skip_quoted(format, p + 1, end);
		if (p == NULL)
			return NULL;
	}
}

/* Is the line break at p the end of the text? */
static bool
is_last_break(const char *p, const char *end)
{
	return end - p == 1 || (end - p == 2 && p[0] == '\r' && p[1] == '\n');
}

CsvError
csv_split(const CsvFormat *format, const char *text, size_t len,
		  CsvField *fields, int max, int *nfields)
{
	const char *p = text != NULL ? text : "";
	const char *end = p + len;
	int			n = 0;

	*nfields = 0;
	for (;;)
	{
		const char *start = p;
		bool		quoted;

		p = field_end(format, p, end, &quoted);
		if (p == NULL)
			return CSV_UNTERMINATED_QUOTE;
		if (n < max)
		{
			CsvField   *field = &fields[n];

			field->quoted = quoted;
			field->start = start;
			field->len = (size_t) (p - start);
			field->null = !quoted && field->len == format->null_len &&
				(field->len == 0 ||
				 memcmp(start, format->null, field->len) == 0);
		}
		n++;
		if (p == end || *p != format->delimiter)
			break;
		p++;
	}
	*nfields = n;
	if (p < end && !is_last_break(p, end))
		return CSV_SECOND_RECORD;
	return n > max ? CSV_TOO_MANY_FIELDS : CSV_OK;
}

size_t
csv_unquote(const CsvFormat *format, const CsvField *field, char *out)
{
	const char *p = field->start;
	const char *end = p + field->len;
	char	   *to = out;
	bool		inside = false;

	while (p < end)
	{
		char		c;

		if (!inside)
		{
			c = *p++;
			inside = c == format->quote;
			if (!inside)
				*to++ = c;
		}
		else if (quoted_character(format, &p, end, &c))
			inside = false;
		else
			*to++ = c;
	}
	return (size_t) (to - out);
}

const char *
csv_error_text(CsvError error)
{
	switch (error)
	{
		case CSV_OK:
			return "valid CSV";
		case CSV_UNTERMINATED_QUOTE:
			return "invalid CSV: a quoted field is not closed";
		case CSV_SECOND_RECORD:
			return "invalid CSV: more than one record in a message";
		case CSV_TOO_MANY_FIELDS:
			return "invalid CSV: more fields than columns";
	}
	return "invalid CSV";
}
