/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-check.c - every damage is named, nothing is written, sound is sound
 */
#include "bitmap/intent.h"
#include "fs/zero-file.h"
#include "tests/lib/store-fixture.h"

#include <fcntl.h>
#include <unistd.h>

static enum StoreVerdict
check(const struct StoreFixture *fixture, char **report)
{
    return fixture_check(fixture, false, report);
}

static void
test_sound_stores_are_sound(void **state)
{
    struct StoreFixture *fixture = *state;
    static const uint64_t dirty[] = {0, 1, 5 * CLUSTER,
                                     DISK_CLUSTERS * CLUSTER};
    char *report;

    assert_int_equal(check(fixture, &report), STORE_SOUND);
    assert_string_equal(report, "");
    g_free(report);
    for (unsigned i = 0; i < G_N_ELEMENTS(dirty); i++) {
        fixture_serve(fixture, dirty[i]);
        assert_int_equal(check(fixture, &report), STORE_SOUND);
        assert_string_equal(report, "");
        g_free(report);
    }
}

static void
test_unclean_is_a_note(void **state)
{
    Store *store = fixture_open(*state, 0);
    char *report;

    assert_true(store_serve(store, NULL));
    store_free(store);
    assert_int_equal(check(*state, &report), STORE_SOUND);
    assert_non_null(strstr(report, "note: the store was not ended cleanly"));
    g_free(report);
}

/* Grown at rest, a disk has more than the intent file of its last serve, which
 * nothing relies on; after a crash something would. */
static void
test_grown_at_rest_is_sound(void **state)
{
    static const uint64_t sizes[] = {100 * UINT64_C(1024) * MIB,
                                     300 * UINT64_C(1024) * MIB};
    struct StoreFixture *fixture = *state;
    char *path = g_build_filename(fixture->address, INTENT_FILE, NULL);
    Store *store;
    char *report;

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        store = fixture_open(fixture, 0);
        assert_true(store_resize_disk(store, store->disks[0], sizes[i], NULL));
        assert_true(store_close_clean(store, NULL));
        store_free(store);
        assert_int_equal(check(fixture, &report), STORE_SOUND);
        assert_string_equal(report, "");
        g_free(report);
        fixture_serve(fixture, CLUSTER);
    }
    assert_int_equal(truncate(path, INTENT_PAGE), 0);
    assert_int_equal(check(fixture, &report), STORE_SOUND);
    g_free(report);
    store = fixture_open(fixture, 0);
    assert_true(store_serve(store, NULL));
    store_free(store);
    assert_int_equal(truncate(path, INTENT_PAGE), 0);
    assert_int_equal(check(fixture, &report), STORE_DAMAGED);
    assert_non_null(strstr(report, INTENT_FILE));
    g_free(report);
    g_free(path);
}

