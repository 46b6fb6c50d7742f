/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * MNT/.bitmaps: what there is, and that each file has the disk's data exactly
 * where its bitmap is dirty, at any granularity, while the guest writes.
 */
#include "snapnode-rig.h"

#include "bitmap/named.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t seed_number;

static void
add(FakeSession *session, const char *name, uint64_t id, unsigned grain_bits)
{
    struct NamedSpec spec = {.name = name, .id = id, .grain_bits = grain_bits};

    assert_int_equal(named_add(session->disk.bitmaps, &spec, NULL), NAMED_OK);
}

static int
read_node(FakeSession *session, uint64_t node, uint64_t offset, uint32_t size)
{
    struct fuse_read_in in = {.offset = offset, .size = size};

    return fake_call(session, FUSE_READ, node, &in, sizeof(in));
}

static int64_t
seek_node(FakeSession *session, uint64_t node, uint64_t offset, int whence)
{
    struct fuse_lseek_in in = {.offset = offset, .whence = (uint32_t)whence};
    struct fuse_lseek_out out;
    int error = fake_call(session, FUSE_LSEEK, node, &in, sizeof(in));

    if (error) {
        return error;
    }
    memcpy(&out, session->reply, sizeof(out));
    return (int64_t)out.offset;
}

static void
test_tree_has_what_there_is(void **state)
{
    FakeSession *session = *state;

    assert_list(session, 1, "./../vda.raw ");
    assert_list(session, walk(session, ".bitmaps"), "./../vda/");
    assert_list(session, walk(session, ".bitmaps/vda"), "./../");
    add(session, "monthly", 3, 16);
    add(session, "daily", 7, 12);
    add(session, "a/b", 8, 16); /* cannot be a file's name */
    assert_list(session, walk(session, ".bitmaps/vda"),
                "./../monthly.raw daily.raw ");
    assert_true(walk(session, ".bitmaps/vda/daily.raw") ==
                (UINT64_C(16) << 56 | UINT64_C(1) << 40 | 7));
    /* Not even of a mount that lists its snapshots. */
    session->shows_snapshots = true;
    fake_session_restart(session);
    assert_list(session, 1, "./../.snapshots/vda.raw ");
}

static void
test_names_that_are_none_are_not_found(void **state)
{
    FakeSession *session = *state;
    g_autofree char *long_name = g_strnfill(1020, 'a');
    g_autofree char *most = g_strnfill(NAMED_NAME_MAX, 'm');
    g_autofree char *most_file = g_strconcat(most, ".raw", NULL);
    const char *const bad[] = {
        "daily",    "daily.",     ".raw", "daily.raw.raw",
        "aily.raw", "daily.raw/", "..",   long_name};
    uint64_t top;

    add(session, "daily", 1, 16);
    add(session, most, 2, 16);
    top = walk(session, ".bitmaps/vda");
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        assert_int_equal(lookup(session, top, bad[i]), -ENOENT);
    }
    assert_int_equal(lookup(session, top, most_file), 0);
    assert_false(walk(session, ".bitmaps/vdb"));
    assert_false(walk(session, ".bitmaps/vda.raw"));
    assert_false(walk(session, ".bitmaps/daily.raw"));
}

static void
test_attributes_are_those_of_now(void **state)
{
    FakeSession *session = *state;
    char data[4096] = {1};
    struct fuse_attr_out out;
    uint64_t node;

    add(session, "daily", 1, 12);
    node = walk(session, ".bitmaps/vda/daily.raw");
    assert_int_equal(entry.attr.mode, S_IFREG | 0400);
    assert_int_equal(entry.attr.size, FAKE_DISK_BYTES);
    assert_int_equal(entry.attr.blocks, 0);
    assert_int_equal(entry.attr.uid, 11);
    assert_int_equal(fake_write(session, data, 4096, 4096 * 5 + 512), 4096);
    assert_int_equal(getattr(session, node, &out), 0);
    assert_int_equal(out.attr_valid, 0);
    assert_int_equal(out.attr.blocks, 16);
    named_clear(session->disk.bitmaps, "daily");
    assert_int_equal(getattr(session, node, &out), 0);
    assert_int_equal(out.attr.blocks, 0);
    assert_int_equal(getattr(session, walk(session, ".bitmaps/vda"), &out), 0);
    assert_int_equal(out.attr.mode, S_IFDIR | 0500);
}

static void
test_nothing_can_be_changed(void **state)
{
    FakeSession *session = *state;
    struct fuse_open_out out;
    uint64_t dir, node;

    add(session, "daily", 1, 16);
    dir = walk(session, ".bitmaps/vda");
    node = walk(session, ".bitmaps/vda/daily.raw");
    assert_int_equal(open_node(session, node, O_RDWR, &out), -EROFS);
    assert_int_equal(open_node(session, node, O_RDONLY, &out), 0);
    assert_int_equal(out.open_flags, FOPEN_DIRECT_IO);
    assert_int_equal(make_dir(session, dir, "x", 2), -EPERM);
    assert_int_equal(call_name(session, FUSE_RMDIR, dir, "daily.raw"), -EPERM);
    assert_int_equal(call_name(session, FUSE_UNLINK, dir, "daily.raw"), -EPERM);
}

