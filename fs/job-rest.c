/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * job-rest.c - the jobs of a store, from their records alone
 *
 * While nobody serves a store its jobs are what STORE/NAME/jobs says. One that
 * is not over will go on, and wants its disk as it was, and its target for itself.
 */
#include "job.h"
#include "snapshot-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define RECORD_MAX (64u << 10)

int
job_record_load(const Store *store, Disk *disk, int all_fd, uint64_t number,
                JobRecord *record, const char **why)
{
    char name[SNAPSHOT_NAME_LEN], *text = NULL;
    unsigned disk_id;
    size_t len;
    int fd, err;

    snapshot_file_name(name, number, "");
    fd = store->io->ops->open(store->io, all_fd, name, STORE_DIR_FLAGS, 0);
    if (fd < 0) {
        return fd;
    }
    err = store_io_load(store->io, fd, JOB_RECORD, RECORD_MAX, &text, &len);
    store->io->ops->close(store->io, fd);
    if (err) {
        return err;
    }
    *why = job_record_parse(text, len, store->uuid, record, &disk_id);
    free(text);
    if (*why == NULL && (record->number != number || disk_id != disk->id)) {
        job_record_clear(record);
        *why = "it is another job's";
    }
    if (*why != NULL) {
        return -EBADMSG;
    }
    record->spec.disk = disk;
    return 0;
}

struct Look {
    const Store *store;
    Disk *disk;
    int all_fd;
    const char *target; /* NULL: whatever it writes */
    char *found;
};

static void
look_at(const char *name, void *user)
{
    struct Look *look = user;
    uint64_t number = snapshot_file_id(name, "");
    JobRecord record = {0};
    const char *why;

    if (number == 0 || look->found != NULL ||
        job_record_load(look->store, look->disk, look->all_fd, number, &record,
                        &why) != 0) {
        return;
    }
    if (record.status > JOB_CREATED && record.status < JOB_CONCLUDED &&
        (look->target == NULL ||
         relay_target_is_same(look->target, record.spec.target))) {
        look->found = g_strdup(record.spec.id);
    }
    job_record_clear(&record);
}

static char *
find(const Store *store, Disk *disk, const char *target)
{
    struct Look look = {.store = store, .disk = disk, .target = target};
    StoreIo *io = store->io;

    look.all_fd =
        io->ops->open(io, disk->dir_fd, STORE_JOBS, STORE_DIR_FLAGS, 0);
    if (look.all_fd >= 0) {
        (void)snapshot_files_names(look.all_fd, look_at, &look);
        io->ops->close(io, look.all_fd);
    }
    return look.found;
}

char *
job_at_rest(const Store *store, Disk *disk)
{
    return find(store, disk, NULL);
}

char *
job_of_target_at_rest(const Store *store, const char *target)
{
    char *found = NULL;

    for (unsigned i = 0; found == NULL && i < store->n_disks; i++) {
        found = find(store, store->disks[i], target);
    }
    return found;
}

gboolean
job_refuse_target(const char *target, const char *id, GError **error)
{
    g_set_error(error, STORE_ERROR, STORE_ERROR_BUSY,
                "target %s: job %s writes it: cancel that, or wait for its end",
                target, id);
    return FALSE;
}
