/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-import.c - a bitmap of a QEMU's, read over NBD into one of ours
 *
 *   weir-bitmap-import   node, name, uri, bitmap    {bytes, extents}
 *
 * Whoever exports it may be far, slow or dead. So it is read by a thread of its
 * own (bitmap-import.h), into bits of its own, and touches nothing of the daemon's;
 * when it is done they are put into the bitmap here, all of them, durably, and the
 * call is answered. Meanwhile the guest writes, and our bitmap records that if it is
 * enabled: it should be there, and enabled, before the disk was moved.
 *
 * The caller may go away, or the daemon end: then the thread is told so, and what
 * it brings is dropped. The work is shared by the ticket and the thread; whoever
 * lets go of it last frees it.
 */
#include "control-commands.h"

#include "bitmap-import.h"
#include "store-bitmaps.h"

struct Work {
    gatomicrefcount refs;
    Ticket *ticket;    /* main; NULL: nobody waits any more */
    gint is_cancelled; /* atomic */
    /* the thread's, until it is done */
    BitmapImport import;
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
        bitmap_import_deinit(&work->import);
        g_clear_error(&work->error);
        g_free(work);
    }
}

/*
 * On the thread
 */
static bool
is_cancelled_cb(void *user)
{
    struct Work *work = user;

    return g_atomic_int_get(&work->is_cancelled) != 0;
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

    (void)bitmap_import_read(&work->import, &work->error);
    g_idle_add(read_cb, work);
    return NULL;
}

/*
 * On the main thread
 */
static void
look(Ticket *ticket)
{
    struct Import *import = (struct Import *)ticket;
    const BitmapImport *from = &import->work->import;
    g_autoptr(GError) error = NULL;
    JsonObject *answer;

    if (!import->is_read || ticket->daemon->transaction != NULL) {
        return;
    }
    if (import->work->error != NULL) {
        error = g_error_copy(import->work->error);
    } else {
        (void)store_bitmap_import(ticket->daemon->store, import->disk,
                                  import->name, from->bits, &error);
    }
    if (error != NULL) {
        ticket_fail(ticket, host_exit_code(error), error->message);
        return;
    }
    answer = json_object_new();
    json_object_set_int_member(answer, "bytes", (gint64)from->bytes);
    json_object_set_int_member(answer, "extents", (gint64)from->extents);
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

/* NULL: @error. */
static struct Work *
work_new(const Daemon *daemon, JsonObject *arguments, const Disk *disk,
         unsigned grain_bits, GError **error)
{
    struct Work *work = g_new0(struct Work, 1);

    g_atomic_ref_count_init(&work->refs);
    if (!bitmap_import_init(&work->import, atomic_load(&disk->size_bytes),
                            grain_bits, error)) {
        work_unref(work);
        return NULL;
    }
    work->import.source = g_strdup(argument_string(arguments, "uri"));
    work->import.bitmap = g_strdup(argument_string(arguments, "bitmap"));
    work->import.insecure = daemon->store->settings.insecure;
    work->import.is_cancelled = is_cancelled_cb;
    work->import.user = work;
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
    struct Work *work = NULL;
    struct Import *import;
    Disk *disk = argument_disk(arguments, "node", store, &error);

    if (disk != NULL && !named_find(disk->bitmaps, name, &figures)) {
        store_bitmap_set_error(&error, NAMED_MISSING, disk, name);
    }
    if (error == NULL && relay_target_check(argument_string(arguments, "uri"),
                                            store->settings.insecure, &error)) {
        work = work_new(daemon, arguments, disk, figures.grain_bits, &error);
    }
    if (work == NULL) {
        control_answer_error(call, error);
        return;
    }
    import = g_new0(struct Import, 1);
    import->disk = disk;
    import->name = g_strdup(name);
    import->work = work;
    import->work->ticket = &import->ticket;
    import->ticket.look = look;
    import->ticket.forget = forget;
    ticket_open(&import->ticket, daemon, call);
    g_atomic_ref_count_inc(&work->refs);
    g_thread_unref(g_thread_new("import", import_thread, work));
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
