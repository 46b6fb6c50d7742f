/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshots-json.c - snapshots for programs: what each is, what lies between two
 *
 * The same object is in status.json, in the mount's info.json, and behind
 * `weir snapshot list --json`: fields may be added, never renamed.
 *
 * kept_bytes is the room on this host that the copies of one take. Older ones
 * may need some of them, so deleting it gives back that much at most.
 *
 * What was overwritten between two snapshots is counted, or listed, by runs of
 * clusters, and only so many runs in one answer: `next` says where to go on.
 * What a disk has grown by counts, and all of a disk that was not there.
 */
#include "cut-hook.h"
#include "snapshots.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define RUNS_COUNTED 65536 /* in one answer, of a disk */
#define RUNS_LISTED  8192

static void
set_wall_time(JsonObject *object, const char *name, int64_t wall_us)
{
    if (wall_us > 0) {
        g_autofree char *text = cut_time_text(wall_us);

        json_object_set_string_member(object, name, text);
    } else {
        json_object_set_null_member(object, name);
    }
}

static uint64_t
kept_bytes(const Disk *disk, uint64_t id)
{
    g_autofree char *name =
        g_strdup_printf("points/%" G_GUINT64_FORMAT ".data", id);
    struct stat st;

    return fstatat(disk->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0
               ? (uint64_t)st.st_blocks * 512
               : 0;
}

static const Disk *
disk_of(const Store *store, unsigned id)
{
    for (unsigned i = 0; i < store->n_disks; i++) {
        if (store->disks[i]->id == id) {
            return store->disks[i];
        }
    }
    return NULL;
}

JsonObject *
snapshot_json(Store *store, const Snapshot *snapshot)
{
    JsonObject *object = json_object_new();
    JsonArray *disks = json_array_new();
    uint64_t kept = 0;

    for (unsigned i = 0; i < snapshot->n_disks; i++) {
        const Disk *disk = disk_of(store, snapshot->disks[i].id);
        JsonObject *one = json_object_new();
        uint64_t bytes = disk ? kept_bytes(disk, snapshot->id) : 0;

        if (disk) {
            json_object_set_string_member(one, "name", disk->name);
        } else {
            json_object_set_null_member(one, "name");
        }
        json_object_set_int_member(one, "size_bytes",
                                   (gint64)snapshot->disks[i].size_bytes);
        json_object_set_int_member(one, "kept_bytes", (gint64)bytes);
        json_array_add_object_element(disks, one);
        kept += bytes;
    }
    json_object_set_int_member(object, "id", (gint64)snapshot->id);
    json_object_set_string_member(object, "name", snapshot->name);
    set_wall_time(object, "time", snapshot->wall_us);
    json_object_set_string_member(object, "reason", snapshot->reason);
    json_object_set_boolean_member(object, "frozen", snapshot->is_frozen);
    json_object_set_boolean_member(object, "uploaded", snapshot->cut > 0);
    if (snapshot->cut > 0) {
        json_object_set_int_member(object, "cut", (gint64)snapshot->cut);
    } else {
        json_object_set_null_member(object, "cut");
    }
    json_object_set_boolean_member(object, "damaged", snapshot->is_damaged);
    json_object_set_int_member(object, "kept_bytes", (gint64)kept);
    json_object_set_array_member(object, "disks", disks);
    return object;
}

JsonArray *
snapshots_json(Store *store)
{
    JsonArray *all = json_array_new();
    Snapshot snapshot;

    for (unsigned i = 0; snapshot_list_at(store->snapshots, i, &snapshot);
         i++) {
        json_array_add_object_element(all, snapshot_json(store, &snapshot));
    }
    return all;
}

/*
 * Between two
 */
struct Walk {
    Disk *disk;
    uint64_t from, to;    /* ids; to 0: now */
    uint64_t common, end; /* clusters: that both have, that the later one has */
    uint64_t clusters;    /* changed */
    unsigned runs;
    JsonArray *extents;  /* NULL: not wanted */
    JsonObject *extent;  /* the last one */
    uint64_t extent_end; /* where that ends */
};

static bool
next_run(const struct Walk *walk, uint64_t at, struct ClusterRun *run)
{
    if (at < walk->common &&
        points_next_changed(walk->disk->points, walk->from, walk->to, at,
                            walk->common, run)) {
        return true;
    }
    *run = (struct ClusterRun){MAX(at, walk->common), 0};
    run->count = walk->end > run->first ? walk->end - run->first : 0;
    return run->count > 0;
}

/* The bytes from @start to @end; two that touch are one. */
static void
add_run(struct Walk *walk, uint64_t start, uint64_t end)
{
    if (!walk->extent || walk->extent_end != start) {
        walk->extent = json_object_new();
        json_object_set_int_member(walk->extent, "offset", (gint64)start);
        json_array_add_object_element(walk->extents, walk->extent);
    }
    start = (uint64_t)json_object_get_int_member(walk->extent, "offset");
    json_object_set_int_member(walk->extent, "length", (gint64)(end - start));
    walk->extent_end = end;
}

/* From @at on; where it was not done, or 0. */
static uint64_t
walk_on(struct Walk *walk, uint64_t at, uint64_t size_bytes)
{
    unsigned bits = walk->disk->cluster_bits;
    unsigned max = walk->extents ? RUNS_LISTED : RUNS_COUNTED;
    struct ClusterRun run;

    for (; next_run(walk, at, &run); at = run.first + run.count) {
        if (walk->runs++ == max) {
            return run.first << bits;
        }
        walk->clusters += run.count;
        if (walk->extents) {
            add_run(walk, run.first << bits,
                    MIN((run.first + run.count) << bits, size_bytes));
        }
    }
    return 0;
}

/* Else nobody knows what was written, so all of it may have been. */
static bool
is_told_apart(Disk *disk, const Snapshot *snapshot)
{
    struct PointFigures figures;

    return points_figures(disk->points, snapshot->id, &figures);
}

/* @b NULL: now. */
static JsonObject *
diff_disk(Disk *disk, const Snapshot *a, const Snapshot *b,
          const struct SnapshotsDiff *diff)
{
    const struct SnapshotDisk *before = snapshot_disk(a, disk->id);
    const struct SnapshotDisk *after = b ? snapshot_disk(b, disk->id) : NULL;
    uint64_t size = after ? after->size_bytes
                    : b   ? 0
                          : atomic_load(&disk->size_bytes);
    uint64_t old_size = before ? before->size_bytes : 0;
    uint64_t cluster = UINT64_C(1) << disk->cluster_bits;
    struct Walk walk = {
        .disk = disk,
        .from = a->id,
        .to = b ? b->id : 0,
        .end = (size + cluster - 1) >> disk->cluster_bits,
        .extents = diff->has_extents ? json_array_new() : NULL,
    };
    JsonObject *object = json_object_new();
    uint64_t next;

    walk.common = old_size == size
                      ? walk.end
                      : MIN(old_size >> disk->cluster_bits, walk.end);
    if (!is_told_apart(disk, a) || (b && !is_told_apart(disk, b))) {
        walk.common = 0;
    }
    next = walk_on(&walk, diff->start >> disk->cluster_bits, size);
    json_object_set_string_member(object, "name", disk->name);
    json_object_set_int_member(object, "cluster_bytes", (gint64)cluster);
    json_object_set_int_member(object, "changed_clusters",
                               (gint64)walk.clusters);
    json_object_set_int_member(
        object, "changed_bytes",
        (gint64)MIN(walk.clusters << disk->cluster_bits, size));
    if (next > 0) {
        json_object_set_int_member(object, "next", (gint64)next);
    } else {
        json_object_set_null_member(object, "next");
    }
    if (walk.extents) {
        json_object_set_array_member(object, "extents", walk.extents);
    }
    return object;
}

static gboolean
find(Store *store, const char *name, Snapshot *snapshot, GError **error)
{
    if (!snapshot_list_find(store->snapshots, name, snapshot)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                    "there is no snapshot %s", name);
        return FALSE;
    }
    if (snapshot->is_damaged) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_DAMAGED,
                    "snapshot %s is damaged: what was written since is not "
                    "known",
                    name);
        return FALSE;
    }
    return TRUE;
}

