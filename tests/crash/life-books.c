/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the relay's loop does with sent-log and remote-sums, through the seam
 * and with plain calls: a commit is a write and a sync, which a crash finds in
 * more states than one durable write.
 */
#include "life-internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

void
life_answer_load(struct Run *run, const struct RelayAction *action)
{
    const Life *life = run->life;
    struct Coming *coming = life_come(run);
    struct RelayEvent *event = &coming->event;
    struct Entries *entries = &run->entries[action->op];
    uint64_t first = action->offset / run->cluster;

    *event = (struct RelayEvent){.kind = RELAY_READ, .op = action->op};
    memset(entries->known, 0, sizeof(entries->known));
    if (life->sums.fd >= 0) {
        (void)life->store->io->ops->pread(
            life->store->io, life->sums.fd, entries->known,
            (action->len + run->cluster - 1) / run->cluster * SUMS_BYTES,
            SUMS_AT + first * SUMS_BYTES);
    }
    for (uint64_t at = 0; at < action->len; at += run->cluster) {
        uint64_t i = at / run->cluster;
        uint64_t bit = UINT64_C(1) << i % 64;

        sums_hash(&life->sums, first + i, life->raw + action->offset + at,
                  MIN(run->cluster, action->len - at), entries->loaded[i]);
        event->zero[i / 64] |=
            life_reads_as_hole(run, action->offset + at) ? bit : 0;
        event->known[i / 64] |= sums_is_known(entries->known[i]) ? bit : 0;
        event->equal[i / 64] |=
            !memcmp(entries->known[i], entries->loaded[i], SUMS_BYTES) ? bit
                                                                       : 0;
    }
}

void
life_execute_books(struct Run *run, const struct Coming *coming)
{
    const struct RelayAction *action = &coming->action;
    Life *life = run->life;
    StoreIo *io = life->store->io;
    uint64_t first = action->offset / run->cluster;
    uint64_t bytes =
        (action->len + run->cluster - 1) / run->cluster * SUMS_BYTES;

    if (action->kind == RELAY_LOG) {
        (void)io->ops->pwrite(io, life->sent_log.fd, life->sent_log.slot,
                              run->commit_len, run->commit_offset);
        (void)io->ops->fdatasync(io, life->sent_log.fd);
    } else if (action->kind == RELAY_NOTE && action->is_zero_run) {
        (void)io->ops->fallocate(io, life->sums.fd,
                                 FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 SUMS_AT + first * SUMS_BYTES, bytes);
    } else if (action->kind == RELAY_NOTE) {
        (void)io->ops->pwrite(io, life->sums.fd,
                              run->entries[action->op].loaded, bytes,
                              SUMS_AT + first * SUMS_BYTES);
    } else if (action->kind == RELAY_SYNC) {
        (void)io->ops->fdatasync(io, life->sums.fd);
    } else {
        (void)sums_make_key(&life->sums);
        (void)sums_stamp(&life->sums, life->store->epoch);
    }
}

/* As relay_stop() does. */
void
life_end_books(struct Run *run)
{
    Life *life = run->life;
    StoreIo *io = life->store->io;
    bool is_durable =
        life->sums.fd >= 0 && !io->ops->fdatasync(io, life->sums.fd);
    uint64_t epoch = store_end_epoch(life->store);

    bitmap_clear_all(life->logged);
    relay_core_last_log(run->core, is_durable, life->logged);
    (void)sent_log_stamp(&life->sent_log, life->logged, epoch);
    if (life->sums.fd >= 0) {
        (void)sums_stamp(&life->sums, epoch);
    }
}

bool
life_open_books(Life *life)
{
    const Store *store = life->store;
    const Disk *disk = life->disk;
    const char *what;
    int r;

    life->sums.fd = life->sent_log.fd = -1;
    life->logged = bitmap_new(disk->size_bytes, disk->cluster_bits);
    assert(life->logged);
    r = sent_log_open(&life->sent_log, store->io, disk->dir_fd, store->uuid,
                      store->epoch_before, store->epoch, disk->all_in_doubt,
                      life->logged, &what);
    if (r < 0 && r != -EBADMSG) {
        return false;
    }
    (void)sums_open(
        &life->sums, store->io, disk->dir_fd, store->uuid, disk->cluster_bits,
        r == 0 ? store->epoch_before : UINT64_MAX, store->epoch, &what);
    return true;
}

void
life_close_books(Life *life)
{
    sent_log_close(&life->sent_log);
    if (life->sums.fd >= 0) {
        sums_close(&life->sums);
    }
    bitmap_free(life->logged);
}
