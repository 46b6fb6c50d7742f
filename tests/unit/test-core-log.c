/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-core-log.c - the sent-log and the sums, as the core handles them
 */
#include "core-rig.h"

/* As the relay does with what the last life's sent-log says. */
static void
start_with_log(struct Rig *rig, struct ClusterRun run)
{
    Bitmap *logged = bitmap_new(SIZE, BITS);

    bitmap_set_run(logged, run);
    rig->config.logged = logged;
    rig->config.is_in_doubt = true;
    start(rig);
    bitmap_free(logged);
    rig->config.logged = NULL;
}

static void
test_core_logged_clusters_are_in_doubt(void **state)
{
    struct Rig *rig = *state;

    write_clusters(rig, 2, 4);
    start_with_log(rig, (struct ClusterRun){3, 2});
    pass_time(rig, 59 * SECOND);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
    assert_int_equal(figures(rig).doubt_clusters, 2);
    assert_int_equal(dirty(rig), 2);
    pass_time(rig, 3 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).doubt_clusters, 0);
    assert_true(seen(rig, RELAY_SEND_COMPARE) > 4); /* those of the check */
}

/* The server of the last life may be at work still, beside a new one. */
static void
test_core_logged_clusters_wait_beside_a_new_server(void **state)
{
    struct Rig *rig = *state;

    rig->caps.is_new_process = true;
    start_with_log(rig, (struct ClusterRun){3, 2});
    pass_time(rig, 59 * SECOND);
    assert_int_equal(figures(rig).doubt_clusters, 2);
    assert_int_equal(seen(rig, RELAY_SEND_DATA), 0);
    pass_time(rig, 4 * SECOND);
    assert_int_equal(dirty(rig), 0);
}

/* The store may have known it to be settled when its sum was not durable. */
static void
test_core_logged_clusters_are_dirty(void **state)
{
    struct Rig *rig = *state;

    start_with_log(rig, (struct ClusterRun){3, 2});
    pass_time(rig, SECOND);
    assert_int_equal(dirty(rig), 2);
    pass_time(rig, 62 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(bitmap_count(relay_core_logged(rig->core)), 0);
}

/* Which clusters are equal by their sums; set by a test. */
static uint64_t equal_words[RELAY_OP_CLUSTERS_MAX / 64];

static bool
loads_tell_sums(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {.kind = RELAY_READ};

    if (action->kind != RELAY_LOAD) {
        return false;
    }
    for (uint64_t i = 0; i < action->len / CLUSTER; i++) {
        uint64_t cluster = action->offset / CLUSTER + i;
        uint64_t bit = equal_words[cluster / 64] >> cluster % 64 & 1;

        event.equal[i / 64] |= bit << i % 64;
        event.known[i / 64] |= bit << i % 64;
    }
    reply(rig, action, event);
    return true;
}

static uint64_t
sent_bytes(const struct Rig *rig)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < rig->n_seen; i++) {
        bytes += rig->seen[i].kind == RELAY_SEND_DATA ? rig->seen[i].len : 0;
    }
    return bytes;
}

