/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-core-job.c - the core of a job: its map is all that it brings
 */
#include "core-rig.h"

/* Everything that changes something at the target. */
static size_t
written(const struct Rig *rig)
{
    return seen(rig, RELAY_SEND_DATA) + seen(rig, RELAY_SEND_ZERO) +
           seen(rig, RELAY_SEND_TRIM);
}

static void
start_job(struct Rig *rig)
{
    start(rig);
    pass_time(rig, SECOND);
}

/* A job that has just been ordered: nobody has met the target. */
static int
setup_job(void **state)
{
    struct Rig *rig;

    (void)setup(state);
    rig = *state;
    rig->config.is_job = true;
    rig->config.contact = CONTACT_NONE;
    rig->config.accept = ACCEPT_OVERWRITE;
    rig->config.halts = true;
    return 0;
}

/* The connection, and all that was seen. */
static void
lose(struct Rig *rig)
{
    size_t i = rig->n_seen;

    while (i && rig->seen[i - 1].kind != RELAY_CONNECT) {
        i--;
    }
    assert_true(i > 0);
    rig->n_seen = 0;
    reply(rig, &rig->seen[i - 1],
          (struct RelayEvent){.kind = RELAY_LINK_LOST, .text = "gone"});
    pass_time(rig, SECOND);
}

/*
 * First contact
 */
static void
test_job_brings_what_its_map_says(void **state)
{
    struct Rig *rig = *state;

    write_clusters(rig, 3, 2);
    write_clusters(rig, 60, 1);
    start_job(rig);
    assert_int_equal(figures(rig).contact, CONTACT_KNOWN);
    assert_int_equal(figures(rig).sent_bytes, 3 * CLUSTER);
    assert_int_equal(dirty(rig), 0);
    for (size_t i = 0; i < rig->n_seen; i++) {
        uint64_t first = rig->seen[i].offset / CLUSTER;

        assert_true(rig->seen[i].kind != RELAY_SEND_DATA ||
                    (first >= 3 && first < 5) || first == 60);
    }
}

static void
test_job_looks_at_a_target_that_has_to_be_empty(void **state)
{
    struct Rig *rig = *state;

    rig->config.accept = ACCEPT_EMPTY;
    rig->target_is_zero = false;
    write_clusters(rig, 3, 2);
    start_job(rig);
    assert_int_equal(figures(rig).link, RELAY_REFUSED);
    assert_int_equal(written(rig), 0);

    rig->config.accept = ACCEPT_OVERWRITE;
    rig->n_seen = 0;
    start_job(rig);
    assert_int_equal(seen(rig, RELAY_SEND_STATUS), 0);
    assert_int_equal(seen(rig, RELAY_SEND_COMPARE), 0);
    assert_int_equal(figures(rig).sent_bytes, 2 * CLUSTER);
}

static void
test_job_may_want_a_target_of_its_size(void **state)
{
    static const int off[] = {-512, 512};
    struct Rig *rig = *state;

    rig->config.is_exact = true;
    write_clusters(rig, 3, 2);
    for (unsigned i = 0; i < 2; i++) {
        rig->caps.size_bytes = SIZE + (uint64_t)off[i];
        start_job(rig);
        assert_int_equal(figures(rig).link, RELAY_REFUSED);
        assert_string_equal(figures(rig).error,
                            i ? "Source and target have different sizes: "
                                "4194304, 4194816"
                              : "Source and target have different sizes: "
                                "4194304, 4193792");
        assert_int_equal(written(rig), 0);
    }
    rig->caps.size_bytes = SIZE;
    start_job(rig);
    assert_int_equal(dirty(rig), 0);
}

/*
 * Zeroes
 */
/* Clusters that are not odd are zero. */
static bool
loads_zeroes(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {.kind = RELAY_READ,
                               .zero = {UINT64_C(0x5555555555555555)}};

    if (action->kind != RELAY_LOAD) {
        return false;
    }
    if (action->offset / CLUSTER % 2) {
        event.zero[0] <<= 1;
    }
    reply(rig, action, event);
    return true;
}

