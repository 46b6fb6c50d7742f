/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs-map.c - what a job is to copy: its own map
 *
 *   sync                         what is dirty in the beginning
 *   full                         all
 *   top                          what is allocated, see below
 *   none                         nothing
 *   incremental, bitmap,         S and N of the named bitmap: what it was when it
 *   differential                 was frozen, and what was written since
 *
 * A mirror's map, and that of a backup with sync=none, is a recorder of the
 * disk's: attached before anything is looked up, it misses nothing. A backup's
 * instant is after the freeze, so that S and N, merged after that, have all that
 * was changed up to it; a little more does no harm, since a backup brings what
 * was there at the instant.
 *
 * What is allocated is asked of the file system, which may take long, by a
 * thread that has a bitmap of its own and ends when it is told to. What the
 * guest discards meanwhile, and what it wrote after a backup's instant, is told
 * by the snapshot's points (or the recorder): both together have all that was
 * allocated at the instant.
 *
 * Grains are what the job, or its bitmap, asks for, as far as the relay takes
 * them: 4 KiB to 2 MiB.
 */
#include "jobs-private.h"
#include "store-private.h"

#include <errno.h>
#include <unistd.h>

#define GRAIN_LEAST  12
#define GRAIN_MOST   21
#define GRAIN_COMMON 16

struct JobScan {
    GThread *thread; /* NULL: there is no memory for it */
    Job *job;
    StoreIo *io;
    int fd;
    Bitmap *found;
    int error;
    atomic_bool is_told, is_over;
};

/*
 * The map
 */
static unsigned
choose_grain(const Job *job)
{
    const JobSpec *spec = &job->record.spec;
    struct NamedFigures named;
    unsigned bits = GRAIN_COMMON;

    if (spec->granularity != 0) {
        bits = 63 - (unsigned)__builtin_clzll(spec->granularity);
    } else if (spec->bitmap != NULL &&
               named_find(job_disk(job)->bitmaps, spec->bitmap, &named)) {
        bits = named.grain_bits;
    }
    return CLAMP(bits, GRAIN_LEAST, GRAIN_MOST);
}

gboolean
job_map_make(Job *job, GError **error)
{
    Disk *disk = job_disk(job);

    job->map = disk_map_new(atomic_load(&disk->size_bytes), choose_grain(job));
    if (job->map == NULL) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "job %s: no memory for what it is to copy",
                    job->record.spec.id);
        return FALSE;
    }
    job->bits.map = job->map;
    g_snprintf(job->bits.file, sizeof(job->bits.file),
               STORE_JOBS "/%" G_GUINT64_FORMAT "/left", job->record.number);
    return TRUE;
}

void
job_map_record(Job *job)
{
    if (job_records(&job->record.spec)) {
        job->recorder = (DiskMapRecorder){.job = job->map};
        disk_map_attach(job_disk(job)->map, &job->recorder);
        job->is_recording = true;
    }
}

void
job_map_hold(Job *job)
{
    store_bits_add(job->jobs->config.store, job_disk(job), &job->bits);
    job->is_held = true;
}

void
job_map_detach(Job *job)
{
    if (job->is_recording) {
        disk_map_detach(job_disk(job)->map, &job->recorder);
        job->is_recording = false;
    }
}

void
job_map_drop(Job *job)
{
    job_map_stop(job);
    job_map_detach(job);
    if (job->is_held) {
        store_bits_remove(job->jobs->config.store, job_disk(job), &job->bits);
        job->is_held = false;
    }
    g_clear_pointer(&job->map, disk_map_free);
}

/*
 * What is allocated
 */
static int
scan_all(JobScan *scan)
{
    off_t end = (off_t)bitmap_size_bytes(scan->found);
    off_t at = 0;

    while (at < end && !atomic_load(&scan->is_told)) {
        off_t data = scan->io->ops->lseek(scan->io, scan->fd, at, SEEK_DATA);
        off_t hole;

        if (data == -ENXIO || data >= end) {
            return 0;
        }
        if (data < 0) {
            return (int)data;
        }
        hole = scan->io->ops->lseek(scan->io, scan->fd, data, SEEK_HOLE);
        if (hole < 0) {
            return (int)hole;
        }
        hole = MIN(hole, end);
        bitmap_set_bytes(scan->found, (uint64_t)data, (uint64_t)(hole - data));
        at = hole;
    }
    return 0;
}

