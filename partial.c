/*
 * partial.c
 *		Aggregates in parts: what the type kappa.partial holds (partial_type.c).
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

#include <math.h>

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
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "compat.h"
#include "partial.h"

#define TAG_BYTES	sizeof(uint64)

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

static FastTransition
fast_transition(Oid function)
{
	switch (function)
	{
		case F_INT4LARGER:
		case F_DATE_LARGER:
			return FAST_INT4_LARGER;
		case F_INT4SMALLER:
		case F_DATE_SMALLER:
			return FAST_INT4_SMALLER;
		case F_INT8LARGER:
		case F_TIMESTAMP_LARGER:
		case F_TIMESTAMPTZ_LARGER:
			return FAST_INT8_LARGER;
		case F_INT8SMALLER:
		case F_TIMESTAMP_SMALLER:
		case F_TIMESTAMPTZ_SMALLER:
			return FAST_INT8_SMALLER;
		case F_FLOAT8LARGER:
			return FAST_FLOAT8_LARGER;
		case F_FLOAT8SMALLER:
			return FAST_FLOAT8_SMALLER;
		case F_FLOAT8_ACCUM:
			return FAST_FLOAT8_ACCUM;
		default:
			return FAST_NONE;
	}
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
	agg->fast = fast_transition(form->aggtransfn);
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

/*
 * The commonest transitions without a call, and with what the server's functions would
 * give; false: call the function.  The state is a value of ours already, and neither it nor
 * the argument is NULL.
 */
static inline bool
advance_fast(const PartialAgg *agg, AggValue *value, Datum arg)
{
	double	   *state;
	double		n;
	double		sum;
	double		square;

	switch (agg->fast)
	{
		case FAST_INT4_LARGER:
			value->value = DatumGetInt32(arg) > DatumGetInt32(value->value) ? arg : value->value;
			return true;
		case FAST_INT4_SMALLER:
			value->value = DatumGetInt32(arg) < DatumGetInt32(value->value) ? arg : value->value;
			return true;
		case FAST_INT8_LARGER:
			value->value = DatumGetInt64(arg) > DatumGetInt64(value->value) ? arg : value->value;
			return true;
		case FAST_INT8_SMALLER:
			value->value = DatumGetInt64(arg) < DatumGetInt64(value->value) ? arg : value->value;
			return true;
		case FAST_FLOAT8_LARGER:
			value->value = float8_gt(DatumGetFloat8(value->value), DatumGetFloat8(arg)) ? value->value : arg;
			return true;
		case FAST_FLOAT8_SMALLER:
			value->value = float8_lt(DatumGetFloat8(value->value), DatumGetFloat8(arg)) ? value->value : arg;
			return true;
		case FAST_FLOAT8_ACCUM:
			/* Youngs and Cramer, as in float8_accum; what overflows is for that function to tell */
			state = (double *) ARR_DATA_PTR((ArrayType *) DatumGetPointer(value->value));
			n = state[0] + 1.0;
			sum = state[1] + DatumGetFloat8(arg);
			square = DatumGetFloat8(arg) * n - sum;
			square = state[2] + square * square / (n * state[0]);
			if (!(state[0] > 0.0) || !isfinite(sum) || !isfinite(square))
				return false;
			state[0] = n;
			state[1] = sum;
			state[2] = square;
			return true;
		default:
			return false;
	}
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
		if (agg->fast != FAST_NONE && advance_fast(agg, value, args[0]))
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

Datum
agg_state_of(PartialAgg *agg, Datum partial, Node *call)
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

void
agg_value_combine_state(PartialAgg *agg, AggValue *value, AggContext *context, Node *call, Datum other)
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
		agg_value_combine_state(agg, value, context, (Node *) context->state,
					  agg_state_of(agg, partial, (Node *) context->state));
}

void
agg_value_merge(PartialAgg *agg, AggValue *value, AggContext *context, const AggValue *other)
{
	if (!other->null)
		agg_value_combine_state(agg, value, context, (Node *) context->state, other->value);
}
