/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The owner of a job: adds it, hears of what becomes of it, and frees what it
 * borrowed as soon as that may be done.
 */
#include "relay-job-rig.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/test.h"

struct Job job;

/*
 * The owner
 */
void
job_new(unsigned cluster_bits, const char *target)
{
    struct Disk *disk = &rig.disks[0];

    job.map = disk_map_new(DISK_BYTES, cluster_bits);
    job.config = (struct RelayDiskConfig){
        .name = NAME,
        .fd = disk->fd,
        .map_fd = disk->map_fd,
        .dio_align = 4096,
        .map = job.map,
        .target = target,
        .accept = ACCEPT_OVERWRITE,
        .aside_fd = -1,
        .dir_fd = rig.disks[1].dir_fd,
        .epoch = 1,
        .job = {.is_job = true, .pins = disk->map, .halts = true},
    };
}

void
job_add(void)
{
    assert_true(relay_add_disk(rig.relay, &job.config, NULL));
    relay_hurry(rig.relay);
}

void
job_mark(uint64_t offset, uint64_t len)
{
    disk_map_mark(job.map, offset, len, rig_now_us());
    relay_hurry(rig.relay);
}

struct RelayFigures
job_figures(void)
{
    struct RelayFigures figures = {0};

    assert_true(relay_figures(rig.relay, NAME, &figures));
    return figures;
}

uint64_t
job_left(void)
{
    struct DiskMapFigures figures;

    disk_map_figures(job.map, &figures);
    return figures.dirty_clusters;
}

bool
job_is_copied(void)
{
    return !job_left();
}

bool
job_is_online(void)
{
    return job_figures().core.link == RELAY_ONLINE;
}

static unsigned ends;

static bool
has_ended(void)
{
    return rig_job_news(RELAY_NEWS_ENDED) == ends;
}

/* What it borrowed is gone at once, so that a late look at it is seen. */
void
job_leave(void)
{
    struct RelayFigures figures;

    relay_forget_disk(rig.relay, NAME);
    assert_false(relay_figures(rig.relay, NAME, &figures));
    disk_map_free(job.map);
    job.map = NULL;
}

void
job_forget(void)
{
    job_leave();
    (void)unlinkat(rig.disks[1].dir_fd, "remote-sums", 0);
    (void)unlinkat(rig.disks[1].dir_fd, "sent-log", 0);
}

void
job_end(void)
{
    ends = rig_job_news(RELAY_NEWS_ENDED) + 1;
    relay_end_disk(rig.relay, NAME);
    await(has_ended);
    assert_int_equal(job_figures().core.link, RELAY_STOPPED);
}

char *
job_image(const char *path)
{
    char *bytes;
    gsize len;

    assert_true(g_file_get_contents(path, &bytes, &len, NULL));
    assert_true(len >= DISK_BYTES);
    return bytes;
}

void
job_assert_target(const char *want, uint64_t from, uint64_t to)
{
    g_autofree char *target = job_image(rig.disks[1].target);

    to = MIN(to, DISK_BYTES);
    for (uint64_t at = from; at < to; at += 512) {
        if (memcmp(target + at, want + at, 512)) {
            fail_msg("sector %llu is another one",
                     (unsigned long long)(at / 512));
        }
    }
}

void
job_blank_target(void)
{
    assert_int_equal(truncate(rig.disks[1].target, 0), 0);
    assert_int_equal(truncate(rig.disks[1].target, (off_t)DISK_BYTES), 0);
}

int
job_setup(void **state)
{
    (void)rig_setup(state);
    return 0;
}

int
job_teardown(void **state)
{
    relay_free(g_steal_pointer(&rig.relay));
    disk_map_free(job.map);
    job.map = NULL;
    return rig_teardown(state);
}