static void
test_nodes_of_what_is_gone_are_not_found(void **state)
{
    FakeSession *session = *state;
    struct fuse_attr_out attr;
    struct fuse_open_out out;
    char data[512] = {1};
    uint64_t node;

    add(session, "daily", 1, 16);
    assert_int_equal(fake_write(session, data, 512, 0), 512);
    node = walk(session, ".bitmaps/vda/daily.raw");
    assert_int_equal(read_node(session, node, 0, 4096), 0);
    named_remove(session->disk.bitmaps, "daily");
    add(session, "daily", 2, 16);
    assert_int_equal(getattr(session, node, &attr), -ENOENT);
    assert_int_equal(open_node(session, node, O_RDONLY, &out), -ENOENT);
    assert_int_equal(read_node(session, node, 0, 4096), -ESTALE);
    assert_int_equal(seek_node(session, node, 0, SEEK_DATA), -ESTALE);
    /* Numbers that nobody was ever given. */
    for (uint64_t kind = 14; kind <= 17; kind++) {
        static const uint64_t ids[] = {1 << 20 | 2, UINT64_C(2) << 40 | 2,
                                       UINT64_C(7) << 40, 1};

        for (size_t i = 0; i < G_N_ELEMENTS(ids); i++) {
            assert_int_equal(getattr(session, kind << 56 | ids[i], &attr),
                             -ENOENT);
        }
    }
}

/* Each that stays is read once, whatever comes and goes meanwhile. */
static void
test_list_that_changes_is_read_on(void **state)
{
    FakeSession *session = *state;
    g_autoptr(GString) names = g_string_new(NULL);
    uint64_t top, offset = 0;
    g_auto(GStrv) read = NULL;
    unsigned round = 0;
    char name[16];

    for (unsigned i = 1; i <= 60; i++) {
        snprintf(name, sizeof(name), "b%u", i);
        add(session, name, i, 16);
    }
    top = walk(session, ".bitmaps/vda");
    while (read_dir(session, top, 200, &offset, names)) {
        round++;
        snprintf(name, sizeof(name), "b%u", round * 2);
        named_remove(session->disk.bitmaps, name);
        snprintf(name, sizeof(name), "b%u", 60 - round * 2);
        named_remove(session->disk.bitmaps, name);
    }
    assert_true(round > 5);
    read = g_strsplit(names->str, " ", -1);
    for (unsigned i = 1; i <= 60; i += 2) {
        unsigned times = 0;

        snprintf(name, sizeof(name), "b%u.raw", i);
        for (char **one = read; *one; one++) {
            times += g_str_has_suffix(*one, name);
        }
        assert_true(times >= 1);
    }
}

/*
 * Data
 */
#define DISK_BYTES (UINT64_C(3) << 20)
#define GRAINS     4
static const unsigned grain_bits[GRAINS] = {9, 12, 16, 21};

/* What the disk has, and what is dirty in each. */
struct Model {
    uint64_t size_bytes;
    uint64_t block; /* a write is of whole ones */
    unsigned char data[DISK_BYTES];
    bool is_dirty[GRAINS][DISK_BYTES >> 9];
};

static void
model_write(struct Model *model, uint64_t offset, uint64_t len)
{
    for (unsigned g = 0; g < GRAINS; g++) {
        for (uint64_t at = offset >> grain_bits[g];
             at <= (offset + len - 1) >> grain_bits[g]; at++) {
            model->is_dirty[g][at] = true;
        }
    }
}

static bool
model_is_dirty(const struct Model *model, unsigned g, uint64_t at)
{
    return model->is_dirty[g][at >> grain_bits[g]];
}

static void
check_data(FakeSession *session, const struct Model *model, unsigned g,
           uint64_t node, Seed *seed)
{
    for (unsigned i = 0; i < 40; i++) {
        uint64_t at = seed_below(seed, model->size_bytes);
        uint64_t len = 1 + seed_below(seed, 1 << (10 + i % 11));

        len = MIN(len, 1 << 20);
        assert_int_equal(read_node(session, node, at, (uint32_t)len), 0);
        assert_int_equal(session->reply_len, MIN(len, model->size_bytes - at));
        for (uint64_t j = 0; j < session->reply_len; j++) {
            bool is_dirty = model_is_dirty(model, g, at + j);

            if (session->reply[j] != (is_dirty ? model->data[at + j] : 0)) {
                fail_msg("grain %u, byte %llu of %llu+%llu", g,
                         (unsigned long long)(at + j), (unsigned long long)at,
                         (unsigned long long)len);
            }
        }
    }
}

