/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the main thread says to a face at work: messages into the fs thread's
 * inbox, and counters that anybody may read. Only a quiesce waits, for the
 * fs thread, which waits for nothing.
 */
#include "face-wire.h"

void
face_answer(Face *face, FaceNote *note)
{
    note->msg.kind = FACE_MSG_ANSWER;
    inbox_post(&face->inbox, &note->msg);
}

void
face_quiesce(Face *face, Disk *disk, void (*work)(void *user), void *user)
{
    struct FaceQuiesce quiesce = {
        .msg.kind = FACE_MSG_QUIESCE,
        .disk = &face->disks[disk->index],
        .work = work,
        .user = user,
    };

    inbox_post(&face->inbox, &quiesce.msg);
    pthread_mutex_lock(&face->lock);
    while (!quiesce.is_done) {
        pthread_cond_wait(&face->cond, &face->lock);
    }
    pthread_mutex_unlock(&face->lock);
}

void
face_hurry(Face *face)
{
    if (!atomic_exchange(&face->is_hurried, true)) {
        face->hurry_msg.kind = FACE_MSG_HURRY;
        inbox_post(&face->inbox, &face->hurry_msg);
    }
}

void
face_leave(Face *face)
{
    face->leave_msg.kind = FACE_MSG_LEAVE;
    inbox_post(&face->inbox, &face->leave_msg);
}

void
face_figures(Face *face, struct FaceFigures *figures)
{
    struct FaceCounters *count = &face->count;

    *figures = (struct FaceFigures){
        .read_requests = count->read_requests,
        .write_requests = count->write_requests,
        .sync_requests = count->sync_requests,
        .punch_requests = count->punch_requests,
        .read_bytes = count->read_bytes,
        .written_bytes = count->written_bytes,
        .rmw_requests = count->rmw_requests,
        .inflight = count->inflight,
        .errors = count->errors,
        .intent_writes = count->intent_writes,
        .aside_clusters = count->aside_clusters,
        .aside_waits = count->aside_waits,
        .starved = count->starved,
        .starvations = count->starvations,
        .throttled_us = count->throttled_us,
        .refused = count->refused,
        .slowed = count->slowed,
        .is_uring = face->is_uring,
    };
}
