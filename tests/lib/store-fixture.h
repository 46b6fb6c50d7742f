/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-fixture.h - a scratch directory with a store and its disk vda
 *
 * Purpose: what tests of a store's life begin with: STORE/vda, 8 MiB in
 *          128 clusters, with a target; and the few moves that they share.
 * Threads: the test's.
 */
#pragma once

#include "fs/store-private.h"
#include "fs/zero-file.h"
#include "relay/sent-log.h"
#include "relay/sums.h"
#include "tests/lib/quiet-log.h"
#include "tests/lib/scratch.h"
#include "tests/lib/test.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB           (UINT64_C(1) << 20)
#define CLUSTER       (UINT64_C(1) << STORE_CLUSTER_BITS)
#define DISK_CLUSTERS 128
#define TARGET        "nbd://localhost/x"

struct StoreFixture {
    char *dir;
    char *path;    /* of the store */
    char *address; /* of its disk vda */
};

static inline void
fixture_create(const struct StoreFixture *fixture, const char *name,
               const char *target)
{
    char *address = g_build_filename(fixture->path, name, NULL);
    struct StoreCreate ask = {.address = address,
                              .size_bytes = DISK_CLUSTERS * CLUSTER,
                              .target = target,
                              .cluster_bits = STORE_CLUSTER_BITS};
    GError *error = NULL;

    if (!store_create_disk(store_io_kernel(), &ask, &error)) {
        fail_msg("create: %s", error->message);
    }
    g_free(address);
}

static inline int
fixture_setup(void **state)
{
    struct StoreFixture *fixture = g_new0(struct StoreFixture, 1);

    fixture->dir = scratch_new();
    fixture->path = g_build_filename(fixture->dir, "vm", NULL);
    fixture->address = g_build_filename(fixture->path, "vda", NULL);
    fixture_create(fixture, "vda", TARGET);
    *state = fixture;
    return 0;
}

static inline int
fixture_teardown(void **state)
{
    struct StoreFixture *fixture = *state;

    scratch_free(fixture->dir);
    g_free(fixture->path);
    g_free(fixture->address);
    g_free(fixture);
    return 0;
}

static inline Store *
fixture_open(const struct StoreFixture *fixture, unsigned flags)
{
    GError *error = NULL;
    Store *store = store_open(store_io_kernel(), fixture->path, flags, &error);

    if (!store) {
        fail_msg("open: %s", error->message);
    }
    return store;
}

static inline uint64_t
dirty_clusters(Disk *disk)
{
    struct DiskMapFigures figures;

    disk_map_figures(disk->map, &figures);
    return figures.dirty_clusters;
}

/* As if the relay had brought everything to the target. */
static inline void
settle_all(Disk *disk)
{
    struct ClusterRun run;

    assert_true(dirty_clusters(disk) == 0 || disk_map_seal(disk->map) > 0);
    while (disk_map_next_sealed(disk->map, 0, UINT64_MAX, &run)) {
        disk_map_settle(disk->map, run);
    }
    (void)disk_map_retire(disk->map);
    assert_int_equal(dirty_clusters(disk), 0);
    disk->contact = CONTACT_KNOWN;
    disk->all_in_doubt = false;
}

/* What a relay leaves in the disk's directory, of @epoch. */
static inline void
fixture_books(Store *store, Disk *disk, uint64_t epoch)
{
    Bitmap *logged =
        bitmap_new(atomic_load(&disk->size_bytes), disk->cluster_bits);
    const char *what;
    SentLog log;
    Sums sums;

    assert_int_equal(sent_log_open(&log, store->io, disk->dir_fd, store->uuid,
                                   0, epoch, false, logged, &what),
                     0);
    assert_int_equal(sums_open(&sums, store->io, disk->dir_fd, store->uuid,
                               disk->cluster_bits, 0, epoch, &what),
                     0);
    sent_log_close(&log);
    sums_close(&sums);
    bitmap_free(logged);
}

/* Served, vda drained, and @dirty bytes from its start on written again. */
static inline void
fixture_serve(const struct StoreFixture *fixture, uint64_t dirty)
{
    Store *store = fixture_open(fixture, 0);
    Disk *disk = store_disk(store, "vda");

    assert_true(store_serve(store, NULL));
    settle_all(disk);
    if (dirty) {
        disk_map_mark(disk->map, 0, dirty, 1);
    }
    fixture_books(store, disk, store_end_epoch(store));
    assert_true(store_close_clean(store, NULL));
    store_free(store);
}

/* A serve accepted a discard, and was over before it was punched. */
static inline void
fixture_discard(const struct StoreFixture *fixture, uint64_t offset,
                uint64_t len)
{
    char *path = g_build_filename(fixture->address, ZERO_FILE, NULL);
    unsigned char page[ZERO_RECORD_BYTES];
    ZeroList list = {0};

    assert_true(zero_list_add(&list, offset, len));
    zero_record_encode(&list, 1, UINT64_MAX, page);
    assert_true(g_file_set_contents(path, (char *)page, sizeof(page), NULL));
    g_free(path);
}

/* In place of a disk's intent file, until it is back: nothing can be tracked. */
struct BlockedIntent {
    char *path, *aside;
};

static inline struct BlockedIntent
fixture_block_intent(const struct StoreFixture *fixture, const char *disk)
{
    struct BlockedIntent blocked = {
        g_build_filename(fixture->path, disk, INTENT_FILE, NULL),
        g_build_filename(fixture->dir, "aside", NULL)};

    assert_int_equal(rename(blocked.path, blocked.aside), 0);
    assert_int_equal(mkdir(blocked.path, 0700), 0);
    return blocked;
}

static inline void
fixture_unblock_intent(struct BlockedIntent *blocked)
{
    assert_int_equal(rmdir(blocked->path), 0);
    assert_int_equal(rename(blocked->aside, blocked->path), 0);
    g_free(blocked->path);
    g_free(blocked->aside);
}

/* weir check; @report is to be freed. */
static inline enum StoreVerdict
fixture_check(const struct StoreFixture *fixture, bool repairs, char **report)
{
    GString *text = g_string_new(NULL);
    enum StoreVerdict verdict;
    GError *error = NULL;

    if (!store_check(store_io_kernel(), fixture->path, repairs, text, &verdict,
                     &error)) {
        fail_msg("check: %s", error->message);
    }
    *report = g_string_free(text, FALSE);
    return verdict;
}

/* The error's exit code; the error is freed, and was one line. */
static inline int
take_code(GError **error)
{
    int code = *error ? store_exit_code(*error) : 0;

    assert_true(!*error || !strchr((*error)->message, '\n'));
    g_clear_error(error);
    return code;
}
