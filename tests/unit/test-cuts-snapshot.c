/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-cuts-snapshot.c - which snapshots are brought to the targets, in which
 * order, and what is dirty and durable by then
 */
#include "cuts-rig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static unsigned n_warnings;

static GLogWriterOutput
count_log(GLogLevelFlags level, const GLogField *fields, gsize n, gpointer user)
{
    n_warnings += level == G_LOG_LEVEL_WARNING;
    return quiet_log(level, fields, n, user);
}

static bool
is_clean(unsigned i, uint64_t cluster)
{
    return disk_map_is_clean(rig_disk_of(i)->map, cluster * CLUSTER, CLUSTER);
}

static bool
is_sealed(unsigned i, uint64_t cluster)
{
    struct ClusterRun run;

    return disk_map_next_owed(rig_disk_of(i)->map, cluster, cluster + 1, &run);
}

static uint64_t
cut_of(uint64_t id)
{
    Snapshot snapshot;

    assert_true(snapshot_list_get(rig->store->snapshots, id, &snapshot));
    return snapshot.cut;
}

/* With nothing dirty, long before the next cut is due. */
static void
test_snapshot_is_the_next_cut(void **state)
{
    uint64_t id;

    (void)state;
    rig_first_cut();
    id = rig_snapshot("a");
    assert_int_equal(rig_figures().snapshots_pending, 1);
    cuts_look(rig->cuts);
    /* Nothing has changed: the targets are it already. */
    rig_assert_journal("cut a2h1\nWEIR_CUT_BEGUN 2\nend vda a2h1\n"
                       "end vdb a2h1\nuploaded a a0h2\nWEIR_CUT_WHOLE 2\n");
    assert_int_equal(rig_kept().past, id);
    assert_int_equal(rig_kept().holds_us, (1600000000 + (int64_t)id) * SECOND);
    assert_int_equal(cut_of(id), 2);
    assert_int_equal(rig_figures().snapshots_pending, 0);
    rig_look_after(100);
    rig_assert_journal("");
}

/* The oldest first, and the present last. */
static void
test_snapshots_go_in_order_before_the_present(void **state)
{
    uint64_t a, b;

    (void)state;
    rig_first_cut();
    a = rig_snapshot("a");
    rig_overwrite(0, 1);
    b = rig_snapshot("b");
    rig_overwrite(1, 2);
    rig_overwrite(0, 3);
    cuts_look(rig->cuts);
    rig_assert_journal("cut a2h1\nWEIR_CUT_BEGUN 2\nallow vda a2h1\n"
                       "allow vdb a2h1\n");
    assert_int_equal(rig->allowed[0], a);
    assert_string_equal(rig_figures().snapshot, "a");
    assert_int_equal(rig_figures().snapshots_pending, 1);
    assert_true(cuts_holds_snapshot(rig->cuts, a));
    assert_false(cuts_holds_snapshot(rig->cuts, b));
    rig_send(0);
    rig_send(1);
    cuts_look(rig->cuts);
    rig_assert_journal("end vda a2h1\nend vdb a2h1\nuploaded a a0h2\n"
                       "WEIR_CUT_WHOLE 2\ncut a3h2\nWEIR_CUT_BEGUN 3\n"
                       "allow vda a3h2\nallow vdb a3h2\n");
    assert_int_equal(rig->allowed[1], b);
    assert_false(cuts_holds_snapshot(rig->cuts, a));
    assert_true(cuts_holds_snapshot(rig->cuts, b));
    g_string_truncate(rig->journal, 0);
    rig_finish_cut();
    rig_assert_journal("end vda a3h2\nend vdb a3h2\nuploaded b a0h3\n"
                       "WEIR_CUT_WHOLE 3\n");
    assert_int_equal(rig_kept().past, b);
    /* What was overwritten since is dirty all the same, and waits its time. */
    rig_look_after(9);
    rig_assert_journal("");
    rig_look_after(1);
    rig_assert_journal("cut a4h3\nWEIR_CUT_BEGUN 4\nallow vda a4h3\n"
                       "allow vdb a4h3\n");
    assert_int_equal(rig->allowed[0], 0);
    rig_finish_cut();
    assert_true(is_clean(0, 1) && is_clean(0, 3) && is_clean(1, 2));
    assert_int_equal(rig_kept().past, b);
}

