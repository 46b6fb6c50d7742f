/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs-resume.c - the jobs of an earlier life
 *
 * What STORE/NAME/jobs/ID says, and what becomes of it:
 *
 *   no record                     left over: deleted
 *   a damaged one                 said, and deleted: its bitmap is thawed as one
 *                                 that nobody has
 *   created                       it never began: likewise, and nothing is said
 *   running, paused, ready,       its map is what the last checkpoint had, and
 *   standby                       what the guest may have written since; its
 *                                 bitmap comes frozen; it is added to the relay,
 *                                 standing, and goes on when all is built. What
 *                                 was sent and is dirty still is skipped by its
 *                                 sums
 *   ... a backup whose snapshot   fails
 *       is gone
 *   waiting, pending              it waits as before, and for the same
 *   ... committed; aborting       it is closed, as it was about to be
 *   concluded                     it stays until it is dismissed
 *   null                          it was; what it has in flight: jobs-doubt.c
 *
 * If one of a group was committed, or is aborting, so are all of them: none was
 * closed before all records said so, but the last of these may be missing. If
 * nothing was decided, and one of them is not there (it never began, or its record
 * is damaged), the others fail.
 *
 * A bitmap that is busy, and of no job, is thawed OLD: it may have more than it
 * need, never less. A snapshot that was made for a job, and is of none, is
 * deleted.
 */
#include "jobs-private.h"
#include "snapshot-private.h"

#include <errno.h>
#include <fcntl.h>

struct Search {
    Jobs *jobs;
    Disk *disk;
    int fd;          /* of STORE/NAME/jobs */
    GArray *numbers; /* uint64_t */
};

static void
see_name(const char *name, void *user)
{
    struct Search *search = user;
    uint64_t *last = &search->jobs->last_number[search->disk->index];
    uint64_t number = snapshot_file_id(name, "");

    if (number != 0) {
        g_array_append_val(search->numbers, number);
        *last = MAX(*last, number);
    }
}

static gint
compare_numbers(gconstpointer a, gconstpointer b)
{
    uint64_t one = *(const uint64_t *)a, other = *(const uint64_t *)b;

    return one < other ? -1 : one > other;
}

/*
 * One record
 */
static bool
is_at_work(enum JobStatus status)
{
    return status == JOB_RUNNING || status == JOB_PAUSED ||
           status == JOB_READY || status == JOB_STANDBY;
}

/* ... and has more to do than to be dismissed. */
static bool
is_alive(const Job *job)
{
    return is_at_work(job->record.status) ||
           job->record.status == JOB_WAITING ||
           job->record.status == JOB_PENDING ||
           job->record.status == JOB_ABORTING;
}

/* Its bitmap, away from an older job that names the same one. */
static void
take_bitmap(Job *job)
{
    const JobSpec *spec = &job->record.spec;
    const Jobs *jobs = job->jobs;

    if (spec->bitmap == NULL) {
        return;
    }
    job->frozen = named_frozen(spec->disk->bitmaps, spec->bitmap);
    for (guint i = 0; job->frozen != NULL && i < jobs->list->len; i++) {
        Job *older = g_ptr_array_index(jobs->list, i);

        if (older != job && older->frozen == job->frozen) {
            older->frozen = NULL;
        }
    }
}

static void
doom(Job *job, const char *why)
{
    if (job->doom == NULL) {
        job->doom = g_strdup(why);
    }
}

static gboolean
load_map(Job *job, GError **error)
{
    JobRecord *record = &job->record;
    struct DiskMapFigures figures;
    uint64_t left;

    if (!job_map_make(job, error)) {
        return FALSE;
    }
    if (record->is_mapped &&
        !store_bits_load(job->jobs->config.store, job_disk(job), &job->bits,
                         job_records(&record->spec), error)) {
        return FALSE;
    }
    disk_map_figures(job->map, &figures);
    left = figures.dirty_clusters << disk_map_cluster_bits(job->map);
    job->base_bytes = record->total_bytes - MIN(record->total_bytes, left);
    return TRUE;
}

static void
stand(Job *job)
{
    g_autoptr(GError) error = NULL;

    if (is_at_work(job->record.status) && job->record.is_mapped &&
        !job_add(job, &error)) {
        doom(job, error->message);
    }
}

