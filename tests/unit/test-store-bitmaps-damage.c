/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-store-bitmaps-damage.c - named bitmaps when files are damaged, and when
 * somebody else was at the store: what may have changed is dirty, and nothing
 * else is lost
 */
#include "bitmaps-rig.h"

#include "bitmap/bitmap-page.h"
#include "fs/sealed-text.h"

#include <fcntl.h>
#include <unistd.h>

/* Served, crashed with extent 9 hot, and cleanly ended, if @is_clean. */
static struct Rig *
leave(void **state, bool is_clean)
{
    struct Rig *rig = *state;

    rig_make(rig);
    rig_write(rig, 9 * EXTENT, 1);
    if (is_clean) {
        rig_end(rig);
    } else {
        rig_crash(rig);
    }
    return rig;
}

/* All slots of all headers, or of all tables. */
static void
flip_pages(const struct Rig *rig, const char *name, unsigned first)
{
    for (unsigned page = first; page < first + 2; page++) {
        for (unsigned sector = 0; sector < 8; sector++) {
            rig_flip(rig, name, page * 4096 + sector * 512 + 40);
        }
    }
}

static void
test_damaged_file_is_dirty(void **state)
{
    struct Rig *rig = leave(state, true);
    char *path = rig_file(rig, STORE_BITMAPS "/2.bits");
    char *text;
    size_t len;

    flip_pages(rig, STORE_BITMAPS "/1.bits", 0);
    assert_true(g_file_get_contents(path, &text, &len, NULL));
    assert_int_equal(unlink(path), 0);
    rig_open(rig);
    assert_int_equal(rig_count(rig, "b"), BIG);
    assert_int_equal(rig_count(rig, "still"), BIG);
    assert_true(rig_clear(rig, "b") && rig_clear(rig, "still"));
    rig_end(rig);
    /* An old one that somebody put back: of a clean end, and of a crash. */
    assert_true(g_file_set_contents(path, text, (gssize)len, NULL));
    rig_open(rig);
    assert_int_equal(rig_count(rig, "b"), 0);
    assert_int_equal(rig_count(rig, "still"), BIG);
    g_free(text);
    g_free(path);
    path = rig_file(rig, STORE_BITMAPS "/1.bits");
    assert_true(g_file_get_contents(path, &text, &len, NULL));
    rig_serve(rig);
    rig_write(rig, EXTENT, 1);
    rig_cool(rig);
    rig_cool(rig);
    rig_crash(rig);
    assert_true(g_file_set_contents(path, text, (gssize)len, NULL));
    rig_open(rig);
    assert_true(rig_is_dirty(rig, "b", EXTENT, 512));
    g_free(text);
    g_free(path);
}

static void
test_damaged_part_of_a_file_is_dirty(void **state)
{
    struct Rig *rig = leave(state, true);

    /* One sector of a table is of 59 pages: more than there are. */
    flip_pages(rig, STORE_BITMAPS "/1.bits", 2);
    rig_open(rig);
    assert_int_equal(rig_count(rig, "b"), BIG);
    assert_int_equal(rig_count(rig, "still"), CLUSTER);
    rig_again(rig, true);
    assert_int_equal(rig_count(rig, "b"), BIG);
}

/* Every header of @name: by the weir that comes next. */
static void
set_version(struct Rig *rig, const char *name, uint32_t version)
{
    char *path = rig_file(rig, name);
    struct BitmapFileSector sector;
    int fd = open(path, O_RDWR | O_CLOEXEC);

    for (unsigned i = 0; i < 16; i++) {
        static const uint8_t none[16];

        assert_int_equal(pread(fd, &sector, 512, i * 512), 512);
        sector.header.version = version;
        bitmap_file_checksum(&sector, none, sector.checksum);
        assert_int_equal(pwrite(fd, &sector, 512, i * 512), 512);
    }
    close(fd);
    g_free(path);
}

