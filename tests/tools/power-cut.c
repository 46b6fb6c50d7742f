/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * power-cut.c - takes the power from one file system, and from its user
 *
 *   power-cut MOUNTPOINT [PID]
 *   power-cut --stop PID
 *
 * From the moment of the ioctl no block of it reaches its device any more,
 * not even the log's: what was fsynced is there after the next mount, the
 * rest is as far as it came. ext4 and xfs have it, btrfs does not (exit 1).
 *
 * PID is stopped just before, and stays so: a machine without power answers
 * nobody. All its threads are, when this goes on; on a busy machine some answer
 * for a while after the signal. It matters, because a file system that goes down may tell that an
 * fdatasync under way has succeeded (xfs: the inode is unpinned by the log's
 * abort, which looks like a log that is written). --stop does this and no more.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Both file systems' own headers have these under names of their own. */
#define GOING_DOWN   _IOR('X', 125, uint32_t)
#define NO_LOG_FLUSH 2

/* The kernel's workers for a ring are no threads that answer anybody. */
static bool
thread_is_stopped(const char *tasks, const char *tid)
{
    char path[128], line[256] = "", name[64], state = '?';
    FILE *file;

    snprintf(path, sizeof(path), "%s/%.20s/stat", tasks, tid);
    file = fopen(path, "re");
    if (!file) {
        return true; /* it has ended */
    }
    if (!fgets(line, sizeof(line), file) ||
        sscanf(line, "%*d (%63[^)]) %c", name, &state) != 2) {
        state = '?';
    }
    fclose(file);
    return state == 'T' || state == 't' || strncmp(name, "iou-", 4) == 0;
}

static bool
is_stopped(const char *tasks)
{
    DIR *dir = opendir(tasks);
    struct dirent *entry;
    bool all = true;

    if (!dir) {
        return true;
    }
    while (all && (entry = readdir(dir))) {
        all =
            entry->d_name[0] == '.' || thread_is_stopped(tasks, entry->d_name);
    }
    closedir(dir);
    return all;
}

static int
stop(const char *pid)
{
    char tasks[64];

    snprintf(tasks, sizeof(tasks), "/proc/%.20s/task", pid);
    if (kill((pid_t)strtol(pid, NULL, 10), SIGSTOP)) {
        return -errno;
    }
    while (!is_stopped(tasks)) {
    }
    return 0;
}

int
main(int argc, char **argv)
{
    uint32_t how = NO_LOG_FLUSH;
    int fd, error;

    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: power-cut MOUNTPOINT [PID], or --stop PID\n");
        return 2;
    }
    if (argc == 3 && strcmp(argv[1], "--stop") == 0) {
        return stop(argv[2]) ? 1 : 0;
    }
    fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    error = fd < 0 ? -errno : argc > 2 ? stop(argv[2]) : 0;
    if (error || ioctl(fd, GOING_DOWN, &how)) {
        fprintf(stderr, "power-cut: %s: %s\n", argv[1],
                strerror(error ? -error : errno));
        return 1;
    }
    close(fd);
    return 0;
}
