/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The face over a fake session: every operation as the kernel would send it,
 * a real file behind it, and a plain array beside it to compare with.
 */
#include "fs/zero-file.h"
#include "tests/lib/fake-session.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB        (UINT64_C(1) << 20)
#define DISK_BYTES FAKE_DISK_BYTES
#define PUNCH      (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

static uint64_t seed = 1;

static uint64_t
dirty_clusters(FakeSession *session)
{
    struct DiskMapFigures figures;

    disk_map_figures(session->disk.map, &figures);
    return figures.dirty_clusters;
}

static int
lookup(FakeSession *session, uint64_t parent, const char *name,
       struct fuse_entry_out *out)
{
    int error = fake_call(session, FUSE_LOOKUP, parent, name, strlen(name) + 1);

    if (!error) {
        memcpy(out, session->reply, sizeof(*out));
    }
    return error;
}

static void
test_init_negotiates_what_the_kernel_offers(void **state)
{
    FakeSession *session = *state;
    struct fuse_init_in in = {.major = 7,
                              .minor = 45,
                              .max_readahead = 131072,
                              .flags = UINT32_MAX,
                              .flags2 = UINT32_MAX};
    struct fuse_init_out out;

    assert_int_equal(fake_call(session, FUSE_INIT, 0, &in, sizeof(in)), 0);
    assert_int_equal(session->reply_len, sizeof(out));
    memcpy(&out, session->reply, sizeof(out));
    assert_int_equal(out.max_write, MIB);
    assert_true(out.flags & FUSE_ASYNC_DIO);
    assert_true(out.flags & FUSE_MAX_PAGES);
    assert_false(out.flags & FUSE_WRITEBACK_CACHE);
    assert_false(out.flags & (FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS));
    assert_false(out.flags & FUSE_ATOMIC_O_TRUNC);
    assert_true(out.flags2 & (1u << 4)); /* DIRECT_IO_ALLOW_MMAP */

    /* An older kernel: no extension, nothing of it in the answer. */
    in.flags = FUSE_ASYNC_DIO | FUSE_BIG_WRITES;
    in.minor = 31;
    assert_int_equal(fake_call(session, FUSE_INIT, 0, &in,
                               offsetof(struct fuse_init_in, flags2)),
                     0);
    memcpy(&out, session->reply, sizeof(out));
    assert_int_equal(out.minor, 31);
    assert_int_equal(out.flags, FUSE_ASYNC_DIO | FUSE_BIG_WRITES);
    assert_int_equal(out.flags2, 0);
}

static void
test_names_are_found_and_dot_folder_is_hidden(void **state)
{
    FakeSession *session = *state;
    struct fuse_read_in in = {.size = 4096};
    struct fuse_entry_out entry;
    char names[256] = "";

    assert_int_equal(lookup(session, 1, "vda.raw", &entry), 0);
    assert_int_equal(entry.nodeid, FAKE_DISK_INO);
    assert_int_equal(entry.attr.size, DISK_BYTES);
    assert_int_equal(entry.attr.mode, S_IFREG | 0600);
    assert_int_equal(entry.attr.uid, 11);
    assert_int_equal(lookup(session, 1, "vdb.raw", &entry), -ENOENT);
    assert_int_equal(lookup(session, 1, "vda", &entry), -ENOENT);
    assert_int_equal(lookup(session, 1, ".weir", &entry), 0);
    assert_int_equal(entry.entry_valid, 0);
    assert_int_equal(lookup(session, entry.nodeid, "metrics", &entry), 0);

    assert_int_equal(fake_call(session, FUSE_READDIR, 1, &in, sizeof(in)), 0);
    for (size_t at = 0; at < session->reply_len;) {
        struct fuse_dirent *dirent = (void *)(session->reply + at);

        strncat(names, dirent->name, dirent->namelen);
        strcat(names, "/");
        at += FUSE_DIRENT_SIZE(dirent);
    }
    assert_string_equal(names, "./../vda.raw/");
    /* Nothing can be made or removed here. */
    assert_int_equal(fake_call(session, FUSE_UNLINK, 1, "vda.raw", 8), -EPERM);
    assert_int_equal(fake_call(session, FUSE_GETXATTR, 1, "12345678user.x", 15),
                     -ENOSYS);
    assert_int_equal(fake_call(session, FUSE_SETLK, FAKE_DISK_INO, "", 0),
                     -ENOSYS);
    /* Too short for what it claims to be. */
    assert_int_equal(fake_call(session, FUSE_READ, FAKE_DISK_INO, "abc", 3),
                     -EINVAL);
}

