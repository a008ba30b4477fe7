/*
 * partial.c
 *		Aggregates in parts, and the SQL type kappa.partial that holds one.
 *
 * A partial is the tag of its aggregate and the bytes of its transition value: as
 * the aggregate's own serialize function gives them where the type is internal,
 * else the value as it stands in memory.  An aggregate's deserialize function
 * believes what it reads, so no user may make up a partial: the type's input
 * refuses all but a superuser (who restores a dump), there are no casts, and the
 * tag keeps kappa.combine from giving it to another aggregate.
 *
 * The calls follow nodeAgg.c: strict functions skip NULLs and start with the first
 * value, a new value by reference is copied to the memory of the states and the old
 * one freed there.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "parser/parse_agg.h"
#include "parser/parse_coerce.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "compat.h"
#include "partial.h"

#define TAG_BYTES	sizeof(uint64)

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

/* ---------------------------------------------------------------- resolving */

AggContext *
agg_context_create(MemoryContext memory)
{
	MemoryContext old = MemoryContextSwitchTo(memory);
	AggContext *context = palloc0(sizeof(AggContext));

	context->memory = memory;
	context->econtext = makeNode(ExprContext);
	context->econtext->ecxt_per_tuple_memory = memory;
	context->econtext->ecxt_per_query_memory = memory;
	context->state = makeNode(AggState);
	context->state->curaggcontext = context->econtext;
	context->state->tmpcontext = context->econtext;
	MemoryContextSwitchTo(old);
	return context;
}

static void
refuse(Oid aggregate, const char *reason)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("aggregate %s cannot be kept in a window view", format_procedure(aggregate)),
			 errdetail("%s", reason),
			 errhint("Aggregates with a combine function can be kept: count, sum, avg, min, max, stddev, corr, bool_and, bit_or and others.")));
}

/* Combines, but in whatever order the parts come. */
static bool
depends_on_order(Oid aggregate)
{
	char	   *name = get_func_name(aggregate);

	if (get_func_namespace(aggregate) != PG_CATALOG_NAMESPACE)
		return false;
	return strcmp(name, "array_agg") == 0 || strcmp(name, "string_agg") == 0;
}

static void
check_aggregate(Form_pg_aggregate form, Oid aggregate)
{
	if (form->aggkind != AGGKIND_NORMAL)
		refuse(aggregate, "An ordered-set aggregate needs all rows at once.");
	if (depends_on_order(aggregate))
		refuse(aggregate, "Its result depends on the order of the rows.");
	if (!OidIsValid(form->aggcombinefn))
		refuse(aggregate, "It has no combine function, so its parts cannot be put together.");
	if (form->aggtranstype == INTERNALOID &&
		(!OidIsValid(form->aggserialfn) || !OidIsValid(form->aggdeserialfn)))
		refuse(aggregate, "Its state cannot be written down: it has no serialize function.");
}

/*
 * Only the result's type is known to who reads a stored partial, so a polymorphic
 * state must be of that type.
 */
static Oid
resolve_transtype(Form_pg_aggregate form, Oid aggregate, Oid resulttype)
{
	if (!IsPolymorphicType(form->aggtranstype))
		return form->aggtranstype;
	if (get_func_rettype(aggregate) != form->aggtranstype)
		refuse(aggregate, "Its state's type follows from its arguments, not from its result.");
	return resulttype;
}

static void
init_functions(PartialAgg *agg, Form_pg_aggregate form, const Oid *argtypes)
{
	Oid			inputs[FUNC_MAX_ARGS];
	Expr	   *call;

	memset(inputs, 0, sizeof(inputs));
	memcpy(inputs, argtypes, sizeof(Oid) * agg->nargs);
	if (agg->nargs > 0)
	{
		build_aggregate_transfn_expr(inputs, agg->nargs, 0, false, agg->transtype, agg->collation,
									 form->aggtransfn, InvalidOid, &call, NULL);
		fmgr_info(form->aggtransfn, &agg->transition);
		fmgr_info_set_expr((Node *) call, &agg->transition);
	}
	else
		fmgr_info(form->aggtransfn, &agg->transition);
	build_aggregate_transfn_expr(&agg->transtype, 1, 0, false, agg->transtype, agg->collation,
								 form->aggcombinefn, InvalidOid, &call, NULL);
	fmgr_info(form->aggcombinefn, &agg->combine);
	fmgr_info_set_expr((Node *) call, &agg->combine);
	if (agg->serialized)
	{
		fmgr_info(form->aggserialfn, &agg->serialize);
		fmgr_info(form->aggdeserialfn, &agg->deserialize);
	}
	agg->nfinal = form->aggfinalextra ? agg->nargs + 1 : 1;
	if (!OidIsValid(form->aggfinalfn))
		return;
	build_aggregate_finalfn_expr(inputs, agg->nfinal, agg->transtype, agg->resulttype,
								 agg->collation, form->aggfinalfn, &call);
	fmgr_info(form->aggfinalfn, &agg->final);
	fmgr_info_set_expr((Node *) call, &agg->final);
}

