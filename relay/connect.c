/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connecting is the one thing that libnbd does not let a caller bound:
 * getaddrinfo() waits for DNS, and a handshake waits for the server. So each
 * attempt has a small thread:
 *
 *   resolve -> connect -> handshake (TLS, NBD) -> judge -> post the handle
 *
 * The relay thread keeps the time: at the deadline it drops the job, which
 * takes away the inbox and kicks an eventfd that every wait here also polls.
 * Only getaddrinfo() cannot be kicked; a job that hangs there has lost its
 * inbox, ends by itself when the resolver gives up, and frees its share then.
 * That is why the thread is detached and why both sides count references.
 *
 * Sockets are our own where we can (addresses judged one by one, timeouts
 * set before the connect). With certificates libnbd has to connect itself: it
 * compares the server's name only if it was given one (rule 28).
 */
#include "connect.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "target.h"

#define STACK_BYTES      (512u << 10) /* GnuTLS is happy with 64 KiB */
#define KEEPALIVE_IDLE_S 10

enum ConnectStage { STAGE_RESOLVE, STAGE_CONNECT, STAGE_HANDSHAKE, STAGES };

struct ConnectJob {
    struct ConnectSpec spec; /* set at creation; inbox: guarded by lock */
    pthread_mutex_t lock;
    unsigned refs; /* guarded by lock */
    int cancel_fd; /* readable once the job was dropped */
    atomic_int stage;
    struct ConnectResult *result; /* the attempt's thread only */
};

static void
job_unref(ConnectJob *job)
{
    bool is_last;

    pthread_mutex_lock(&job->lock);
    is_last = --job->refs == 0;
    pthread_mutex_unlock(&job->lock);
    if (is_last) {
        close(job->cancel_fd);
        target_uri_unref(job->spec.uri);
        pthread_mutex_destroy(&job->lock);
        g_free(job);
    }
}

void
connect_result_free(struct ConnectResult *result)
{
    nbd_close(result->nbd);
    g_free(result);
}

static void G_GNUC_PRINTF(3, 4)
    job_fail(ConnectJob *job, bool is_barred, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(job->result->text, RELAY_TEXT, format, args);
    va_end(args);
    job->result->is_barred = is_barred;
}

/* Wait for @events on @fd. False: dropped meanwhile. */
static bool
job_poll(ConnectJob *job, int fd, short events)
{
    struct pollfd fds[] = {{.fd = fd, .events = events},
                           {.fd = job->cancel_fd, .events = POLLIN}};

    while (poll(fds, 2, -1) < 0) {
        assert(errno == EINTR);
    }
    return !fds[1].revents;
}

/*
 * Sockets
 */

static void
set_tcp_options(const ConnectJob *job, int fd)
{
    int one = 1, idle_s = KEEPALIVE_IDLE_S;
    unsigned timeout_ms = job->spec.timeout_ms;

    /* Each only helps to notice a dead peer sooner, or saves a delay. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle_s, sizeof(idle_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms,
                     sizeof(timeout_ms));
}

/* A connected socket, or -1 with words. */
static int
connect_address(ConnectJob *job, const struct sockaddr *address, socklen_t len)
{
    int fd = socket(address->sa_family,
                    SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int error = fd < 0 ? errno : 0;
    socklen_t error_len = sizeof(error);

    if (fd < 0) {
        job_fail(job, false, "socket: %s", g_strerror(error));
        return -1;
    }
    if (address->sa_family != AF_UNIX) {
        set_tcp_options(job, fd);
    }
    if (connect(fd, address, len)) {
        error = errno;
        if (error == EINPROGRESS && job_poll(job, fd, POLLOUT)) {
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_len);
        }
    }
    if (error) {
        job_fail(job, false, "connect: %s", g_strerror(error));
        close(fd);
        return -1;
    }
    return fd;
}

static int
connect_unix(ConnectJob *job)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    atomic_store(&job->stage, STAGE_CONNECT);
    g_strlcpy(address.sun_path, job->spec.uri->socket,
              sizeof(address.sun_path));
    return connect_address(job, (struct sockaddr *)&address, sizeof(address));
}

/* The first address that connects; in clear text only those that may. */
static int
connect_tcp(ConnectJob *job)
{
    const TargetUri *uri = job->spec.uri;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *found = NULL;
    bool was_tried = false;
    int fd = -1, failed;

    failed = getaddrinfo(uri->host, uri->port, &hints, &found);
    if (failed) {
        job_fail(job, false, "%s: %s", uri->host, gai_strerror(failed));
        return -1;
    }
    atomic_store(&job->stage, STAGE_CONNECT);
    for (struct addrinfo *at = found; at && fd < 0; at = at->ai_next) {
        if (uri->is_tls || job->spec.insecure ||
            target_address_is_local(at->ai_addr)) {
            was_tried = true;
            fd = connect_address(job, at->ai_addr, at->ai_addrlen);
        }
    }
    freeaddrinfo(found);
    if (!was_tried) {
        job_fail(job, true,
                 "%s is not on this machine: clear text needs insecure=yes",
                 uri->host);
    }
    return fd;
}

static int
job_connect(ConnectJob *job)
{
    int fd = job->spec.fd;

    job->spec.fd = -1;
    if (fd >= 0) {
        return fd;
    }
    return job->spec.uri->kind == TARGET_UNIX ? connect_unix(job)
                                              : connect_tcp(job);
}

/*
 * The handshake
 */