static gboolean
scanned_cb(gpointer data)
{
    JobScan *scan = data;

    job_step(scan->job);
    return G_SOURCE_REMOVE;
}

static gpointer
scan_thread(gpointer data)
{
    JobScan *scan = data;

    scan->error = scan_all(scan);
    atomic_store(&scan->is_over, true);
    g_idle_add(scanned_cb, scan);
    return NULL;
}

static void
begin_scan(Job *job)
{
    Disk *disk = job_disk(job);
    JobScan *scan = g_new0(JobScan, 1);

    scan->job = job;
    scan->io = job->jobs->config.store->io;
    scan->fd = disk->map_fd;
    scan->found = bitmap_new(disk_map_size_bytes(job->map),
                             disk_map_cluster_bits(job->map));
    job->scan = scan;
    if (scan->found != NULL) {
        scan->thread = g_thread_try_new("allocation", scan_thread, scan, NULL);
    }
    if (scan->thread == NULL) { /* UNTESTED: no memory, or too many threads */
        scan->error = -ENOMEM;
        atomic_store(&scan->is_over, true);
    }
}

void
job_map_stop(Job *job)
{
    JobScan *scan = g_steal_pointer(&job->scan);

    if (scan != NULL) {
        atomic_store(&scan->is_told, true);
        if (scan->thread != NULL) {
            g_thread_join(scan->thread);
        }
        while (g_idle_remove_by_data(scan)) {
        }
        bitmap_free(scan->found);
        g_free(scan);
    }
}

/* What the guest has overwritten since the snapshot, whatever is there now. */
static void
mark_changed(Job *job)
{
    Disk *disk = job_disk(job);
    unsigned bits = disk->cluster_bits;
    uint64_t size = disk_map_size_bytes(job->map);
    uint64_t end = clusters_for(size, bits);
    uint64_t at = 0;
    struct ClusterRun run;

    while (at < end && points_next_changed(disk->points, job->record.snapshot,
                                           0, at, end, &run)) {
        uint64_t first = run.first << bits;
        uint64_t last = MIN((run.first + run.count) << bits, size);

        if (first < last) {
            disk_map_mark(job->map, first, last - first,
                          job->jobs->ops->now_us());
        }
        at = run.first + run.count;
    }
}

bool
job_map_is_found(Job *job)
{
    JobScan *scan = job->scan;

    if (scan == NULL || !atomic_load(&scan->is_over)) {
        return false;
    }
    if (scan->error < 0) {
        g_warning("job %s: what is allocated cannot be asked (%s): all of the "
                  "disk is copied",
                  job->record.spec.id, g_strerror(-scan->error));
        disk_map_mark_all(job->map, job->jobs->ops->now_us());
    } else {
        disk_map_load(job->map, scan->found, job->jobs->ops->now_us());
    }
    if (job->record.snapshot != 0) {
        mark_changed(job);
    }
    job_map_stop(job);
    return true;
}

bool
job_map_fill(Job *job)
{
    JobSpec *spec = &job->record.spec;
    int64_t now_us = job->jobs->ops->now_us();
    bool is_known = true;

    switch (spec->sync) {
    case JOB_FULL:
        disk_map_mark_all(job->map, now_us);
        break;
    case JOB_TOP:
        begin_scan(job);
        is_known = false;
        break;
    case JOB_NONE:
        break;
    case JOB_INCREMENTAL:
    case JOB_BITMAP:
    case JOB_DIFFERENTIAL:
        named_merge_into(job->frozen, job->map, now_us);
        job_gap_merge(spec->gap, job->map, now_us);
        break;
    }
    /* The instant is there: what is written from here on is not its. */
    g_clear_pointer(&spec->gap, job_gap_free);
    return is_known;
}
