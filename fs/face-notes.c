/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Notes: what the fs thread has to tell or ask the main thread. It never
 * waits for an answer: a request that needs one is parked in its note, and
 * the answer comes back through the inbox like everything else.
 *
 * Notes are a fixed pool, one for each request slot and a few for the log.
 * When a log line finds none free it is dropped and counted, and the next
 * line that gets through says how many were lost.
 */
#include "face-wire.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static struct FaceSlotNote *
take_note(Face *face, enum FaceNoteKind kind)
{
    for (unsigned i = 0; i < face->n_notes; i++) {
        struct FaceSlotNote *slot = &face->notes[i];

        if (!slot->is_used) {
            *slot = (struct FaceSlotNote){.is_used = true};
            slot->note.kind = kind;
            return slot;
        }
    }
    return NULL;
}

void
face_ask(FaceReq *req, enum FaceNoteKind kind, uint64_t seq, const char *name)
{
    Face *face = req->face;
    struct FaceSlotNote *slot = take_note(face, kind);

    /* As many notes as slots, and a slot asks for one thing at a time; log
     * lines can only take the rest. */
    assert(slot);
    slot->req = req;
    slot->note.disk = req->disk ? req->disk->disk : NULL;
    slot->note.seq = seq;
    slot->note.text = (char *)name;
    face->config.notify(face->config.user, &slot->note);
}

static unsigned
free_notes(const Face *face)
{
    unsigned n = 0;

    for (unsigned i = 0; i < face->n_notes; i++) {
        n += !face->notes[i].is_used;
    }
    return n;
}

void
face_log(Face *face, const char *format, ...)
{
    struct FaceSlotNote *slot;
    va_list args;
    int n = 0;

    if (free_notes(face) + FACE_LOG_NOTES <= face->n_notes ||
        !(slot = take_note(face, FACE_NOTE_LOG))) {
        face->lost_logs++;
        return;
    }
    if (face->lost_logs) {
        n = snprintf(slot->line, sizeof(slot->line), "(%u lines lost) ",
                     face->lost_logs);
        face->lost_logs = 0;
    }
    va_start(args, format);
    vsnprintf(slot->line + n, sizeof(slot->line) - (size_t)n, format, args);
    va_end(args);
    slot->note.text = slot->line;
    face->config.notify(face->config.user, &slot->note);
}

void
face_note_answered(Face *face, FaceNote *note)
{
    struct FaceSlotNote *slot = (struct FaceSlotNote *)note;

    if (slot->req) {
        if (note->kind == FACE_NOTE_SNAPSHOT_CREATE) {
            note->text = NULL; /* in the request's own buffer */
        }
        face_answered(slot->req, note);
        free(note->text);
    }
    slot->is_used = false;
    (void)face;
}

void
face_note_ended(Face *face, int error)
{
    struct FaceSlotNote *slot = take_note(face, FACE_NOTE_ENDED);

    assert(slot);
    slot->note.error = error;
    face->config.notify(face->config.user, &slot->note);
}

bool
face_note_degraded(FaceDisk *disk, int error, uint64_t seq)
{
    Face *face = disk->face;
    struct FaceSlotNote *slot = take_note(face, FACE_NOTE_DEGRADED);

    if (slot) {
        slot->note.disk = disk->disk;
        slot->note.error = error;
        slot->note.seq = seq;
        face->config.notify(face->config.user, &slot->note);
    }
    return slot;
}

void
face_freeze(FaceDisk *disk, int error)
{
    Face *face = disk->face;
    struct FaceSlotNote *slot;

    if (atomic_exchange(&disk->disk->is_frozen, true)) {
        return;
    }
    face_log(face,
             "%s.raw: a sync of the local disk failed: %s; writes are "
             "refused until the store was checked and mounted again",
             disk->disk->name, g_strerror(-error));
    slot = take_note(face, FACE_NOTE_FROZEN);
    if (slot) {
        slot->note.disk = disk->disk;
        slot->note.error = error;
        face->config.notify(face->config.user, &slot->note);
    }
}
