/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The oracle itself: what it has to let pass, and damage made by hand that it
 * has to find. A crash test is worth as much as this.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/scratch.h"
#include "tests/lib/stamp.h"
#include "tests/lib/test.h"

#define DISK    7
#define SECTORS 64

struct Rig {
    char *dir;
    StampLog log;
    unsigned char disk[SECTORS][STAMP_SECTOR];
    uint64_t found;
};

static int
setup(void **state)
{
    struct Rig *rig = calloc(1, sizeof(*rig));
    char *path;

    rig->dir = scratch_new();
    assert_true(asprintf(&path, "%s/log", rig->dir) > 0);
    assert_int_equal(stamp_log_create(path, DISK, SECTORS), 0);
    assert_int_equal(stamp_log_create(path, DISK, SECTORS), -EEXIST);
    assert_int_equal(stamp_log_open(&rig->log, path), 0);
    free(path);
    *state = rig;
    return 0;
}

static int
teardown(void **state)
{
    struct Rig *rig = *state;

    stamp_log_close(&rig->log);
    scratch_free(rig->dir);
    free(rig);
    return 0;
}

/* As far as a request comes. */
enum Until { ISSUED, LANDED, ACKED, SYNCED };

static uint64_t
request(struct Rig *rig, enum StampOp op, uint64_t first, uint64_t count,
        enum Until until)
{
    uint64_t sequence = stamp_issue(&rig->log, 0, op, first, count);

    for (uint64_t i = first; i < first + count && until >= LANDED; i++) {
        if (op == STAMP_WRITE) {
            stamp_fill(rig->disk[i], DISK, i, sequence);
        } else {
            memset(rig->disk[i], 0, STAMP_SECTOR);
        }
    }
    stamp_answer(&rig->log, 0, until >= ACKED);
    if (until == SYNCED) {
        stamp_synced(&rig->log, first, count, sequence);
    }
    return sequence;
}

static enum StampFault
judge(struct Rig *rig, uint64_t number)
{
    return stamp_judge(&rig->log, number, rig->disk[number], false,
                       &rig->found);
}

static enum StampFault
judge_acked(struct Rig *rig, uint64_t number)
{
    return stamp_judge(&rig->log, number, rig->disk[number], true, &rig->found);
}

static void
sound_at_every_stage(void **state)
{
    struct Rig *rig = *state;

    assert_int_equal(judge(rig, 0), STAMP_SOUND); /* never written */
    for (enum Until until = ISSUED; until <= SYNCED; until++) {
        uint64_t sequence = request(rig, STAMP_WRITE, 3, 4, until);

        for (uint64_t i = 3; i < 7; i++) {
            assert_int_equal(judge(rig, i), STAMP_SOUND);
            assert_int_equal(judge_acked(rig, i), STAMP_SOUND);
        }
        if (until >= LANDED) {
            assert_int_equal(rig->found, sequence);
        }
    }
    assert_int_equal(judge(rig, 2), STAMP_SOUND);
    assert_int_equal(judge(rig, 7), STAMP_SOUND);
}

static void
lost_fsynced_write_is_found(void **state)
{
    struct Rig *rig = *state;
    unsigned char old[STAMP_SECTOR];

    request(rig, STAMP_WRITE, 5, 1, SYNCED);
    memcpy(old, rig->disk[5], STAMP_SECTOR);
    request(rig, STAMP_WRITE, 5, 1, SYNCED);
    assert_int_equal(judge(rig, 5), STAMP_SOUND);
    memcpy(rig->disk[5], old, STAMP_SECTOR);
    assert_int_equal(judge(rig, 5), STAMP_LOST);
    memset(rig->disk[5], 0, STAMP_SECTOR);
    assert_int_equal(judge(rig, 5), STAMP_ZEROES);
}

/* Without an fsync the power may take it; a process' death may not. */
static void
lost_acknowledged_write_is_found(void **state)
{
    struct Rig *rig = *state;
    unsigned char old[STAMP_SECTOR];

    request(rig, STAMP_WRITE, 5, 1, SYNCED);
    memcpy(old, rig->disk[5], STAMP_SECTOR);
    request(rig, STAMP_WRITE, 5, 1, ACKED);
    memcpy(rig->disk[5], old, STAMP_SECTOR);
    assert_int_equal(judge(rig, 5), STAMP_SOUND);
    assert_int_equal(judge_acked(rig, 5), STAMP_LOST);
}

