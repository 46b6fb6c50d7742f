/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Generated files: MNT/.weir/status.json and metrics, and each snapshot's
 * info.json. Opening and closing of all others, too.
 *
 * The main thread makes the text, when the file is opened; the open request
 * waits for it and nothing else does. The text belongs to the handle, so that
 * a reader sees one document however it reads. A handle that is not known
 * (it was opened under another daemon, or is very old) gets its text made
 * again if it is read from the start; further in it gets EIO, since what it
 * has read so far was the beginning of another document.
 */
#include "face-wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static void
ask_text(FaceReq *req)
{
    static const enum FaceNoteKind notes[FACE_KINDS] = {
        [FACE_KIND_STATUS] = FACE_NOTE_STATUS,
        [FACE_KIND_METRICS] = FACE_NOTE_METRICS,
        [FACE_KIND_SNAP_INFO] = FACE_NOTE_SNAPSHOT_INFO,
    };

    face_ask(req, notes[face_node_kind(req->node)],
             face_node_snapshot(req->node), NULL);
}

static bool
is_text(uint64_t node)
{
    return node == face_node_ino(FACE_KIND_STATUS, 0) ||
           node == face_node_ino(FACE_KIND_METRICS, 0) ||
           face_node_kind(node) == FACE_KIND_SNAP_INFO;
}

static struct FaceText *
find_text(Face *face, uint64_t fh)
{
    for (unsigned i = 0; fh && i < FACE_TEXTS; i++) {
        if (face->texts[i].fh == fh) {
            return &face->texts[i];
        }
    }
    return NULL;
}

static void
drop_text(struct FaceText *text)
{
    free(text->text);
    *text = (struct FaceText){0};
}

/* A free place, or that of the oldest handle. */
static struct FaceText *
place_for_text(Face *face)
{
    struct FaceText *oldest = &face->texts[0];

    for (unsigned i = 1; i < FACE_TEXTS; i++) {
        if (face->texts[i].fh < oldest->fh) {
            oldest = &face->texts[i];
        }
    }
    drop_text(oldest);
    return oldest;
}

void
face_open(FaceReq *req)
{
    bool is_read_only = face_node_snapshot(req->node) != 0;
    struct FaceAttr attr;

    if (face_disk_of(req->face, req->node)) {
        face_reply_open(req, 0, FACE_OPENED_DISK);
    } else if (!face_node_attr(req->face, req->node, &attr)) {
        face_reply_error(req, ENOENT);
    } else if (is_read_only && (req->mode & O_ACCMODE) != O_RDONLY) {
        face_reply_error(req, EROFS);
    } else if (face_node_is_snap_file(req->node)) {
        face_reply_open(req, 0, FACE_OPENED_SNAPSHOT);
    } else if (face_node_kind(req->node) == FACE_KIND_BITMAP) {
        face_reply_open(req, 0, FACE_OPENED_TEXT); /* it changes */
    } else {
        ask_text(req);
    }
}

void
face_release(FaceReq *req)
{
    struct FaceText *text = find_text(req->face, req->fh);

    if (text && is_text(req->node)) {
        drop_text(text);
    }
    face_reply_error(req, 0);
}

static void
reply_part(FaceReq *req, const struct FaceText *text)
{
    uint64_t from = MIN(req->offset, text->len);

    face_reply_data(req, text->text + from, MIN(req->len, text->len - from));
}

void
face_text_read(FaceReq *req)
{
    struct FaceText *text = find_text(req->face, req->fh);

    if (text) {
        reply_part(req, text);
    } else if (!is_text(req->node)) {
        face_reply_error(req, EISDIR);
    } else if (req->offset > 0) {
        face_reply_error(req, EIO);
    } else {
        ask_text(req);
    }
}

/* A text that was asked for. */
static void
take_text(FaceReq *req, FaceNote *note)
{
    Face *face = req->face;
    struct FaceText *text = place_for_text(face);

    text->fh = req->op == FACE_OPEN ? ++face->next_fh : req->fh;
    text->text = note->text;
    text->len = note->len;
    note->text = NULL;
    if (note->kind != FACE_NOTE_SNAPSHOT_INFO) {
        face->last_text_len[note->kind == FACE_NOTE_METRICS] = text->len;
    }
    if (req->op == FACE_OPEN) {
        face_reply_open(req, text->fh, FACE_OPENED_TEXT);
    } else {
        reply_part(req, text);
    }
}

/* The main thread's answer: a text, or the word that something is done. */
void
face_answered(FaceReq *req, FaceNote *note)
{
    bool is_snapshot = note->kind == FACE_NOTE_SNAPSHOT_CREATE ||
                       note->kind == FACE_NOTE_SNAPSHOT_DELETE;

    if (is_snapshot) {
        face_snap_answered(req, -note->error);
    } else if (note->error) {
        face_reply_error(req, -note->error);
    } else if (note->kind == FACE_NOTE_ATTR) {
        face_getattr(req);
    } else if (!note->text) {
        face_reply_error(req, EIO);
    } else if (req->op == FACE_OPEN || req->op == FACE_READ) {
        take_text(req, note);
    } else {
        face_show_measured(req, note->len);
    }
}

void
face_texts_free(Face *face)
{
    for (unsigned i = 0; i < FACE_TEXTS; i++) {
        drop_text(&face->texts[i]);
    }
}
