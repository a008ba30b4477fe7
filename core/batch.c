/*
 * core/batch.c
 *		The fingerprint of a message.
 *
 * It is stored with a position and compared after restarts and upgrades, so
 * the function must never change: 64-bit FNV-1a over, for key then value, the
 * length as 8 little-endian bytes (all ones where there is none) and the bytes.
 * The lengths keep ("ab", "c") apart from ("a", "bc"), and NULL from empty.
 */
#include "core/batch.h"

#define FNV_OFFSET	UINT64_C(0xCBF29CE484222325)
#define FNV_PRIME	UINT64_C(0x00000100000001B3)

static uint64_t
add_bytes(uint64_t hash, const char *data, size_t len)
{
	uint64_t	length = data != NULL ? (uint64_t) len : UINT64_MAX;
	size_t		i;

	for (i = 0; i < 8; i++)
		hash = (hash ^ (length >> (8 * i) & 0xFF)) * FNV_PRIME;
	for (i = 0; data != NULL && i < len; i++)
		hash = (hash ^ (unsigned char) data[i]) * FNV_PRIME;
	return hash;
}

uint64_t
message_fingerprint(const KafkaMessage *message)
{
	uint64_t	hash = add_bytes(FNV_OFFSET, message->key, message->key_len);

	return add_bytes(hash, message->value, message->value_len);
}
