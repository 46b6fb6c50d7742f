/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cut-hook.c - the commands that are run for cuts and snapshots
 *
 * The command belongs to the user: it may take its time, fork, write a lot, or
 * hang. So nothing here waits. It is a process group of its own, which is what
 * gets the signal when the daemon ends; it has no descriptor of ours (GLib
 * closes them), nor our promise to the kernel that we write other people's
 * dirty pages (host.c), nor our ignored SIGPIPE.
 *
 *   run --> exit seen --> what is left in the pipe --> done(words)
 *
 * Its stderr is a pipe that is read as it fills, of which the end is kept: the
 * last line goes into the status. What a child in the background still writes
 * after the command's exit is not waited for. Its stdout is dropped.
 */
#include "cut-hook.h"

#include <gio/gio.h>
#include <gio/gunixinputstream.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define TAIL_BYTES 512
#define READS_MAX  32 /* at a time: more than a pipe holds */

/* One run; outlives a hook that is freed meanwhile. */
struct Run {
    CutHook *hook; /* NULL: nobody wants to know */
    GSubprocess *process;
    GPollableInputStream *pipe;
    GSource *source;
    char tail[TAIL_BYTES];
    size_t len;
};

struct CutHook {
    void (*done)(void *user, const char *words);
    void *user;
    struct Run *run; /* NULL: nothing is running */
    char *command;   /* of the last run */
    guint failed_source;
    char *failed; /* why it could not be started; told from the main loop */
};

char *
cut_time_text(int64_t wall_us)
{
    g_autoptr(GDateTime) when =
        g_date_time_new_from_unix_utc(wall_us / G_USEC_PER_SEC);

    return g_date_time_format(when, "%Y-%m-%dT%H:%M:%SZ");
}

/* In the child, before it is the command. */
static void
child_setup(gpointer unused)
{
    (void)unused;
    setpgid(0, 0);
    signal(SIGPIPE, SIG_DFL);
    (void)prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0);
}

static void
tail_add(struct Run *run, const char *bytes, size_t count)
{
    size_t keep;

    if (count > TAIL_BYTES) {
        bytes += count - TAIL_BYTES;
        count = TAIL_BYTES;
    }
    keep = MIN(run->len, TAIL_BYTES - count);
    memmove(run->tail, run->tail + run->len - keep, keep);
    memcpy(run->tail + keep, bytes, count);
    run->len = keep + count;
}

/* What is in the pipe now; false if no more will come. */
static bool
read_pipe(struct Run *run)
{
    char bytes[4096];
    g_autoptr(GError) error = NULL;
    gssize count;

    /* Not for ever: it may be filled as fast as it is read. */
    unsigned left = READS_MAX;

    do {
        count = g_pollable_input_stream_read_nonblocking(
            run->pipe, bytes, sizeof(bytes), NULL, &error);
        if (count > 0) {
            tail_add(run, bytes, (size_t)count);
        }
    } while (count > 0 && --left > 0);
    return count > 0 || (count < 0 && g_error_matches(error, G_IO_ERROR,
                                                      G_IO_ERROR_WOULD_BLOCK));
}

