/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One connection, made as the relay makes its own (connect.c: names, TLS and
 * clear text are judged there), which stops before it has chosen an export:
 *
 *   connect -> which bitmaps are there? -> the export, with this one
 *           -> block status of all of it, as much as the server says at a time
 *
 * A server that has no such bitmap would just not offer it; since it was asked
 * for all of them before, the error can name those that it has.
 *
 * An answer is some extents from the offset on that was asked for. What it says
 * beyond what was asked counts for nothing: the last extent may reach behind it,
 * also behind the end of the disk. One that says nothing of it, or nothing within
 * the deadline, ends the import, so that it always gets on. Nothing is kept of
 * what came before an error: whoever collects the ranges throws them away.
 */
#include "import.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "connect.h"
#include "server.h"
#include "target.h"
#include "thread-role.h"

#define PREFIX       "qemu:dirty-bitmap:"
#define QEMU_DIRTY   1u /* of an extent's flags */
#define ASK_BYTES    (UINT64_C(1) << 30)
#define STEP_MS      100 /* between two looks at is_cancelled */
#define NAMES_SHOWN  8
#define MSG_ANSWERED 1

struct Import {
    const struct ImportConfig *config;
    char *context; /* PREFIX NAME */
    struct nbd_handle *nbd;
    Server *server;
    char *run_dir;    /* its socket's */
    GPtrArray *names; /* of bitmaps that there are */
    bool is_listed;

    /* of the request under way */
    bool is_done;
    int result;
    uint64_t at, ask;    /* what was asked for ... */
    uint64_t len;        /* ... and how much of that something was said of */
    uint64_t dirty_from; /* a range that may go on in the next answer ... */
    uint64_t dirty_len;  /* ... if this is not 0 */
};

static gboolean G_GNUC_PRINTF(3, 4)
    fail(GError **error, enum RelayError code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    if (error) {
        *error = g_error_new_valist(RELAY_ERROR, (gint)code, format, args);
    }
    va_end(args);
    return FALSE;
}

static gboolean
fail_nbd(GError **error, const char *what)
{
    char text[RELAY_TEXT];

    target_error_text(text);
    return fail(error, RELAY_ERROR_FAILED, "%s: %s", what, text);
}

static bool
is_cancelled(const struct Import *import)
{
    const struct ImportConfig *config = import->config;

    return config->is_cancelled && config->is_cancelled(config->user);
}

/* May it be waited for a step longer? @late: what to say if not. */
static gboolean
may_wait(const struct Import *import, int64_t end_us, const char *late,
         GError **error)
{
    if (is_cancelled(import)) {
        return fail(error, RELAY_ERROR_FAILED, "interrupted");
    }
    return g_get_monotonic_time() < end_us
               ? TRUE
               : fail(error, RELAY_ERROR_FAILED, "%s", late);
}

/*
 * Connecting
 */

static gboolean
start_server(struct Import *import, const TargetUri *uri, int *fd,
             GError **error)
{
    char text[RELAY_TEXT] = "";

    *fd = -1;
    if (uri->kind != TARGET_SERVER) {
        return TRUE;
    }
    import->run_dir = g_dir_make_tmp("weir-import-XXXXXX", error);
    if (!import->run_dir) {
        return FALSE;
    }
    import->server = server_new(import->run_dir, "import.sock", uri->argv);
    if (server_start(import->server, text)) {
        return fail(error, RELAY_ERROR_FAILED, "%s", text);
    }
    *fd = server_connect(import->server);
    return *fd >= 0 ? TRUE
                    : fail(error, RELAY_ERROR_FAILED, "%s: %s", uri->argv[0],
                           g_strerror(-*fd));
}

/* The handle, which is choosing options; NULL: words. */
static struct nbd_handle *
take_result(InboxMsg *msg, GError **error)
{
    struct ConnectResult *result = (struct ConnectResult *)msg;
    struct nbd_handle *nbd = g_steal_pointer(&result->nbd);

    if (!nbd) {
        fail(error, result->is_barred ? RELAY_ERROR_TARGET : RELAY_ERROR_FAILED,
             "%s", result->text);
    }
    connect_result_free(result);
    return nbd;
}