static void
test_job_need_not_make_a_zero_target_zero(void **state)
{
    struct Rig *rig = *state;

    rig->config.is_zero = true;
    rig->bend = loads_zeroes;
    rig->hole_from = 32 * CLUSTER;
    rig->target_is_zero = false; /* nobody is to ask */
    write_clusters(rig, 0, 64);
    start_job(rig);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).sent_bytes, 16 * CLUSTER);
    assert_int_equal(figures(rig).zeroed_bytes, 0);
    assert_int_equal(seen(rig, RELAY_SEND_ZERO), 0);
    assert_int_equal(seen(rig, RELAY_SEND_STATUS), 0);

    /* What was data and is a hole by now; 40 never was anything. */
    rig->hole_from = 1 * CLUSTER;
    write_clusters(rig, 1, 3);
    write_clusters(rig, 40, 1);
    pass_time(rig, 5 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(seen(rig, RELAY_SEND_ZERO), 2);
    for (size_t i = 0; i < rig->n_seen; i++) {
        const struct RelayAction *action = &rig->seen[i];

        assert_true(action->kind != RELAY_SEND_ZERO ||
                    (action->offset / CLUSTER % 2 && action->len == CLUSTER));
    }
    /* ... and what was read as data and is zero. */
    rig->hole_from = SIZE;
    rig->n_seen = 0;
    write_clusters(rig, 4, 2);
    pass_time(rig, 5 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(written(rig), 1);
}

/* Somebody has written there, in an earlier life. */
static void
test_job_trusts_no_zeroes_of_a_target_that_it_knows(void **state)
{
    struct Rig *rig = *state;
    Bitmap *logged = bitmap_new(SIZE, BITS);

    bitmap_set_run(logged, (struct ClusterRun){5, 1});
    for (unsigned i = 0; i < 3; i++) {
        rig->config.contact = i == 0 ? CONTACT_KNOWN : CONTACT_NONE;
        rig->config.is_in_doubt = i == 1;
        rig->config.logged = i == 2 ? logged : NULL;
        rig->config.is_zero = true;
        rig->hole_from = 0;
        rig->target_is_zero = false;
        rig->n_seen = 0;
        write_clusters(rig, 0, 64);
        start_job(rig);
        pass_time(rig, 100 * SECOND);
        assert_int_equal(dirty(rig), 0);
        assert_int_equal(figures(rig).zeroed_bytes, SIZE);
    }
    bitmap_free(logged);
}

static void
test_job_may_keep_the_room_of_zeroes(void **state)
{
    struct Rig *rig = *state;

    rig->config.keeps_zeroes = true;
    rig->hole_from = 0;
    rig->target_is_zero = false;
    write_clusters(rig, 0, 4);
    start_job(rig);
    assert_int_equal(dirty(rig), 0);
    assert_true(seen(rig, RELAY_SEND_ZERO) > 0);
    for (size_t i = 0; i < rig->n_seen; i++) {
        assert_true(rig->seen[i].kind != RELAY_SEND_ZERO ||
                    rig->seen[i].keeps_room);
    }
    rig->caps.can_zero = false;
    rig->caps.can_trim = true;
    write_clusters(rig, 0, 4);
    start_job(rig);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(seen(rig, RELAY_SEND_TRIM), 0);
    assert_int_equal(figures(rig).sent_bytes, 4 * CLUSTER);
}

/*
 * Who is it?
 */
/* All sums are known. */
static bool
loads_known(struct Rig *rig, const struct RelayAction *action)
{
    if (action->kind != RELAY_LOAD) {
        return false;
    }
    reply(rig, action,
          (struct RelayEvent){.kind = RELAY_READ, .known = {UINT64_MAX}});
    return true;
}

static void
test_job_knows_its_target_by_what_it_brought(void **state)
{
    struct Rig *rig = *state;

    rig->bend = loads_known;
    write_clusters(rig, 20, 3);
    start_job(rig);
    pass_time(rig, 5 * SECOND); /* the sums are durable */
    lose(rig);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
    assert_true(seen(rig, RELAY_SEND_COMPARE) > 0);
    for (size_t i = 0; i < rig->n_seen; i++) {
        const struct RelayAction *action = &rig->seen[i];

        assert_true(action->kind != RELAY_SEND_COMPARE ||
                    (action->is_sum && action->offset >= 20 * CLUSTER &&
                     action->offset < 23 * CLUSTER && action->len == CLUSTER));
    }
    /* Another one, of which the job does not know what it would need. */
    write_clusters(rig, 40, 1);
    rig->compare_fails = true;
    lose(rig);
    assert_int_equal(figures(rig).link, RELAY_REFUSED);
    relay_core_trust(rig->core);
    relay_core_set(rig->core, 1, ACCEPT_OVERWRITE, false);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).link, RELAY_REFUSED);
    assert_int_equal(written(rig), 0);
}

/* The fourth cluster of what is read there is the first that is known. */
static bool
loads_one_known(struct Rig *rig, const struct RelayAction *action)
{
    if (action->kind != RELAY_LOAD) {
        return false;
    }
    reply(rig, action,
          (struct RelayEvent){.kind = RELAY_READ,
                              .known = {action->len > 8 * CLUSTER ? 8 : 0}});
    return true;
}

