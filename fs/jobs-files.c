/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs-files.c - the directory of a job, and its record
 *
 * STORE/NAME/jobs/ID is made, with its record, before anything is done for the
 * job, and goes when it is dismissed: the record first, so that what a crash
 * leaves has none and is nobody's.
 *
 * A record is swapped (store_io_swap()), which needs no room. One that cannot
 * be saved all the same is tried again each second, and nothing that it was to
 * say is acted on before.
 */
#include "jobs-private.h"
#include "snapshot-private.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define SPARE      JOB_RECORD ".spare"
#define NUMBER_LEN 24

static void
number_name(char name[NUMBER_LEN], uint64_t number)
{
    g_snprintf(name, NUMBER_LEN, "%" G_GUINT64_FORMAT, number);
}

/* The directory of all jobs of @disk; -ENOENT: there is none. */
static int
open_all(const Store *store, const Disk *disk)
{
    return store->io->ops->open(store->io, disk->dir_fd, STORE_JOBS,
                                STORE_DIR_FLAGS, 0);
}

/* Durably. An fd, or -errno. */
static int
make_all(const Store *store, const Disk *disk)
{
    StoreIo *io = store->io;
    int err = io->ops->mkdir(io, disk->dir_fd, STORE_JOBS, 0700);

    err = err == -EEXIST ? 0 : err;
    err = err ? err : io->ops->fsync(io, disk->dir_fd);
    return err ? err : open_all(store, disk);
}

static int
put_record(const Job *job)
{
    const Store *store = job->jobs->config.store;
    g_autofree char *text = NULL;
    size_t len;

    text = job_record_format(&job->record, store->uuid, &len);
    return store_io_swap(store->io, job->dir_fd, JOB_RECORD, SPARE, text, len,
                         0600);
}

bool
job_save(Job *job)
{
    int err;

    if (job->dir_fd < 0) {
        return true; /* there is nothing to be kept, or no place for it */
    }
    if (job->map != NULL) {
        job_progress(job, &job->record.done_bytes, &job->record.total_bytes);
    }
    err = put_record(job);
    job->is_unsaved = err != 0;
    if (err != 0 && !job->is_warned) {
        g_warning("job %s: its record cannot be kept (%s); that is tried "
                  "again, and the job waits for it",
                  job->record.spec.id, g_strerror(-err));
    }
    job->is_warned = err != 0;
    return err == 0;
}

static int
make_directory(Job *job, int all_fd)
{
    StoreIo *io = job->jobs->config.store->io;
    char name[NUMBER_LEN];
    int err;

    number_name(name, job->record.number);
    err = io->ops->mkdir(io, all_fd, name, 0700);
    if (err) {
        return err;
    }
    job->dir_fd = io->ops->open(io, all_fd, name, STORE_DIR_FLAGS, 0);
    err = job->dir_fd < 0 ? job->dir_fd : put_record(job);
    return err ? err : io->ops->fsync(io, all_fd);
}

gboolean
job_files_make(Job *job, GError **error)
{
    Jobs *jobs = job->jobs;
    const Store *store = jobs->config.store;
    const Disk *disk = job_disk(job);
    int all_fd = make_all(store, disk);
    int err = all_fd < 0 ? all_fd : 0;

    job->record.number = ++jobs->last_number[disk->index];
    if (!err) {
        err = make_directory(job, all_fd);
        store->io->ops->close(store->io, all_fd);
    }
    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "job %s cannot be kept in %s/%s", job->record.spec.id,
                        store->path, disk->name);
    }
    return !err;
}

bool
job_files_open(Job *job)
{
    const Store *store = job->jobs->config.store;
    int all_fd = open_all(store, job_disk(job));
    char name[NUMBER_LEN];

    if (all_fd < 0) {
        return false;
    }
    number_name(name, job->record.number);
    job->dir_fd =
        store->io->ops->open(store->io, all_fd, name, STORE_DIR_FLAGS, 0);
    store->io->ops->close(store->io, all_fd);
    return job->dir_fd >= 0;
}

/*
 * Deleting
 */
struct Deletion {
    StoreIo *io;
    int dir_fd;
};

static void
delete_file(const char *name, void *user)
{
    const struct Deletion *deletion = user;

    (void)deletion->io->ops->unlink(deletion->io, deletion->dir_fd, name, 0);
}

void
job_files_delete_number(Jobs *jobs, Disk *disk, uint64_t number)
{
    StoreIo *io = jobs->config.store->io;
    struct Deletion deletion = {.io = io};
    int all_fd = open_all(jobs->config.store, disk);
    char name[NUMBER_LEN];
    int err;

    if (all_fd < 0) {
        return;
    }
    number_name(name, number);
    deletion.dir_fd = io->ops->open(io, all_fd, name, STORE_DIR_FLAGS, 0);
    err = deletion.dir_fd < 0 ? deletion.dir_fd : 0;
    if (!err) {
        (void)io->ops->unlink(io, deletion.dir_fd, JOB_RECORD, 0);
        (void)io->ops->fsync(io, deletion.dir_fd);
        (void)snapshot_files_names(deletion.dir_fd, delete_file, &deletion);
        io->ops->close(io, deletion.dir_fd);
        err = io->ops->unlink(io, all_fd, name, AT_REMOVEDIR);
    }
    if (err && err != -ENOENT) {
        g_warning("%s/" STORE_JOBS "/%s cannot be deleted: %s; the next start "
                  "tries again",
                  disk->name, name, g_strerror(-err));
    }
    io->ops->close(io, all_fd);
}

void
job_files_delete(Job *job)
{
    StoreIo *io = job->jobs->config.store->io;

    if (job->dir_fd >= 0) {
        io->ops->close(io, job->dir_fd);
        job->dir_fd = -1;
    }
    job_files_delete_number(job->jobs, job_disk(job), job->record.number);
}
