/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A state is placed by comparing: directories and disk.raw, which is a link to
 * the mapped file, stay where they are; every other file is written anew, as
 * the store that was opened on the state before may have changed it.
 */
#include "place.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STANDINS 2

/* Files whose number and time are not their own. */
static struct Standin {
    dev_t device;
    ino_t inode;
    ino_t shown;
    struct timespec mtime;
} standins[STANDINS];

int __real_fstat64(int fd, struct stat *st);
int __wrap_fstat64(int fd, struct stat *st);

int
__wrap_fstat64(int fd, struct stat *st)
{
    int failed = __real_fstat64(fd, st);

    for (unsigned i = 0; !failed && i < STANDINS; i++) {
        if (standins[i].inode && st->st_ino == standins[i].inode &&
            st->st_dev == standins[i].device) {
            st->st_ino = standins[i].shown;
            st->st_mtim = standins[i].mtime;
            break;
        }
    }
    return failed;
}

static struct Standin *
standin_of(const struct stat *st)
{
    struct Standin *free_one = NULL;

    for (unsigned i = 0; i < STANDINS; i++) {
        if (standins[i].inode == st->st_ino &&
            standins[i].device == st->st_dev) {
            return &standins[i];
        }
        free_one = standins[i].inode ? free_one : &standins[i];
    }
    assert(free_one);
    return free_one;
}

static void
stand_in(const CrashStates *states)
{
    const struct CrashFile *raw = states->raw;
    struct stat st;
    int failed = __real_fstat64(raw->fd, &st) ||
                 ((uint64_t)st.st_size != raw->now_size &&
                  ftruncate(raw->fd, (off_t)raw->now_size));

    assert(!failed);
    *standin_of(&st) = (struct Standin){
        .device = st.st_dev,
        .inode = st.st_ino,
        .shown = states->log->nodes[raw->node]->inode,
        .mtime = raw->now_mtime,
    };
}

void
place_forget(const CrashStates *states)
{
    struct stat st;

    if (!__real_fstat64(states->raw->fd, &st)) {
        standin_of(&st)->inode = 0;
    }
}

static const struct CrashName *
find(const CrashStates *states, uint32_t dir, const char *name)
{
    for (size_t i = 0; i < states->now_names.count; i++) {
        const struct CrashName *at = &states->now_names.list[i];

        if (at->dir == dir && !strcmp(at->name, name)) {
            return at;
        }
    }
    return NULL;
}

static void remove_all(int dirfd, const char *name);

static void
empty_dir(int dirfd, const char *name)
{
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fdopendir(fd);
    struct dirent *entry;

    assert(dir);
    while ((entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) {
            remove_all(fd, entry->d_name);
        }
    }
    closedir(dir);
}

static void
remove_all(int dirfd, const char *name)
{
    if (unlinkat(dirfd, name, 0) < 0) {
        assert(errno == EISDIR);
        empty_dir(dirfd, name);
        int failed = unlinkat(dirfd, name, AT_REMOVEDIR);

        assert(!failed);
    }
}

/* What need not be made anew stays; true if @entry did. */
static bool
stays(const CrashStates *states, uint32_t dir, const struct dirent *entry)
{
    const struct CrashName *name = find(states, dir, entry->d_name);

    if (!name) {
        return false;
    }
    return states->log->nodes[name->node]->is_dir
               ? entry->d_type == DT_DIR
               : &states->files[name->node] == states->raw &&
                     entry->d_ino == states->raw_inode;
}

static void
sweep(const CrashStates *states, int dirfd, uint32_t node)
{
    DIR *dir = fdopendir(dup(dirfd));
    struct dirent *entry;

    assert(dir);
    rewinddir(dir);
    while ((entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") &&
            !stays(states, node, entry)) {
            remove_all(dirfd, entry->d_name);
        }
    }
    closedir(dir);
}

static void
put_file(const CrashStates *states, int dirfd, const char *name,
         const struct CrashFile *file)
{
    if (file == states->raw) {
        char path[32];

        snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
        int failed = linkat(AT_FDCWD, path, dirfd, name, AT_SYMLINK_FOLLOW);

        assert(!failed || errno == EEXIST);
        return;
    }
    int fd =
        openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ssize_t n = write(fd, file->now, file->now_size);

    assert(n == (ssize_t)file->now_size);
    close(fd);
}

/* Takes @dirfd. */
static void
place_dir(const CrashStates *states, int dirfd, uint32_t node)
{
    sweep(states, dirfd, node);
    for (size_t i = 0; i < states->now_names.count; i++) {
        const struct CrashName *name = &states->now_names.list[i];

        if (name->dir != node) {
            continue;
        }
        if (!states->log->nodes[name->node]->is_dir) {
            put_file(states, dirfd, name->name, &states->files[name->node]);
            continue;
        }
        (void)mkdirat(dirfd, name->name, 0700);
        place_dir(states,
                  openat(dirfd, name->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                  name->node);
    }
    close(dirfd);
}

void
place_state(const CrashStates *states)
{
    char *path;
    int failed = asprintf(&path, "%s/root", states->dir) < 0;

    assert(!failed);
    (void)mkdir(path, 0700);
    place_dir(states, open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), 0);
    stand_in(states);
    free(path);
}
