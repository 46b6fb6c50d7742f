/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A cluster's content follows from the number of the write, so that one that is
 * read as another's, or torn, is seen.
 */
#include "snapshot-rig.h"

#include "tests/lib/quick-io.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>

static uint64_t
cluster_of(unsigned index)
{
    return index == RIG_CLUSTERS - 1 ? RIG_FAR : index;
}

static void
fill(uint64_t *words, uint64_t number)
{
    for (size_t i = 0; i < CLUSTER / sizeof(*words); i++) {
        words[i] = number ? number << 20 | i : 0;
    }
}

static bool
holds(const uint64_t *words, uint64_t number)
{
    for (size_t i = 0; i < CLUSTER / sizeof(*words); i++) {
        if (words[i] != (number ? number << 20 | i : 0)) {
            return false;
        }
    }
    return true;
}

void
rig_open(struct Rig *rig)
{
    GError *error = NULL;

    rig->store = store_open(&rig->fault.io, rig->fixture->path, 0, &error);
    if (!rig->store) {
        fail_msg("open: %s", error->message);
    }
}

void
rig_close(struct Rig *rig)
{
    store_free(rig->store);
    rig->store = NULL;
}

void
rig_reopen(struct Rig *rig)
{
    rig_close(rig);
    rig_open(rig);
}

static void
create(struct Rig *rig, const char *name)
{
    g_autofree char *address = rig_path(rig, "%s", name);
    struct StoreCreate ask = {.address = address,
                              .size_bytes = DISK_CLUSTERS * CLUSTER,
                              .target = TARGET,
                              .cluster_bits = STORE_CLUSTER_BITS};

    assert_true(store_create_disk(&rig->fault.io, &ask, NULL));
}

int
rig_setup(void **state)
{
    struct Rig *rig = g_new0(struct Rig, 1);

    fault_io_init(&rig->fault, quick_io());
    rig->fixture = g_new0(struct StoreFixture, 1);
    rig->fixture->dir = scratch_new();
    rig->fixture->path = g_build_filename(rig->fixture->dir, "vm", NULL);
    rig->fixture->address = rig_path(rig, "vda");
    create(rig, "vda");
    create(rig, "vdb");
    rig_open(rig);
    *state = rig;
    return 0;
}

int
rig_teardown(void **state)
{
    struct Rig *rig = *state;
    void *fixture = rig->fixture;

    if (rig->store) {
        rig_close(rig);
    }
    fixture_teardown(&fixture);
    g_free(rig);
    return 0;
}

static int
copy_before(struct Rig *rig, Disk *disk, unsigned index)
{
    const struct ClusterRun run = {cluster_of(index), 1};

    return store_keep(rig->store, disk, &run, 1);
}

int
rig_write(struct Rig *rig, unsigned disk, unsigned index)
{
    Disk *to = rig->store->disks[disk];
    int err = copy_before(rig, to, index);
    uint64_t *words;

    if (err) {
        return err;
    }
    words = aligned_alloc(4096, CLUSTER);
    fill(words, ++rig->writes);
    assert_int_equal(
        pwrite(to->fd, words, CLUSTER, (off_t)(cluster_of(index) * CLUSTER)),
        CLUSTER);
    free(words);
    rig->now.of[disk][index] = rig->writes;
    return 0;
}

int
rig_discard(struct Rig *rig, unsigned disk, unsigned index)
{
    Disk *to = rig->store->disks[disk];
    int err = copy_before(rig, to, index);

    if (!err) {
        assert_int_equal(
            fallocate(to->map_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      (off_t)(cluster_of(index) * CLUSTER), CLUSTER),
            0);
        rig->now.of[disk][index] = 0;
    }
    return err;
}

void
rig_write_some(struct Rig *rig, unsigned salt)
{
    for (unsigned disk = 0; disk < RIG_DISKS; disk++) {
        for (unsigned i = 0; i < RIG_CLUSTERS; i++) {
            unsigned what = (i * 7 + disk * 3 + salt * 5) % 4;

            if (what == 0) {
                assert_int_equal(rig_write(rig, disk, i), 0);
            } else if (what == 1 && salt % 2) {
                assert_int_equal(rig_discard(rig, disk, i), 0);
            }
        }
    }
}