/* bitmap/point-marks.h: sealed, and dirty again; what is dirty without having
 * been overwritten is sealed only. */
static void
test_overwritten_clusters_are_sealed_and_dirty_again(void **state)
{
    Disk *disk = rig_disk_of(0);
    uint64_t open;

    (void)state;
    rig_first_cut();
    rig_dirty(0); /* cluster 0 */
    rig_snapshot("a");
    rig_overwrite(0, 5);
    cuts_look(rig->cuts);
    open = disk_map_open_seq(disk->map);
    assert_true(is_sealed(0, 0) && is_sealed(0, 5) && !is_sealed(0, 6));
    rig_overwrite(0, 6); /* by its own write */
    rig_finish_cut();
    assert_true(is_clean(0, 0));
    assert_false(is_clean(0, 5) || is_clean(0, 6));
    assert_int_equal(disk_map_open_seq(disk->map), open);
}

/* Clusters that the target has got since, or that a comparison found equal: a
 * crash would not find them dirty, so they are in a checkpoint before anything
 * of the snapshot is sent. */
static void
test_what_was_clean_is_durably_dirty_before_it_is_sent(void **state)
{
    Disk *disk = rig_disk_of(0);
    uint64_t before;

    (void)state;
    rig_first_cut();
    rig_snapshot("a");
    points_keep(disk->points, points_youngest(disk->points),
                (struct ClusterRun){7, 2});
    assert_true(disk->is_tracked && is_clean(0, 7));
    before = atomic_load(&rig->store->checkpoints);
    cuts_look(rig->cuts);
    rig_assert_journal("cut a2h1\nWEIR_CUT_BEGUN 2\nallow vda a2h1\n");
    assert_true(is_sealed(0, 7) && is_sealed(0, 8));
    assert_int_equal(atomic_load(&rig->store->checkpoints), before + 1);
    rig_send(0);
    rig_crash(rig);
    rig_start(rig);
    assert_false(is_clean(0, 7) || is_clean(0, 8));
}

/* No room: what is dirty goes first, and with it what was marked. */
static void
test_what_cannot_be_made_durable_is_not_sent(void **state)
{
    Disk *disk = rig_disk_of(0);
    uint64_t a;

    (void)state;
    rig_first_cut();
    a = rig_snapshot("a");
    points_keep(disk->points, points_youngest(disk->points),
                (struct ClusterRun){7, 2});
    assert_int_equal(renameat(disk->dir_fd, "dirty", disk->dir_fd, "away"), 0);
    assert_int_equal(mkdirat(disk->dir_fd, "dirty", 0700), 0);
    n_warnings = 0;
    cuts_look(rig->cuts);
    rig_look_after(1);
    rig_assert_journal("");
    rig_look_after(10);
    rig_assert_journal("cut a2h1\nWEIR_CUT_BEGUN 2\nallow vda a2h1\n");
    assert_int_equal(rig->allowed[0], 0);
    assert_int_equal(n_warnings, 1);
    assert_int_equal(unlinkat(disk->dir_fd, "dirty", AT_REMOVEDIR), 0);
    assert_int_equal(renameat(disk->dir_fd, "away", disk->dir_fd, "dirty"), 0);
    rig_finish_cut();
    assert_int_equal(rig_kept().past, a);
    assert_int_equal(cut_of(a), 0);
}

