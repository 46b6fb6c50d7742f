/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a server says of itself, out of a handle that is ready; and libnbd's
 * words for what went wrong. Nothing of it is taken for granted: a size that
 * is no size is none, a limit that is not there is the protocol's.
 */
#include <string.h>

#include <glib.h>

#include "target.h"

#define PAYLOAD_MAX (32u << 20) /* of a server that does not say */

void
target_caps(struct nbd_handle *nbd, struct TargetCaps *caps)
{
    int64_t size = nbd_get_size(nbd);
    int64_t min_block = nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM);
    int64_t payload = nbd_get_block_size(nbd, LIBNBD_SIZE_MAXIMUM);

    *caps = (struct TargetCaps){
        .size_bytes = size > 0 ? (uint64_t)size : 0,
        .is_read_only = nbd_is_read_only(nbd) != 0,
        .can_flush = nbd_can_flush(nbd) == 1,
        .can_fua = nbd_can_fua(nbd) == 1,
        .can_zero = nbd_can_zero(nbd) == 1,
        .can_trim = nbd_can_trim(nbd) == 1,
        .can_multi_conn = nbd_can_multi_conn(nbd) == 1,
        .has_block_status =
            nbd_can_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1,
        .min_block = min_block > 1 ? (uint32_t)min_block : 1,
        .max_payload =
            payload > 0 ? (uint32_t)MIN(payload, UINT32_MAX) : PAYLOAD_MAX,
    };
}

void
target_error_text(char *text)
{
    const char *error = nbd_get_error();
    const char *colon = error ? strstr(error, ": ") : NULL;

    if (colon && !strncmp(error, "nbd_", 4)) {
        error = colon + 2;
    }
    g_strlcpy(text, error ? error : "unknown error", RELAY_TEXT);
}