/* Changes a byte of each sector from @at on, or cuts the file to -@at. */
static void
spoil(const struct StoreFixture *fixture, const char *file, long at)
{
    char *path = g_build_filename(fixture->path, file, NULL);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char byte;

    assert_true(fd >= 0);
    if (at < 0) {
        assert_int_equal(ftruncate(fd, -at), 0);
    }
    for (; at >= 0 && pread(fd, &byte, 1, at) == 1; at += 512) {
        byte ^= 4;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    close(fd);
    g_free(path);
}

static void
test_damage_is_named(void **state)
{
    static const struct {
        const char *file;
        long
            at; /* every 512th byte from there is changed; negative: cut to that size */
        const char *named;
    } cases[] = {
        {STORE_STATE, 9, "damaged: state"},
        {STORE_STATE, -9, "damaged: state"},
        {"vda/" STORE_DIRTY, 8292, "damaged: disk vda: dirty"},
        {"vda/" STORE_DIRTY, -5000, "damaged: disk vda: dirty"},
        {"vda/" INTENT_FILE, 40, "damaged: disk vda: intent"},
        {"vda/" STORE_RAW, -4096, "damaged: disk vda: disk.raw"},
        {STORE_CONF, 3, "damaged: store"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct StoreFixture *fixture;
        char *report;
        void *own = NULL;

        (void)state;
        fixture_setup(&own);
        fixture = own;
        fixture_serve(fixture, CLUSTER);
        spoil(fixture, cases[i].file, cases[i].at);
        if (check(fixture, &report) != STORE_DAMAGED ||
            !strstr(report, cases[i].named)) {
            fail_msg("case %u: %s", i, report);
        }
        g_free(report);
        fixture_teardown(&own);
    }
}

static void
test_zero_list_damage_is_named(void **state)
{
    struct StoreFixture *fixture = *state;
    char *path = g_build_filename(fixture->address, ZERO_FILE, NULL);
    char *junk = g_strnfill(8192, 'j');
    char *report;

    memset(junk, 0, 8192);
    assert_true(g_file_set_contents(path, junk, 8192, NULL));
    assert_int_equal(check(fixture, &report), STORE_SOUND);
    g_free(report);
    /* A first record that a crash has torn: nobody relied on it. */
    memset(junk, 'j', 512);
    assert_true(g_file_set_contents(path, junk, 8192, NULL));
    assert_int_equal(check(fixture, &report), STORE_SOUND);
    g_free(report);
    memset(junk, 'j', 8192);
    assert_true(g_file_set_contents(path, junk, 8192, NULL));
    assert_int_equal(check(fixture, &report), STORE_DAMAGED);
    assert_non_null(strstr(report, ZERO_FILE));
    g_free(report);
    assert_int_equal(fixture_check(fixture, true, &report), STORE_SOUND);
    assert_non_null(strstr(report, "repaired: "));
    g_free(report);
    g_free(junk);
    g_free(path);
}

/* What was damaged is sound after a repair, and what was dirty still is; at
 * rest after a clean end, and after a crash with both extents hot. */
static void
test_damage_is_mended(void **state)
{
    static const struct {
        const char *file;
        long at;
    } cases[] = {
        {STORE_STATE, 9},           {STORE_STATE, -9},
        {"vda/" STORE_DIRTY, 8292}, {"vda/" STORE_DIRTY, -5000},
        {"vda/" INTENT_FILE, 40},   {"vda/" INTENT_FILE, -400},
        {"vda/" STORE_SENT, 600},   {"vda/" STORE_SUMS, 100},
    };

    (void)state;
    for (unsigned i = 0; i < 2 * G_N_ELEMENTS(cases); i++) {
        bool crashes = i % 2;
        struct StoreFixture *fixture;
        char *report;
        void *own = NULL;
        Store *store;

        fixture_setup(&own);
        fixture = own;
        fixture_serve(fixture, CLUSTER);
        if (crashes) {
            store = fixture_open(fixture, 0);
            assert_true(store_serve(store, NULL));
            assert_int_equal(store_heat(store, store->disks[0], 0, 8 * MIB), 0);
            fixture_books(store, store->disks[0], store->epoch);
            store_free(store);
        }
        spoil(fixture, cases[i / 2].file, cases[i / 2].at);
        if (check(fixture, &report) != STORE_DAMAGED) {
            fail_msg("case %u: %s", i, report);
        }
        g_free(report);
        if (fixture_check(fixture, true, &report) != STORE_SOUND ||
            !strstr(report, "repaired: ")) {
            fail_msg("case %u: %s", i, report);
        }
        g_free(report);
        if (check(fixture, &report) != STORE_SOUND) {
            fail_msg("case %u: %s", i, report);
        }
        g_free(report);
        store = fixture_open(fixture, 0);
        assert_false(disk_map_is_clean(store->disks[0]->map, 0, CLUSTER));
        assert_true(!crashes ||
                    dirty_clusters(store->disks[0]) == DISK_CLUSTERS);
        store_free(store);
        fixture_teardown(&own);
    }
}

/* What stands in a file's place can be anything, in all of them at once. */
static void
test_what_is_no_file_is_mended(void **state)
{
    static const char *const names[] = {STORE_DIRTY, INTENT_FILE, ZERO_FILE,
                                        STORE_SENT, STORE_SUMS};
    struct StoreFixture *fixture = *state;

    char *report;

    fixture_serve(fixture, CLUSTER);
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        char *path = g_build_filename(fixture->address, names[i], NULL);

        (void)unlink(path);
        assert_int_equal(symlink(".", path), 0);
        g_free(path);
    }
    assert_int_equal(check(fixture, &report), STORE_DAMAGED);
    g_free(report);
    if (fixture_check(fixture, true, &report) != STORE_SOUND) {
        fail_msg("%s", report);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path =
            g_build_filename(fixture->address, names[i], NULL);
        g_autofree char *said =
            g_strconcat("repaired: disk vda: ", names[i], NULL);

        assert_false(g_file_test(path, G_FILE_TEST_IS_SYMLINK));
        assert_non_null(strstr(report, said));
    }
    g_free(report);
    assert_int_equal(check(fixture, &report), STORE_SOUND);
    g_free(report);
}

/* What an opening finds, in one line. */
static char *
opened(const struct StoreFixture *fixture)
{
    Store *store = fixture_open(fixture, STORE_OPEN_READ);
    Disk *disk = store->disks[0];
    char *found = g_strdup_printf(
        "clean %d, epochs %" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT
        ", contact %d, doubt %d, recovers %d, dirty %" G_GUINT64_FORMAT,
        store->was_clean, store->epoch_before, store->epoch, (int)disk->contact,
        disk->all_in_doubt, disk->recovers, dirty_clusters(disk));

    assert_int_equal(disk->contact, CONTACT_LOST);
    assert_true(disk->all_in_doubt);
    assert_int_equal(dirty_clusters(disk), DISK_CLUSTERS);
    store_free(store);
    return found;
}

/* With the state mended, an opening goes on as it would without. */
static void
test_lost_state_is_mended_as_opened(void **state)
{
    struct StoreFixture *fixture = *state;
    char *path = g_build_filename(fixture->path, STORE_STATE, NULL);

    for (unsigned cut = 0; cut < 2; cut++) {
        char *before, *after, *report;

        fixture_serve(fixture, 0);
        assert_int_equal(cut ? truncate(path, 50) : unlink(path), 0);
        before = opened(fixture);
        assert_int_equal(fixture_check(fixture, true, &report), STORE_SOUND);
        assert_int_equal(access(path, F_OK), 0);
        after = opened(fixture);
        assert_string_equal(before, after);
        g_free(before);
        g_free(after);
        g_free(report);
    }
    g_free(path);
}

/* Nothing was under way at a clean end: a log of everything would cost the
 * next crash all of the disk. */
static void
test_mended_log_of_a_clean_end_is_empty(void **state)
{
    struct StoreFixture *fixture = *state;
    char *path = g_build_filename(fixture->address, STORE_SENT, NULL);
    char *report;

    for (unsigned crashes = 0; crashes < 2; crashes++) {
        Bitmap *logged =
            bitmap_new(DISK_CLUSTERS * CLUSTER, STORE_CLUSTER_BITS);
        const char *what;
        Store *store;
        SentLog log;

        fixture_serve(fixture, 0);
        store = fixture_open(fixture, 0);
        assert_true(!crashes || store_serve(store, NULL));
        assert_int_equal(unlink(path), 0);
        store_free(store);
        assert_int_equal(fixture_check(fixture, true, &report), STORE_SOUND);
        g_free(report);
        store = fixture_open(fixture, STORE_OPEN_READ);
        assert_int_equal(sent_log_open(&log, store->io, store->disks[0]->dir_fd,
                                       store->uuid, store->epoch_before,
                                       store->epoch, true, logged, &what),
                         0);
        assert_int_equal(bitmap_count(logged), crashes ? DISK_CLUSTERS : 0);
        sent_log_close(&log);
        store_free(store);
        bitmap_free(logged);
    }
    g_free(path);
}

static void
test_leftovers_are_deleted(void **state)
{
    struct StoreFixture *fixture = *state;
    char *left = g_build_filename(fixture->path, ".old-vdb", NULL);
    char *inside = g_build_filename(left, STORE_RAW, NULL);
    char *tmp = g_build_filename(fixture->path, "state.tmp", NULL);
    char *other = g_build_filename(fixture->path, "letter.txt", NULL);
    char *report;

    assert_int_equal(mkdir(left, 0700), 0);
    assert_true(g_file_set_contents(inside, "x", 1, NULL));
    assert_true(g_file_set_contents(tmp, "x", 1, NULL));
    assert_true(g_file_set_contents(other, "x", 1, NULL));
    assert_int_equal(fixture_check(fixture, true, &report), STORE_SOUND);
    assert_int_equal(access(left, F_OK), -1);
    assert_int_equal(access(tmp, F_OK), -1);
    assert_int_equal(access(other, F_OK), 0);
    g_free(report);
    g_free(left);
    g_free(inside);
    g_free(tmp);
    g_free(other);
}

static void
test_unknown_files_are_notes(void **state)
{
    static const char *const names[] = {"letter.txt", ".new-vdb", "vdz",
                                        "state.tmp", "vda/notes"};
    struct StoreFixture *fixture = *state;
    char *report;

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        char *path = g_build_filename(fixture->path, names[i], NULL);

        assert_true(g_file_set_contents(path, "x", 1, NULL));
        g_free(path);
    }
    assert_int_equal(chmod(fixture->path, 0755), 0);
    assert_int_equal(check(fixture, &report), STORE_SOUND);
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        assert_non_null(strstr(report, names[i]));
    }
    assert_non_null(strstr(report, "mode 0755"));
    g_free(report);
}

