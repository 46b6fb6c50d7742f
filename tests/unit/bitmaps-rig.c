/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bitmaps-rig.h"

#include "tests/lib/quick-io.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

static void
create(const struct StoreFixture *fixture, const char *name,
       uint64_t size_bytes, const char *target)
{
    char *address = g_build_filename(fixture->path, name, NULL);
    struct StoreCreate ask = {.address = address,
                              .size_bytes = size_bytes,
                              .target = target,
                              .cluster_bits = STORE_CLUSTER_BITS};

    assert_true(store_create_disk(quick_io(), &ask, NULL));
    g_free(address);
}

/* As fixture_setup(), in much less time. */
int
rig_setup(void **state)
{
    struct Rig *rig = g_new0(struct Rig, 1);
    struct StoreFixture *fixture = g_new0(struct StoreFixture, 1);

    fixture->dir = scratch_new();
    fixture->path = g_build_filename(fixture->dir, "vm", NULL);
    fixture->address = g_build_filename(fixture->path, "vda", NULL);
    create(fixture, "vda", DISK_CLUSTERS * CLUSTER, TARGET);
    create(fixture, "vdb", BIG, NULL);
    fault_io_init(&rig->fault, quick_io());
    rig->fixture = fixture;
    *state = rig;
    return 0;
}

int
rig_teardown(void **state)
{
    struct Rig *rig = *state;

    if (rig->store) {
        rig_crash(rig);
    }
    fixture_teardown((void **)&rig->fixture);
    g_free(rig->why);
    g_free(rig);
    return 0;
}

void
rig_open(struct Rig *rig)
{
    GError *error = NULL;

    assert_null(rig->store);
    rig->store = store_open(&rig->fault.io, rig->fixture->path, 0, &error);
    if (!rig->store) {
        fail_msg("open: %s", error->message);
    }
    rig->disk = store_disk(rig->store, "vdb");
}

void
rig_serve(struct Rig *rig)
{
    if (!rig->store) {
        rig_open(rig);
    }
    assert_true(store_serve(rig->store, NULL));
}

void
rig_crash(struct Rig *rig)
{
    store_free(rig->store);
    rig->store = NULL;
    rig->disk = NULL;
}

void
rig_end(struct Rig *rig)
{
    GError *error = NULL;

    if (!store_close_clean(rig->store, &error)) {
        fail_msg("end: %s", error->message);
    }
    rig_crash(rig);
}

void
rig_again(struct Rig *rig, bool is_clean)
{
    if (is_clean) {
        rig_end(rig);
    } else {
        rig_crash(rig);
    }
    rig_open(rig);
}

bool
rig_write(struct Rig *rig, uint64_t offset, uint64_t len)
{
    RangeHold hold = {.offset = offset, .len = len, .kind = RANGE_WRITE};
    Disk *disk = rig->disk;

    if (disk_map_begin(disk->map, &hold, 1) == DISK_MAP_COLD) {
        if (store_heat(rig->store, disk, offset, len)) {
            return false;
        }
        assert_int_equal(disk_map_begin(disk->map, &hold, 1), DISK_MAP_BEGUN);
    }
    disk_map_end(disk->map, &hold, 1);
    return true;
}

void
rig_cool(struct Rig *rig)
{
    Disk *disk = rig->disk;
    uint64_t size = disk_map_size_bytes(disk->map);
    Bitmap *candidates = bitmap_new(size, INTENT_EXTENT_BITS);
    Bitmap *cooled = bitmap_new(size, INTENT_EXTENT_BITS);

    if (disk_map_cool_begin(disk->map, candidates) &&
        store_checkpoint_map(rig->store, disk) == 0 &&
        disk_map_cool_end(disk->map, candidates, cooled)) {
        struct IntentMark mark = {.epoch = rig->store->epoch,
                                  .sequence = disk->checkpoint_sequence};
        Bitmap *hot = bitmap_new(size, INTENT_EXTENT_BITS);
        uint64_t words[INTENT_PAGE_WORDS];

        memcpy(mark.uuid, rig->store->uuid, sizeof(mark.uuid));
        bitmap_load_words(
            hot, 0, words,
            disk_map_hot_words(disk->map, 0, words, INTENT_PAGE_WORDS));
        (void)intent_save(rig->store->io, disk->dir_fd, hot, &mark);
        bitmap_free(hot);
    }
    bitmap_free(candidates);
    bitmap_free(cooled);
}