static int
setattr(FakeSession *session, struct fuse_setattr_in in)
{
    return fake_call(session, FUSE_SETATTR, FAKE_DISK_INO, &in, sizeof(in));
}

static void
test_setattr_keeps_owner_and_refuses_sizes(void **state)
{
    FakeSession *session = *state;
    struct fuse_attr_out out;

    assert_int_equal(
        setattr(session,
                (struct fuse_setattr_in){.valid = FATTR_UID | FATTR_MODE,
                                         .uid = 64055,
                                         .mode = S_IFREG | 0640}),
        0);
    memcpy(&out, session->reply, sizeof(out));
    assert_int_equal(out.attr.uid, 64055);
    assert_int_equal(out.attr.gid, 12);
    assert_int_equal(out.attr.mode, S_IFREG | 0640);
    assert_int_equal(session->attr_notes, 1);

    assert_int_equal(
        setattr(session,
                (struct fuse_setattr_in){.valid = FATTR_SIZE | FATTR_FH,
                                         .size = DISK_BYTES}),
        0);
    /* O_TRUNC: answered with the true size. */
    assert_int_equal(
        setattr(session, (struct fuse_setattr_in){.valid = FATTR_SIZE}), 0);
    memcpy(&out, session->reply, sizeof(out));
    assert_int_equal(out.attr.size, DISK_BYTES);
    assert_int_equal(
        setattr(session,
                (struct fuse_setattr_in){.valid = FATTR_SIZE | FATTR_FH}),
        -EPERM);
    assert_int_equal(
        setattr(session, (struct fuse_setattr_in){.valid = FATTR_SIZE,
                                                  .size = 2 * DISK_BYTES}),
        -EPERM);
    while (session->logs < 2) {
        sched_yield();
    }
    assert_non_null(strstr(session->last_log, "weir resize"));
}

static void
test_write_marks_before_and_after(void **state)
{
    FakeSession *session = *state;
    unsigned char buf[4096], back[4096];

    memset(buf, 7, sizeof(buf));
    assert_int_equal(fake_write(session, buf, sizeof(buf), 3 * 65536), 4096);
    assert_int_equal(dirty_clusters(session), 1);
    /* Marked in the generation that was open, and once more at completion:
     * twice the relay is woken for one write. */
    assert_int_equal(session->dirtied, 2);
    assert_int_equal(fake_read(session, back, sizeof(back), 3 * 65536), 4096);
    assert_memory_equal(buf, back, sizeof(buf));
    /* Over a cluster's edge: both. */
    assert_int_equal(fake_write(session, buf, 1024, 6 * 65536 - 512), 1024);
    assert_int_equal(dirty_clusters(session), 3);
    assert_int_equal(fake_fsync(session), 0);
}

static void
test_requests_beyond_the_end_act_as_on_a_file(void **state)
{
    FakeSession *session = *state;
    unsigned char buf[2048] = {1};

    assert_int_equal(fake_read(session, buf, 2048, DISK_BYTES), 0);
    assert_int_equal(fake_read(session, buf, 2048, DISK_BYTES - 512), 512);
    assert_int_equal(fake_read(session, buf, 2048, INT64_MAX - 100), 0);
    assert_int_equal(fake_write(session, buf, 2048, DISK_BYTES - 512), 512);
    assert_int_equal(fake_write(session, buf, 2048, DISK_BYTES), -EFBIG);
    assert_int_equal(fake_write(session, buf, 2048, INT64_MAX - 100), -EFBIG);
    assert_int_equal(fake_read(session, buf, 2048, (uint64_t)1 << 63), -EINVAL);
    assert_int_equal(fake_fallocate(session, 0, DISK_BYTES - 512, 1024),
                     -EFBIG);
    assert_int_equal(fake_fallocate(session, PUNCH, DISK_BYTES - 512, 4096), 0);
    assert_int_equal(fake_fallocate(session, PUNCH, DISK_BYTES, 4096), 0);
    assert_int_equal(fake_fallocate(session, FALLOC_FL_COLLAPSE_RANGE, 0, 4096),
                     -EOPNOTSUPP);
    assert_int_equal(fake_lseek(session, DISK_BYTES, SEEK_DATA), -ENXIO);
}