static void
test_job_knows_the_target_of_an_earlier_life(void **state)
{
    struct Rig *rig = *state;

    rig->config.contact = CONTACT_KNOWN;
    rig->bend = loads_one_known;
    rig->compare_fails = true;
    write_clusters(rig, 0, 64); /* what is clean would say nothing */
    start_job(rig);
    assert_int_equal(figures(rig).link, RELAY_REFUSED);
    assert_true(seen(rig, RELAY_SEND_COMPARE) > 0);
    for (size_t i = 0; i < rig->n_seen; i++) {
        const struct RelayAction *action = &rig->seen[i];

        assert_true(action->kind != RELAY_SEND_COMPARE ||
                    (action->is_sum && action->len == CLUSTER &&
                     action->buf_offset == 3 * CLUSTER));
    }
}

static void
test_job_does_not_compare_what_is_clean(void **state)
{
    struct Rig *rig = *state;

    rig->compare_fails = true;
    start_job(rig);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
    lose(rig);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
    relay_core_verify(rig->core, true, 0);
    pass_time(rig, 10 * SECOND);
    assert_int_equal(seen(rig, RELAY_SEND_COMPARE), 0);
    assert_int_equal(figures(rig).verify.done, 0);
    assert_false(figures(rig).verify.is_active);
    assert_int_equal(dirty(rig), 0);
}

/*
 * An earlier life
 */
static bool
loads_equal(struct Rig *rig, const struct RelayAction *action)
{
    if (action->kind == RELAY_CONNECT) {
        reply(rig, action,
              (struct RelayEvent){.kind = RELAY_LINK_LOST, .text = "no"});
        return true;
    }
    if (action->kind != RELAY_LOAD) {
        return false;
    }
    reply(rig, action,
          (struct RelayEvent){.kind = RELAY_READ,
                              .known = {UINT64_MAX},
                              .equal = {UINT64_MAX}});
    return true;
}

/* What the disk has now need not be what a cut is to have. */
static void
test_job_of_a_cut_compares_nothing_before_it_is_allowed(void **state)
{
    struct Rig *rig = *state;

    rig->config.contact = CONTACT_KNOWN;
    rig->config.recovers = true;
    rig->bend = loads_equal;
    write_clusters(rig, 0, 8);
    rig->config.is_cut = true;
    start_job(rig);
    assert_false(figures(rig).is_recovering);
    assert_int_equal(dirty(rig), 8);
    assert_int_equal(seen(rig, RELAY_LOAD), 0);

    rig->config.is_cut = false;
    start_job(rig);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).skipped_bytes, 8 * CLUSTER);
}

/*
 * Errors
 */
static struct {
    enum RelayActionKind kind; /* of which ... */
    unsigned nth;              /* ... this one fails, from 1 on; 0: none */
    int error;
    unsigned seen;
} bad;

static bool
fails(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {.kind = RELAY_FAILED, .error = bad.error};

    if (action->kind != bad.kind || ++bad.seen != bad.nth) {
        return false;
    }
    event.kind = bad.kind == RELAY_LOAD         ? RELAY_READ_FAILED
                 : bad.kind == RELAY_SEND_FLUSH ? RELAY_FLUSH_FAILED
                                                : RELAY_FAILED;
    snprintf(event.text, sizeof(event.text), "no luck");
    reply(rig, action, event);
    return true;
}

static void
start_failing(struct Rig *rig, enum RelayActionKind kind, unsigned nth,
              int error)
{
    bad.kind = kind;
    bad.nth = nth;
    bad.error = error;
    bad.seen = 0;
    rig->bend = fails;
    rig->n_seen = 0;
    start_job(rig);
}

/* It stands, for however long; then it goes on and is done. */
static void
assert_halts_and_proceeds(struct Rig *rig, bool is_read, int error)
{
    size_t n, loads;

    assert_true(figures(rig).halt.is_halted);
    assert_int_equal(figures(rig).halt.is_read, is_read);
    assert_int_equal(figures(rig).halt.error, error);
    assert_int_equal(figures(rig).halt.count, 1);
    n = written(rig);
    loads = seen(rig, RELAY_LOAD);
    pass_time(rig, 1000 * SECOND);
    assert_int_equal(written(rig), n);
    assert_int_equal(seen(rig, RELAY_LOAD), loads);
    assert_true(dirty(rig) > 0);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);

    relay_core_proceed(rig->core);
    pass_time(rig, SECOND);
    assert_false(figures(rig).halt.is_halted);
    assert_int_equal(figures(rig).halt.count, 1);
    assert_int_equal(dirty(rig), 0);
}