void
rig_remember(struct Rig *rig, uint64_t id)
{
    assert_true(rig->n_known < RIG_KNOWN);
    rig->known[rig->n_known].id = id;
    rig->known[rig->n_known++].then = rig->now;
}

uint64_t
rig_snapshot(struct Rig *rig, const char *name)
{
    GError *error = NULL;
    Snapshot made;

    if (!store_snapshot_now(rig->store, name, "user", &made, &error)) {
        assert_int_not_equal(take_code(&error), 0);
        return 0;
    }
    rig_remember(rig, made.id);
    return made.id;
}

bool
rig_delete(struct Rig *rig, uint64_t id)
{
    GError *error = NULL;
    bool ok = store_snapshot_delete_now(rig->store, id, &error);

    assert_int_equal(take_code(&error) == 0, ok);
    return ok;
}

/* False: it cannot be read. */
static bool
read_cluster(Disk *disk, uint64_t id, uint64_t cluster, uint64_t *words)
{
    uint64_t count;
    Point *point;
    ssize_t n = -1;

    switch (points_find(disk->points, id, cluster, 1, &point, &count)) {
    case POINTS_DISK:
        n = pread(disk->fd, words, CLUSTER, (off_t)(cluster * CLUSTER));
        break;
    case POINTS_FILE:
        n = pread(point_data_fd(point), words, CLUSTER,
                  (off_t)(cluster * CLUSTER));
        points_done(disk->points, point);
        break;
    case POINTS_UNSURE:
        return false;
    case POINTS_GONE:
        fail_msg("snapshot %llu is listed and not live",
                 (unsigned long long)id);
    }
    assert_int_equal(n, CLUSTER);
    return true;
}

static unsigned
check_one(struct Rig *rig, const Snapshot *snapshot,
          const struct RigContent *then)
{
    uint64_t *words = aligned_alloc(4096, CLUSTER);
    unsigned unread = 0;

    for (unsigned d = 0; d < rig->store->n_disks; d++) {
        Disk *disk = rig->store->disks[d];

        for (unsigned i = 0;
             i < RIG_CLUSTERS && snapshot_disk(snapshot, disk->id); i++) {
            if (!read_cluster(disk, snapshot->id, cluster_of(i), words)) {
                unread++;
            } else if (!holds(words, then->of[d][i])) {
                fail_msg("snapshot %s, disk %s: cluster %u is not write %llu",
                         snapshot->name, disk->name, i,
                         (unsigned long long)then->of[d][i]);
            }
        }
    }
    free(words);
    if (unread) {
        assert_true(snapshot->is_damaged);
    }
    return unread;
}

unsigned
rig_check(struct Rig *rig)
{
    unsigned unread = 0, found;
    Snapshot snapshot;

    for (unsigned n = 0; snapshot_list_at(rig->store->snapshots, n, &snapshot);
         n++) {
        for (found = 0; found < rig->n_known; found++) {
            if (rig->known[found].id == snapshot.id) {
                break;
            }
        }
        assert_true(found < rig->n_known);
        unread += check_one(rig, &snapshot, &rig->known[found].then);
    }
    return unread;
}

bool
rig_has(struct Rig *rig, uint64_t id)
{
    return snapshot_list_get(rig->store->snapshots, id, NULL);
}

bool
rig_is_damaged(struct Rig *rig, uint64_t id)
{
    Snapshot snapshot;

    assert_true(snapshot_list_get(rig->store->snapshots, id, &snapshot));
    return snapshot.is_damaged;
}

static unsigned
count_files(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    unsigned count = 0;

    while (dir && g_dir_read_name(dir)) {
        count++;
    }
    if (dir) {
        g_dir_close(dir);
    }
    return count;
}

unsigned
rig_files(const struct Rig *rig)
{
    static const char *const dirs[] = {"snapshots", "vda/points", "vdb/points"};
    unsigned count = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(dirs); i++) {
        g_autofree char *path =
            g_build_filename(rig->fixture->path, dirs[i], NULL);

        count += count_files(path);
    }
    return count;
}

char *
rig_path(const struct Rig *rig, const char *format, ...)
{
    g_autofree char *name = NULL;
    va_list args;

    va_start(args, format);
    name = g_strdup_vprintf(format, args);
    va_end(args);
    return g_build_filename(rig->fixture->path, name, NULL);
}