static gboolean
await_connect(struct Import *import, ConnectJob *job, Inbox *inbox,
              GError **error)
{
    int64_t end_us = g_get_monotonic_time() + import->config->deadline_us;
    struct pollfd wait = {.fd = inbox->event_fd, .events = POLLIN};
    InboxMsg *msg = NULL;
    bool is_in_time = true;

    while (!msg && is_in_time) {
        (void)poll(&wait, 1, STEP_MS);
        msg = inbox_take(inbox);
        is_in_time =
            msg || may_wait(import, end_us, connect_job_stage(job), error);
    }
    connect_job_drop(job);
    if (!msg) {
        msg = inbox_take(inbox); /* it came while it was dropped */
    }
    if (!is_in_time) {
        if (msg) {
            connect_result_free((struct ConnectResult *)msg);
        }
        return FALSE;
    }
    import->nbd = take_result(msg, error);
    return import->nbd != NULL;
}

static gboolean
connect_source(struct Import *import, GError **error)
{
    const struct ImportConfig *config = import->config;
    g_autoptr(TargetUri) uri = target_uri_parse(config->source, error);
    struct ConnectSpec spec = {
        .uri = uri,
        .insecure = config->insecure,
        .timeout_ms = (unsigned)(config->deadline_us / 1000),
        .msg_kind = MSG_ANSWERED,
        .stops_at_options = true,
    };
    gboolean ok = FALSE;
    ConnectJob *job;
    Inbox inbox;

    if (!uri || !target_uri_check(uri, config->insecure, error) ||
        !start_server(import, uri, &spec.fd, error)) {
        return FALSE;
    }
    if (inbox_init(&inbox)) {
        close(spec.fd);
        return fail(error, RELAY_ERROR_FAILED, "eventfd: too many open files");
    }
    spec.inbox = &inbox;
    job = connect_job_start(&spec);
    if (job) {
        ok = await_connect(import, job, &inbox, error);
    } else {
        fail(error, RELAY_ERROR_FAILED, "no thread could be made");
    }
    inbox_deinit(&inbox);
    return ok;
}

/*
 * Requests
 */

/* Runs in libnbd's stack, as do the others: no nbd_ call here. */
static int
done_cb(void *user, int *error)
{
    struct Import *import = user;

    import->is_done = true;
    import->result = *error;
    return 1;
}

/* @issued: what the nbd_aio_ call said. True: there is an answer, maybe an error,
 * which is import->result. */
static gboolean
await_answer(struct Import *import, int64_t issued, const char *what,
             GError **error)
{
    int64_t end_us = g_get_monotonic_time() + import->config->deadline_us;

    if (issued < 0) {
        return fail_nbd(error, what);
    }
    while (!import->is_done) {
        if (!may_wait(import, end_us, "no answer in time", error)) {
            g_prefix_error(error, "%s: ", what);
            return FALSE;
        }
        if (nbd_poll(import->nbd, STEP_MS) < 0 && !import->is_done) {
            return fail_nbd(error, what);
        }
    }
    return TRUE;
}

static gboolean
await_success(struct Import *import, int64_t issued, const char *what,
              GError **error)
{
    return await_answer(import, issued, what, error) &&
           (!import->result || fail(error, RELAY_ERROR_FAILED, "%s: %s", what,
                                    g_strerror(import->result)));
}

static int
name_cb(void *user, const char *name)
{
    struct Import *import = user;

    if (g_str_has_prefix(name, PREFIX) && name[strlen(PREFIX)]) {
        import->is_listed |= !strcmp(name, import->context);
        g_ptr_array_add(import->names, g_strdup(name + strlen(PREFIX)));
    }
    return 0;
}