static void
test_core_sends_only_what_differs(void **state)
{
    struct Rig *rig = *state;

    rig->bend = loads_tell_sums;
    equal_words[0] = 0xf0;     /* 4 .. 7 */
    write_clusters(rig, 2, 4); /* 2 .. 5 */
    write_clusters(rig, 6, 2);
    start(rig);
    pass_time(rig, 3 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(sent_bytes(rig), 2 * CLUSTER);
    assert_int_equal(figures(rig).skipped_bytes, 4 * CLUSTER);
}

static void
test_core_equal_clusters_need_no_log(void **state)
{
    struct Rig *rig = *state;

    rig->bend = loads_tell_sums;
    equal_words[0] = UINT64_MAX;
    write_clusters(rig, 0, 64);
    start(rig);
    pass_time(rig, SECOND / 2);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(seen(rig, RELAY_SEND_DATA), 0);
    assert_int_equal(seen(rig, RELAY_SEND_FLUSH), 0);
    assert_int_equal(bitmap_count(relay_core_logged(rig->core)), 0);
}

static bool
log_hangs(struct Rig *rig, const struct RelayAction *action)
{
    (void)rig;
    return action->kind == RELAY_LOG;
}

static void
test_core_sends_nothing_before_it_is_logged(void **state)
{
    struct Rig *rig = *state;
    struct RelayAction log = {.kind = RELAY_LOG};

    rig->bend = log_hangs;
    write_clusters(rig, 3, 2);
    start(rig);
    pass_time(rig, 5 * SECOND);
    assert_int_equal(seen(rig, RELAY_LOG), 1); /* one under way at a time */
    assert_int_equal(bitmap_count(relay_core_logged(rig->core)), 2);
    assert_int_equal(seen(rig, RELAY_SEND_DATA), 0);
    rig->bend = NULL;
    answer(rig, &log);
    pass_time(rig, 3 * SECOND);
    assert_int_equal(dirty(rig), 0);
}

static bool
log_fails(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {
        .kind = RELAY_LOG_FAILED, .error = EIO, .text = "EIO"};

    if (action->kind != RELAY_LOG) {
        return false;
    }
    reply(rig, action, event);
    return true;
}

static void
test_core_retries_a_log_that_failed(void **state)
{
    struct Rig *rig = *state;

    rig->bend = log_fails;
    write_clusters(rig, 3, 2);
    start(rig);
    pass_time(rig, 10 * SECOND);
    assert_int_equal(seen(rig, RELAY_SEND_DATA), 0);
    assert_in_range(seen(rig, RELAY_LOG), 5, 12);
    assert_non_null(strstr(figures(rig).error, "sent-log"));
    rig->bend = NULL;
    pass_time(rig, 3 * SECOND);
    assert_int_equal(dirty(rig), 0);
}

/* Order of the first action of each kind. */
static size_t
first(const struct Rig *rig, enum RelayActionKind kind, size_t from)
{
    while (from < rig->n_seen && rig->seen[from].kind != kind) {
        from++;
    }
    assert_true(from < rig->n_seen);
    return from;
}

static void
test_core_leaves_the_log_after_flush_and_sync(void **state)
{
    struct Rig *rig = *state;
    size_t log, data, flush, sync;

    write_clusters(rig, 3, 2);
    start(rig);
    pass_time(rig, 4 * SECOND);
    log = first(rig, RELAY_LOG, 0);
    data = first(rig, RELAY_SEND_DATA, log);
    (void)first(rig, RELAY_NOTE, log);
    flush = first(rig, RELAY_SEND_FLUSH, data);
    sync = first(rig, RELAY_SYNC, flush);
    (void)first(rig, RELAY_LOG, sync); /* without them */
    assert_int_equal(bitmap_count(relay_core_logged(rig->core)), 0);
}

static bool
sync_fails(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {.kind = RELAY_SYNCED, .error = EIO};

    if (action->kind != RELAY_SYNC) {
        return false;
    }
    reply(rig, action, event);
    return true;
}

static void
test_core_keeps_logged_what_is_not_durable(void **state)
{
    struct Rig *rig = *state;

    rig->bend = sync_fails;
    write_clusters(rig, 3, 2);
    start(rig);
    pass_time(rig, 4 * SECOND);
    assert_int_equal(dirty(rig), 0); /* the target has it all the same */
    assert_int_equal(bitmap_count(relay_core_logged(rig->core)), 2);
}

static void
test_core_does_not_believe_sums_of_logged_clusters(void **state)
{
    struct Rig *rig = *state;

    test_core_keeps_logged_what_is_not_durable(state);
    rig->n_seen = 0;
    rig->bend = loads_tell_sums;
    equal_words[0] = UINT64_MAX;
    write_clusters(rig, 3, 2);
    pass_time(rig, 4 * SECOND);
    assert_int_equal(sent_bytes(rig), 2 * CLUSTER);
    /* A later sync that succeeds has not written what the kernel dropped. */
    assert_int_equal(bitmap_count(relay_core_logged(rig->core)), 2);
}

static bool
connects_fail(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {.kind = RELAY_LINK_LOST, .text = "refused"};

    if (action->kind != RELAY_CONNECT) {
        return loads_tell_sums(rig, action);
    }
    reply(rig, action, event);
    return true;
}

static void
test_core_recovers_without_a_target(void **state)
{
    struct Rig *rig = *state;

    rig->config.recovers = true;
    rig->bend = connects_fail;
    rig->hole_from = 60 * CLUSTER;
    equal_words[0] = ~UINT64_C(0x300); /* 8 and 9 differ */
    write_clusters(rig, 0, 64);
    start(rig);
    step(rig, NULL);
    assert_true(figures(rig).is_recovering);
    pass_time(rig, 2 * SECOND);
    assert_false(figures(rig).is_recovering);
    assert_int_equal(dirty(rig), 2 + 4); /* of holes nothing is known */
    assert_int_equal(figures(rig).skipped_bytes, 58 * CLUSTER);
    assert_int_equal(bitmap_count(relay_core_logged(rig->core)), 0);
    rig->bend = NULL;
    pass_time(rig, 200 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(sent_bytes(rig), 2 * CLUSTER);
}

static void
test_core_first_contact_forgets_all_sums(void **state)
{
    struct Rig *rig = *state;
    size_t forget;

    rig->config.contact = CONTACT_NONE;
    rig->bend = loads_tell_sums;
    equal_words[0] = UINT64_MAX;
    start(rig);
    pass_time(rig, SECOND);
    forget = first(rig, RELAY_FORGET, 0);
    assert_int_equal(figures(rig).contact, CONTACT_KNOWN);
    relay_core_contact_kept(rig->core);
    equal_words[0] = 0;
    pass_time(rig, 3 * SECOND);
    assert_true(first(rig, RELAY_SEND_DATA, 0) > forget);
    assert_int_equal(dirty(rig), 0);
}

static bool
forget_fails(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {.kind = RELAY_FORGOTTEN, .error = EIO};

    if (action->kind != RELAY_FORGET) {
        return log_hangs(rig, action);
    }
    reply(rig, action, event);
    return true;
}

/* The sent-log says of all clusters what remote-sums cannot be made to say. */
static void
test_core_first_contact_logs_all_if_it_cannot_forget(void **state)
{
    struct Rig *rig = *state;
    struct RelayAction log = {.kind = RELAY_LOG};

    rig->config.contact = CONTACT_NONE;
    rig->bend = forget_fails;
    start(rig);
    pass_time(rig, 5 * SECOND);
    assert_int_equal(bitmap_count(relay_core_logged(rig->core)), 64);
    assert_int_equal(figures(rig).contact, CONTACT_NONE); /* not yet durable */
    assert_non_null(strstr(figures(rig).error, "remote-sums"));
    rig->bend = loads_tell_sums;
    equal_words[0] = UINT64_MAX; /* of the target before */
    answer(rig, &log);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).contact, CONTACT_KNOWN);
    relay_core_contact_kept(rig->core);
    pass_time(rig, 3 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(sent_bytes(rig), SIZE);
    assert_int_equal(bitmap_count(relay_core_logged(rig->core)), 64);
    assert_int_equal(seen(rig, RELAY_FORGET), 1);
}

static struct RelayAction held;

static bool
first_load_hangs(struct Rig *rig, const struct RelayAction *action)
{
    if (action->kind != RELAY_LOAD || held.kind) {
        return loads_tell_sums(rig, action);
    }
    held = *action;
    return true;
}

/* They were read when another target was there. */
static void
test_core_does_not_believe_sums_of_another_target(void **state)
{
    struct Rig *rig = *state;

    held = (struct RelayAction){0};
    start(rig);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).link, RELAY_ONLINE);
    rig->bend = first_load_hangs;
    write_clusters(rig, 0, 64);
    pass_time(rig, 2 * SECOND);
    assert_int_equal(held.kind, RELAY_LOAD);
    relay_core_retarget(rig->core, ACCEPT_EMPTY, rig->now_us);
    pass_time(rig, SECOND);
    assert_int_equal(seen(rig, RELAY_FORGET), 1);
    assert_int_equal(figures(rig).contact, CONTACT_KNOWN);
    relay_core_contact_kept(rig->core);
    equal_words[0] = UINT64_MAX;
    (void)loads_tell_sums(rig, &held);
    equal_words[0] = 0;
    pass_time(rig, 3 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(figures(rig).skipped_bytes, 0);
}