/* It stays as it is: for who can read it, if nothing was recorded meanwhile. */
static void
test_file_of_a_newer_format_is_dirty(void **state)
{
    static const char *const names[] = {STORE_BITMAPS "/1.bits",
                                        STORE_BITMAPS "/2.bits"};
    struct Rig *rig = leave(state, true);

    for (unsigned i = 0; i < 2; i++) {
        set_version(rig, names[i], 2);
    }
    rig_open(rig);
    assert_int_equal(rig_count(rig, "b"), BIG);
    assert_int_equal(rig_count(rig, "still"), BIG);
    rig_again(rig, true);
    assert_false(rig_clear(rig, "b"));
    assert_non_null(strstr(rig->why, "disk vdb: bitmaps/1.bits cannot"));
    rig_end(rig);
    set_version(rig, names[0], 1);
    rig_open(rig);
    assert_int_equal(rig_count(rig, "b"), 1024); /* nobody wrote */
    rig_end(rig);
    set_version(rig, names[0], 2);
    rig_serve(rig);
    rig_write(rig, EXTENT, 1);
    rig_cool(rig);
    rig_cool(rig);
    rig_again(rig, false);
    rig_serve(rig);
    rig_end(rig);
    for (unsigned i = 0; i < 2; i++) {
        set_version(rig, names[i], 1);
    }
    rig_open(rig);
    assert_int_equal(rig_count(rig, "b"), BIG);
    assert_true(rig_has_only(rig, "still", CLUSTER));
    rig_end(rig);
    set_version(rig, names[0], 2);
    rig_open(rig);
    assert_true(store_bitmap_remove(rig->store, rig->disk, "b", NULL));
    assert_true(rig_add(rig, "b", 16));
}

static void
test_map_of_a_newer_format_stays(void **state)
{
    struct Rig *rig = leave(state, true);
    StoreBits bits = {.file = "left", .map = disk_map_new(BIG, 16)};

    rig_serve(rig);
    store_bits_add(rig->store, rig->disk, &bits);
    rig_end(rig);
    set_version(rig, "left", 2);
    disk_map_free(bits.map);
    bits = (StoreBits){.file = "left", .map = disk_map_new(BIG, 16)};
    rig_open(rig);
    assert_true(store_bits_load(rig->store, rig->disk, &bits, false, NULL));
    assert_int_equal(disk_map_next_clean(bits.map, 0), UINT64_MAX);
    rig_serve(rig);
    store_bits_add(rig->store, rig->disk, &bits);
    rig_end(rig);
    disk_map_free(bits.map);
    set_version(rig, "left", 1);
    bits = (StoreBits){.file = "left", .map = disk_map_new(BIG, 16)};
    rig_open(rig);
    assert_true(store_bits_load(rig->store, rig->disk, &bits, false, NULL));
    assert_int_equal(disk_map_next_clean(bits.map, 0), 0);
    disk_map_free(bits.map);
}

static void
test_damaged_list_loses_the_bitmaps(void **state)
{
    struct Rig *rig = leave(state, false);

    rig_flip(rig, STORE_BITMAPS "/" STORE_BITMAPS_LIST, 30);
    rig_open(rig);
    assert_int_equal(named_count(rig->disk->bitmaps), 0);
    rig_serve(rig);
    rig_write(rig, EXTENT, 1);
    rig_cool(rig);
    rig_again(rig, true);
    assert_true(rig_add(rig, "b", 16));
    rig_again(rig, true);
    assert_int_equal(rig_count(rig, "b"), 0);
    rig_serve(rig);
    rig_again(rig, true);
    assert_int_equal(rig_count(rig, "b"), 0);
}

/* All that stores have said. */
static GString *said;

static GLogWriterOutput
keep_log(GLogLevelFlags level, const GLogField *fields, gsize n, gpointer user)
{
    (void)level;
    (void)user;
    for (gsize i = 0; i < n; i++) {
        if (!strcmp(fields[i].key, "MESSAGE")) {
            g_string_append(said, fields[i].value);
        }
    }
    return G_LOG_WRITER_HANDLED;
}