/* Nobody sees it any more, but it arrives. */
static void
test_snapshot_is_deleted_while_it_is_brought(void **state)
{
    uint64_t id;

    (void)state;
    rig_first_cut();
    id = rig_snapshot("a");
    rig_overwrite(0, 1);
    cuts_look(rig->cuts);
    snapshot_list_remove(rig->store->snapshots, id);
    assert_true(cuts_holds_snapshot(rig->cuts, id));
    g_string_truncate(rig->journal, 0);
    rig_finish_cut();
    rig_assert_journal("end vda a2h1\nend vdb a2h1\nWEIR_CUT_WHOLE 2\n");
    assert_false(cuts_holds_snapshot(rig->cuts, id));
    assert_int_equal(rig_kept().past, id);
}

/* One that the guest has made dirty is found so. */
static void
test_what_is_dirty_needs_no_checkpoint(void **state)
{
    uint64_t before;

    (void)state;
    rig_first_cut();
    rig_snapshot("a");
    rig_overwrite(0, 7);
    before = atomic_load(&rig->store->checkpoints);
    cuts_look(rig->cuts);
    assert_int_equal(rig_figures().state, CUTS_SENDING);
    assert_int_equal(atomic_load(&rig->store->checkpoints), before);
}

static void
test_snapshot_that_is_deleted_is_passed_over(void **state)
{
    uint64_t a, b;

    (void)state;
    rig_first_cut();
    a = rig_snapshot("a");
    b = rig_snapshot("b");
    rig_delete(a);
    cuts_look(rig->cuts);
    assert_int_equal(rig_kept().past, b);
    assert_int_equal(rig_kept().holds, 2);
}

/* It has not all that the others have. */
static void
test_snapshot_that_is_not_of_all_disks_is_passed_over(void **state)
{
    Snapshot snapshot;
    uint64_t a, b;

    (void)state;
    rig_first_cut();
    a = rig_snapshot("a");
    b = rig_snapshot("b");
    assert_true(snapshot_list_get(rig->store->snapshots, a, &snapshot));
    snapshot.n_disks = 1;
    snapshot_list_put(rig->store->snapshots, &snapshot);
    assert_true(snapshot_list_get(rig->store->snapshots, b, &snapshot));
    snapshot.is_damaged = true;
    snapshot_list_put(rig->store->snapshots, &snapshot);
    rig_look_after(100);
    rig_assert_journal("");
    rig_set("vdb", "group", "no");
    cuts_look(rig->cuts);
    assert_int_equal(cut_of(a), 2);
    assert_int_equal(rig_kept().past, a);
}

static void
test_nothing_is_pending_without_cuts(void **state)
{
    (void)state;
    rig_first_cut();
    rig_set(NULL, "policy", "none");
    rig_snapshot("a");
    rig_look_after(100);
    assert_int_equal(rig_figures().snapshots_pending, 0);
    assert_int_equal(cuts_hurry(rig->cuts), 0);
}

/* A cut of the present is later than all that there are by then. */
static void
test_present_passes_over_what_is_older(void **state)
{
    Snapshot snapshot;
    uint64_t a, b;

    (void)state;
    a = rig_snapshot("a");
    assert_true(snapshot_list_get(rig->store->snapshots, a, &snapshot));
    snapshot.is_damaged = true;
    snapshot_list_put(rig->store->snapshots, &snapshot);
    cuts_look(rig->cuts);
    b = rig_snapshot("b"); /* while it is sent */
    rig_overwrite(0, 1);
    rig_finish_cut();
    assert_int_equal(rig_kept().past, a);
    assert_true(cuts_holds_snapshot(rig->cuts, b));
}

/* The relay found that a point is damaged: never again, and the rest goes on. */
static void
test_snapshot_that_cannot_be_read_is_given_up(void **state)
{
    uint64_t a, b;

    (void)state;
    rig_first_cut();
    a = rig_snapshot("a");
    rig_overwrite(0, 1);
    b = rig_snapshot("b");
    cuts_look(rig->cuts);
    g_string_truncate(rig->journal, 0);
    n_warnings = 0;
    rig->figures[0].lost_snapshot = a;
    rig_send(0); /* all of it, by the time that it is seen */
    cuts_look(rig->cuts);
    rig_assert_journal("WEIR_CUT_DEGRADED 2\nend vda a2h1\nend vdb a2h1\n"
                       "end vda a2h1\nend vdb a2h1\n"
                       "cut a3h1\nWEIR_CUT_BEGUN 3\nallow vda a3h1\n");
    assert_int_equal(n_warnings, 1);
    assert_int_equal(cut_of(a), 0);
    assert_int_equal(rig->allowed[0], b);
    assert_int_equal(rig_kept().past, a);
    assert_true(rig_figures().is_degraded);
    rig_finish_cut();
    assert_int_equal(cut_of(b), 3);
    assert_false(rig_figures().is_degraded);
}