static void
torn_sector_is_found(void **state)
{
    struct Rig *rig = *state;
    unsigned char old[STAMP_SECTOR];

    request(rig, STAMP_WRITE, 9, 1, SYNCED);
    memcpy(old, rig->disk[9], STAMP_SECTOR);
    request(rig, STAMP_WRITE, 9, 1, LANDED);
    for (size_t cut = 33; cut < STAMP_SECTOR; cut++) {
        unsigned char whole[STAMP_SECTOR];

        memcpy(whole, rig->disk[9], STAMP_SECTOR);
        memcpy(rig->disk[9] + cut, old + cut, STAMP_SECTOR - cut);
        assert_int_equal(judge(rig, 9), STAMP_TORN);
        memcpy(rig->disk[9], whole, STAMP_SECTOR);
    }
}

static void
single_bit_is_found(void **state)
{
    struct Rig *rig = *state;

    request(rig, STAMP_WRITE, 9, 1, SYNCED);
    for (size_t bit = 0; bit < STAMP_SECTOR * 8; bit++) {
        rig->disk[9][bit / 8] ^= (unsigned char)(1 << bit % 8);
        assert_int_not_equal(judge(rig, 9), STAMP_SOUND);
        rig->disk[9][bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    memset(rig->disk[9], 0xff, STAMP_SECTOR);
    assert_int_equal(judge(rig, 9), STAMP_GARBAGE);
}

static void
sector_of_another_place_is_found(void **state)
{
    struct Rig *rig = *state;
    uint64_t sequence = request(rig, STAMP_WRITE, 10, 8, SYNCED);

    memcpy(rig->disk[11], rig->disk[12], STAMP_SECTOR);
    assert_int_equal(judge(rig, 11), STAMP_MISPLACED);
    assert_int_equal(judge(rig, 12), STAMP_SOUND);
    stamp_fill(rig->disk[13], DISK + 1, 13, sequence);
    assert_int_equal(judge(rig, 13), STAMP_MISPLACED);
}

static void
what_was_never_issued_is_found(void **state)
{
    struct Rig *rig = *state;
    uint64_t sequence = request(rig, STAMP_WRITE, 10, 1, SYNCED);

    stamp_fill(rig->disk[10], DISK, 10, sequence + 1);
    assert_int_equal(judge(rig, 10), STAMP_NEVER);
    /* Nor was a discard of it. */
    memset(rig->disk[10], 0, STAMP_SECTOR);
    assert_int_equal(judge(rig, 10), STAMP_ZEROES);
}

static void
discards_count_as_requests(void **state)
{
    struct Rig *rig = *state;
    unsigned char old[STAMP_SECTOR];

    request(rig, STAMP_WRITE, 20, 1, SYNCED);
    memcpy(old, rig->disk[20], STAMP_SECTOR);
    request(rig, STAMP_DISCARD, 20, 1, ISSUED);
    assert_int_equal(judge(rig, 20), STAMP_SOUND); /* not yet */
    request(rig, STAMP_DISCARD, 20, 1, SYNCED);
    assert_int_equal(judge(rig, 20), STAMP_SOUND);
    memcpy(rig->disk[20], old, STAMP_SECTOR); /* the discard is lost */
    assert_int_equal(judge(rig, 20), STAMP_LOST);
    memset(rig->disk[20], 0, STAMP_SECTOR);

    request(rig, STAMP_WRITE, 20, 1, ACKED);
    memset(rig->disk[20], 0, STAMP_SECTOR);
    assert_int_equal(judge(rig, 20), STAMP_SOUND);
    assert_int_equal(judge_acked(rig, 20), STAMP_ZEROES);
    request(rig, STAMP_WRITE, 20, 1, SYNCED);
    memset(rig->disk[20], 0, STAMP_SECTOR); /* an old discard, executed late */
    assert_int_equal(judge(rig, 20), STAMP_ZEROES);
}

/* What was found after one fault must be there after the next. */
static void
adopted_content_has_to_stay(void **state)
{
    struct Rig *rig = *state;
    unsigned char late[STAMP_SECTOR], old[STAMP_SECTOR];

    request(rig, STAMP_WRITE, 30, 1, SYNCED);
    memcpy(old, rig->disk[30], STAMP_SECTOR);
    request(rig, STAMP_WRITE, 30, 1, LANDED);
    memcpy(late, rig->disk[30], STAMP_SECTOR);

    memcpy(rig->disk[30], old, STAMP_SECTOR);
    assert_int_equal(judge(rig, 30), STAMP_SOUND);
    stamp_adopt(&rig->log, 30, rig->found, false);
    assert_int_equal(judge(rig, 30), STAMP_SOUND);
    memcpy(rig->disk[30], late, STAMP_SECTOR); /* a write of the dead */
    assert_int_equal(judge(rig, 30), STAMP_NEVER);

    request(rig, STAMP_WRITE, 30, 1, LANDED);
    assert_int_equal(judge(rig, 30), STAMP_SOUND);
    stamp_adopt(&rig->log, 30, rig->found, false);
    memcpy(rig->disk[30], old, STAMP_SECTOR);
    assert_int_equal(judge(rig, 30), STAMP_LOST);
}

static void
counts_add_up(void **state)
{
    struct Rig *rig = *state;
    StampCounts counts = {0};

    request(rig, STAMP_WRITE, 0, 8, SYNCED);
    request(rig, STAMP_WRITE, 4, 8, ACKED);
    request(rig, STAMP_WRITE, 10, 1, LANDED);
    request(rig, STAMP_WRITE, 20, 1, ACKED);
    memset(rig->disk[20], 0, STAMP_SECTOR);
    memset(rig->disk[0], 1, STAMP_SECTOR);
    for (uint64_t i = 0; i < SECTORS; i++) {
        stamp_count(&rig->log, i, rig->disk[i], false, &counts, &rig->found);
    }
    assert_int_equal(counts.stamped, 11);
    assert_int_equal(counts.zeroes, SECTORS - 12);
    assert_int_equal(counts.unsynced, 8);
    assert_int_equal(counts.unacked, 1);
    assert_int_equal(counts.taken, 1);
    assert_int_equal(counts.faults[STAMP_GARBAGE], 1);
    assert_int_equal(counts.faults[STAMP_SOUND], SECTORS - 1);
}

static StampLog
copy_log(const StampLog *log)
{
    StampLog copy = {.header = malloc(log->length_bytes),
                     .length_bytes = log->length_bytes};

    assert_non_null(copy.header);
    memcpy(copy.header, log->header, log->length_bytes);
    copy.entries = (StampEntry *)(copy.header + 1);
    return copy;
}

/* 1, 2 are before the instant, 3 is about then, 4 is after it. */
static void
an_instant_has_two_bounds(void **state)
{
    static const struct {
        uint64_t sequence; /* 0: zeroes */
        enum StampFault fault;
    } cases[] = {{1, STAMP_LOST},
                 {2, STAMP_SOUND},
                 {3, STAMP_SOUND},
                 {4, STAMP_NEVER},
                 {0, STAMP_ZEROES}};
    struct Rig *rig = *state;
    StampLog before, after, late;

    request(rig, STAMP_WRITE, 9, 1, SYNCED);
    request(rig, STAMP_WRITE, 9, 1, ACKED);
    before = copy_log(&rig->log);
    request(rig, STAMP_WRITE, 9, 1, ACKED);
    after = copy_log(&rig->log);
    request(rig, STAMP_WRITE, 9, 1, ACKED);
    late = copy_log(&rig->log); /* whose header is that of `after` */
    late.header->next_sequence = after.header->next_sequence;
    stamp_between(&before, &after);
    stamp_between(&before, &late);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        memset(rig->disk[9], 0, STAMP_SECTOR);
        if (cases[i].sequence) {
            stamp_fill(rig->disk[9], DISK, 9, cases[i].sequence);
        }
        assert_int_equal(
            stamp_judge(&after, 9, rig->disk[9], true, &rig->found),
            cases[i].fault);
        assert_int_equal(stamp_judge(&late, 9, rig->disk[9], true, &rig->found),
                         cases[i].fault);
    }
    free(before.header);
    free(after.header);
    free(late.header);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(sound_at_every_stage),
        TEST(lost_fsynced_write_is_found),
        TEST(lost_acknowledged_write_is_found),
        TEST(torn_sector_is_found),
        TEST(single_bit_is_found),
        TEST(sector_of_another_place_is_found),
        TEST(what_was_never_issued_is_found),
        TEST(discards_count_as_requests),
        TEST(adopted_content_has_to_stay),
        TEST(counts_add_up),
        TEST(an_instant_has_two_bounds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
