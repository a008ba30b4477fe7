/*
 * try_input.c
 *		Reading text as a type, without an ERROR where it is none.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/lsyscache.h"

#include "try_input.h"

/*
 * Input functions of built-in types only allocate memory, so an error of
 * theirs about the text (class 22) can be dropped without a subtransaction.
 */
bool
try_input(Oid type, char *text, Datum *value)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool ok = true;
	Oid			input;
	Oid			ioparam;

	getTypeInputInfo(type, &input, &ioparam);
	PG_TRY();
	{
		*value = OidInputFunctionCall(input, text, ioparam, -1);
	}
	PG_CATCH();
	{
		int			code = geterrcode();

		if (ERRCODE_TO_CATEGORY(code) != MAKE_SQLSTATE('2', '2', '0', '0', '0') &&
			code != ERRCODE_STATEMENT_TOO_COMPLEX &&
			code != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		ok = false;
	}
	PG_END_TRY();
	return ok;
}