/*
 * Only what the server itself defines is kept as it stands in memory.  A user's type may be
 * another tomorrow under the same name, or its bytes hold OIDs (labels of enums, row types),
 * which are others once the database has been dumped and restored: its text is checked
 * when it is read.
 */
static bool
needs_text(Oid type)
{
	return type >= FirstNormalObjectId || type == RECORDOID || type == RECORDARRAYOID ||
		strncmp(format_type_be(type), "reg", 3) == 0;
}

static void
init_text(PartialAgg *agg)
{
	Oid			function;
	bool		varlena;

	agg->as_text = !agg->serialized && needs_text(agg->transtype);
	if (!agg->as_text)
		return;
	getTypeOutputInfo(agg->transtype, &function, &varlena);
	fmgr_info(function, &agg->output);
	getTypeInputInfo(agg->transtype, &function, &agg->ioparam);
	fmgr_info(function, &agg->input);
}

static void
init_value(PartialAgg *agg, HeapTuple tuple)
{
	Oid			input;
	Oid			ioparam;
	Datum		initial = SysCacheGetAttr(AGGFNOID, tuple, Anum_pg_aggregate_agginitval, &agg->no_init);

	if (agg->no_init)
		return;
	getTypeInputInfo(agg->transtype, &input, &ioparam);
	agg->init = OidInputFunctionCall(input, TextDatumGetCString(initial), ioparam, -1);
}

/*
 * Part of a cryptographic hash of the names: nobody can find an aggregate of his own that
 * has the tag of another, and so have its bytes taken for another kind of state.
 */
static uint64
partial_tag(const PartialAgg *agg)
{
	char	   *text = psprintf("%s %s", format_procedure_qualified(agg->aggregate),
								format_type_be_qualified(agg->transtype));
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	uint64		tag;
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);

	if (hash == NULL || pg_cryptohash_init(hash) < 0 ||
		pg_cryptohash_update(hash, (uint8 *) text, strlen(text)) < 0 ||
		pg_cryptohash_final(hash, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute a SHA-256 hash");
	pg_cryptohash_free(hash);
	memcpy(&tag, digest, sizeof(tag));
	return tag;
}

/* As the executor asks before it runs an aggregate. */
static void
check_rights(Oid aggregate, HeapTuple tuple)
{
	Form_pg_aggregate form = (Form_pg_aggregate) GETSTRUCT(tuple);
	Oid			functions[] = {form->aggtransfn, form->aggcombinefn, form->aggserialfn, form->aggdeserialfn, form->aggfinalfn};
	HeapTuple	procedure = SearchSysCache1(PROCOID, ObjectIdGetDatum(aggregate));
	Oid			owner;

	if (!HeapTupleIsValid(procedure))
		elog(ERROR, "cache lookup failed for function %u", aggregate);
	owner = ((Form_pg_proc) GETSTRUCT(procedure))->proowner;
	ReleaseSysCache(procedure);
	if (!may_execute(aggregate, GetUserId()))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_AGGREGATE, get_func_name(aggregate));
	for (int i = 0; i < lengthof(functions); i++)
		if (OidIsValid(functions[i]) && !may_execute(functions[i], owner))
			aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(functions[i]));
}

void
partial_agg_init(PartialAgg *agg, Oid aggregate, const Oid *argtypes, int nargs,
				 Oid resulttype, Oid collation)
{
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggregate));
	Form_pg_aggregate form;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s is not an aggregate function", format_procedure(aggregate))));
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	check_aggregate(form, aggregate);
	memset(agg, 0, sizeof(PartialAgg));
	agg->aggregate = aggregate;
	agg->resulttype = resulttype;
	agg->collation = collation;
	agg->nargs = nargs;
	agg->transtype = resolve_transtype(form, aggregate, resulttype);
	agg->serialized = agg->transtype == INTERNALOID;
	get_typlenbyval(agg->transtype, &agg->translen, &agg->transbyval);
	agg->counts = form->aggtransfn == F_INT8INC || form->aggtransfn == F_INT8INC_ANY;
	check_rights(aggregate, tuple);
	init_functions(agg, form, argtypes);
	init_text(agg);
	init_value(agg, tuple);
	agg->tag = partial_tag(agg);
	ReleaseSysCache(tuple);
}