static bool
sums_differ(struct Rig *rig, const struct RelayAction *action)
{
    struct RelayEvent event = {.kind = RELAY_COMPARED};

    if (action->kind == RELAY_SEND_COMPARE && action->is_sum) {
        reply(rig, action, event);
        return true;
    }
    return loads_tell_sums(rig, action);
}

static void
test_core_knows_its_target_by_sums(void **state)
{
    struct Rig *rig = *state;

    rig->bend = sums_differ;
    equal_words[0] = UINT64_MAX;
    write_clusters(rig, 0, 64); /* nothing is clean */
    start(rig);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).link, RELAY_REFUSED);
    assert_non_null(strstr(figures(rig).error, "not what was written"));
    assert_int_equal(seen(rig, RELAY_SEND_DATA), 0);
}

/* All is dirty, and of these clusters alone something is known. */
static enum RelayLink
link_with_sums_of(struct Rig *rig, const uint64_t *clusters, unsigned count)
{
    Bitmap *logged = bitmap_new(SIZE, BITS);

    bitmap_set_run(logged, (struct ClusterRun){0, 64});
    equal_words[0] = 0;
    for (unsigned i = 0; i < count; i++) {
        bitmap_clear_run(logged, (struct ClusterRun){clusters[i], 1});
        equal_words[0] |= UINT64_C(1) << clusters[i];
    }
    write_clusters(rig, 0, 64);
    rig->bend = sums_differ;
    rig->config.logged = logged;
    start(rig);
    pass_time(rig, SECOND);
    rig->config.logged = NULL;
    bitmap_free(logged);
    return figures(rig).link;
}

