/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-core-job.c - the core of a job: its map is all that it brings
 */
#include "core-job-rig.h"

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

/* What its disk is told would be of no use: a job has no settings. */
static void
test_job_is_told_what_its_owner_can_do(void **state)
{
    struct Rig *rig = *state;

    write_clusters(rig, 3, 2);
    rig->caps.size_bytes = SIZE - 512;
    start_job(rig);
    assert_int_equal(figures(rig).link, RELAY_REFUSED);
    assert_string_equal(figures(rig).error,
                        "target has 4193792 bytes, disk needs 4194304: enlarge "
                        "it or choose another for a new job");
    rig->caps.size_bytes = SIZE;
    rig->caps.can_flush = false;
    start_job(rig);
    assert_int_equal(figures(rig).link, RELAY_REFUSED);
    assert_string_equal(
        figures(rig).error,
        "target cannot flush, so nothing there is known to be durable: "
        "`weir set STORE target-unflushed=yes` if it is safe, then order the "
        "job again");
}

/*
 * Zeroes
 */
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

static bool
loads_zeroes_and_never_answers(struct Rig *rig,
                               const struct RelayAction *action)
{
    return loads_zeroes(rig, action) || action->kind == RELAY_SEND_DATA;
}

/* Of two clusters one was sent when the connection was lost; both are holes now.
 * There is no doubt about the other one, but its sum may be of anything. */
static void
test_job_doubts_nothing_that_it_never_sent(void **state)
{
    struct Rig *rig = *state;

    rig->config.is_zero = true;
    rig->target_is_zero = false;
    rig->bend = loads_zeroes_and_never_answers;
    rig->hole_from = 32 * CLUSTER;
    write_clusters(rig, 0, 2);
    write_clusters(rig, 63, 1); /* a hole, which is looked at last */
    start_job(rig);
    assert_int_equal(written(rig), 1);
    rig->bend = NULL;
    rig->hole_from = 0;
    lose(rig);
    assert_int_equal(figures(rig).doubt_clusters, 2);
    assert_int_equal(dirty(rig), 2);
    pass_time(rig, 100 * SECOND);
    assert_int_equal(seen(rig, RELAY_SEND_ZERO), 1);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).doubt_clusters, 0);
    assert_true(bitmap_get(relay_core_logged(rig->core), 0));
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

/* One that recovers takes what is sealed for its own, and gives it back. */
static void
test_job_that_turns_to_a_cut_leaves_it_sealed(void **state)
{
    struct Rig *rig = *state;
    uint64_t seq;

    rig->config.contact = CONTACT_KNOWN;
    rig->config.recovers = true;
    write_clusters(rig, 0, 8);
    start(rig);
    relay_core_set_cut(rig->core, true);
    assert_true(figures(rig).is_cut);
    seq = disk_map_seal(rig->map);
    pass_time(rig, 10 * SECOND);
    assert_int_equal(disk_map_sealed_seq(rig->map), seq);
    assert_int_equal(seen(rig, RELAY_SEND_DATA), 0);
    relay_core_allow(rig->core, seq);
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 0);
}

/* A damaged log says "all": what was not ordered is not brought for that. */
static void
test_job_in_doubt_brings_what_is_dirty(void **state)
{
    struct Rig *rig = *state;
    Bitmap *logged = bitmap_new(SIZE, BITS);

    bitmap_set_all(logged);
    rig->config.contact = CONTACT_KNOWN;
    rig->config.logged = logged;
    rig->config.is_in_doubt = rig->config.recovers = true;
    write_clusters(rig, 7, 2);
    start_job(rig);
    assert_int_equal(figures(rig).doubt_clusters, 2);
    assert_int_equal(seen(rig, RELAY_SEND_DATA), 0); /* quarantine */
    pass_time(rig, 100 * SECOND);
    assert_int_equal(figures(rig).sent_bytes, 2 * CLUSTER);
    assert_int_equal(figures(rig).doubt_clusters, 0);
    assert_int_equal(dirty(rig), 0);
    bitmap_free(logged);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup_job, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_job_brings_what_its_map_says),
        CASE(test_job_looks_at_a_target_that_has_to_be_empty),
        CASE(test_job_may_want_a_target_of_its_size),
        CASE(test_job_is_told_what_its_owner_can_do),
        CASE(test_job_need_not_make_a_zero_target_zero),
        CASE(test_job_doubts_nothing_that_it_never_sent),
        CASE(test_job_trusts_no_zeroes_of_a_target_that_it_knows),
        CASE(test_job_may_keep_the_room_of_zeroes),
        CASE(test_job_knows_its_target_by_what_it_brought),
        CASE(test_job_knows_the_target_of_an_earlier_life),
        CASE(test_job_does_not_compare_what_is_clean),
        CASE(test_job_of_a_cut_compares_nothing_before_it_is_allowed),
        CASE(test_job_that_turns_to_a_cut_leaves_it_sealed),
        CASE(test_job_in_doubt_brings_what_is_dirty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