static gint
compare_cb(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static gboolean
fail_unlisted(const struct Import *import, GError **error)
{
    g_autoptr(GString) names = g_string_new(NULL);
    guint n = import->names->len;

    g_ptr_array_sort(import->names, compare_cb);
    for (guint i = 0; i < MIN(n, NAMES_SHOWN); i++) {
        g_autofree char *name = g_strescape(import->names->pdata[i], NULL);

        g_string_append_printf(names, "%s%s", i ? ", " : "", name);
    }
    if (n > NAMES_SHOWN) {
        g_string_append_printf(names, " and %u more", n - NAMES_SHOWN);
    }
    return n ? fail(error, RELAY_ERROR_TARGET,
                    "the server has no bitmap %s for us; it has: %s",
                    import->config->bitmap, names->str)
             : fail(error, RELAY_ERROR_TARGET,
                    "the server has no bitmap %s for us, and no other: export "
                    "it with qemu-nbd -B, or block-export-add's bitmaps",
                    import->config->bitmap);
}

static gboolean
list_bitmaps(struct Import *import, GError **error)
{
    nbd_completion_callback done = {done_cb, import, NULL};
    nbd_context_callback name = {name_cb, import, NULL};
    int issued;

    import->is_done = false;
    issued = nbd_clear_meta_contexts(import->nbd) ||
                     nbd_add_meta_context(import->nbd, PREFIX)
                 ? -1
                 : nbd_aio_opt_list_meta_context(import->nbd, name, done);
    if (!await_answer(import, issued, "list of bitmaps", error)) {
        return FALSE;
    }
    /* A server that refuses to tell says more when it is asked for the export. */
    return import->result || import->is_listed || fail_unlisted(import, error);
}

static gboolean
choose_export(struct Import *import, GError **error)
{
    nbd_completion_callback done = {done_cb, import, NULL};
    int issued;

    import->is_done = false;
    issued = nbd_clear_meta_contexts(import->nbd) ||
                     nbd_add_meta_context(import->nbd, import->context)
                 ? -1
                 : nbd_aio_opt_go(import->nbd, done);
    if (!await_success(import, issued, "choice of the export", error)) {
        return FALSE;
    }
    return nbd_can_meta_context(import->nbd, import->context) == 1 ||
           fail_unlisted(import, error);
}

/*
 * What is dirty
 */

static void
end_range(struct Import *import)
{
    if (import->dirty_len) {
        import->config->dirty(import->config->user, import->dirty_from,
                              import->dirty_len);
    }
    import->dirty_len = 0;
}

static void
add_extent(struct Import *import, uint64_t offset, uint64_t len, bool is_dirty)
{
    if (!is_dirty) {
        end_range(import);
        return;
    }
    if (!import->dirty_len) {
        import->dirty_from = offset;
    }
    import->dirty_len += len;
}

static int
extent_cb(void *user, const char *context, uint64_t offset, uint32_t *entries,
          size_t count, int *error)
{
    struct Import *import = user;

    (void)error;
    if (strcmp(context, import->context) != 0 || offset != import->at ||
        import->len) {
        return 0;
    }
    for (size_t i = 0; i + 1 < count && import->len < import->ask; i += 2) {
        uint64_t len = MIN(entries[i], import->ask - import->len);

        add_extent(import, offset + import->len, len,
                   entries[i + 1] & QEMU_DIRTY);
        import->len += len;
    }
    return 0;
}

static gboolean
read_bitmap(struct Import *import, GError **error)
{
    nbd_completion_callback done = {done_cb, import, NULL};
    nbd_extent_callback extent = {extent_cb, import, NULL};
    int64_t size = nbd_get_size(import->nbd);

    if (size < 0) {
        return fail_nbd(error, "size of the export");
    }
    if ((uint64_t)size > import->config->most_bytes) {
        return fail(error, RELAY_ERROR_TARGET,
                    "the export has %" G_GINT64_FORMAT
                    " bytes, which is more than the disk: it is another one's, "
                    "or weir resize the disk first",
                    size);
    }
    for (import->at = 0; import->at < (uint64_t)size;) {
        import->is_done = false;
        import->ask = MIN(ASK_BYTES, (uint64_t)size - import->at);
        import->len = 0;
        if (!await_success(import,
                           nbd_aio_block_status(import->nbd, import->ask,
                                                import->at, extent, done, 0),
                           "block status", error)) {
            return FALSE;
        }
        if (!import->len) {
            return fail(error, RELAY_ERROR_FAILED,
                        "block status: the server says nothing of the bitmap");
        }
        import->at += import->len;
    }
    end_range(import);
    return TRUE;
}

static void
clean_up(struct Import *import)
{
    nbd_close(import->nbd);
    server_free(import->server);
    if (import->run_dir) {
        rmdir(import->run_dir);
    }
    g_ptr_array_unref(import->names);
    g_free(import->run_dir);
    g_free(import->context);
}

gboolean
import_bitmap(const struct ImportConfig *config, GError **error)
{
    struct Import import = {
        .config = config,
        .context = g_strconcat(PREFIX, config->bitmap, NULL),
        .names = g_ptr_array_new_with_free_func(g_free),
    };
    gboolean ok;

    relay_thread_enter();
    ok = connect_source(&import, error) && list_bitmaps(&import, error) &&
         choose_export(&import, error) && read_bitmap(&import, error);
    clean_up(&import);
    return ok;
}