/* It may have been the last one, and shorter, before the disk grew. */
static void
test_core_one_sum_says_nothing(void **state)
{
    assert_int_equal(link_with_sums_of(*state, (const uint64_t[]){63}, 1),
                     RELAY_ONLINE);
}

static void
test_core_two_sums_say_it_is_another(void **state)
{
    assert_int_equal(link_with_sums_of(*state, (const uint64_t[]){8, 63}, 2),
                     RELAY_REFUSED);
}

/* The store's state is gone; its sums are not. */
static void
test_core_finds_a_lost_target_by_sums(void **state)
{
    struct Rig *rig = *state;

    rig->config.contact = CONTACT_LOST;
    rig->bend = loads_tell_sums;
    equal_words[0] = UINT64_MAX;
    write_clusters(rig, 0, 64);
    start(rig);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).contact, CONTACT_KNOWN);
    assert_int_equal(seen(rig, RELAY_FORGET), 0);
    relay_core_contact_kept(rig->core);
    pass_time(rig, 3 * SECOND);
    assert_int_equal(dirty(rig), 0);
    assert_int_equal(sent_bytes(rig), 0);
}

static void
test_core_looks_at_a_target_that_sums_do_not_know(void **state)
{
    struct Rig *rig = *state;

    rig->config.contact = CONTACT_LOST;
    rig->target_is_zero = false; /* it shows data */
    write_clusters(rig, 0, 64);
    start(rig);
    pass_time(rig, SECOND);
    assert_int_equal(figures(rig).contact, CONTACT_NONE);
    assert_int_equal(figures(rig).link, RELAY_REFUSED);
    assert_int_equal(sent_bytes(rig), 0);
}

static int
fresh(void **state)
{
    memset(equal_words, 0, sizeof(equal_words));
    return setup(state);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, fresh, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_core_logged_clusters_are_in_doubt),
        CASE(test_core_logged_clusters_wait_beside_a_new_server),
        CASE(test_core_logged_clusters_are_dirty),
        CASE(test_core_sends_only_what_differs),
        CASE(test_core_equal_clusters_need_no_log),
        CASE(test_core_sends_nothing_before_it_is_logged),
        CASE(test_core_retries_a_log_that_failed),
        CASE(test_core_leaves_the_log_after_flush_and_sync),
        CASE(test_core_keeps_logged_what_is_not_durable),
        CASE(test_core_does_not_believe_sums_of_logged_clusters),
        CASE(test_core_recovers_without_a_target),
        CASE(test_core_first_contact_forgets_all_sums),
        CASE(test_core_first_contact_logs_all_if_it_cannot_forget),
        CASE(test_core_does_not_believe_sums_of_another_target),
        CASE(test_core_knows_its_target_by_sums),
        CASE(test_core_one_sum_says_nothing),
        CASE(test_core_two_sums_say_it_is_another),
        CASE(test_core_finds_a_lost_target_by_sums),
        CASE(test_core_looks_at_a_target_that_sums_do_not_know),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
