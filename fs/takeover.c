/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * takeover.c - a mount that outlives its daemon, as the daemon sees it
 *
 *   first daemon      mounts, gives the keeper its /dev/fuse and a memo
 *     dies, or leaves (weir upgrade); requests wait in the kernel
 *   next daemon       takes the store's lock: nothing of the other one is on
 *                     its way to the disk any more (rule 6)
 *                     RESEND: the kernel queues again what was taken and not
 *                     answered, with the top bit of its number set
 *                     serves
 *
 * Whatever is sent again may have been carried out before. All that we answer
 * is the same when it is done twice: reads and names have no effect; a WRITE
 * or a FALLOCATE whose answer is outstanding was acknowledged to nobody, and
 * puts the same bytes where they are; SETATTR sets what is set; a second FSYNC
 * syncs. Nodes are derived and handles are stateless (rule 35), so that those
 * from before mean the same.
 *
 * Kernels before 6.9 do not know RESEND. What a killed daemon had taken there
 * will never be answered, so the connection is ended: the guest gets errors,
 * not silence, and the store is mounted anew. A daemon that left on purpose
 * had answered everything and noted that in the memo; then any kernel will do.
 *
 * The keeper is taken by its word that it keeps (FDSTORE=), and is our parent
 * as long as it lives.
 */
#include "takeover.h"

#include "face.h"
#include "holder.h"
#include "mount.h"
#include "notify.h"
#include "store.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MAGIC       "weirmemo"
#define VERSION     2
#define FDS_NEEDED  2 /* fuse and memo */
#define FUSE_DEVICE makedev(10, 229)

/* For tests: take the kernel for an old one. Described in weir(1). */
#define DEBUG_VARIABLE  "WEIR_DEBUG"
#define DEBUG_NO_RESEND "no-resend"

static const struct TakeoverMemo fresh_memo = {.magic = MAGIC,
                                               .version = VERSION};

static void
save_memo(struct Takeover *takeover)
{
    if (takeover->memo_fd >= 0 &&
        pwrite(takeover->memo_fd, &takeover->memo, sizeof(takeover->memo), 0) !=
            (ssize_t)sizeof(takeover->memo)) {
        g_warning("the memo for the next daemon: %s", g_strerror(errno));
    }
}

/* Does the memo make sense? One that does not says nothing. */
static bool
load_memo(struct Takeover *takeover)
{
    struct TakeoverMemo memo;

    if (takeover->memo_fd < 0 ||
        pread(takeover->memo_fd, &memo, sizeof(memo), 0) !=
            (ssize_t)sizeof(memo) ||
        memcmp(memo.magic, MAGIC, sizeof(memo.magic)) != 0 ||
        memo.version != VERSION) {
        return false;
    }
    takeover->memo = memo;
    return true;
}

static bool
is_fuse(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) &&
           st.st_rdev == FUSE_DEVICE;
}

void
takeover_init(struct Takeover *takeover)
{
    const char *holder = g_getenv(HOLDER_PID_VARIABLE);

    *takeover = (struct Takeover){
        .memo = fresh_memo,
        .program = holder_program((int)getpid()),
        .pause_us = -1,
    };
    notify_init();
    if (notify_store_room() >= FDS_NEEDED) {
        takeover->keeper = getppid();
        if (holder != NULL && strtol(holder, NULL, 10) == takeover->keeper) {
            takeover->holder = takeover->keeper;
        }
    }
    g_unsetenv(HOLDER_PID_VARIABLE);
    takeover->fuse_fd = notify_take_fd("fuse");
    takeover->memo_fd = notify_take_fd("memo");
    if (takeover->fuse_fd >= 0 && !is_fuse(takeover->fuse_fd)) {
        g_warning("what was passed on as a connection is none");
        close(takeover->fuse_fd);
        takeover->fuse_fd = -1;
    }
}

void
takeover_deinit(struct Takeover *takeover)
{
    g_clear_pointer(&takeover->program, g_free);
    if (takeover->fuse_fd >= 0) {
        close(takeover->fuse_fd);
    }
    if (takeover->memo_fd >= 0) {
        close(takeover->memo_fd);
    }
}

/* Asks the kernel to send again what was taken and not answered. Harmless if
 * there is none; 0, or -errno: it does not know how. */
static int
try_resend(int fuse_fd)
{
    const char *debug = g_getenv(DEBUG_VARIABLE);

    if (g_strcmp0(debug, DEBUG_NO_RESEND) == 0) {
        return -EINVAL;
    }
    return face_resend(fuse_fd);
}

