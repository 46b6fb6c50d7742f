/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-import.c - a bitmap of a QEMU's, read over NBD into one of ours
 *
 *   weir-bitmap-import   node, name, uri, bitmap    {bytes, extents}
 *
 * Whoever exports it may be far, slow or dead. So it is read by a thread of its
 * own (relay/import.h), which collects ranges and touches nothing of the daemon's;
 * when it is done they are marked here, all of them, durably, and the call is
 * answered. Meanwhile the guest writes, and our bitmap records that if it is
 * enabled: it should be there, and enabled, before the disk was moved.
 *
 * The caller may go away, or the daemon end: then the thread is told so, and what
 * it brings is dropped. The work is shared by the ticket and the thread; whoever
 * lets go of it last frees it.
 */
#include "control-commands.h"

#include "relay/import.h"
#include "store-bitmaps.h"

#define DEADLINE_US (30 * G_USEC_PER_SEC) /* of each answer */
#define EXTENTS_MAX (8u << 20)            /* 128 MiB of them */

struct Extent {
    uint64_t offset, len;
};

struct Work {
    gatomicrefcount refs;
    char *uri, *bitmap;
    gboolean insecure;
    uint64_t size_bytes;
    Ticket *ticket;    /* main; NULL: nobody waits any more */
    gint is_cancelled; /* atomic */
    /* the thread's, until it is done */
    GArray *extents; /* struct Extent */
    bool is_too_much;
    GError *error;
};

struct Import {
    Ticket ticket; /* first */
    struct Work *work;
    Disk *disk;
    char *name;
    bool is_read;
};

static void
work_unref(struct Work *work)
{
    if (g_atomic_ref_count_dec(&work->refs)) {
        g_free(work->uri);
        g_free(work->bitmap);
        g_array_unref(work->extents);
        g_clear_error(&work->error);
        g_free(work);
    }
}

/*
 * On the thread
 */
static void
dirty_cb(void *user, uint64_t offset, uint64_t len)
{
    struct Work *work = user;
    struct Extent extent = {offset, len};

    if (work->extents->len == EXTENTS_MAX) {
        work->is_too_much = true;
        return;
    }
    g_array_append_val(work->extents, extent);
}

static bool
is_cancelled_cb(void *user)
{
    struct Work *work = user;

    return work->is_too_much || g_atomic_int_get(&work->is_cancelled) != 0;
}

static gboolean
read_cb(gpointer data)
{
    struct Work *work = data;
    struct Import *import = (struct Import *)work->ticket;

    if (import != NULL) {
        import->is_read = true;
        import->ticket.look(&import->ticket);
    }
    work_unref(work);
    return G_SOURCE_REMOVE;
}

static gpointer
import_thread(gpointer data)
{
    struct Work *work = data;
    struct ImportConfig config = {
        .source = work->uri,
        .bitmap = work->bitmap,
        .insecure = work->insecure,
        .most_bytes = work->size_bytes,
        .deadline_us = DEADLINE_US,
        .dirty = dirty_cb,
        .is_cancelled = is_cancelled_cb,
        .user = work,
    };

    (void)import_bitmap(&config, &work->error);
    g_idle_add(read_cb, work);
    return NULL;
}

/*
 * On the main thread
 */
static gboolean
mark(const struct Import *import, uint64_t *bytes, GError **error)
{
    const GArray *extents = import->work->extents;
    Disk *disk = import->disk;

    for (guint i = 0; i < extents->len; i++) {
        const struct Extent *one = &g_array_index(extents, struct Extent, i);
        enum NamedResult result =
            named_mark(disk->bitmaps, import->name, one->offset, one->len);

        if (result != NAMED_OK) {
            store_bitmap_set_error(error, result, disk, import->name);
            return FALSE;
        }
        *bytes += one->len;
    }
    return store_bitmaps_save(import->ticket.daemon->store, disk, error);
}

static void
look(Ticket *ticket)
{
    struct Import *import = (struct Import *)ticket;
    g_autoptr(GError) error = NULL;
    JsonObject *answer;
    uint64_t bytes = 0;

    if (!import->is_read || ticket->daemon->transaction != NULL) {
        return;
    }
    if (import->work->is_too_much) {
        g_set_error(&error, STORE_ERROR, STORE_ERROR_FAILED,
                    "bitmap '%s' is dirty in more than %u extents: back all of "
                    "it up instead",
                    import->work->bitmap, EXTENTS_MAX);
    } else if (import->work->error != NULL) {
        error = g_error_copy(import->work->error);
    } else {
        (void)mark(import, &bytes, &error);
    }
    if (error != NULL) {
        ticket_fail(ticket, host_exit_code(error), error->message);
        return;
    }
    answer = json_object_new();
    json_object_set_int_member(answer, "bytes", (gint64)bytes);
    json_object_set_int_member(answer, "extents",
                               (gint64)import->work->extents->len);
    ticket_done(ticket, answer);
}

static void
forget(Ticket *ticket)
{
    struct Import *import = (struct Import *)ticket;

    import->work->ticket = NULL;
    g_atomic_int_set(&import->work->is_cancelled, 1);
    work_unref(import->work);
    g_free(import->name);
}

static struct Work *
work_new(const Daemon *daemon, JsonObject *arguments, const Disk *disk)
{
    struct Work *work = g_new0(struct Work, 1);

    g_atomic_ref_count_init(&work->refs);
    work->uri = g_strdup(argument_string(arguments, "uri"));
    work->bitmap = g_strdup(argument_string(arguments, "bitmap"));
    work->insecure = daemon->store->settings.insecure;
    work->size_bytes = atomic_load(&disk->size_bytes);
    work->extents = g_array_new(FALSE, FALSE, sizeof(struct Extent));
    return work;
}

static void
run(ControlCall *call, JsonObject *arguments, gpointer user)
{
    Daemon *daemon = user;
    const char *name = argument_string(arguments, "name");
    Store *store = daemon->store;
    GError *error = NULL;
    struct NamedFigures figures;
    struct Import *import;
    Disk *disk = argument_disk(arguments, "node", store, &error);

    if (disk != NULL && !named_find(disk->bitmaps, name, &figures)) {
        store_bitmap_set_error(&error, NAMED_MISSING, disk, name);
    }
    if (error != NULL ||
        !relay_target_check(argument_string(arguments, "uri"),
                            store->settings.insecure, &error)) {
        control_answer_error(call, error);
        return;
    }
    import = g_new0(struct Import, 1);
    import->disk = disk;
    import->name = g_strdup(name);
    import->work = work_new(daemon, arguments, disk);
    import->work->ticket = &import->ticket;
    import->ticket.look = look;
    import->ticket.forget = forget;
    ticket_open(&import->ticket, daemon, call);
    g_atomic_ref_count_inc(&import->work->refs);
    g_thread_unref(g_thread_new("import", import_thread, import->work));
}

static const struct ArgumentRule rules[] = {
    {"node", ARGUMENT_STRING, true},
    {"name", ARGUMENT_STRING, true},
    {"uri", ARGUMENT_STRING, true},
    {"bitmap", ARGUMENT_STRING, true},
    {NULL, 0, false},
};

const struct ControlCommand control_import_commands[] = {
    {"weir-bitmap-import", run, rules, true},
    {NULL, NULL, NULL, false},
};