static void
test_large_discard_reads_as_zero_at_once(void **state)
{
    FakeSession *session = *state;
    unsigned char *buf = malloc(MIB), *back = malloc(MIB);

    memset(buf, 5, MIB);
    for (unsigned i = 0; i < 40; i++) {
        assert_int_equal(fake_write(session, buf, MIB, i * MIB), MIB);
    }
    /* Not on cluster boundaries: both ends are punched exactly. */
    assert_int_equal(fake_fallocate(session, PUNCH, MIB + 512, 36 * MIB), 0);
    assert_int_equal(fake_fsync(session), 0);
    assert_int_equal(fake_read(session, back, MIB, MIB), MIB);
    assert_memory_equal(back, buf, 512);
    memset(buf, 0, MIB);
    assert_memory_equal(back + 512, buf, MIB - 512);
    assert_int_equal(fake_read(session, back, MIB, 20 * MIB), MIB);
    assert_memory_equal(back, buf, MIB);
    assert_int_equal(fake_lseek(session, 0, SEEK_HOLE) <= (int64_t)(2 * MIB),
                     1);
    /* A write into what is still being punched stays. */
    memset(buf, 9, 4096);
    assert_int_equal(fake_write(session, buf, 512, 36 * MIB + 1024), 512);
    assert_int_equal(fake_fsync(session), 0);
    fake_session_restart(session);
    assert_int_equal(fake_read(session, back, 4096, 36 * MIB), 4096);
    assert_memory_equal(back + 1024, buf, 512);
    assert_int_equal(back[1023], 0);
    assert_int_equal(back[1536], 0);
    assert_int_equal(fake_lseek(session, 2 * MIB, SEEK_DATA), 36 * MIB);
    free(buf);
    free(back);
}

/* What a killed daemon leaves behind: data at 8 MiB that a record says is
 * zero, and that is not punched. */
static void
leave_record(FakeSession *session)
{
    unsigned char page[ZERO_RECORD_BYTES], buf[4096];
    ZeroList list = {0};
    int fd;

    memset(buf, 3, sizeof(buf));
    assert_int_equal(fake_write(session, buf, sizeof(buf), 8 * MIB), 4096);
    fd = openat(session->disk.dir_fd, ZERO_FILE, O_RDWR);
    assert_true(zero_list_add(&list, 8 * MIB, 2 * MIB));
    zero_record_encode(&list, 1000, 0, page);
    assert_int_equal(pwrite(fd, page, sizeof(page), 0), sizeof(page));
    close(fd);
}

static void
test_recorded_zeroes_come_back_after_a_crash(void **state)
{
    FakeSession *session = *state;
    unsigned char buf[4096], zero[4096] = {0};

    leave_record(session);
    fake_session_restart(session);
    assert_int_equal(fake_read(session, buf, sizeof(buf), 8 * MIB), 4096);
    assert_memory_equal(buf, zero, sizeof(zero));
    /* And are gone from the file once they are punched. */
    fake_session_restart(session);
    assert_int_equal(pread(session->disk.map_fd, buf, sizeof(buf), 8 * MIB),
                     4096);
    assert_memory_equal(buf, zero, sizeof(zero));
}

/* The record is of the epoch that begins before the state says that older ones
 * are of no use. */
static void
test_zeroes_outlive_the_start_of_a_serve(void **state)
{
    FakeSession *session = *state;
    unsigned char buf[4096], zero[4096] = {0};

    leave_record(session);
    session->store.epoch = 7;
    assert_int_equal(store_zeroes_renew(&session->store, &session->disk), 0);
    session->store.epoch_before = 7;
    assert_int_equal(store_zeroes_settle(&session->store, &session->disk), 0);
    assert_int_equal(pread(session->disk.map_fd, buf, sizeof(buf), 8 * MIB),
                     4096);
    assert_memory_equal(buf, zero, sizeof(zero));
}

