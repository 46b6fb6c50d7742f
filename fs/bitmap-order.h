/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmap-order.h - what a client wants done with a named bitmap
 *
 * Purpose: the six commands about bitmaps as an order: read from arguments, then
 *          carried out by itself, or as a part of a transaction.
 * Threads: main.
 * Errors:  GError of STORE_ERROR and DEVICE_ERROR, words are QEMU's.
 */
#pragma once

#include "arguments.h"
#include "bitmap/named.h"

enum BitmapVerb {
    BITMAP_ADD,
    BITMAP_REMOVE,
    BITMAP_CLEAR,
    BITMAP_ENABLE,
    BITMAP_DISABLE,
    BITMAP_MERGE,
    BITMAP_VERBS
};

typedef struct BitmapOrder {
    enum BitmapVerb verb;
    Disk *disk;
    char *name; /* at most NAMED_NAME_MAX */
    unsigned grain_bits;
    bool is_persistent, is_disabled;
    GPtrArray *sources; /* names; NULL: not a merge */
} BitmapOrder;

extern const struct ArgumentRule bitmap_add_rules[], bitmap_name_rules[],
    bitmap_merge_rules[];

/* From arguments that keep to the rules. */
gboolean bitmap_order_parse(Store *store, enum BitmapVerb verb,
                            JsonObject *arguments, BitmapOrder *order,
                            GError **error);
void bitmap_order_clear(BitmapOrder *order);

/* By itself: durable when it returns. */
gboolean bitmap_order_run(Store *store, const BitmapOrder *order,
                          GError **error);
/* In memory only; @id: for one that is added. */
gboolean bitmap_order_apply(const BitmapOrder *order, uint64_t id,
                            GError **error);
