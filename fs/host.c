/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * host.c - being a good process of this host
 *
 * The daemon sits between a guest and its disk. If the host needs memory and
 * wants to get it by writing to a file on our mount, we must not need memory
 * to let it: PR_SET_IO_FLUSHER says so to the kernel, and locked pages are
 * there when they are needed (MCL_ONFAULT: only what was touched once, or a
 * map of a 64 TiB disk would be 128 MiB of RAM). Both want privileges, both
 * are tried, and both may fail. Locking is left alone where it is limited:
 * with MCL_FUTURE, every mapping beyond the limit would fail.
 *
 * Logs go to stderr in the foreground (the journal, if that is where stderr
 * leads), and to the journal or syslog behind a daemon's back.
 */
#include "host.h"

#include "control.h"
#include "relay/relay.h"
#include "store.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <syslog.h>

int
host_exit_code(const GError *error)
{
    if (error->domain == CONTROL_ERROR) {
        return error->code;
    }
    if (error->domain == STORE_ERROR) {
        return store_exit_code(error);
    }
    return error->domain == RELAY_ERROR && error->code == RELAY_ERROR_TARGET
               ? 5
               : 1;
}

void
host_prepare(void)
{
    struct rlimit limit;

    signal(SIGPIPE, SIG_IGN);
    if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0) {
        g_debug("PR_SET_IO_FLUSHER: %s", g_strerror(errno));
    }
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 &&
        (geteuid() == 0 || limit.rlim_cur == RLIM_INFINITY) &&
        mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0) {
        g_debug("mlockall: %s", g_strerror(errno));
    }
}

/* GLib takes a writer once in a process, so there is one for all cases. */
static enum HostLog log_where;

static int
syslog_priority(GLogLevelFlags level)
{
    if ((level & (G_LOG_LEVEL_ERROR | G_LOG_LEVEL_CRITICAL)) != 0) {
        return LOG_ERR;
    }
    if ((level & G_LOG_LEVEL_WARNING) != 0) {
        return LOG_WARNING;
    }
    return (level & G_LOG_LEVEL_MESSAGE) != 0 ? LOG_NOTICE : LOG_DEBUG;
}

static GLogWriterOutput
log_to_system(GLogLevelFlags level, const GLogField *fields, gsize n)
{
    const char *text = NULL;

    if (g_log_writer_journald(level, fields, n, NULL) == G_LOG_WRITER_HANDLED) {
        return G_LOG_WRITER_HANDLED;
    }
    for (gsize i = 0; i < n; i++) {
        if (g_str_equal(fields[i].key, "MESSAGE")) {
            text = fields[i].value;
        }
    }
    syslog(syslog_priority(level), "%s", text != NULL ? text : "?");
    return G_LOG_WRITER_HANDLED;
}

static GLogWriterOutput
log_cb(GLogLevelFlags level, const GLogField *fields, gsize n, gpointer user)
{
    bool is_quiet =
        (level & (G_LOG_LEVEL_DEBUG | G_LOG_LEVEL_INFO)) != 0 ||
        (log_where == HOST_LOG_WARNINGS && (level & G_LOG_LEVEL_MESSAGE) != 0);

    if (is_quiet && g_getenv("G_MESSAGES_DEBUG") == NULL) {
        return G_LOG_WRITER_HANDLED;
    }
    return log_where == HOST_LOG_SYSTEM
               ? log_to_system(level, fields, n)
               : g_log_writer_default(level, fields, n, user);
}

void
host_log_to(enum HostLog where)
{
    static bool is_set;

    log_where = where;
    if (where == HOST_LOG_SYSTEM) {
        openlog("weir", LOG_PID | LOG_NDELAY, LOG_DAEMON);
    }
    if (!is_set) {
        is_set = true;
        g_log_set_writer_func(log_cb, NULL, NULL);
    }
}
