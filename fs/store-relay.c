/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-relay.c - a disk as the relay has to know it
 *
 * What the store found at its opening decides what the relay may believe: the
 * epoch that sent-log and remote-sums have to be of, whether uploads of an
 * earlier life may still execute, and whether the map has more than what
 * differs. It is said in one place, for the daemon and for the tests that
 * judge crashes.
 */
#include "store-private.h"

#include <string.h>

struct RelayDiskConfig
store_relay_config(const Store *store, const Disk *disk)
{
    struct RelayDiskConfig config = {
        .name = disk->name,
        .fd = disk->fd,
        .map_fd = disk->map_fd,
        .dio_align = MAX(disk->offset_align, disk->mem_align),
        .map = disk->map,
        .target = disk->target,
        .contact = disk->contact,
        .accept = disk->accept,
        .is_cut = store_is_cut(store, disk),
        .accept_unflushed = store->settings.accept_unflushed,
        .insecure = store->settings.insecure,
        .dir_fd = disk->dir_fd,
        .epoch_before = store_books_epoch(disk->contact, store->epoch_before),
        .epoch = store->epoch,
        .is_in_doubt = disk->all_in_doubt,
        .recovers = disk->recovers,
        .aside = disk->aside,
        .aside_fd = disk->aside_fd,
        .points = disk->points,
    };

    memcpy(config.uuid, store->uuid, sizeof(config.uuid));
    return config;
}

gboolean
store_relay_disk(Store *store, Disk *disk, Relay *relay, GError **error)
{
    struct RelayDiskConfig config;

    if (!store_aside_open(store, disk, error)) {
        return FALSE;
    }
    config = store_relay_config(store, disk);
    return relay_add_disk(relay, &config, error);
}