/* ---------------------------------------------------------------- values */

void
agg_value_start(const PartialAgg *agg, AggValue *value, AggContext *context)
{
	MemoryContext old;

	value->null = agg->no_init;
	value->started = !agg->no_init;
	value->value = (Datum) 0;
	if (agg->no_init)
		return;
	old = MemoryContextSwitchTo(context->memory);
	value->value = agg->transbyval ? agg->init : datumCopy(agg->init, false, agg->translen);
	MemoryContextSwitchTo(old);
}

/* A new state that may lie in short-lived memory takes the place of the old one. */
static void
set_value(const PartialAgg *agg, AggValue *value, AggContext *context, Datum new, bool null)
{
	if (!agg->transbyval && (null || DatumGetPointer(new) != DatumGetPointer(value->value)))
	{
		MemoryContext old = MemoryContextSwitchTo(context->memory);
		bool		expanded = !null && DatumIsReadWriteExpandedObject(new, false, agg->translen) &&
			MemoryContextGetParent(DatumGetEOHP(new)->eoh_context) == context->memory;

		if (!null && !expanded && !agg->serialized)
			new = datumCopy(new, false, agg->translen);
		if (!value->null && value->value != (Datum) 0 && !agg->serialized)
		{
			if (DatumIsReadWriteExpandedObject(value->value, false, agg->translen))
				DeleteExpandedObject(value->value);
			else
				pfree(DatumGetPointer(value->value));
		}
		MemoryContextSwitchTo(old);
	}
	value->value = new;
	value->null = null;
	value->started = true;
}

/* The first value of a strict function is the state, as it stands. */
static void
first_value(const PartialAgg *agg, AggValue *value, AggContext *context, Datum first)
{
	value->null = true;
	set_value(agg, value, context, first, false);
}

void
agg_value_advance(PartialAgg *agg, AggValue *value, AggContext *context,
				  const Datum *args, const bool *nulls)
{
	LOCAL_FCINFO(fcinfo, FUNC_MAX_ARGS);
	Datum		new;

	if (agg->transition.fn_strict)
	{
		for (int i = 0; i < agg->nargs; i++)
			if (nulls[i])
				return;
		if (agg->counts)
		{
			value->value = Int64GetDatum(DatumGetInt64(value->value) + 1);
			return;
		}
		if (!value->started)
		{
			first_value(agg, value, context, args[0]);
			return;
		}
		if (value->null)
			return;
	}
	InitFunctionCallInfoData(*fcinfo, &agg->transition, agg->nargs + 1, agg->collation,
							 (Node *) context->state, NULL);
	fcinfo->args[0].value = value->value;
	fcinfo->args[0].isnull = value->null;
	for (int i = 0; i < agg->nargs; i++)
	{
		fcinfo->args[i + 1].value = args[i];
		fcinfo->args[i + 1].isnull = nulls[i];
	}
	new = FunctionCallInvoke(fcinfo);
	if (!agg->transbyval || fcinfo->isnull || value->null)
		set_value(agg, value, context, new, fcinfo->isnull);
	else
		value->value = new;
}

/* ---------------------------------------------------------------- bytes */