/* All of its map, as qemu-img and cp find it. */
static void
check_map(FakeSession *session, const struct Model *model, unsigned g,
          uint64_t node)
{
    uint64_t at = 0;

    while (at < model->size_bytes) {
        uint64_t data = at, hole;
        int64_t found = seek_node(session, node, at, SEEK_DATA);

        while (data < model->size_bytes && !model_is_dirty(model, g, data)) {
            data++;
        }
        if (data == model->size_bytes) {
            assert_int_equal(found, -ENXIO);
            break;
        }
        assert_int_equal(found, data);
        if (data > at) {
            assert_int_equal(seek_node(session, node, at, SEEK_HOLE), at);
        }
        for (hole = data;
             hole < model->size_bytes && model_is_dirty(model, g, hole);) {
            hole++;
        }
        assert_int_equal(seek_node(session, node, data, SEEK_HOLE), hole);
        at = hole;
    }
    assert_int_equal(seek_node(session, node, model->size_bytes, SEEK_DATA),
                     -ENXIO);
}

static void
check_all(FakeSession *session, const struct Model *model, Seed *seed)
{
    for (unsigned g = 0; g < GRAINS; g++) {
        char path[64];
        uint64_t node;

        snprintf(path, sizeof(path), ".bitmaps/vda/g%u.raw", grain_bits[g]);
        node = walk(session, path);
        assert_true(node);
        check_data(session, model, g, node, seed);
        check_map(session, model, g, node);
    }
}

static void
write_somewhere(FakeSession *session, struct Model *model, Seed *seed)
{
    static unsigned char data[1 << 17];
    uint64_t len = 512 * (1 + seed_below(seed, seed_below(seed, 4) ? 9 : 200));
    uint64_t at = 512 * seed_below(seed, (model->size_bytes - len) / 512);

    if (seed_below(seed, 5) == 0) {
        len = len * 8 > model->size_bytes - at ? len : len * 8;
        assert_int_equal(fake_fallocate(session, 3, at, len), 0);
        memset(model->data + at, 0, len);
    } else {
        for (uint64_t i = 0; i < len; i++) {
            data[i] = (unsigned char)(1 + seed_below(seed, 255));
        }
        assert_int_equal(fake_write(session, data, len, at), len);
        memcpy(model->data + at, data, len);
        len = (at + len + model->block - 1) & ~(model->block - 1);
        at &= ~(model->block - 1);
        len = MIN(len, model->size_bytes) - at;
    }
    model_write(model, at, len);
}

static void
run_against_model(uint64_t size_bytes, unsigned offset_align)
{
    struct Model *model = calloc(1, sizeof(*model));
    Seed seed = {seed_number};
    FakeSession session;
    char name[16];

    fake_session_init(&session, NULL, size_bytes, offset_align);
    model->size_bytes = size_bytes;
    model->block = offset_align;
    /* Not all that is on the disk is dirty. */
    for (unsigned i = 0; i < 10; i++) {
        write_somewhere(&session, model, &seed);
    }
    memset(model->is_dirty, 0, sizeof(model->is_dirty));
    for (unsigned g = 0; g < GRAINS; g++) {
        snprintf(name, sizeof(name), "g%u", grain_bits[g]);
        add(&session, name, 1 + g, grain_bits[g]);
    }
    check_all(&session, model, &seed);
    for (unsigned i = 0; i < 8; i++) {
        write_somewhere(&session, model, &seed);
        check_all(&session, model, &seed);
    }
    fake_session_deinit(&session);
    free(model);
}

static void
test_files_have_data_where_they_are_dirty(void **state)
{
    (void)state;
    run_against_model(DISK_BYTES, 512);
    run_against_model(DISK_BYTES - 512, 512);
    run_against_model(DISK_BYTES - 512, 4096);
}

/* More than are looked at in one turn of the helper. */
static void
test_long_ranges_and_many_are_sought(void **state)
{
    FakeSession *session = *state;
    NamedBitmaps *set = session->disk.bitmaps;
    uint64_t node;

    add(session, "fine", 1, 9);
    node = walk(session, ".bitmaps/vda/fine.raw");
    named_mark(set, "fine", 512, FAKE_DISK_BYTES - 1024);
    assert_int_equal(seek_node(session, node, 512, SEEK_HOLE),
                     FAKE_DISK_BYTES - 512);
    named_mark(set, "fine", 0, FAKE_DISK_BYTES);
    assert_int_equal(seek_node(session, node, 0, SEEK_HOLE), FAKE_DISK_BYTES);
    named_clear(set, "fine");
    for (uint64_t at = 0; at < 1000; at += 2) {
        named_mark(set, "fine", at * 512, 512);
    }
    for (uint64_t at = 0; at < 1000; at += 2) {
        assert_int_equal(seek_node(session, node, at * 512, SEEK_HOLE),
                         at * 512 + 512);
    }
    assert_int_equal(seek_node(session, node, 999 * 512, SEEK_DATA), -ENXIO);
}

#define with_session(test)                                    \
    cmocka_unit_test_setup_teardown(test, fake_session_setup, \
                                    fake_session_teardown)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        with_session(test_tree_has_what_there_is),
        with_session(test_names_that_are_none_are_not_found),
        with_session(test_attributes_are_those_of_now),
        with_session(test_nothing_can_be_changed),
        with_session(test_nodes_of_what_is_gone_are_not_found),
        with_session(test_list_that_changes_is_read_on),
        cmocka_unit_test(test_files_have_data_where_they_are_dirty),
        with_session(test_long_ranges_and_many_are_sought),
    };

    seed_number = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
