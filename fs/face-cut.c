/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A cut: one instant, between two requests, at which the open generations of
 * all disks are sealed. The fs thread answers the guest for all of them, so
 * whatever it has answered before is in, and what it answers later is not; what
 * is in flight is in or out (rule 12). Nothing is copied, whatever the size of
 * the disks.
 *
 * What was discarded and is not punched yet reads as zero and is not marked:
 * there is no cut while the list of one of its disks is not empty (rule 25).
 * That is so for instants even while a guest discards all the time; who asks
 * is answered at once, and asks again.
 *
 * The cut of a snapshot (cuts-snapshot.c) needs a seal at one instant of each
 * disk and no more: what was overwritten since is marked by whoever asks, before
 * and after (bitmap/point-marks.h), and kept by the snapshot already. Nor need
 * the list be empty. What was discarded before the snapshot is in its points, as
 * zeroes. What was discarded since, and is not punched, is on the disk as it was
 * then: clean or dirty, the target gets it from there, as the snapshot has it.
 * The slice that is punched copies first, and marks what is open then.
 */
#include "face-wire.h"

#include "bitmap/mutant.h"

static bool
is_ready(const FaceCutMsg *msg)
{
    const struct FaceCut *cut = msg->cut;

    if (cut->snapshot) {
        return true;
    }
    for (unsigned i = 0; i < cut->n_disks; i++) {
        if (msg->face->disks[cut->disks[i]->index].zeroes.count &&
            !mutant(MUTANT_CUT_ZEROES)) {
            return false;
        }
    }
    return true;
}

static void
seal(FaceCutMsg *msg)
{
    struct FaceCut *cut = msg->cut;

    for (unsigned i = 0; i < cut->n_disks; i++) {
        Disk *disk = cut->disks[i];

        /* Left by a cut that was given up elsewhere. */
        face_aside_end(&msg->face->disks[disk->index]);
        cut->seq[i] = disk_map_seal(disk->map);
        if (cut->seq[i] && !cut->snapshot) {
            face_aside_begin(&msg->face->disks[disk->index], cut->seq[i]);
        }
    }
    if (!cut->snapshot) {
        cut->wall_us = g_get_real_time();
    }
}

static void
answer(FaceCutMsg *msg, bool is_made)
{
    Face *face = msg->face;

    pthread_mutex_lock(&face->lock);
    msg->is_made = is_made;
    msg->is_done = true;
    pthread_cond_broadcast(&face->cond);
    pthread_mutex_unlock(&face->lock);
}

void
face_cut_run(Face *face)
{
    FaceCutMsg *msg = face->cut;

    if (!msg) {
        return;
    }
    bool is_made = is_ready(msg);

    if (is_made) {
        seal(msg);
    }
    face->cut = NULL;
    answer(msg, is_made);
}

static bool
cut_at_once(Face *face, struct FaceCut *cut)
{
    FaceCutMsg msg = {.msg.kind = FACE_MSG_CUT, .face = face, .cut = cut};

    /* Memory first: all of them are sealed, or none. */
    for (unsigned i = 0; i < cut->n_disks; i++) {
        if (!disk_map_provide(cut->disks[i]->map)) {
            return false;
        }
    }
    inbox_post(&face->inbox, &msg.msg);
    pthread_mutex_lock(&face->lock);
    while (!msg.is_done) {
        pthread_cond_wait(&face->cond, &face->lock);
    }
    pthread_mutex_unlock(&face->lock);
    return msg.is_made;
}

bool
face_cut(Face *face, struct FaceCut *cut)
{
    bool is_made = true;

    if (!mutant(MUTANT_CUT_ONE_BY_ONE)) {
        return cut_at_once(face, cut);
    }
    for (unsigned i = 0; i < cut->n_disks && is_made; i++) {
        struct FaceCut one = {
            .disks = {cut->disks[i]}, .n_disks = 1, .snapshot = cut->snapshot};

        is_made = cut_at_once(face, &one);
        cut->seq[i] = one.seq[0];
    }
    return is_made;
}

void
face_cut_end(Face *face, Disk *disk)
{
    struct FaceCutEnd *end = g_new0(struct FaceCutEnd, 1);

    end->msg.kind = FACE_MSG_CUT_END;
    end->disk = &face->disks[disk->index];
    inbox_post(&face->inbox, &end->msg);
}