static void
test_zeroes_are_settled_without_a_face(void **state)
{
    FakeSession *session = *state;
    unsigned char buf[4096], zero[4096] = {0};

    leave_record(session);
    assert_int_equal(store_zeroes_settle(&session->store, &session->disk), 0);
    assert_int_equal(pread(session->disk.map_fd, buf, sizeof(buf), 8 * MIB),
                     4096);
    assert_memory_equal(buf, zero, sizeof(zero));
    assert_int_equal(dirty_clusters(session), 32);
    /* Once: what is written there later stays. */
    memset(buf, 4, sizeof(buf));
    assert_int_equal(fake_write(session, buf, sizeof(buf), 8 * MIB), 4096);
    assert_int_equal(store_zeroes_settle(&session->store, &session->disk), 0);
    assert_int_equal(fake_read(session, zero, sizeof(zero), 8 * MIB), 4096);
    assert_memory_equal(buf, zero, sizeof(zero));
}

static void
test_text_belongs_to_its_handle(void **state)
{
    FakeSession *session = *state;
    struct fuse_entry_out entry;
    struct fuse_open_out open_out;
    struct fuse_read_in in = {.size = 4};

    assert_int_equal(lookup(session, 1, ".weir", &entry), 0);
    assert_int_equal(lookup(session, entry.nodeid, "status.json", &entry), 0);
    assert_int_equal(fake_call(session, FUSE_OPEN, entry.nodeid,
                               &(struct fuse_open_in){0},
                               sizeof(struct fuse_open_in)),
                     0);
    memcpy(&open_out, session->reply, sizeof(open_out));
    in.fh = open_out.fh;
    assert_int_equal(
        fake_call(session, FUSE_READ, entry.nodeid, &in, sizeof(in)), 0);
    assert_memory_equal(session->reply, "{sta", 4);
    in.offset = 4;
    in.size = 100;
    assert_int_equal(
        fake_call(session, FUSE_READ, entry.nodeid, &in, sizeof(in)), 0);
    assert_int_equal(session->reply_len, 5);
    assert_memory_equal(session->reply, "tus}\n", 5);
    /* A handle of another daemon's is as good, from the start. */
    in = (struct fuse_read_in){.fh = 4711, .size = 100};
    assert_int_equal(
        fake_call(session, FUSE_READ, entry.nodeid, &in, sizeof(in)), 0);
    assert_int_equal(session->reply_len, 9);
}

/*
 * Everything at random, beside a plain array
 */

#define RANDOM_BYTES (8 * MIB - 512) /* the last 4096-byte block is partial */

static void
random_range(uint64_t *offset, uint64_t *len)
{
    static const uint64_t sizes[] = {1,    511,   512,    4096,
                                     8191, 65536, 300000, MIB};
    uint64_t max = sizes[(size_t)random() % G_N_ELEMENTS(sizes)];

    *offset = (uint64_t)random() % RANDOM_BYTES;
    *len = 1 + (uint64_t)random() % max;
    if (random() % 2) { /* aligned as a guest's are */
        *offset &= ~511ull;
        *len = (*len + 511) & ~511ull;
    }
    *len = MIN(*len, MIB);
    *len = MIN(*len, RANDOM_BYTES - *offset);
}

static void
random_step(FakeSession *session, unsigned char *shadow, unsigned char *buf)
{
    uint64_t offset, len;

    random_range(&offset, &len);
    switch (random() % 10) {
    case 0:
    case 1:
    case 2:
    case 3:
        memset(buf, (int)random(), len);
        assert_int_equal(fake_write(session, buf, len, offset), len);
        memcpy(shadow + offset, buf, len);
        break;
    case 4:
        if (random() % 3 == 0) { /* large enough for the list */
            offset = (uint64_t)random() % (RANDOM_BYTES / 2);
            len = MIB + (uint64_t)random() % (3 * MIB);
        }
        assert_int_equal(fake_fallocate(session, PUNCH, offset, len), 0);
        memset(shadow + offset, 0, len);
        break;
    case 5:
        assert_int_equal(
            fake_fallocate(session, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                           offset, len),
            0);
        memset(shadow + offset, 0, len);
        break;
    case 6:
        assert_int_equal(fake_fsync(session), 0);
        break;
    default:
        assert_int_equal(fake_read(session, buf, len, offset), len);
        assert_memory_equal(buf, shadow + offset, len);
        break;
    }
}