static void
assert_fails(const char *path, bool repairs, int code)
{
    GString *report = g_string_new(NULL);
    enum StoreVerdict verdict;
    GError *error = NULL;

    assert_false(store_check(store_io_kernel(), path, repairs, report, &verdict,
                             &error));
    assert_int_equal(take_code(&error), code);
    assert_int_equal(report->len, 0);
    g_string_free(report, TRUE);
}

static void
test_check_writes_nothing_and_wants_rest(void **state)
{
    struct StoreFixture *fixture = *state;
    GString *report = g_string_new(NULL);
    enum StoreVerdict verdict;
    struct stat before, after;
    Store *store;

    assert_int_equal(stat(fixture->path, &before), 0);
    assert_true(store_check(store_io_kernel(), fixture->path, false, report,
                            &verdict, NULL));
    assert_int_equal(stat(fixture->path, &after), 0);
    assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);

    store = fixture_open(fixture, 0);
    assert_fails(fixture->path, false, 3);
    store_free(store);
    assert_fails(fixture->dir, false, 1);
    g_string_free(report, TRUE);
}

/* No lock, no repair: it is made if it is missing, and none in what is no
 * store. */
static void
test_repair_has_the_lock(void **state)
{
    struct StoreFixture *fixture = *state;
    g_autofree char *lock = g_build_filename(fixture->path, STORE_LOCK, NULL);
    g_autofree char *kept = g_build_filename(fixture->path, STORE_STATE, NULL);
    g_autofree char *foreign = g_build_filename(fixture->dir, STORE_LOCK, NULL);
    char *report;
    Store *store = fixture_open(fixture, 0);

    assert_fails(fixture->path, true, 3);
    store_free(store);
    assert_fails(fixture->dir, true, 1);
    assert_int_equal(access(foreign, F_OK), -1);
    assert_int_equal(unlink(kept), 0);
    assert_int_equal(unlink(lock), 0);
    assert_int_equal(symlink("/dev/null", lock), 0);
    assert_fails(fixture->path, true, 1);
    assert_fails(fixture->path, false, 1);
    assert_int_equal(access(kept, F_OK), -1);
    assert_int_equal(unlink(lock), 0);
    assert_int_equal(fixture_check(fixture, true, &report), STORE_SOUND);
    assert_int_equal(access(lock, F_OK), 0);
    g_free(report);
}

int
main(void)
{
#define WITH_STORE(test) \
    cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_sound_stores_are_sound),
        WITH_STORE(test_unclean_is_a_note),
        WITH_STORE(test_grown_at_rest_is_sound),
        cmocka_unit_test(test_damage_is_named),
        WITH_STORE(test_zero_list_damage_is_named),
        cmocka_unit_test(test_damage_is_mended),
        WITH_STORE(test_what_is_no_file_is_mended),
        WITH_STORE(test_lost_state_is_mended_as_opened),
        WITH_STORE(test_mended_log_of_a_clean_end_is_empty),
        WITH_STORE(test_leftovers_are_deleted),
        WITH_STORE(test_unknown_files_are_notes),
        WITH_STORE(test_check_writes_nothing_and_wants_rest),
        WITH_STORE(test_repair_has_the_lock),
    };

    g_log_set_writer_func(quiet_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