/* One that goes on knows itself. */
static bool
has_left_doubt(const JobRecord *record)
{
    return (record->status == JOB_ABORTING && record->is_met) ||
           (record->status == JOB_CONCLUDED && record->is_in_doubt);
}

static void
recall(Jobs *jobs, JobRecord *record)
{
    Job *job = job_new(jobs, &record->spec);
    JobSpec spec = job->record.spec;
    g_autoptr(GError) error = NULL;

    job->record = *record;
    job->record.spec = spec;
    job->is_recalled = true;
    job->phase = JOB_RESTS;
    g_ptr_array_add(jobs->list, job);
    if (!job_files_open(job)) {
        doom(job, "its directory cannot be opened");
    }
    if (has_left_doubt(&job->record)) {
        job_leave_doubt(job);
    }
    if (!is_alive(job)) {
        return;
    }
    take_bitmap(job);
    if (!load_map(job, &error)) {
        doom(job, error->message);
        return;
    }
    if (is_at_work(job->record.status)) {
        job_map_record(job);
    }
    job_map_hold(job);
    stand(job);
}

/* Somebody can still say something of it. */
static bool
is_to_be_recalled(const Jobs *jobs, const JobRecord *record)
{
    return record->status > JOB_CREATED && record->status < JOB_NULL &&
           (record->status != JOB_CONCLUDED || record->spec.waits_to_dismiss) &&
           jobs->list->len < JOBS_MAX && !jobs_has(jobs, record->spec.id);
}

static void
recall_number(const struct Search *search, uint64_t number)
{
    Jobs *jobs = search->jobs;
    JobRecord record = {0};
    const char *why;
    int err = job_record_load(jobs->config.store, search->disk, search->fd,
                              number, &record, &why);

    if (err == -EBADMSG) {
        g_warning("the record of job %" G_GUINT64_FORMAT " of disk %s is "
                  "damaged (%s): the job is given up",
                  number, search->disk->name, why);
        err = -ENOENT;
    }
    if (err == 0 && is_to_be_recalled(jobs, &record)) {
        recall(jobs, &record);
    } else if (err == 0 && record.status == JOB_NULL) {
        jobs_doubt_record(jobs, search->disk, &record);
    } else if (err == 0 || err == -ENOENT) {
        job_files_delete_number(jobs, search->disk, number);
    } else {
        g_warning("%s/" STORE_JOBS "/%" G_GUINT64_FORMAT " cannot be read: %s",
                  search->disk->name, number, g_strerror(-err));
    }
    job_record_clear(&record);
}

static void
recall_disk(Jobs *jobs, Disk *disk)
{
    struct Search search = {.jobs = jobs, .disk = disk};
    StoreIo *io = jobs->config.store->io;

    search.fd = io->ops->open(io, disk->dir_fd, STORE_JOBS, STORE_DIR_FLAGS, 0);
    if (search.fd < 0) {
        if (search.fd != -ENOENT) {
            g_warning("%s/" STORE_JOBS " cannot be read: %s", disk->name,
                      g_strerror(-search.fd));
        }
        return;
    }
    search.numbers = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    (void)snapshot_files_names(search.fd, see_name, &search);
    g_array_sort(search.numbers, compare_numbers);
    for (guint i = 0; i < search.numbers->len; i++) {
        recall_number(&search, g_array_index(search.numbers, uint64_t, i));
    }
    io->ops->close(io, search.fd);
    g_array_unref(search.numbers);
}

/*
 * What nobody has
 */
static bool
is_taken(const Jobs *jobs, const NamedBitmap *frozen)
{
    for (guint i = 0; i < jobs->list->len; i++) {
        const Job *job = g_ptr_array_index(jobs->list, i);

        if (job->frozen == frozen) {
            return true;
        }
    }
    return false;
}