static void
test_job_halts_at_an_error_of_the_target(void **state)
{
    static const enum RelayActionKind kinds[] = {
        RELAY_SEND_DATA, RELAY_SEND_FLUSH, RELAY_SEND_ZERO, RELAY_SEND_TRIM};
    struct Rig *rig = *state;

    for (unsigned i = 0; i < 4; i++) {
        rig->hole_from = i < 2 ? SIZE : 0;
        rig->target_is_zero = false;
        rig->caps.can_zero = kinds[i] != RELAY_SEND_TRIM;
        rig->caps.can_trim = true;
        write_clusters(rig, 0, 8);
        start_failing(rig, kinds[i], 1, ENOSPC);
        assert_halts_and_proceeds(rig, false, ENOSPC);
    }
}

static void
test_job_halts_at_an_error_of_the_local_disk(void **state)
{
    struct Rig *rig = *state;

    write_clusters(rig, 0, 8);
    start_failing(rig, RELAY_LOAD, 1, EIO);
    assert_halts_and_proceeds(rig, true, EIO);
}

static void
test_job_halts_at_each_error_anew(void **state)
{
    struct Rig *rig = *state;

    write_clusters(rig, 0, 4); /* one op */
    start_failing(rig, RELAY_SEND_DATA, 1, EIO);
    for (unsigned i = 2; i < 10; i++) {
        bad.nth = bad.seen + 1;
        relay_core_proceed(rig->core);
        pass_time(rig, SECOND);
        assert_true(figures(rig).halt.is_halted);
        assert_int_equal(figures(rig).halt.count, i);
        assert_int_equal(seen(rig, RELAY_SEND_DATA), i);
    }
    relay_core_proceed(rig->core);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
}

/* There is another way, or another time; none of it is its owner's to judge. */
static void
test_job_does_not_halt_where_it_can_help_itself(void **state)
{
    struct Rig *rig = *state;

    rig->hole_from = 0;
    rig->target_is_zero = false;
    write_clusters(rig, 0, 8);
    start_failing(rig, RELAY_SEND_STATUS, 1, EIO);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).errors, 1);
    assert_int_equal(figures(rig).halt.count, 0);
    assert_int_equal(dirty(rig), 0);

    write_clusters(rig, 0, 8);
    start_failing(rig, RELAY_SEND_ZERO, 1, EOPNOTSUPP);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).errors, 1);
    assert_int_equal(figures(rig).halt.count, 0);
    assert_int_equal(dirty(rig), 0);

    write_clusters(rig, 0, 8);
    start_failing(rig, RELAY_SEND_ZERO, 0, 0);
    lose(rig);
    assert_int_equal(figures(rig).halt.count, 0);
    assert_int_equal(dirty(rig), 0);

    write_clusters(rig, 0, 8);
    rig->hole_from = SIZE;
    rig->config.halts = false;
    start_failing(rig, RELAY_SEND_DATA, 1, EIO);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).errors, 1);
    assert_int_equal(figures(rig).halt.count, 0);
    assert_int_equal(dirty(rig), 0);
}

/* Zeroes among data, at a target that has no WRITE_ZEROES after all. */
static bool
loads_zeroes_and_fails(struct Rig *rig, const struct RelayAction *action)
{
    return loads_zeroes(rig, action) || fails(rig, action);
}

static void
test_job_sends_zeroes_as_data_if_it_has_to(void **state)
{
    struct Rig *rig = *state;

    write_clusters(rig, 0, 2);
    bad.kind = RELAY_SEND_ZERO;
    bad.nth = 1;
    bad.seen = 0;
    bad.error = EOPNOTSUPP;
    rig->bend = loads_zeroes_and_fails;
    start_job(rig);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).halt.count, 0);
    assert_int_equal(seen(rig, RELAY_SEND_ZERO), 1);
    assert_int_equal(dirty(rig), 0);
}

/* What was sent before ends, and counts; what was read before is not sent. */
static struct RelayAction held[64];
static unsigned n_held;

static bool
hold_back(struct Rig *rig, const struct RelayAction *action)
{
    (void)rig;
    if (action->kind != RELAY_SEND_DATA && action->kind != RELAY_LOAD) {
        return false;
    }
    assert_true(n_held < sizeof(held) / sizeof(*held));
    held[n_held++] = *action;
    return true;
}

