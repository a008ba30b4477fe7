/*
 * core/csv.h
 *		One CSV record to fields, as COPY ... (FORMAT csv) reads a line.
 *
 * Quotes are doubled or preceded by the escape character; an unquoted field that
 * equals the null string is NULL, a quoted one never is.  A record is one
 * message: line breaks may stand inside quotes, one at the very end is ignored.
 */
#ifndef KAPPA_CORE_CSV_H
#define KAPPA_CORE_CSV_H

#include <stdbool.h>
#include <stddef.h>

typedef struct CsvFormat
{
	char		delimiter;		/* ',' */
	char		quote;			/* '"' */
	char		escape;			/* as quote */
	const char *null;			/* "" */
	size_t		null_len;
} CsvFormat;

typedef struct CsvField
{
	bool		null;
	bool		quoted;			/* had quotes: read it with csv_unquote */
	const char *start;			/* raw bytes, quotes included */
	size_t		len;
} CsvField;

typedef enum CsvError
{
	CSV_OK = 0,
	CSV_UNTERMINATED_QUOTE,
	CSV_SECOND_RECORD,			/* a line break outside quotes, with more after it */
	CSV_TOO_MANY_FIELDS
} CsvError;

/* Split into at most max fields; *nfields is how many there are. */
extern CsvError csv_split(const CsvFormat *format, const char *text, size_t len,
						  CsvField *fields, int max, int *nfields);

/* The field's value without quotes into out (never longer than len). */
extern size_t csv_unquote(const CsvFormat *format, const CsvField *field, char *out);

extern const char *csv_error_text(CsvError error);

#endif
