/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The helper thread: for what has no asynchronous form in the kernel (lseek,
 * rule 24), or takes longer than the fs thread may be away.
 *
 *   fs thread:  face_help(req)  ->  helper: help(req), again until it is done
 *                               ->  fs thread: helped(req)
 *
 * Work that is long is done a slice at a time: between two slices of it
 * everybody else who waits gets one, so that nobody waits for all of it.
 */
#include "face-wire.h"

#include <poll.h>

void
face_help(FaceReq *req, bool (*help)(FaceReq *), void (*helped)(FaceReq *))
{
    req->help = help;
    req->helped = helped;
    inbox_post(&req->face->helps, &req->msg);
}

static bool
help_all(Face *face, InboxMsg *msg)
{
    bool is_running = true;

    while (msg) {
        InboxMsg *next = msg->next;
        FaceReq *req = (FaceReq *)msg;

        if (msg->kind == FACE_MSG_STOP) {
            is_running = false;
        } else if (!req->help(req)) {
            inbox_post(&face->helps, &req->msg);
        } else {
            req->msg.kind = FACE_MSG_HELPED;
            inbox_post(&face->inbox, &req->msg);
        }
        msg = next;
    }
    return is_running;
}

static void *
helper_run(void *opaque)
{
    Face *face = opaque;
    struct pollfd wait = {face->helps.event_fd, POLLIN, 0};
    bool is_running = true;

    while (is_running) {
        poll(&wait, 1, -1);
        is_running = help_all(face, inbox_take(&face->helps));
    }
    return NULL;
}

int
face_helper_start(Face *face)
{
    return -pthread_create(&face->helper, NULL, helper_run, face);
}

void
face_helper_stop(Face *face)
{
    InboxMsg stop = {.kind = FACE_MSG_STOP};

    inbox_post(&face->helps, &stop);
    pthread_join(face->helper, NULL);
}