/* A state's bytes, behind the tag, as a value again; in the current context. */
static Datum
state_of(PartialAgg *agg, Datum partial, Node *call)
{
	bytea	   *bytes = DatumGetByteaPP(partial);
	size_t		len = VARSIZE_ANY_EXHDR(bytes);
	const char *data = VARDATA_ANY(bytes);
	uint64		tag = 0;
	char	   *copy;

	if (len >= TAG_BYTES)
		memcpy(&tag, data, TAG_BYTES);
	if (len < TAG_BYTES || tag != agg->tag)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the partial is not one of aggregate %s", format_procedure(agg->aggregate)),
				 errdetail("The aggregate or its state's type may have been renamed."),
				 errhint("SELECT kappa.rebuild(...) of the window view.")));
	data += TAG_BYTES;
	len -= TAG_BYTES;
	if (agg->as_text)
		return InputFunctionCall(&agg->input, pnstrdup(data, len), agg->ioparam, -1);
	if (agg->transbyval && !agg->serialized)
	{
		Datum		value = 0;

		if (len != agg->translen)
			elog(ERROR, "a partial of %zu bytes where %d are expected", len, agg->translen);
		switch (len)
		{
			case 1: value = CharGetDatum(*data); break;
			case 2: { int16 v; memcpy(&v, data, 2); value = Int16GetDatum(v); } break;
			case 4: { int32 v; memcpy(&v, data, 4); value = Int32GetDatum(v); } break;
			default: memcpy(&value, data, sizeof(Datum));
		}
		return value;
	}
	if (agg->translen > 0 && !agg->serialized)
		return PointerGetDatum(memcpy(palloc(len), data, len));
	copy = palloc(len + VARHDRSZ + 1);
	SET_VARSIZE(copy, len + VARHDRSZ);
	memcpy(VARDATA(copy), data, len);
	if (agg->serialized)
	{
		LOCAL_FCINFO(fcinfo, 2);

		InitFunctionCallInfoData(*fcinfo, &agg->deserialize, 2, InvalidOid, call, NULL);
		fcinfo->args[0].value = PointerGetDatum(copy);
		fcinfo->args[0].isnull = false;
		fcinfo->args[1].value = (Datum) 0;
		fcinfo->args[1].isnull = false;
		return FunctionCallInvoke(fcinfo);
	}
	return PointerGetDatum(copy);
}

static Datum
make_partial(const PartialAgg *agg, const void *data, size_t len)
{
	char	   *partial = palloc(VARHDRSZ + TAG_BYTES + len);

	SET_VARSIZE(partial, VARHDRSZ + TAG_BYTES + len);
	memcpy(VARDATA(partial), &agg->tag, TAG_BYTES);
	memcpy(VARDATA(partial) + TAG_BYTES, data, len);
	return PointerGetDatum(partial);
}

bool
agg_value_partial(PartialAgg *agg, const AggValue *value, AggContext *context, Datum *partial)
{
	struct varlena *bytes;

	if (value->null)
		return false;
	if (agg->as_text)
	{
		char	   *text = OutputFunctionCall(&agg->output, value->value);

		*partial = make_partial(agg, text, strlen(text));
		return true;
	}
	if (agg->transbyval && !agg->serialized)
	{
		char		data[sizeof(Datum)];

		store_att_byval(data, value->value, agg->translen);
		*partial = make_partial(agg, data, agg->translen);
		return true;
	}
	if (agg->translen > 0 && !agg->serialized)
	{
		*partial = make_partial(agg, DatumGetPointer(value->value), agg->translen);
		return true;
	}
	if (agg->serialized)
	{
		LOCAL_FCINFO(fcinfo, 1);

		InitFunctionCallInfoData(*fcinfo, &agg->serialize, 1, InvalidOid, (Node *) context->state, NULL);
		fcinfo->args[0].value = value->value;
		fcinfo->args[0].isnull = false;
		bytes = (struct varlena *) DatumGetPointer(FunctionCallInvoke(fcinfo));
	}
	else
		bytes = PG_DETOAST_DATUM_PACKED(value->value);
	*partial = make_partial(agg, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	return true;
}

/* ---------------------------------------------------------------- combining */

static void
combine_state(PartialAgg *agg, AggValue *value, AggContext *context, Node *call, Datum other)
{
	LOCAL_FCINFO(fcinfo, 2);
	Datum		new;

	if (agg->counts)
	{
		value->value = Int64GetDatum(DatumGetInt64(value->value) + DatumGetInt64(other));
		return;
	}
	if (agg->combine.fn_strict && (value->null || !value->started))
	{
		first_value(agg, value, context, other);
		return;
	}
	InitFunctionCallInfoData(*fcinfo, &agg->combine, 2, agg->collation, call, NULL);
	fcinfo->args[0].value = value->value;
	fcinfo->args[0].isnull = value->null;
	fcinfo->args[1].value = other;
	fcinfo->args[1].isnull = false;
	new = FunctionCallInvoke(fcinfo);
	set_value(agg, value, context, new, fcinfo->isnull);
}

void
agg_value_combine(PartialAgg *agg, AggValue *value, AggContext *context, Datum partial, bool null)
{
	if (!null)
		combine_state(agg, value, context, (Node *) context->state,
					  state_of(agg, partial, (Node *) context->state));
}

void
agg_value_merge(PartialAgg *agg, AggValue *value, AggContext *context, const AggValue *other)
{
	if (!other->null)
		combine_state(agg, value, context, (Node *) context->state, other->value);
}

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
		combine_state(state->agg, &state->value, &state->context, fcinfo->context,
					  state_of(state->agg, PG_GETARG_DATUM(1), fcinfo->context));
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