static void
test_missing_list_is_said(void **state)
{
    static const char words[] = "disk vdb: bitmaps/list is missing";
    struct Rig *rig = leave(state, true);
    char *path = rig_file(rig, STORE_BITMAPS "/" STORE_BITMAPS_LIST);

    g_string_truncate(said, 0);
    rig_open(rig);
    rig_crash(rig);
    assert_null(strstr(said->str, words));
    assert_int_equal(unlink(path), 0);
    rig_open(rig);
    assert_non_null(strstr(said->str, words));
    assert_int_equal(named_count(rig->disk->bitmaps), 0);
    rig_serve(rig);
    assert_int_equal(rig_files(rig), 0);
    g_string_truncate(said, 0);
    rig_again(rig, true);
    assert_null(strstr(said->str, words));
    g_free(path);
}

/* It is let be, and so are the files. */
static void
test_list_of_a_newer_weir_is_let_be(void **state)
{
    struct Rig *rig = leave(state, true);
    char *path = rig_file(rig, STORE_BITMAPS "/" STORE_BITMAPS_LIST);
    g_autoptr(GKeyFile) file = g_key_file_new();
    char *text, *old, *now;
    size_t len, new_len;

    assert_true(g_file_get_contents(path, &old, &len, NULL));
    assert_true(g_key_file_load_from_data(file, old, len, 0, NULL));
    g_key_file_set_uint64(file, "bitmaps", "version", 2);
    text = sealed_text_format(file, &new_len);
    assert_true(g_file_set_contents(path, text, (gssize)new_len, NULL));
    rig_open(rig);
    assert_int_equal(named_count(rig->disk->bitmaps), 0);
    assert_false(rig_add(rig, "new", 16));
    assert_int_equal(named_count(rig->disk->bitmaps), 0);
    rig_serve(rig);
    rig_write(rig, EXTENT, 1);
    rig_cool(rig);
    rig_end(rig);
    assert_true(g_file_get_contents(path, &now, NULL, NULL));
    assert_memory_equal(now, text, new_len);
    /* Without that, it would be an exact one. Now much was written. */
    assert_true(g_file_set_contents(path, old, (gssize)len, NULL));
    rig_open(rig);
    assert_true(rig_is_dirty(rig, "b", EXTENT, 512));
    assert_int_equal(rig_count(rig, "still"), CLUSTER);
    g_free(now);
    g_free(text);
    g_free(old);
    g_free(path);
}

/*
 * Writes that nobody recorded
 */
static void
test_untracked_disk_costs_what_records(void **state)
{
    struct Rig *rig = leave(state, true);
    struct BlockedIntent blocked = fixture_block_intent(rig->fixture, "vdb");

    rig_serve(rig);
    assert_false(rig->disk->is_tracked);
    rig_write(rig, EXTENT, 1);
    rig_again(rig, false);
    assert_int_equal(rig_count(rig, "b"), BIG);
    assert_int_equal(rig_count(rig, "still"), CLUSTER);
    assert_true(rig_clear(rig, "b"));
    rig_serve(rig);
    rig_write(rig, EXTENT, 1);
    rig_again(rig, true); /* it was recorded in memory */
    assert_int_equal(rig_count(rig, "b"), 512);
    fixture_unblock_intent(&blocked);
}

static void
test_stranger_costs_what_records(void **state)
{
    struct Rig *rig = leave(state, true);
    char *path = rig_file(rig, STORE_RAW);
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    assert_int_equal(pwrite(fd, "X", 1, 12345), 1);
    close(fd);
    g_free(path);
    rig_open(rig);
    assert_int_equal(rig_count(rig, "b"), BIG);
    assert_int_equal(rig_count(rig, "still"), CLUSTER);
    assert_true(rig_clear(rig, "b"));
    rig_again(rig, true);
    assert_int_equal(rig_count(rig, "b"), 0);
}