bool
rig_did(struct Rig *rig, gboolean ok, GError *error)
{
    assert_int_equal(ok, !error);
    g_clear_pointer(&rig->why, g_free);
    if (error) {
        assert_null(strchr(error->message, '\n'));
        rig->why = g_strdup(error->message);
        g_error_free(error);
    }
    return ok;
}

bool
rig_add(struct Rig *rig, const char *name, unsigned grain_bits)
{
    GError *error = NULL;
    gboolean ok = store_bitmap_add(rig->store, rig->disk, name, grain_bits,
                                   true, false, &error);

    return rig_did(rig, ok, error);
}

bool
rig_clear(struct Rig *rig, const char *name)
{
    GError *error = NULL;
    gboolean ok = store_bitmap_clear(rig->store, rig->disk, name, &error);

    return rig_did(rig, ok, error);
}

uint64_t
rig_count(struct Rig *rig, const char *name)
{
    struct NamedFigures figures;

    return named_find(rig->disk->bitmaps, name, &figures) ? figures.count_bytes
                                                          : UINT64_MAX;
}

bool
rig_is_dirty(struct Rig *rig, const char *name, uint64_t offset, uint64_t len)
{
    struct NamedFigures figures;
    uint64_t from, part;

    assert_true(named_find(rig->disk->bitmaps, name, &figures));
    return named_next(rig->disk->bitmaps, figures.id, offset, UINT64_MAX, &from,
                      &part) &&
           from == offset && part >= len;
}

uint64_t
rig_sum(struct Rig *rig, const char *name)
{
    struct NamedFigures figures;
    uint64_t at = 0, sum = 0, range[2];

    if (!named_find(rig->disk->bitmaps, name, &figures)) {
        return 0;
    }
    while (named_next(rig->disk->bitmaps, figures.id, at, UINT64_MAX, &range[0],
                      &range[1])) {
        sum = XXH3_64bits_withSeed(range, sizeof(range), sum);
        at = range[0] + range[1];
    }
    figures.version = 0;
    return XXH3_64bits_withSeed(&figures, sizeof(figures), sum);
}

char *
rig_file(const struct Rig *rig, const char *name)
{
    return g_build_filename(rig->fixture->path, "vdb", name, NULL);
}

bool
rig_enable(struct Rig *rig, const char *name, bool is_enabled)
{
    GError *error = NULL;
    gboolean ok =
        store_bitmap_enable(rig->store, rig->disk, name, is_enabled, &error);

    return rig_did(rig, ok, error);
}

bool
rig_save(struct Rig *rig)
{
    GError *error = NULL;
    gboolean ok = store_bitmaps_save(rig->store, rig->disk, &error);

    return rig_did(rig, ok, error);
}

struct NamedFigures
rig_figures(struct Rig *rig, const char *name)
{
    struct NamedFigures figures;

    assert_true(named_find(rig->disk->bitmaps, name, &figures));
    return figures;
}

unsigned
rig_files(const struct Rig *rig)
{
    char *path = rig_file(rig, STORE_BITMAPS);
    GDir *dir = g_dir_open(path, 0, NULL);
    unsigned count = 0;

    while (dir && g_dir_read_name(dir)) {
        count++;
    }
    if (dir) {
        g_dir_close(dir);
    }
    g_free(path);
    return count;
}

void
rig_flip(const struct Rig *rig, const char *name, off_t at)
{
    char *path = rig_file(rig, name);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char byte = 0;

    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
    g_free(path);
}

void
rig_make(struct Rig *rig)
{
    rig_serve(rig);
    assert_true(rig_add(rig, "b", 9) && rig_add(rig, "still", 16));
    rig_write(rig, 3 * EXTENT, 1);
    assert_true(
        store_bitmap_enable(rig->store, rig->disk, "still", false, NULL));
    rig_cool(rig);
    rig_cool(rig);
}

bool
rig_has_only(struct Rig *rig, const char *name, uint64_t bytes)
{
    return rig_count(rig, name) == bytes &&
           (!bytes || rig_is_dirty(rig, name, 3 * EXTENT, bytes));
}
