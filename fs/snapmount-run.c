/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapmount-run.c - running programs, and remembering what is to be undone
 *
 * What a program says goes into memory files and not into pipes: some of them
 * leave a daemon behind, which would hold a pipe open for ever.
 *
 * The memo is written before what it speaks of is done, so that whoever comes
 * after a crash undoes at least what there is. It stays the same file, which is
 * locked by who works on it, and gets more lines only: what a crash leaves of a
 * write is a memo that lacks the last of them, or has half of it.
 */
#include "snapmount.h"

#include "store-private.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MEMO     "memo"
#define GROUP    "snapmount"
#define TEXT_MAX (1u << 20)

/*
 * Programs
 */
static char *
read_memory(int fd)
{
    g_autofree char *text = g_malloc0(TEXT_MAX + 1);
    ssize_t n = pread(fd, text, TEXT_MAX, 0);

    return n < 0 ? g_strdup("") : g_strdup(text);
}

/* The line that says what was wrong. libguestfs goes on with advice after its
 * first error; with others it is the last, after those about their steps. */
static const char *
telling_line(char *text)
{
    char *line = strstr(text, "libguestfs: error: ");

    if (line) {
        line[strcspn(line, "\n")] = '\0';
        return line;
    }
    g_strchomp(text);
    line = strrchr(text, '\n');
    return line ? line + 1 : text;
}

static gboolean
judge(char **argv, int status, int err_fd, GError **error)
{
    g_autofree char *text = read_memory(err_fd);

    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return TRUE;
    }
    g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED, "%s: %.300s", argv[0],
                *text ? telling_line(text) : "failed, and does not say why");
    return FALSE;
}

/* None of them outlives us, but for what it leaves behind on purpose: it would
 * do later what somebody else has undone by then. */
static void
child_setup_cb(void *user)
{
    (void)user;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static gboolean
run(char **argv, const int fds[3], GError **error)
{
    /* libvirt would run it as somebody who may not read our mount. */
    g_auto(GStrv) environment = g_environ_setenv(
        g_get_environ(), "LIBGUESTFS_BACKEND", "direct", FALSE);
    GError *inner = NULL;
    int status;
    pid_t pid;

    if (!g_spawn_async_with_fds(NULL, argv, environment,
                                G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_SEARCH_PATH,
                                child_setup_cb, NULL, &pid, fds[0], fds[1],
                                fds[2], &inner)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED, "%s: %s", argv[0],
                    inner->message);
        g_error_free(inner);
        return FALSE;
    }
    while (waitpid(pid, &status, 0) < 0) {
        g_assert(errno == EINTR);
    }
    return judge(argv, status, fds[2], error);
}

gboolean
snapmount_run(char **argv, const char *what, char **output, GError **error)
{
    g_autofree char *program = g_find_program_in_path(argv[0]);
    int fds[3];
    gboolean ok;

    if (!program) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "%s is not there: install %s", argv[0], what);
        return FALSE;
    }
    fds[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    fds[1] = memfd_create("stdout", MFD_CLOEXEC);
    fds[2] = memfd_create("stderr", MFD_CLOEXEC);
    ok = run(argv, fds, error);
    if (ok && output) {
        *output = read_memory(fds[1]);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(fds); i++) {
        close(fds[i]);
    }
    return ok;
}

/*
 * The memo
 */
static char *
work_of(const char *dir)
{
    g_autofree char *hash =
        g_compute_checksum_for_string(G_CHECKSUM_SHA256, dir, -1);
    g_autofree char *name = g_strdup_printf("snapmount-%.16s", hash);

    return geteuid() == 0
               ? g_build_filename("/run/weir", name, NULL)
               : g_build_filename(g_get_user_runtime_dir(), "weir", name, NULL);
}

/* Nobody else may have put it there. */
static gboolean
check_work(const char *work, GError **error)
{
    struct stat st;

    if (lstat(work, &st)) {
        store_set_errno(error, STORE_ERROR_FAILED, errno, "%s", work);
        return FALSE;
    }
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() ||
        (st.st_mode & (S_IWGRP | S_IWOTH))) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "%s is not ours alone: look what it is, and delete it",
                    work);
        return FALSE;
    }
    return TRUE;
}

static gboolean
open_memo(struct SnapMemo *memo, GError **error)
{
    g_autofree char *path = g_build_filename(memo->work, MEMO, NULL);
    struct stat st;

    memo->fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (memo->fd < 0) {
        store_set_errno(error, STORE_ERROR_FAILED, errno, "%s cannot be opened",
                        path);
        return FALSE;
    }
    /* Nor one that somebody has just removed. */
    if (flock(memo->fd, LOCK_EX | LOCK_NB) || fstat(memo->fd, &st) ||
        st.st_nlink == 0) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_BUSY,
                    "somebody else mounts or unmounts there just now");
        return FALSE;
    }
    return TRUE;
}

static void
load_memo(struct SnapMemo *memo)
{
    g_autofree char *text = read_memory(memo->fd);

    memo->file = g_key_file_new();
    memo->is_found =
        *text && g_key_file_load_from_data(memo->file, text, strlen(text),
                                           G_KEY_FILE_NONE, NULL);
}

gboolean
snapmount_memo_open(struct SnapMemo *memo, const char *dir, bool makes,
                    GError **error)
{
    *memo = (struct SnapMemo){.work = work_of(dir), .fd = -1};
    if (makes && g_mkdir_with_parents(memo->work, 0700)) {
        store_set_errno(error, STORE_ERROR_FAILED, errno, "%s cannot be made",
                        memo->work);
    } else if (!makes && access(memo->work, F_OK)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "%s: no snapshot is mounted there by weir", dir);
    } else if (check_work(memo->work, error) && open_memo(memo, error)) {
        load_memo(memo);
        return TRUE;
    }
    snapmount_memo_close(memo);
    return FALSE;
}

gboolean
snapmount_memo_set(struct SnapMemo *memo, const char *key, const char *value,
                   GError **error)
{
    g_autofree char *text = NULL;
    size_t len;
    ssize_t n;

    g_key_file_set_string(memo->file, GROUP, key, value);
    text = g_key_file_to_data(memo->file, &len, NULL);
    n = pwrite(memo->fd, text, len, 0);
    if (n != (ssize_t)len || ftruncate(memo->fd, (off_t)len)) {
        store_set_errno(error, STORE_ERROR_FAILED, n < 0 ? errno : ENOSPC,
                        "%s cannot be written", memo->work);
        return FALSE;
    }
    return TRUE;
}

char *
snapmount_memo_get(const struct SnapMemo *memo, const char *key)
{
    return g_key_file_get_string(memo->file, GROUP, key, NULL);
}

void
snapmount_memo_remove(struct SnapMemo *memo)
{
    static const char *const names[] = {"disk.qcow2", "raw", "pid", MEMO};

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_build_filename(memo->work, names[i], NULL);

        (void)unlink(path);
    }
    (void)rmdir(memo->work);
}

void
snapmount_memo_close(struct SnapMemo *memo)
{
    if (memo->fd >= 0) {
        close(memo->fd);
    }
    g_clear_pointer(&memo->file, g_key_file_unref);
    g_clear_pointer(&memo->work, g_free);
    memo->fd = -1;
}