/* A weir that knows of no bitmaps writes a state without the word. */
static void
test_older_weir_costs_what_records(void **state)
{
    struct Rig *rig = leave(state, true);
    char *path = g_build_filename(rig->fixture->path, STORE_STATE, NULL);
    g_autoptr(GKeyFile) file = g_key_file_new();
    char *text;
    size_t len;

    assert_true(g_key_file_load_from_file(file, path, 0, NULL));
    assert_true(g_key_file_remove_key(file, "disk 2", "recorded", NULL));
    text = sealed_text_format(file, &len);
    assert_true(g_file_set_contents(path, text, (gssize)len, NULL));
    rig_open(rig);
    assert_int_equal(rig_count(rig, "b"), BIG);
    assert_int_equal(rig_count(rig, "still"), CLUSTER);
    g_free(text);
    g_free(path);
}

static void
test_lost_state_costs_what_records(void **state)
{
    struct Rig *rig = leave(state, true);
    char *path = g_build_filename(rig->fixture->path, STORE_STATE, NULL);

    assert_int_equal(unlink(path), 0);
    rig_open(rig);
    assert_int_equal(rig_count(rig, "b"), BIG);
    assert_int_equal(rig_count(rig, "still"), CLUSTER);
    g_free(path);
}

/* On the list when the crash came; what the list was is not known. */
static void
test_discards_of_before_a_crash_count(void **state)
{
    struct Rig *rig = leave(state, false);
    char *path = rig_file(rig, ZERO_FILE);
    unsigned char page[ZERO_RECORD_BYTES];
    ZeroList list = {0};

    assert_true(zero_list_add(&list, 12 * EXTENT, CLUSTER));
    zero_record_encode(&list, 1, UINT64_MAX, page);
    assert_true(g_file_set_contents(path, (char *)page, sizeof(page), NULL));
    rig_open(rig);
    assert_true(rig_is_dirty(rig, "b", 12 * EXTENT, CLUSTER));
    assert_int_equal(rig_count(rig, "b"), 512 + EXTENT + CLUSTER);
    rig_crash(rig);
    assert_true(g_file_set_contents(path, "in part", 7, NULL));
    rig_open(rig);
    assert_int_equal(rig_count(rig, "b"), BIG);
    assert_int_equal(rig_count(rig, "still"), CLUSTER);
    g_free(path);
}

/*
 * weir check, weir remove, reading
 */
static void
assert_checked(const struct Rig *rig, bool repairs, enum StoreVerdict verdict,
               const char *words)
{
    char *report;

    if (fixture_check(rig->fixture, repairs, &report) != verdict ||
        (words ? !strstr(report, words) : strstr(report, "bitmap") != NULL)) {
        fail_msg("%s", report);
    }
    g_free(report);
}

static void
test_check_names_what_is_wrong(void **state)
{
    struct Rig *rig = leave(state, true);
    char *orphan = rig_file(rig, STORE_BITMAPS "/77.new");
    char *foreign = rig_file(rig, STORE_BITMAPS "/notes");

    assert_checked(rig, false, STORE_SOUND, NULL);
    flip_pages(rig, STORE_BITMAPS "/1.bits", 2);
    assert_true(g_file_set_contents(orphan, "x", 1, NULL));
    assert_true(g_file_set_contents(foreign, "x", 1, NULL));
    assert_checked(rig, false, STORE_DAMAGED, "disk vdb: bitmap b: ");
    assert_checked(rig, false, STORE_DAMAGED,
                   "vdb/bitmaps/77.new is left of something interrupted");
    assert_checked(rig, true, STORE_SOUND, "repaired: disk vdb: bitmap b: ");
    assert_checked(rig, false, STORE_SOUND, "vdb/bitmaps/notes is not weir's");
    assert_false(g_file_test(orphan, G_FILE_TEST_EXISTS));
    rig_open(rig);
    assert_int_equal(rig_count(rig, "b"), BIG);
    assert_int_equal(rig_count(rig, "still"), CLUSTER);
    rig_end(rig);
    rig_flip(rig, STORE_BITMAPS "/" STORE_BITMAPS_LIST, 30);
    assert_checked(rig, false, STORE_DAMAGED, "its bitmaps are lost");
    assert_checked(rig, true, STORE_SOUND, "list is deleted");
    assert_int_equal(unlink(foreign), 0);
    assert_checked(rig, false, STORE_SOUND, NULL);
    rig_open(rig);
    assert_int_equal(named_count(rig->disk->bitmaps), 0);
    g_free(orphan);
    g_free(foreign);
}