static void
run_random(unsigned offset_align)
{
    unsigned char *shadow = calloc(1, RANDOM_BYTES), *buf = malloc(MIB);
    FakeSession session;

    fake_session_init(&session, NULL, RANDOM_BYTES, offset_align);
    for (unsigned round = 0; round < 2000; round++) {
        random_step(&session, shadow, buf);
        if (round % 500 == 499) {
            fake_session_restart(&session);
        }
    }
    for (uint64_t at = 0; at < RANDOM_BYTES; at += MIB) {
        uint64_t len = MIN(MIB, RANDOM_BYTES - at);

        assert_int_equal(fake_read(&session, buf, len, at), len);
        assert_memory_equal(buf, shadow + at, len);
    }
    fake_session_deinit(&session);
    free(shadow);
    free(buf);
}

static void
test_random_requests_follow_shadow(void **state)
{
    (void)state;
    srandom((unsigned)seed);
    run_random(512);
}

static void
test_random_requests_follow_shadow_on_4kn(void **state)
{
    (void)state;
    srandom((unsigned)seed);
    run_random(4096);
}

/*
 * Many 512-byte writes into the same 4096-byte blocks, all in flight at once:
 * each must survive the others' read-modify-write (rule 10).
 */
static void
test_small_writes_into_one_block_are_serialised(void **state)
{
    FakeSession session;
    unsigned char buf[512], block[4096];

    (void)state;
    fake_session_init(&session, NULL, DISK_BYTES, 4096);
    for (unsigned round = 0; round < 50; round++) {
        for (unsigned i = 0; i < 8; i++) {
            struct fuse_write_in in = {.offset = i * 512, .size = 512};

            memset(buf, (int)(round * 8 + i), sizeof(buf));
            fake_send(&session, FUSE_WRITE, FAKE_DISK_INO, &in, sizeof(in), buf,
                      sizeof(buf));
        }
        for (unsigned i = 0; i < 8; i++) {
            int error;

            fake_reply(&session, &error);
            assert_int_equal(error, 0);
        }
        assert_int_equal(fake_read(&session, block, 4096, 0), 4096);
        for (unsigned i = 0; i < 4096; i++) {
            assert_int_equal(block[i], (round * 8 + i / 512) & 255);
        }
    }
    fake_session_deinit(&session);
}

static void
grow(void *user)
{
    FakeSession *session = user;

    assert(ftruncate(session->disk.fd, (off_t)(2 * DISK_BYTES)) == 0);
    assert(disk_map_grow(session->disk.map, 2 * DISK_BYTES, 1) == 0);
    session->disk.size_bytes = 2 * DISK_BYTES;
}

static void
test_quiesce_lets_a_disk_grow(void **state)
{
    FakeSession *session = *state;
    unsigned char buf[512] = {1};
    struct fuse_attr_out out;

    assert_int_equal(fake_write(session, buf, 512, DISK_BYTES), -EFBIG);
    face_quiesce(session->face, &session->disk, grow, session);
    assert_int_equal(fake_write(session, buf, 512, DISK_BYTES), 512);
    assert_int_equal(fake_call(session, FUSE_GETATTR, FAKE_DISK_INO,
                               &(struct fuse_getattr_in){0},
                               sizeof(struct fuse_getattr_in)),
                     0);
    memcpy(&out, session->reply, sizeof(out));
    assert_int_equal(out.attr.size, 2 * DISK_BYTES);
}

#define with_session(test)                                    \
    cmocka_unit_test_setup_teardown(test, fake_session_setup, \
                                    fake_session_teardown)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        with_session(test_init_negotiates_what_the_kernel_offers),
        with_session(test_names_are_found_and_dot_folder_is_hidden),
        with_session(test_setattr_keeps_owner_and_refuses_sizes),
        with_session(test_write_marks_before_and_after),
        with_session(test_requests_beyond_the_end_act_as_on_a_file),
        with_session(test_large_discard_reads_as_zero_at_once),
        with_session(test_recorded_zeroes_come_back_after_a_crash),
        with_session(test_zeroes_outlive_the_start_of_a_serve),
        with_session(test_zeroes_are_settled_without_a_face),
        with_session(test_text_belongs_to_its_handle),
        cmocka_unit_test(test_random_requests_follow_shadow),
        cmocka_unit_test(test_random_requests_follow_shadow_on_4kn),
        cmocka_unit_test(test_small_writes_into_one_block_are_serialised),
        with_session(test_quiesce_lets_a_disk_grow),
    };

    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : seed;
    printf("seed %llu\n", (unsigned long long)seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
