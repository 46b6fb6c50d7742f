/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-state.c - the state file, and the state that an opening goes on from
 *
 * Epochs count serves that began clean, and clean ends of them; files that say
 * something of the disk or its target carry the one in which they were
 * written. A copy of before the last clean end is seen by that, and so is a
 * state that lags behind the newest intent file:
 *
 *   clean, by one     a serve began and did not get to its state, or did and
 *                     somebody put the state back. The files of that serve
 *                     say all that matters: it counts as unclean.
 *   anything else     an old state was put back, and nobody knows what was
 *                     said since: it is of no use, and counts as lost.
 *
 * A state that is lost (missing, damaged, of no use) is no end of anything: in
 * its place comes one, made of weir.conf, in which the last end was a crash,
 * everything is dirty and in doubt, and each target is one that the sums may
 * know. `weir check --repair` writes the very one that an opening goes on
 * from.
 *
 *   epoch-before = newest       files of the last serve, or of its end, are
 *                               believed: nobody can tell newer ones from them
 *   epoch = newest + 2          files are written of an epoch beyond both, so
 *                               that from then on a copy of them is seen
 */
#include "store-private.h"

#include "bitmap/intent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static const char *
load(StoreIo *io, int dir_fd, const struct Conf *conf, struct State *state)
{
    char *text = NULL;
    size_t len;
    int err =
        store_io_load(io, dir_fd, STORE_STATE, STORE_FILE_MAX, &text, &len);
    const char *why;

    *state = (struct State){0};
    if (err) {
        return err == -ENOENT ? "it is missing" : g_strerror(-err);
    }
    why = state_parse(text, len, state);
    free(text);
    if (!why && memcmp(state->uuid, conf->uuid, sizeof(state->uuid)) != 0) {
        state_deinit(state);
        why = "it is another store's";
    }
    return why;
}

int
store_put_state(StoreIo *io, int dir_fd, const struct State *state)
{
    g_autofree char *text = NULL;
    size_t len;

    text = state_format(state, &len);
    return store_io_swap(io, dir_fd, STORE_STATE, STORE_SPARE, text, len, 0600);
}

/* Raises @epoch to the largest one that @disk's intent file speaks of. */
static int
raise_epoch(StoreIo *io, int dir_fd, const struct Conf *conf,
            const struct ConfDisk *disk, uint64_t *epoch)
{
    struct IntentMark want = {.sequence = UINT64_MAX};
    struct IntentReport report;
    Bitmap *hot = bitmap_new(disk->size_bytes, INTENT_EXTENT_BITS);
    int fd;

    if (!hot) {
        return -ENOMEM;
    }
    fd = io->ops->open(io, dir_fd, disk->name, STORE_DIR_FLAGS, 0);
    if (fd >= 0) {
        memcpy(want.uuid, conf->uuid, sizeof(want.uuid));
        intent_load(io, fd, hot, &want, &report);
        *epoch = MAX(*epoch, report.newest);
        io->ops->close(io, fd);
    }
    bitmap_free(hot);
    return 0;
}

/* What there is instead of @state, which cannot be believed. */
static void
lose(struct State *state, const struct Conf *conf, uint64_t newest)
{
    struct State lost = {
        .sequence = state->sequence,
        .epoch = MAX(state->epoch, newest) + 2,
        .epoch_before = newest,
        .cuts = state->cuts,
        .last_snapshot = state->last_snapshot,
        .last_bitmap = state->last_bitmap,
        .rollback = state->rollback,
        .n_disks = conf->n_disks,
    };

    state_lose_cuts(&lost.cuts);
    memcpy(lost.uuid, conf->uuid, sizeof(lost.uuid));
    for (unsigned i = 0; i < conf->n_disks; i++) {
        const struct ConfDisk *disk = &conf->disks[i];

        lost.disks[i] = (struct StateDisk){
            .id = disk->id,
            .size_bytes = disk->size_bytes,
            .cluster_bits = disk->cluster_bits,
            .target = g_strdup(disk->target),
            .contact = disk->target ? CONTACT_LOST : CONTACT_NONE,
            .dirty = STATE_DIRTY_ALL,
            .is_in_doubt = true,
            .attr = {.uid = (uid_t)-1, .gid = (gid_t)-1},
        };
    }
    state_deinit(state);
    *state = lost;
}

int
store_find_state(StoreIo *io, int dir_fd, const struct Conf *conf,
                 struct State *state, const char **why)
{
    uint64_t newest = 0;
    int err = 0;

    *why = load(io, dir_fd, conf, state);
    for (unsigned i = 0; err == 0 && i < conf->n_disks; i++) {
        err = raise_epoch(io, dir_fd, conf, &conf->disks[i], &newest);
    }
    if (err) {
        state_deinit(state);
        return err;
    }
    if (!*why && newest > state->epoch + state->is_clean) {
        *why = "it is older than the intent files";
    }
    if (*why) {
        lose(state, conf, newest);
    } else {
        state->is_clean &= newest <= state->epoch;
        state->epoch = MAX(state->epoch, newest);
    }
    return 0;
}