static bool
configure(struct nbd_handle *nbd, const struct ConnectSpec *spec)
{
    const TargetUri *uri = spec->uri;

    return !nbd_set_export_name(nbd, uri->export_name) &&
           !nbd_set_opt_mode(nbd, spec->stops_at_options) &&
           !nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) &&
           !nbd_set_request_structured_replies(nbd, true) &&
           !nbd_set_pread_initialize(nbd, false) &&
           !nbd_set_tls(nbd, uri->is_tls ? LIBNBD_TLS_REQUIRE
                                         : LIBNBD_TLS_DISABLE) &&
           (!uri->user || !nbd_set_tls_username(nbd, uri->user)) &&
           (!uri->psk_file || !nbd_set_tls_psk_file(nbd, uri->psk_file)) &&
           (!uri->cert_dir || (!nbd_set_tls_certificates(nbd, uri->cert_dir) &&
                               !nbd_set_tls_verify_peer(nbd, true)));
}

static bool
begin_handshake(ConnectJob *job, struct nbd_handle *nbd)
{
    const TargetUri *uri = job->spec.uri;
    int fd;

    if (uri->cert_dir) {
        return !nbd_aio_connect_tcp(nbd, uri->host, uri->port);
    }
    fd = job_connect(job);
    if (fd < 0) {
        return false;
    }
    atomic_store(&job->stage, STAGE_HANDSHAKE);
    if (nbd_aio_connect_socket(nbd, fd)) {
        close(fd);
        return false;
    }
    return true;
}

static bool
shake_hands(ConnectJob *job, struct nbd_handle *nbd)
{
    while (nbd_aio_is_connecting(nbd) == 1) {
        unsigned mask = target_handle_mask(nbd);
        int fd = nbd_aio_get_fd(nbd);
        int failed;

        if (!job_poll(job, fd, (short)mask)) {
            return false;
        }
        failed = mask & POLLIN ? nbd_aio_notify_read(nbd)
                               : nbd_aio_notify_write(nbd);
        if (failed) {
            return false;
        }
    }
    return job->spec.stops_at_options ? nbd_aio_is_negotiating(nbd) == 1
                                      : nbd_aio_is_ready(nbd) == 1;
}

/* Key files are read here, not on the relay thread. */
static bool
job_check(ConnectJob *job)
{
    g_autoptr(GError) why = NULL;

    if (target_uri_check(job->spec.uri, job->spec.insecure, &why)) {
        return true;
    }
    job_fail(job, true, "%s", why->message);
    return false;
}

static void
job_run(ConnectJob *job)
{
    struct ConnectResult *result = job->result;
    const TargetUri *uri = job->spec.uri;
    struct nbd_handle *nbd;

    if (!job_check(job)) {
        return;
    }
    nbd = nbd_create();
    if (!nbd || !configure(nbd, &job->spec) || !begin_handshake(job, nbd) ||
        !shake_hands(job, nbd)) {
        if (!result->text[0]) {
            target_error_text(result->text);
        }
        nbd_close(nbd);
        return;
    }
    if (uri->is_tls && nbd_get_tls_negotiated(nbd) != 1) {
        job_fail(job, true, "the server did not turn TLS on");
        nbd_close(nbd);
        return;
    }
    if (uri->cert_dir) {
        set_tcp_options(job, nbd_aio_get_fd(nbd));
    }
    if (!job->spec.stops_at_options) {
        target_caps(nbd, &result->caps);
    }
    result->nbd = nbd;
}

static void *
job_thread(void *user)
{
    ConnectJob *job = user;
    struct ConnectResult *result = job->result;

    job_run(job);
    pthread_mutex_lock(&job->lock);
    if (job->spec.inbox) {
        inbox_post(job->spec.inbox, &result->msg);
        result = NULL;
    }
    pthread_mutex_unlock(&job->lock);
    if (result) {
        connect_result_free(result);
    }
    job_unref(job);
    return NULL;
}

/*
 * The relay thread's side
 */

static int
start_thread(ConnectJob *job)
{
    pthread_attr_t attr;
    sigset_t all, before;
    pthread_t thread;
    int error;

    sigfillset(&all);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&thread, &attr, job_thread, job);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return error;
}

ConnectJob *
connect_job_start(const struct ConnectSpec *spec)
{
    ConnectJob *job = g_new0(ConnectJob, 1);

    job->spec = *spec;
    job->spec.uri = target_uri_ref(spec->uri);
    job->refs = 2;
    job->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    atomic_init(&job->stage, STAGE_RESOLVE);
    pthread_mutex_init(&job->lock, NULL);
    job->result = g_new0(struct ConnectResult, 1);
    job->result->msg.kind = spec->msg_kind;
    job->result->disk = spec->disk;
    job->result->conn = spec->conn;
    job->result->epoch = spec->epoch;
    if (job->cancel_fd < 0 || start_thread(job)) {
        if (spec->fd >= 0) {
            close(spec->fd);
        }
        g_free(job->result);
        job->refs = 1;
        job_unref(job);
        return NULL;
    }
    return job;
}

const char *
connect_job_stage(const ConnectJob *job)
{
    static const char *const words[STAGES] = {
        [STAGE_RESOLVE] = "the host's name was not resolved in time",
        [STAGE_CONNECT] = "no connection in time",
        [STAGE_HANDSHAKE] = "no NBD handshake in time",
    };

    return words[atomic_load(&job->stage)];
}

void
connect_job_drop(ConnectJob *job)
{
    uint64_t one = 1;
    ssize_t n;

    pthread_mutex_lock(&job->lock);
    job->spec.inbox = NULL;
    pthread_mutex_unlock(&job->lock);
    n = write(job->cancel_fd, &one, sizeof(one));
    assert(n == (ssize_t)sizeof(one));
    (void)n;
    job_unref(job);
}
