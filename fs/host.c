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

static GLogWriterOutput
log_to_system_cb(GLogLevelFlags level, const GLogField *fields, gsize n,
                 gpointer user)
{
    const char *text = NULL;
    int priority;

    (void)user;
    if ((level & (G_LOG_LEVEL_DEBUG | G_LOG_LEVEL_INFO)) != 0 &&
        g_log_writer_default_would_drop(level, G_LOG_DOMAIN)) {
        return G_LOG_WRITER_HANDLED;
    }
    if (g_log_writer_journald(level, fields, n, NULL) == G_LOG_WRITER_HANDLED) {
        return G_LOG_WRITER_HANDLED;
    }
    for (gsize i = 0; i < n; i++) {
        if (g_str_equal(fields[i].key, "MESSAGE")) {
            text = fields[i].value;
        }
    }
    priority = (level & (G_LOG_LEVEL_ERROR | G_LOG_LEVEL_CRITICAL)) ? LOG_ERR
               : (level & G_LOG_LEVEL_WARNING) ? LOG_WARNING
               : (level & G_LOG_LEVEL_MESSAGE) ? LOG_NOTICE
                                               : LOG_DEBUG;
    syslog(priority, "%s", text != NULL ? text : "?");
    return G_LOG_WRITER_HANDLED;
}

static GLogWriterOutput
log_warnings_cb(GLogLevelFlags level, const GLogField *fields, gsize n,
                gpointer user)
{
    if (level > G_LOG_LEVEL_WARNING && g_getenv("G_MESSAGES_DEBUG") == NULL) {
        return G_LOG_WRITER_HANDLED;
    }
    return g_log_writer_standard_streams(level, fields, n, user);
}

void
host_log_warnings_only(void)
{
    g_log_set_writer_func(log_warnings_cb, NULL, NULL);
}

void
host_log_to_system(void)
{
    openlog("weir", LOG_PID | LOG_NDELAY, LOG_DAEMON);
    g_log_set_writer_func(log_to_system_cb, NULL, NULL);
}