/* The same one again, in a new life: it has a new number. */
static void
test_snapshot_under_way_is_brought_after_a_restart(void **state)
{
    (void)state;
    rig_first_cut();
    rig_snapshot("a");
    rig_overwrite(0, 1);
    cuts_look(rig->cuts);
    assert_int_equal(rig_kept().advancing, 2);
    assert_int_equal(rig_kept().past, 0);
    rig_crash(rig);
    rig_start(rig);
    assert_int_equal(rig->store->cuts.past, 0);
    rig_snapshot("a"); /* what the store has found */
    rig_overwrite(0, 1);
    cuts_look(rig->cuts);
    rig_assert_journal("cut a3h1\nWEIR_CUT_BEGUN 3\nallow vda a3h1\n");
    rig_finish_cut();
    assert_int_equal(rig_kept().past, 1);
    rig_crash(rig);
    rig_start(rig);
    assert_int_equal(rig->store->cuts.past, 1);
}

/* The daemon died between the two. */
static void
test_record_that_lacks_its_cut_is_completed(void **state)
{
    struct CutsRig *r = rig;

    (void)state;
    rig_first_cut();
    rig_snapshot("a");
    cuts_look(r->cuts);
    rig_crash(r);
    rig_start(r);
    cuts_free(r->cuts);
    rig_snapshot("a");
    rig_new_cuts(r);
    rig_assert_journal("uploaded a a0h2\n");
    assert_int_equal(cut_of(1), 2);
}

/* Unlike one of the present: a discard of after the snapshot is none of its
 * business. */
static void
test_discards_do_not_hold_a_snapshot_up(void **state)
{
    (void)state;
    rig_first_cut();
    rig_dirty(0);
    atomic_store(&rig_disk_of(0)->unpunched_bytes, CLUSTER);
    rig_look_after(100);
    rig_assert_journal("");
    rig_snapshot("a");
    rig_look_after(1);
    rig_assert_journal("cut a2h1\nWEIR_CUT_BEGUN 2\nallow vda a2h1\n");
}

static void
test_drain_waits_for_snapshots_and_the_present(void **state)
{
    uint64_t number;

    (void)state;
    rig_first_cut();
    rig_snapshot("a");
    rig_overwrite(0, 1);
    rig_snapshot("b");
    rig_overwrite(0, 2);
    number = cuts_hurry(rig->cuts);
    assert_int_equal(number, 4);
    cuts_look(rig->cuts);
    /* The one under way does not count twice. */
    assert_int_equal(cuts_hurry(rig->cuts), 4);
    rig_finish_cut();
    rig_finish_cut();
    assert_false(cuts_is_done(rig->cuts, number));
    rig_finish_cut(); /* cut-interval was not waited for */
    assert_true(cuts_is_done(rig->cuts, number));
    assert_int_equal(rig_kept().holds, 4);
    assert_true(is_clean(0, 1) && is_clean(0, 2));
    /* With nothing dirty, too; and less than all of it comes. */
    rig_snapshot("c");
    number = cuts_hurry(rig->cuts);
    assert_false(cuts_is_done(rig->cuts, number));
    cuts_look(rig->cuts);
    assert_true(cuts_is_done(rig->cuts, number));
}

