/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-store-bitmaps-threads.c - commands while checkpoints are made
 *
 * What a checkpoint may see of a command is what a crash may leave of it. So
 * whoever has the checkpoint_lock sees bitmaps as they were before it or as they
 * are after it, and never how they are taken back.
 */
#include "bitmaps-rig.h"

#include "bitmap/disk-map-private.h"

#include <errno.h>
#include <stdatomic.h>

#define PATIENCE_US (G_USEC_PER_SEC / 5)

/* In the place of a keeper. From the moment at which a command has failed on, it
 * has the lock of the map, without which nothing is taken back. */
struct Watcher {
    Store *store;
    DiskMap *map;
    atomic_bool has_failed, has_map;
    bool looked; /* its own, until it is joined */
};

static struct {
    StoreIo io;
    struct StoreIoOps ops;
    StoreIo *inner;
    struct Watcher *watcher; /* NULL: nothing fails */
} full;

static int
full_rename(StoreIo *io, int dirfd, const char *from, const char *to)
{
    struct Watcher *watcher = full.watcher;

    (void)io;
    if (!watcher) {
        return full.inner->ops->rename(full.inner, dirfd, from, to);
    }
    atomic_store(&watcher->has_failed, true);
    while (!atomic_load(&watcher->has_map)) {
        g_thread_yield();
    }
    return -ENOSPC;
}

/* From here on no file can be replaced. */
static void
fill(struct Rig *rig, struct Watcher *watcher)
{
    watcher->store = rig->store;
    watcher->map = rig->disk->map;
    full.inner = rig->fault.inner;
    full.ops = *full.inner->ops;
    full.ops.rename = full_rename;
    full.io.ops = &full.ops;
    full.watcher = watcher;
    rig->fault.inner = &full.io;
}

static gpointer
watch(gpointer data)
{
    struct Watcher *watcher = data;
    gint64 until_us;

    while (!atomic_load(&watcher->has_failed)) {
        g_thread_yield();
    }
    disk_map_lock(watcher->map);
    atomic_store(&watcher->has_map, true);
    until_us = g_get_monotonic_time() + PATIENCE_US;
    while (!watcher->looked && g_get_monotonic_time() < until_us) {
        watcher->looked = g_mutex_trylock(&watcher->store->checkpoint_lock);
    }
    disk_map_unlock(watcher->map);
    if (watcher->looked) {
        g_mutex_unlock(&watcher->store->checkpoint_lock);
    }
    return NULL;
}

static bool
remove_b(struct Rig *rig)
{
    return store_bitmap_remove(rig->store, rig->disk, "b", NULL);
}

static bool
disable_b(struct Rig *rig)
{
    return store_bitmap_enable(rig->store, rig->disk, "b", false, NULL);
}

static bool
add_new(struct Rig *rig)
{
    return store_bitmap_add(rig->store, rig->disk, "new", 16, true, false,
                            NULL);
}

/* A checkpoint that looked meanwhile would count bitmaps while one of them comes
 * back, and leave out another. */
static void
test_no_checkpoint_before_it_is_taken_back(void **state)
{
    static bool (*const commands[])(struct Rig *) = {remove_b, disable_b,
                                                     add_new};
    struct Rig *rig = *state;

    rig_make(rig);
    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
        struct Watcher watcher = {0};
        StoreIo *io = rig->fault.inner;
        GThread *thread = g_thread_new("watcher", watch, &watcher);

        fill(rig, &watcher);
        assert_false(commands[i](rig));
        g_thread_join(thread);
        rig->fault.inner = io;
        assert_false(watcher.looked);
        assert_int_equal(named_count(rig->disk->bitmaps), 2);
        rig_again(rig, false);
        assert_int_equal(named_count(rig->disk->bitmaps), 2);
        assert_true(rig_figures(rig, "b").is_enabled);
        assert_true(rig_is_dirty(rig, "b", 3 * EXTENT, 512));
        rig_serve(rig);
    }
}

