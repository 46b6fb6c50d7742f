/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-swap.c [SEED] - the power goes while a file is swapped
 *
 * Some swaps are recorded (store_io_swap()). In the first a call fails, or is
 * the last of a process that was killed: the next swap goes on from what is in
 * the kernel's memory then, which need not be what is on disk. For every
 * instant of the recording states are built that a power cut may leave
 * (states.h). The file has to have one of the contents, whole, and none from
 * before the last swap that succeeded.
 *
 * With any one of the three syncs of a swap left out that has to fail.
 */
#include "states.h"
#include "tests/lib/fault-io.h"
#include "tests/lib/record-io.h"
#include "tests/lib/scratch.h"
#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define LEN     4096
#define MADE    2 /* swaps before the recording: the file and its spare */
#define SWAPS   5 /* with those */
#define CALLS   8 /* of a swap that goes well */
#define SYNCS   3 /* among them */
#define DRAWN   64
#define NO_SWAP UINT32_MAX

static uint64_t seed0;

struct Case {
    unsigned fail_at; /* a call of the first swap; 0: none */
    bool is_killed;   /* it has no more */
    bool has_spare;
    unsigned left_out; /* the n-th sync of each swap; 0: none */
};

struct Run {
    struct Case how;
    RecordLog log;
    size_t first[SWAPS];   /* entry of the log */
    uint64_t ended[SWAPS]; /* tick; NEVER: it failed */
};

static int
swap(StoreIo *io, int dir_fd, unsigned number)
{
    char data[LEN];

    memset(data, 'a' + (int)number, sizeof(data));
    return store_io_swap(io, dir_fd, "state", "spare", data, LEN, 0600);
}

/* As if the program had not asked for it. */
static void
leave_sync_out(struct Run *run, unsigned number)
{
    size_t end = number + 1 < SWAPS ? run->first[number + 1] : run->log.count;
    unsigned syncs = 0;

    for (size_t i = run->first[number]; i < end; i++) {
        RecordEntry *entry = run->log.entries[i];

        if (entry->kind == RECORD_SYNC && ++syncs == run->how.left_out) {
            entry->kind = RECORD_MARK;
        }
    }
}

static void
record(struct Run *run)
{
    char *dir = scratch_new();
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    RecordIo recorder;
    FaultIo fault;

    assert_true(dir_fd >= 0);
    for (unsigned i = 0; i < MADE; i++) {
        assert_int_equal(swap(store_io_kernel(), dir_fd, i), 0);
        run->ended[i] = 0;
    }
    if (!run->how.has_spare) {
        assert_int_equal(unlinkat(dir_fd, "spare", 0), 0);
    }
    record_log_init(&run->log);
    record_log_attach(&run->log, dir);
    record_io_init(&recorder, store_io_kernel(), &run->log);
    fault_io_init(&fault, &recorder.io);
    fault.is_torn = true;
    fault_io_arm(&fault, run->how.fail_at, run->how.is_killed, -EIO);
    for (unsigned i = MADE; i < SWAPS; i++) {
        run->first[i] = run->log.count;
        run->ended[i] =
            swap(&fault.io, dir_fd, i) ? RECORD_NEVER : run->log.tick;
        fault_io_disarm(&fault);
    }
    for (unsigned i = MADE; i < SWAPS; i++) {
        leave_sync_out(run, i);
    }
    close(dir_fd);
    scratch_free(dir);
}

/* Which swap's content the file has in the state chosen. */
static unsigned
content_of(const CrashStates *states)
{
    for (size_t i = 0; i < states->now_names.count; i++) {
        const struct CrashName *name = &states->now_names.list[i];
        const struct CrashFile *file = &states->files[name->node];

        if (!strcmp(name->name, "state")) {
            return file->now_size == LEN &&
                           !memcmp(file->now, file->now + 1, LEN - 1)
                       ? (unsigned)(file->now[0] - 'a')
                       : NO_SWAP;
        }
    }
    return NO_SWAP;
}

static bool
is_good_at(const struct Run *run, CrashStates *states, uint64_t tick)
{
    unsigned newest = 0;
    bool is_good = true;

    crash_states_seek(states, tick);
    for (unsigned i = 0; i < SWAPS; i++) {
        newest = run->ended[i] <= tick ? i : newest;
    }
    uint64_t count = crash_states_systematic(states) + DRAWN;

    for (uint64_t variant = 0; is_good && variant < count; variant++) {
        crash_states_choose(states, variant);
        unsigned content = content_of(states);

        is_good = content >= newest && content < SWAPS;
        if (!is_good && !run->how.left_out) {
            printf("tick %llu, variant %llu: content %d, fault at call %u\n",
                   (unsigned long long)tick, (unsigned long long)variant,
                   (int)content, run->how.fail_at);
            crash_states_print(states);
        }
        crash_states_undo(states);
    }
    return is_good;
}

static bool
is_good_run(struct Case how)
{
    struct Run run = {.how = how};
    CrashStates states;
    bool is_good = true;

    record(&run);
    crash_states_init(&states, &run.log, &(struct CrashBegin){.seed = seed0});
    for (uint64_t tick = 0; is_good && tick <= run.log.tick; tick++) {
        is_good = is_good_at(&run, &states, tick);
    }
    crash_states_deinit(&states);
    record_log_deinit(&run.log);
    return is_good;
}

/* Without a spare there are five more. */
static void
test_power_cut_leaves_one_content(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned n = 0; n <= CALLS + 5; n++) {
            assert_true(is_good_run((struct Case){
                .fail_at = n, .is_killed = i & 1, .has_spare = i & 2}));
        }
    }
}

static void
test_each_sync_is_needed(void **state)
{
    (void)state;
    for (unsigned sync = 1; sync <= SYNCS; sync++) {
        bool is_good = true;

        for (unsigned n = 0; is_good && n <= CALLS; n++) {
            is_good = is_good_run((struct Case){.fail_at = n,
                                                .is_killed = true,
                                                .has_spare = true,
                                                .left_out = sync});
        }
        assert_false(is_good);
    }
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_cut_leaves_one_content),
        cmocka_unit_test(test_each_sync_is_needed),
    };

    seed0 = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