static void
thaw_rest(Jobs *jobs, Disk *disk)
{
    g_autoptr(GError) error = NULL;
    struct NamedFigures figures;
    bool is_changed = false;

    for (unsigned i = 0; named_at(disk->bitmaps, i, &figures); i++) {
        NamedBitmap *frozen =
            figures.is_busy ? named_frozen(disk->bitmaps, figures.name) : NULL;

        if (frozen != NULL && !is_taken(jobs, frozen)) {
            g_message("%s: bitmap %s is of no job any more: it is as it was, "
                      "with what was written since",
                      disk->name, figures.name);
            named_thaw(frozen, NAMED_OLD, NULL);
            is_changed = true;
        }
    }
    if (is_changed && !store_bitmaps_save(jobs->config.store, disk, &error)) {
        g_warning("%s: its bitmaps cannot be kept: %s", disk->name,
                  error->message);
    }
}

void
jobs_recall(Jobs *jobs)
{
    const Store *store = jobs->config.store;

    for (unsigned i = 0; i < store->n_disks; i++) {
        recall_disk(jobs, store->disks[i]);
        thaw_rest(jobs, store->disks[i]);
    }
}

/*
 * They go on
 */

enum Fate { FATE_OPEN, FATE_COMMITTED, FATE_ABORTING, FATE_INCOMPLETE };

/* What is to become of the group, by what its records say. */
static enum Fate
group_fate(Job *job)
{
    g_autoptr(GPtrArray) group = job_group(job);
    enum Fate fate =
        group->len < job->record.members ? FATE_INCOMPLETE : FATE_OPEN;

    for (guint i = 0; i < group->len; i++) {
        const Job *other = g_ptr_array_index(group, i);

        if (other->record.is_committed) {
            fate = FATE_COMMITTED;
        } else if (other->record.status == JOB_ABORTING ||
                   other->record.status == JOB_CONCLUDED) {
            return FATE_ABORTING;
        }
    }
    return fate;
}

static bool
has_instant(const Job *job)
{
    const Store *store = job->jobs->config.store;
    uint64_t id = job->record.snapshot;
    Snapshot snapshot;

    return job->record.spec.kind != JOB_BACKUP ||
           (snapshot_list_get(store->snapshots, id, &snapshot) &&
            !snapshot.is_damaged && points_is_live(job_disk(job)->points, id));
}

static void
go_on(Job *job)
{
    if (!has_instant(job)) {
        doom(job, "the snapshot that it copies is gone, or damaged: begin it "
                  "again");
    }
    if (job->doom != NULL) {
        job_abort(job, job->doom);
        return;
    }
    if (job->record.spec.kind == JOB_MIRROR && job->record.snapshot != 0) {
        job->record.snapshot = 0; /* another one is asked for */
        (void)job_save(job);
    }
    if (job->record.is_mapped) {
        job_copy(job);
    } else {
        job->phase = JOB_MAPS;
        job->record.is_mapped = job_map_fill(job);
    }
}

static void
begin(Job *job)
{
    if (!is_alive(job)) {
        return;
    }
    switch (group_fate(job)) {
    case FATE_ABORTING:
        job_abort(job, NULL);
        break;
    case FATE_INCOMPLETE:
        job_abort(job, "not all jobs of its group are there any more: begin "
                       "them again");
        break;
    case FATE_COMMITTED:
        if (job->record.status == JOB_WAITING) {
            job_move(job, JOB_PENDING);
        }
        job_commit(job);
        break;
    case FATE_OPEN:
        if (is_at_work(job->record.status)) {
            go_on(job);
        }
        break;
    }
}

static void
drop_snapshots(Jobs *jobs)
{
    SnapshotList *list = jobs->config.store->snapshots;
    g_autoptr(GArray) ids = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    Snapshot snapshot;

    for (unsigned i = 0; snapshot_list_hidden_at(list, i, &snapshot); i++) {
        g_array_append_val(ids, snapshot.id);
    }
    for (guint i = 0; i < ids->len; i++) {
        jobs_drop_snapshot(jobs, g_array_index(ids, uint64_t, i));
    }
}

void
jobs_recall_begin(Jobs *jobs)
{
    jobs->is_looking = true;
    for (guint i = 0; i < jobs->list->len; i++) {
        begin(g_ptr_array_index(jobs->list, i));
    }
    jobs->is_looking = false;
    drop_snapshots(jobs);
    jobs_sweep(jobs);
}