static gboolean
pipe_cb(GObject *stream, gpointer data)
{
    (void)stream;
    return read_pipe(data) ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

static void
run_free(struct Run *run)
{
    g_source_destroy(run->source);
    g_source_unref(run->source);
    g_object_unref(run->process);
    g_free(run);
}

static char *
last_line(const struct Run *run)
{
    g_autofree char *text = g_strndup(run->tail, run->len);
    char *end = g_strchomp(text);
    char *line = strrchr(end, '\n');

    return g_utf8_make_valid(line ? line + 1 : end, -1);
}

/* How it ended, in words; NULL: well. */
static char *
verdict(struct Run *run)
{
    g_autofree char *line = NULL;
    g_autofree char *how = NULL;

    if (g_subprocess_get_successful(run->process)) {
        return NULL;
    }
    how = g_subprocess_get_if_exited(run->process)
              ? g_strdup_printf("exit status %d",
                                g_subprocess_get_exit_status(run->process))
              : g_strdup_printf("killed by signal %d",
                                g_subprocess_get_term_sig(run->process));
    (void)read_pipe(run);
    line = last_line(run);
    return *line ? g_strconcat(how, ": ", line, NULL) : g_strdup(how);
}

static void
exit_cb(GObject *process, GAsyncResult *result, gpointer data)
{
    struct Run *run = data;
    CutHook *hook = run->hook;
    g_autofree char *words = NULL;

    g_subprocess_wait_finish(G_SUBPROCESS(process), result, NULL);
    if (hook) {
        words = verdict(run);
        hook->run = NULL;
    }
    run_free(run);
    if (hook) {
        hook->done(hook->user, words);
    }
}

static GSubprocessLauncher *
prepare(const struct CutHookRun *run)
{
    GSubprocessLauncher *launcher = g_subprocess_launcher_new(
        G_SUBPROCESS_FLAGS_STDERR_PIPE | G_SUBPROCESS_FLAGS_STDOUT_SILENCE);

    g_subprocess_launcher_unsetenv(launcher, "WEIR_CUT");
    g_subprocess_launcher_unsetenv(launcher, "WEIR_TIME");
    g_subprocess_launcher_unsetenv(launcher, "WEIR_SNAPSHOT");
    if (run->cut) {
        g_autofree char *cut = g_strdup_printf("%" G_GUINT64_FORMAT, run->cut);
        g_autofree char *when = cut_time_text(run->wall_us);

        g_subprocess_launcher_setenv(launcher, "WEIR_CUT", cut, TRUE);
        g_subprocess_launcher_setenv(launcher, "WEIR_TIME", when, TRUE);
    }
    if (run->snapshot) {
        g_subprocess_launcher_setenv(launcher, "WEIR_SNAPSHOT", run->snapshot,
                                     TRUE);
    }
    g_subprocess_launcher_setenv(launcher, "WEIR_STORE", run->store, TRUE);
    g_subprocess_launcher_setenv(launcher, "WEIR_DISKS", run->disks, TRUE);
    g_subprocess_launcher_set_child_setup(launcher, child_setup, NULL, NULL);
    return launcher;
}

static gboolean
failed_cb(gpointer data)
{
    CutHook *hook = data;
    g_autofree char *words = g_steal_pointer(&hook->failed);

    hook->failed_source = 0;
    hook->done(hook->user, words);
    return G_SOURCE_REMOVE;
}

void
cut_hook_run(CutHook *hook, const struct CutHookRun *order)
{
    g_autoptr(GSubprocessLauncher) launcher = prepare(order);
    g_autoptr(GError) error = NULL;
    GSubprocess *process = g_subprocess_launcher_spawn(
        launcher, &error, "/bin/sh", "-c", order->command, NULL);
    struct Run *run;

    g_assert(!cut_hook_is_running(hook));
    g_free(hook->command);
    hook->command = g_strdup(order->command);
    if (!process) {
        hook->failed = g_strdup(error->message);
        hook->failed_source = g_idle_add(failed_cb, hook);
        return;
    }
    run = g_new0(struct Run, 1);
    run->hook = hook;
    run->process = process;
    run->pipe = G_POLLABLE_INPUT_STREAM(g_subprocess_get_stderr_pipe(process));
    run->source = g_pollable_input_stream_create_source(run->pipe, NULL);
    g_source_set_callback(run->source, G_SOURCE_FUNC(pipe_cb), run, NULL);
    g_source_attach(run->source, NULL);
    hook->run = run;
    g_subprocess_wait_async(process, NULL, exit_cb, run);
}

bool
cut_hook_is_running(const CutHook *hook)
{
    return hook->run || hook->failed_source;
}

bool
cut_hook_is(const CutHook *hook, const char *command)
{
    return g_strcmp0(hook->command, command) == 0;
}

void
cut_hook_signal(CutHook *hook, int number)
{
    const char *pid =
        hook->run ? g_subprocess_get_identifier(hook->run->process) : NULL;

    if (pid) { /* else it has exited */
        kill((pid_t)-g_ascii_strtoll(pid, NULL, 10), number);
    }
}

/* Nobody wants to know any more how it ends. */
static void
forget(CutHook *hook)
{
    g_clear_handle_id(&hook->failed_source, g_source_remove);
    g_clear_pointer(&hook->failed, g_free);
    if (hook->run) {
        hook->run->hook = NULL;
        hook->run = NULL;
    }
}

void
cut_hook_stop(CutHook *hook)
{
    cut_hook_signal(hook, SIGTERM);
    forget(hook);
}

CutHook *
cut_hook_new(void (*done)(void *user, const char *words), void *user)
{
    CutHook *hook = g_new0(CutHook, 1);

    hook->done = done;
    hook->user = user;
    return hook;
}

void
cut_hook_free(CutHook *hook)
{
    cut_hook_stop(hook);
    g_free(hook->command);
    g_free(hook);
}

/* Its pipe ends with us: who writes there later dies of that. */
void
cut_hook_leave(CutHook *hook, int wait_ms)
{
    struct Run *run = hook->run;
    gint64 end_us = g_get_monotonic_time() + wait_ms * G_GINT64_CONSTANT(1000);
    bool goes_on = run != NULL;

    while (goes_on) {
        struct pollfd look = {
            .fd = g_unix_input_stream_get_fd(G_UNIX_INPUT_STREAM(run->pipe)),
            .events = POLLIN,
        };
        gint64 left_us = end_us - g_get_monotonic_time();

        goes_on = left_us > 0 &&
                  poll(&look, 1, (int)(left_us / 1000 + 1)) > 0 &&
                  read_pipe(run);
    }
    forget(hook);
    cut_hook_free(hook);
}