static bool
is_ended(int fuse_fd)
{
    struct pollfd look = {.fd = fuse_fd};

    return poll(&look, 1, 0) > 0 && (look.revents & POLLERR) != 0;
}

/* Every request that waits gets an error; then @dir is free. If something else
 * stands there by now it stays, and the connection ends with its last copy. */
static void
abandon(struct Takeover *takeover, const char *store, const char *dir)
{
    g_critical("%s: this kernel cannot send again what the daemon that died "
               "had taken (Linux 6.9 can): the guest gets I/O errors and has "
               "to open its disk anew",
               dir);
    takeover_forget(takeover);
    if (mount_is_at(store, dir, takeover->fuse_fd)) {
        mount_abort(dir);
    }
    close(takeover->fuse_fd);
    takeover->fuse_fd = -1;
    takeover->memo.restarts = 0;
}

/* The keeper may have been told to start us for another store. */
static bool
is_of(const struct Takeover *takeover, const Store *store)
{
    return memcmp(takeover->memo.uuid, store->uuid, 16) == 0;
}

gboolean
takeover_attach(struct Takeover *takeover, const Store *store, const char *dir,
                int *fuse_fd, GError **error)
{
    int fd = takeover->fuse_fd;
    bool has_memo = load_memo(takeover);
    bool is_own = has_memo && is_of(takeover, store);
    bool has_left = is_own && takeover->memo.left_us != 0;

    *fuse_fd = -1;
    if (!is_own) {
        takeover->memo = fresh_memo;
        memcpy(takeover->memo.uuid, store->uuid, 16);
    }
    if (fd >= 0 && !is_own) {
        /* Not "busy": another try would meet the same. */
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "%s: the mount that is kept is %s: end it first, with its "
                    "guest (stop the service; umount -l)",
                    dir,
                    has_memo ? "another store's"
                             : "without a memo that says whose it is");
        return FALSE;
    }
    if (fd < 0) {
        takeover->memo.restarts = 0;
        return TRUE;
    }
    takeover->can_resend = try_resend(fd) == 0;
    if (!takeover->can_resend && !has_left && !is_ended(fd)) {
        abandon(takeover, store->path, dir);
        return TRUE;
    }
    takeover->memo.restarts++;
    takeover->is_successor = true;
    takeover->fuse_fd = -1;
    *fuse_fd = fd;
    return TRUE;
}

void
takeover_forgo(struct Takeover *takeover)
{
    takeover->keeper = 0;
}

void
takeover_keep(struct Takeover *takeover, int fuse_fd)
{
    takeover->can_resend = try_resend(fuse_fd) == 0;
    if (takeover->keeper == 0) {
        return;
    }
    if (takeover->memo_fd < 0) {
        takeover->memo_fd = memfd_create("weir-memo", MFD_CLOEXEC);
    }
    takeover->memo.left_us = 0;
    save_memo(takeover);
    if (!notify_store_fd("memo", takeover->memo_fd) ||
        !notify_store_fd("fuse", fuse_fd)) {
        g_warning("whoever keeps this process does not take the mount's "
                  "connection: a daemon that dies is not followed");
        takeover->keeper = 0;
    }
}

void
takeover_forget(struct Takeover *takeover)
{
    if (takeover->keeper != 0) {
        notify_forget_fd("fuse");
        notify_forget_fd("memo");
    }
}

void
takeover_serving(struct Takeover *takeover)
{
    if (takeover->is_successor) {
        if (takeover->memo.left_us != 0) {
            takeover->pause_us =
                g_get_monotonic_time() - takeover->memo.left_us;
        }
        g_message("goes on with the mount of the daemon before (%u so far)",
                  takeover->memo.restarts);
    }
    takeover->memo.left_us = 0;
    save_memo(takeover);
}

void
takeover_set_paused(struct Takeover *takeover, bool is_paused)
{
    takeover->memo.is_paused = is_paused;
    save_memo(takeover);
}

void
takeover_leave(struct Takeover *takeover)
{
    takeover->memo.left_us = g_get_monotonic_time();
    save_memo(takeover);
}

bool
takeover_is_kept(const struct Takeover *takeover)
{
    return takeover->keeper != 0 && getppid() == takeover->keeper;
}

const char *
takeover_word(const struct Takeover *takeover)
{
    if (!takeover_is_kept(takeover)) {
        return "none";
    }
    return takeover->can_resend ? "resend" : "planned-only";
}