static void
test_check_repairs_nothing_of_a_newer_weir(void **state)
{
    struct Rig *rig = leave(state, true);

    set_version(rig, STORE_BITMAPS "/1.bits", 2);
    assert_checked(rig, true, STORE_DAMAGED,
                   "disk vdb: bitmap b: its format is newer");
    set_version(rig, STORE_BITMAPS "/1.bits", 1);
    assert_checked(rig, false, STORE_SOUND, NULL);
    rig_open(rig);
    assert_int_equal(rig_count(rig, "b"), 1024);
}

static void
test_they_go_with_the_disk(void **state)
{
    struct Rig *rig = leave(state, true);
    char *address = g_build_filename(rig->fixture->path, "vdb", NULL);
    char *job = rig_file(rig, STORE_JOBS "/12");
    static const char *const names[] = {STORE_JOB, STORE_JOB_SPARE,
                                        STORE_JOB_LEFT, STORE_SUMS, STORE_SENT};

    assert_int_equal(g_mkdir_with_parents(job, 0700), 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        char *name = g_build_filename(job, names[i], NULL);

        assert_true(g_file_set_contents(name, "x", 1, NULL));
        g_free(name);
    }
    assert_checked(rig, false, STORE_SOUND, NULL);
    assert_true(store_remove(store_io_kernel(), address, TRUE, NULL));
    assert_false(g_file_test(address, G_FILE_TEST_EXISTS));
    assert_checked(rig, false, STORE_SOUND, NULL);
    g_free(job);
    g_free(address);
}

static void
test_reading_writes_nothing(void **state)
{
    struct Rig *rig = leave(state, false);

    for (unsigned i = 0; i < 2; i++) {
        rig->store = fixture_open(rig->fixture, STORE_OPEN_READ);
        rig->disk = store_disk(rig->store, "vdb");
        assert_int_equal(rig_count(rig, "b"), 512 + EXTENT);
        rig_crash(rig);
    }
}

int
main(void)
{
#define WITH_RIG(test) \
    cmocka_unit_test_setup_teardown(test, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        WITH_RIG(test_damaged_file_is_dirty),
        WITH_RIG(test_damaged_part_of_a_file_is_dirty),
        WITH_RIG(test_file_of_a_newer_format_is_dirty),
        WITH_RIG(test_map_of_a_newer_format_stays),
        WITH_RIG(test_damaged_list_loses_the_bitmaps),
        WITH_RIG(test_missing_list_is_said),
        WITH_RIG(test_list_of_a_newer_weir_is_let_be),
        WITH_RIG(test_untracked_disk_costs_what_records),
        WITH_RIG(test_stranger_costs_what_records),
        WITH_RIG(test_older_weir_costs_what_records),
        WITH_RIG(test_lost_state_costs_what_records),
        WITH_RIG(test_discards_of_before_a_crash_count),
        WITH_RIG(test_check_names_what_is_wrong),
        WITH_RIG(test_check_repairs_nothing_of_a_newer_weir),
        WITH_RIG(test_they_go_with_the_disk),
        WITH_RIG(test_reading_writes_nothing),
    };

    said = g_string_new(NULL);
    g_log_set_writer_func(keep_log, NULL, NULL);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    g_string_free(said, TRUE);
    return failed;
}
