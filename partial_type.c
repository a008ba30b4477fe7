/*
 * partial_type.c
 *		The SQL type kappa.partial, and kappa.combine, which makes a result of several.
 *
 * Only a superuser, who restores a dump, may make a partial of text (partial.c says why).
 * kappa.combine runs any aggregate's functions, with the rights that the aggregate itself
 * asks for.
 */
#include "postgres.h"

#include "fmgr.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/expandeddatum.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

#include "partial.h"

PG_FUNCTION_INFO_V1(kappa_partial_in);
PG_FUNCTION_INFO_V1(kappa_partial_out);
PG_FUNCTION_INFO_V1(kappa_partial_recv);
PG_FUNCTION_INFO_V1(kappa_partial_send);
PG_FUNCTION_INFO_V1(kappa_combine_step);
PG_FUNCTION_INFO_V1(kappa_combine_final);

/* ---------------------------------------------------------------- the type */

static void
require_superuser(void)
{
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to make a value of type kappa.partial"),
				 errdetail("Its bytes are believed as they stand; only a superuser may restore them from a dump.")));
}

Datum
kappa_partial_in(PG_FUNCTION_ARGS)
{
	require_superuser();
	return byteain(fcinfo);
}

/* Hex whatever bytea_output says, so that a dump can always be read. */
Datum
kappa_partial_out(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	size_t		len = VARSIZE_ANY_EXHDR(bytes);
	char	   *text = palloc(len * 2 + 3);

	text[0] = '\\';
	text[1] = 'x';
	text[2 + hex_encode(VARDATA_ANY(bytes), len, text + 2)] = '\0';
	PG_RETURN_CSTRING(text);
}

Datum
kappa_partial_recv(PG_FUNCTION_ARGS)
{
	require_superuser();
	return bytearecv(fcinfo);
}

Datum
kappa_partial_send(PG_FUNCTION_ARGS)
{
	return byteasend(fcinfo);
}

/* ---------------------------------------------------------------- combining */

/* State of kappa.combine in one group. */
typedef struct CombineState
{
	PartialAgg *agg;
	AggContext	context;		/* memory: the group's */
	AggValue	value;
} CombineState;

/* The aggregate and its result's type are constants of the call. */
static PartialAgg *
combined_aggregate(FunctionCallInfo fcinfo)
{
	PartialAgg *agg = fcinfo->flinfo->fn_extra;
	Oid			aggregate = PG_GETARG_OID(2);
	Oid			resulttype = get_fn_expr_argtype(fcinfo->flinfo, 3);
	MemoryContext old;
	Oid		   *argtypes;
	int			nargs;
	Oid			declared;

	if (agg != NULL && agg->aggregate == aggregate)
		return agg;
	declared = get_func_rettype(aggregate);
	if (!IsPolymorphicType(declared) && declared != resulttype)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("aggregate %s does not return %s", format_procedure(aggregate),
						format_type_be(resulttype))));
	(void) get_func_signature(aggregate, &argtypes, &nargs);
	for (int i = 0; i < nargs; i++)
		if (IsPolymorphicType(argtypes[i]))
			argtypes[i] = resulttype;
	old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	agg = palloc(sizeof(PartialAgg));
	partial_agg_init(agg, aggregate, argtypes, nargs, resulttype, PG_GET_COLLATION());
	fcinfo->flinfo->fn_extra = agg;
	MemoryContextSwitchTo(old);
	return agg;
}

static CombineState *
combine_begin(FunctionCallInfo fcinfo)
{
	MemoryContext memory;
	MemoryContext old;
	CombineState *state;

	if (!AggCheckCallContext(fcinfo, &memory))
		elog(ERROR, "kappa.combine_step called outside of an aggregate");
	old = MemoryContextSwitchTo(memory);
	state = palloc0(sizeof(CombineState));
	state->agg = combined_aggregate(fcinfo);
	state->context.memory = memory;
	agg_value_start(state->agg, &state->value, &state->context);
	MemoryContextSwitchTo(old);
	return state;
}

/*
 * kappa.combine_step(internal, kappa.partial, regprocedure, anyelement): the
 * transition of kappa.combine.  The last argument is only a type.
 */
Datum
kappa_combine_step(PG_FUNCTION_ARGS)
{
	CombineState *state;

	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("kappa.combine needs an aggregate")));
	state = PG_ARGISNULL(0) ? combine_begin(fcinfo) : (CombineState *) PG_GETARG_POINTER(0);
	if (!PG_ARGISNULL(1))
		agg_value_combine_state(state->agg, &state->value, &state->context, fcinfo->context,
					  agg_state_of(state->agg, PG_GETARG_DATUM(1), fcinfo->context));
	PG_RETURN_POINTER(state);
}

/* kappa.combine_final(internal, kappa.partial, regprocedure, anyelement): the result. */
Datum
kappa_combine_final(PG_FUNCTION_ARGS)
{
	LOCAL_FCINFO(call, FUNC_MAX_ARGS);
	CombineState *state;
	PartialAgg *agg;
	Datum		result;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	state = (CombineState *) PG_GETARG_POINTER(0);
	agg = state->agg;
	if (!OidIsValid(agg->final.fn_oid))
	{
		if (state->value.null)
			PG_RETURN_NULL();
		PG_RETURN_DATUM(MakeExpandedObjectReadOnly(state->value.value, state->value.null, agg->translen));
	}
	if (agg->final.fn_strict && (state->value.null || agg->nfinal > 1))
		PG_RETURN_NULL();
	InitFunctionCallInfoData(*call, &agg->final, agg->nfinal, agg->collation, fcinfo->context, NULL);
	call->args[0].value = MakeExpandedObjectReadOnly(state->value.value, state->value.null, agg->translen);
	call->args[0].isnull = state->value.null;
	for (int i = 1; i < agg->nfinal; i++)
	{
		call->args[i].value = (Datum) 0;
		call->args[i].isnull = true;
	}
	result = FunctionCallInvoke(call);
	fcinfo->isnull = call->isnull;
	return result;
}