static void
test_job_lets_end_what_is_in_flight(void **state)
{
    struct Rig *rig = *state;
    struct RelayAction loads[8], sends[2];

    n_held = 0;
    rig->config.window_bytes = 4 * CLUSTER; /* an op has one cluster then */
    rig->bend = hold_back;
    write_clusters(rig, 0, 8);
    start_job(rig);
    assert_int_equal(n_held, 4);
    memcpy(loads, held, sizeof(loads));
    n_held = 0;
    answer(rig, &loads[0]);
    answer(rig, &loads[1]);
    pass_time(rig, SECOND / 10);
    assert_int_equal(n_held, 2);
    memcpy(sends, held, sizeof(sends));
    assert_int_equal(sends[0].kind, RELAY_SEND_DATA);
    n_held = 0;
    reply(rig, &sends[0],
          (struct RelayEvent){.kind = RELAY_FAILED, .error = EIO});
    answer(rig, &sends[1]);
    answer(rig, &loads[2]);
    answer(rig, &loads[3]);
    pass_time(rig, 100 * SECOND);
    assert_int_equal(n_held, 0);
    assert_int_equal(figures(rig).settled_bytes, CLUSTER);
    assert_int_equal(dirty(rig), 7);

    rig->bend = NULL;
    relay_core_proceed(rig->core);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).halt.count, 1);
}

/*
 * The window
 */
/* Of all that is asked and not answered. */
static bool
is_alone(struct Rig *rig, const struct RelayAction *action)
{
    (void)action;
    assert_true(figures(rig).inflight_bytes <= CLUSTER);
    assert_true(figures(rig).unanswered <= 1);
    return false;
}

static void
test_job_with_a_window_of_one_does_one_thing_at_a_time(void **state)
{
    struct Rig *rig = *state;
    uint64_t at = 0;

    rig->config.window_bytes = CLUSTER;
    rig->hole_from = 32 * CLUSTER;
    rig->target_is_zero = false;
    rig->bend = is_alone;
    write_clusters(rig, 0, 64);
    start_job(rig);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).window_bytes, CLUSTER);
    for (size_t i = 0; i < rig->n_seen; i++) {
        const struct RelayAction *action = &rig->seen[i];

        if (action->kind == RELAY_LOAD) {
            assert_int_equal(action->len, CLUSTER);
            assert_int_equal(action->offset, at);
        } else if (action->kind == RELAY_SEND_DATA ||
                   action->kind == RELAY_SEND_ZERO) {
            assert_int_equal(action->offset, at);
            at += action->len;
        }
    }
    assert_int_equal(at, SIZE);
}

static void
test_job_halts_after_exactly_what_was_copied(void **state)
{
    struct Rig *rig = *state;

    rig->config.window_bytes = CLUSTER;
    write_clusters(rig, 0, 8);
    start_failing(rig, RELAY_LOAD, 2, EIO);
    pass_time(rig, 10 * SECOND);
    assert_true(figures(rig).halt.is_halted);
    assert_int_equal(seen(rig, RELAY_SEND_DATA), 1);
    assert_int_equal(figures(rig).sent_bytes, CLUSTER);
    assert_int_equal(figures(rig).settled_bytes, CLUSTER);
    assert_int_equal(dirty(rig), 7);
    relay_core_proceed(rig->core);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).sent_bytes, 8 * CLUSTER);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup_job, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_job_brings_what_its_map_says),
        CASE(test_job_looks_at_a_target_that_has_to_be_empty),
        CASE(test_job_may_want_a_target_of_its_size),
        CASE(test_job_need_not_make_a_zero_target_zero),
        CASE(test_job_trusts_no_zeroes_of_a_target_that_it_knows),
        CASE(test_job_may_keep_the_room_of_zeroes),
        CASE(test_job_knows_its_target_by_what_it_brought),
        CASE(test_job_knows_the_target_of_an_earlier_life),
        CASE(test_job_does_not_compare_what_is_clean),
        CASE(test_job_of_a_cut_compares_nothing_before_it_is_allowed),
        CASE(test_job_halts_at_an_error_of_the_target),
        CASE(test_job_halts_at_an_error_of_the_local_disk),
        CASE(test_job_halts_at_each_error_anew),
        CASE(test_job_does_not_halt_where_it_can_help_itself),
        CASE(test_job_sends_zeroes_as_data_if_it_has_to),
        CASE(test_job_lets_end_what_is_in_flight),
        CASE(test_job_with_a_window_of_one_does_one_thing_at_a_time),
        CASE(test_job_halts_after_exactly_what_was_copied),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