JsonObject *
snapshots_diff(Store *store, const struct SnapshotsDiff *diff, GError **error)
{
    Snapshot from, to;
    bool has_to = diff->to != NULL, turns;
    JsonArray *disks;
    JsonObject *object;

    if (!find(store, diff->from, &from, error) ||
        (has_to && !find(store, diff->to, &to, error))) {
        return NULL;
    }
    if (diff->disk && !store_disk(store, diff->disk)) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED, "%s has no disk %s",
                    store->path, diff->disk);
        return NULL;
    }
    turns = has_to && to.id < from.id;
    disks = json_array_new();
    for (unsigned i = 0; i < store->n_disks; i++) {
        Disk *disk = store->disks[i];

        if (!diff->disk || !strcmp(diff->disk, disk->name)) {
            json_array_add_object_element(disks,
                                          diff_disk(disk, turns ? &to : &from,
                                                    turns    ? &from
                                                    : has_to ? &to
                                                             : NULL,
                                                    diff));
        }
    }
    object = json_object_new();
    json_object_set_string_member(object, "from", from.name);
    if (has_to) {
        json_object_set_string_member(object, "to", to.name);
    } else {
        json_object_set_null_member(object, "to");
    }
    json_object_set_array_member(object, "disks", disks);
    return object;
}