/* A host whose disk is full: what is dirty drains all the same. */
static void
test_present_goes_on_while_no_state_can_be_kept(void **state)
{
    uint64_t a;

    (void)state;
    rig_first_cut();
    a = rig_snapshot("a");
    rig_overwrite(0, 1);
    cuts_look(rig->cuts);
    rig_disk_of(0)->contact = rig_disk_of(1)->contact = CONTACT_KNOWN;
    assert_true(store_save_state(rig->store, NULL));
    fault_io_arm(&rig->fault, 1, true, -ENOSPC);
    n_warnings = 0;
    rig_finish_cut();
    rig_look_after(10);
    assert_int_equal(rig_figures().state, CUTS_SENDING);
    assert_int_equal(rig->allowed[0], 0);
    assert_int_equal(cut_of(a), 0);
    assert_int_equal(n_warnings, 2); /* of the state, and of the snapshot */
    (void)fault_io_disarm(&rig->fault);
    rig_finish_cut();
    assert_int_equal(rig_kept().holds, 2);
    assert_int_equal(rig_kept().past, a);
}

static void
test_store_at_rest_is_brought_without_a_face(void **state)
{
    uint64_t id;

    (void)state;
    rig_crash(rig);
    rig->has_face = false;
    rig_start(rig);
    id = rig_snapshot("a");
    rig_overwrite(0, 1);
    cuts_look(rig->cuts);
    rig_assert_journal("WEIR_CUT_BEGUN 1\nallow vda a1h0\nallow vdb a1h0\n");
    rig_send(0);
    rig_send(1);
    cuts_look(rig->cuts);
    assert_int_equal(rig_kept().holds_us, (1600000000 + (int64_t)id) * SECOND);
    assert_true(is_clean(0, 0));
    assert_false(is_clean(0, 1));
}

static void
test_hook_is_told_which_snapshot(void **state)
{
    g_autofree char *ran = g_build_filename(rig->fixture->dir, "ran", NULL);
    g_autofree char *command =
        g_strdup_printf("echo $WEIR_CUT ${WEIR_SNAPSHOT-none} >>%s", ran);
    g_autofree char *text = NULL;

    (void)state;
    rig_first_cut();
    rig_set(NULL, "on-cut", command);
    rig_snapshot("a");
    rig_overwrite(0, 1);
    for (unsigned cut = 1; cut <= 3; cut++) {
        cuts_look(rig->cuts);
        rig_finish_cut();
        while (rig_figures().is_hook_running) {
            g_main_context_iteration(NULL, TRUE);
        }
        rig->now_us += 10 * SECOND;
    }
    assert_true(g_file_get_contents(ran, &text, NULL, NULL));
    assert_string_equal(text, "1 none\n2 a\n3 none\n");
    assert_int_equal(unlink(ran), 0);
}

#define TEST(NAME) \
    cmocka_unit_test_setup_teardown(NAME, cuts_rig_setup, cuts_rig_teardown)

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_snapshot_is_the_next_cut),
        TEST(test_snapshots_go_in_order_before_the_present),
        TEST(test_overwritten_clusters_are_sealed_and_dirty_again),
        TEST(test_what_was_clean_is_durably_dirty_before_it_is_sent),
        TEST(test_what_cannot_be_made_durable_is_not_sent),
        TEST(test_snapshot_is_deleted_while_it_is_brought),
        TEST(test_what_is_dirty_needs_no_checkpoint),
        TEST(test_snapshot_that_is_deleted_is_passed_over),
        TEST(test_snapshot_that_is_not_of_all_disks_is_passed_over),
        TEST(test_nothing_is_pending_without_cuts),
        TEST(test_present_passes_over_what_is_older),
        TEST(test_snapshot_that_cannot_be_read_is_given_up),
        TEST(test_snapshot_under_way_is_brought_after_a_restart),
        TEST(test_record_that_lacks_its_cut_is_completed),
        TEST(test_discards_do_not_hold_a_snapshot_up),
        TEST(test_drain_waits_for_snapshots_and_the_present),
        TEST(test_present_goes_on_while_no_state_can_be_kept),
        TEST(test_store_at_rest_is_brought_without_a_face),
        TEST(test_hook_is_told_which_snapshot),
    };

    g_log_set_writer_func(count_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