/* A sync of disk.raw that takes until it is let go. */
static struct {
    StoreIo io;
    struct StoreIoOps ops;
    StoreIo *inner;
    int fd;
    atomic_bool is_under_way, is_over, was_late;
} slow;

static int
slow_fdatasync(StoreIo *io, int fd)
{
    gint64 until_us = g_get_monotonic_time() + 50 * PATIENCE_US;

    (void)io;
    if (fd == slow.fd) {
        atomic_store(&slow.is_under_way, true);
        while (!atomic_load(&slow.is_over) &&
               g_get_monotonic_time() < until_us) {
            g_thread_yield();
        }
        atomic_store(&slow.was_late, !atomic_load(&slow.is_over));
    }
    return slow.inner->ops->fdatasync(slow.inner, fd);
}

static gpointer
make_checkpoint(gpointer data)
{
    struct Rig *rig = data;

    return GINT_TO_POINTER(store_checkpoint(rig->store, rig->disk));
}

static GThread *
begin_checkpoint(struct Rig *rig)
{
    GThread *thread;

    slow.inner = rig->fault.inner;
    slow.ops = *slow.inner->ops;
    slow.ops.fdatasync = slow_fdatasync;
    slow.io.ops = &slow.ops;
    slow.fd = rig->disk->map_fd;
    rig->fault.inner = &slow.io;
    thread = g_thread_new("keeper", make_checkpoint, rig);
    while (!atomic_load(&slow.is_under_way)) {
        g_thread_yield();
    }
    return thread;
}

/* Nor is what they made durable lost to what the checkpoint saw before. */
static void
test_commands_do_not_wait_for_a_sync(void **state)
{
    struct Rig *rig = *state;
    StoreBits gone = {.file = "gone", .map = disk_map_new(BIG, 16)};
    StoreBits kept = {.file = "kept", .map = disk_map_new(BIG, 16)};
    NamedBitmap *frozen;
    GThread *thread;
    char *path;

    rig_make(rig);
    assert_true(rig_add(rig, "job", 16));
    assert_int_equal(named_freeze(rig->disk->bitmaps, "job", &frozen),
                     NAMED_OK);
    assert_true(rig_save(rig));
    store_bits_add(rig->store, rig->disk, &gone);
    store_bits_add(rig->store, rig->disk, &kept);
    thread = begin_checkpoint(rig);
    assert_true(rig_clear(rig, "b"));
    assert_true(store_bitmap_remove(rig->store, rig->disk, "still", NULL));
    assert_true(rig_add(rig, "new", 16));
    rig_write(rig, 5 * EXTENT, 1);
    named_thaw(frozen, NAMED_NEW, NULL);
    assert_true(rig_save(rig));
    store_bits_remove(rig->store, rig->disk, &gone);
    disk_map_free(gone.map);
    atomic_store(&slow.is_over, true);
    assert_int_equal(GPOINTER_TO_INT(g_thread_join(thread)), 0);
    assert_false(atomic_load(&slow.was_late));
    disk_map_free(kept.map);
    rig->fault.inner = slow.inner;

    path = rig_file(rig, "gone");
    assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    g_free(path);
    path = rig_file(rig, "kept");
    assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    g_free(path);
    rig_again(rig, false);
    assert_int_equal(rig_count(rig, "still"), UINT64_MAX);
    assert_int_equal(rig_count(rig, "b"), EXTENT); /* what is hot */
    assert_true(rig_is_dirty(rig, "new", 5 * EXTENT, EXTENT));
    assert_true(rig_is_dirty(rig, "job", 5 * EXTENT, EXTENT));
    assert_false(rig_figures(rig, "job").is_busy);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_commands_do_not_wait_for_a_sync,
                                        rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(
            test_no_checkpoint_before_it_is_taken_back, rig_setup,
            rig_teardown),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
