/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-control-transaction.c - all of it at one instant, or nothing
 */
#include "control-world.h"

#define ACTION(TYPE, DATA) "{'type':'" TYPE "','data':{" DATA "}}"
#define BITMAP(VERB, DATA) \
    ACTION("block-dirty-bitmap-" VERB, "'node':'vda'," DATA)
#define ABORT "{'type':'abort'}"
#define BACKUP(ID, MORE)                                     \
    ACTION("blockdev-backup", "'device':'vda','job-id':'" ID \
                              "','target':'nbd://localhost/" ID "'," MORE)

static void
test_transaction_that_is_aborted_leaves_nothing(void **state)
{
    static const char *const actions[] = {
        BITMAP("add", "'name':'x'") "," BITMAP("add", "'name':'y'"),
        BITMAP("clear", "'name':'a'"),
        BITMAP("remove", "'name':'a'"),
        BITMAP("disable", "'name':'a'") "," BITMAP("enable", "'name':'b'"),
        BITMAP("merge", "'target':'b','bitmaps':['a']"),
        BITMAP("remove",
               "'name':'a'") "," BITMAP("add", "'name':'a','granularity':512"),
        BITMAP("clear", "'name':'a'") "," BITMAP(
            "merge", "'target':'a','bitmaps':['b']") "," BITMAP("remove",
                                                                "'name':'a'"),
        BITMAP("add", "'name':'x'") "," BITMAP(
            "remove", "'name':'x'") "," BITMAP("add", "'name':'x'"),
    };
    struct World *w = *state;

    tell(w, "block-dirty-bitmap-add", "'node':'vda','name':'a'");
    tell(w, "block-dirty-bitmap-add",
         "'node':'vda','name':'b','disabled':true,'persistent':true");
    write_clusters(w, 7, 3);
    for (unsigned i = 0; i < G_N_ELEMENTS(actions); i++) {
        g_autofree char *aborted =
            g_strdup_printf("'actions':[%s," ABORT "]", actions[i]);
        g_autofree char *failed = g_strdup_printf(
            "'actions':[%s," BITMAP("clear", "'name':'none'") "]", actions[i]);

        refused(w, "transaction", aborted, GENERIC,
                "Transaction aborted using Abort action");
        assert_bitmaps(w, "a 65536 3 r--, b 65536 0 --p");
        refused(w, "transaction", failed, GENERIC,
                "Bitmap 'none' could not be found: disk vda has none of this "
                "name");
        assert_bitmaps(w, "a 65536 3 r--, b 65536 0 --p");
    }
    write_clusters(w, 20, 1);
    assert_bitmaps(w, "a 65536 4 r--, b 65536 0 --p");
}

static void
test_later_actions_see_what_earlier_ones_did(void **state)
{
    struct World *w = *state;

    tell(w, "block-dirty-bitmap-add", "'node':'vda','name':'a'");
    write_clusters(w, 7, 3);
    tell(
        w, "transaction",
        "'actions':[" BITMAP("add", "'name':'b','disabled':true") "," BITMAP(
            "merge",
            "'target':'b','bitmaps':['a']") "," BITMAP("clear",
                                                       "'name':'a'") "," BITMAP("add",
                                                                                "'name':'c'") "]");
    assert_bitmaps(w, "a 65536 0 r--, b 65536 3 ---, c 65536 0 r--");
    tell(w, "transaction", "'actions':[]");
}

static void
test_transaction_is_durable(void **state)
{
    struct World *w = *state;
    struct NamedFigures figures;
    Store *other;

    tell(w, "block-dirty-bitmap-add",
         "'node':'vda','name':'a','persistent':true");
    write_clusters(w, 7, 3);
    tell(w, "transaction",
         "'actions':[" BITMAP("add", "'name':'b','persistent':true") "," BITMAP(
             "merge", "'target':'b','bitmaps':['a']") "]");
    other = fixture_open(w->store_fixture, STORE_OPEN_READ);
    assert_true(named_find(other->disks[0]->bitmaps, "b", &figures));
    assert_true(figures.count_bytes >= 3 * CLUSTER);
    store_free(other);
}

static void
test_malformed_transactions_do_nothing(void **state)
{
    static const char *const rows[][2] = {
        {"", "Parameter 'actions' is missing"},
        {"'actions':[1]",
         "Invalid parameter type for 'actions', expected: object"},
        {"'actions':[{}]", "Parameter 'type' is missing"},
        {"'actions':[{'type':'drive-backup'}]",
         "Parameter 'type' does not accept value 'drive-backup'"},
        {"'actions':[" BITMAP("add", "'name':'x'") "," BITMAP("add",
                                                              "'x':1") "]",
         "Parameter 'name' is missing"},
        {"'actions':[" BITMAP("add", "'name':'x'") ",{'type':'abort',"
                                                   "'data':{'x':1}}]",
         "Parameter 'x' is unexpected"},
        {"'actions':[],'properties':{'completion-mode':'some'}",
         "Parameter 'completion-mode' does not accept value 'some'"},
        {"'actions':[],'properties':{'x':'some'}",
         "Parameter 'x' is unexpected"},
        {"'actions':[" BITMAP("add", "'name':'x'") "," BACKUP(
             "j", "'sync':'incremental'") "]",
         "must provide a valid bitmap name for 'incremental' sync mode"},
        {"'actions':[" BITMAP("add", "'name':'x'") "," BACKUP(
             "9", "'sync':'full'") "]",
         "Invalid job ID '9'"},
        {"'actions':[" BITMAP("add", "'name':'x'") "," BACKUP(
             "j", "'sync':'full'") "," BACKUP("j", "'sync':'full'") "]",
         "Job ID 'j' already in use"},
        /* Files are looked at before anything is done. */
        {"'actions':[" ABORT
         "," ACTION("blockdev-backup",
                    "'device':'vda','job-id':'j','sync':'full','target':"
                    "'nbds://localhost/x?tls-psk-file=/none/psk'") "]",
         "/none/psk: No such file or directory"},
    };
    struct World *w = *state;

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        refused(w, "transaction", rows[i][0], GENERIC, rows[i][1]);
        assert_bitmaps(w, "");
        assert_int_equal(fake.jobs, 0);
    }
    refused(w, "transaction",
            "'actions':[{'type':'blockdev-backup','data':{'device':'vdz',"
            "'target':'/x','sync':'full'}}]",
            "DeviceNotFound", "Cannot find device='vdz' nor node-name='vdz'");
}

static void
test_jobs_of_a_transaction_have_one_instant(void **state)
{
    struct World *w = *state;

    tell(w, "transaction",
         "'actions':[" BITMAP("add", "'name':'x'") "," BACKUP(
             "one", "'sync':'full'") "," BACKUP("two", "'sync':'full'") "]");
    assert_int_equal(fake.snapshots, 1);
    assert_int_equal(fake.jobs, 2);
    assert_true(jobs_has(w->daemon.jobs, "one"));
    assert_true(jobs_has(w->daemon.jobs, "two"));
    assert_bitmaps(w, "x 65536 0 r--");
}

static void
test_jobs_that_cannot_begin_undo_the_bitmaps(void **state)
{
    struct World *w = *state;

    tell(w, "block-dirty-bitmap-add", "'node':'vda','name':'a'");
    write_clusters(w, 7, 3);
    fake.refuses_snapshots = true;
    refused(w, "transaction",
            "'actions':[" BITMAP("clear", "'name':'a'") "," BITMAP(
                "add", "'name':'x'") "," BACKUP("one", "'sync':'full'") "]",
            GENERIC, "no room");
    assert_bitmaps(w, "a 65536 3 r--");
    fake.refuses_snapshots = false;
    fake.refuses_jobs = true;
    refused(
        w, "transaction",
        "'actions':[" BITMAP("clear", "'name':'a'") "," BACKUP(
            "one", "'sync':'bitmap','bitmap':'a','bitmap-mode':'never'") "]",
        GENERIC, "no such target");
    assert_bitmaps(w, "a 65536 3 r--");
    assert_false(jobs_has(w->daemon.jobs, "one"));
}

/* The client is not answered yet; others meet closed doors. */
static void
test_others_wait_for_a_transaction(void **state)
{
    static const char busy[] =
        "a transaction is under way: try again when it is answered";
    struct World *w = *state;
    struct World other = {.peer = peer_negotiated(w->rig.path)};
    g_autofree char *text = request(
        "transaction", "'actions':[" BITMAP("clear", "'name':'a'") "," BACKUP(
                           "one", "'sync':'full'") "]");
    g_autoptr(JsonObject) answer = NULL;

    tell(w, "block-dirty-bitmap-add", "'node':'vda','name':'a'");
    write_clusters(w, 7, 3);
    fake.waits = true;
    peer_write(&w->peer, text);
    while (fake.snapshots == 0) {
        peer_turn(&w->peer);
    }
    refused(&other, "block-dirty-bitmap-clear", "'node':'vda','name':'a'",
            GENERIC, busy);
    refused(&other, "transaction", "'actions':[" ABORT "]", GENERIC, busy);
    refused(&other, "blockdev-backup",
            "'device':'vda','target':'/x','sync':'full'", GENERIC, busy);
    write_clusters(w, 30, 1);
    fake.refuses_snapshots = true;
    fake_answer();
    answer = peer_read(&w->peer);
    assert_true(json_object_has_member(answer, "error"));
    assert_bitmaps(w, "a 65536 4 r--");
    tell(&other, "block-dirty-bitmap-clear", "'node':'vda','name':'a'");
    peer_close(&other.peer);
}

/* What is written between the bitmaps' instant and the job's is brought, though
 * the bitmap records nothing. */
static void
test_no_write_falls_between_bitmap_and_job(void **state)
{
    struct World *w = *state;
    g_autofree char *text = request(
        "transaction",
        "'actions':[" BITMAP("add", "'name':'x','disabled':true") "," BITMAP(
            "merge",
            "'target':'x','bitmaps':['a']") "," BACKUP("one",
                                                       "'sync':'bitmap','"
                                                       "bitmap':'x','bitmap-"
                                                       "mode':'never'") "]");
    g_autoptr(JsonObject) answer = NULL;

    tell(w, "block-dirty-bitmap-add", "'node':'vda','name':'a'");
    write_clusters(w, 7, 3);
    fake.waits = true;
    peer_write(&w->peer, text);
    while (fake.snapshots == 0) {
        peer_turn(&w->peer);
    }
    write_clusters(w, 30, 2);
    fake_answer();
    answer = peer_read(&w->peer);
    assert_true(json_object_has_member(answer, "return"));
    assert_int_equal(fake.dirty_clusters, 5);
    assert_bitmaps(w, "a 65536 5 r--, x 65536 3 -B-");
}

static void
test_daemon_that_ends_takes_a_transaction_back(void **state)
{
    struct World *w = *state;
    g_autofree char *text = request(
        "transaction", "'actions':[" BITMAP("add", "'name':'x'") "," BACKUP(
                           "one", "'sync':'full'") "]");
    g_autoptr(JsonObject) answer = NULL;

    fake.waits = true;
    peer_write(&w->peer, text);
    while (fake.snapshots == 0) {
        peer_turn(&w->peer);
    }
    fake.refuses_snapshots = true;
    fake_answer(); /* as snapshots_free() does */
    control_transaction_stop(&w->daemon);
    answer = peer_read(&w->peer);
    assert_true(json_object_has_member(answer, "error"));
    assert_bitmaps(w, "");
}

#define MANY 100

/* In the place of a keeper's checkpoints: whoever has their lock sees all of a
 * transaction, or nothing. */
struct Watcher {
    Store *store;
    NamedBitmaps *set;
    atomic_bool is_over;
    atomic_uint looks, halves;
};

static gpointer
watch(gpointer data)
{
    struct Watcher *watcher = data;

    while (!atomic_load(&watcher->is_over)) {
        struct NamedFigures first, last;

        if (!g_mutex_trylock(&watcher->store->checkpoint_lock)) {
            continue;
        }
        if (named_at(watcher->set, 0, &first) &&
            named_at(watcher->set, MANY - 1, &last) &&
            first.is_enabled != last.is_enabled) {
            atomic_fetch_add(&watcher->halves, 1);
        }
        g_mutex_unlock(&watcher->store->checkpoint_lock);
        atomic_fetch_add(&watcher->looks, 1);
    }
    return NULL;
}

static void
test_no_checkpoint_sees_half_of_it_taken_back(void **state)
{
    struct World *w = *state;
    struct Watcher watcher = {.store = w->daemon.store,
                              .set = w->disk->bitmaps};
    g_autoptr(GString) actions = g_string_new("'actions':[");
    GThread *thread;

    for (unsigned i = 0; i < MANY; i++) {
        g_autofree char *add = g_strdup_printf("'node':'vda','name':'%u'", i);

        tell(w, "block-dirty-bitmap-add", add);
        g_string_append_printf(actions, BITMAP("disable", "'name':'%u'") ",",
                               i);
    }
    g_string_append(actions, BACKUP("one", "'sync':'full'") "]");
    fake.refuses_snapshots = true;
    thread = g_thread_new("watcher", watch, &watcher);
    for (unsigned i = 0; i < 20; i++) {
        unsigned looks = atomic_load(&watcher.looks);

        while (atomic_load(&watcher.looks) == looks) {
            g_thread_yield();
        }
        refused(w, "transaction", actions->str, GENERIC, "no room");
    }
    atomic_store(&watcher.is_over, true);
    g_thread_join(thread);
    assert_int_equal(atomic_load(&watcher.halves), 0);
}

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_transaction_that_is_aborted_leaves_nothing),
        TEST(test_later_actions_see_what_earlier_ones_did),
        TEST(test_transaction_is_durable),
        TEST(test_malformed_transactions_do_nothing),
        TEST(test_jobs_of_a_transaction_have_one_instant),
        TEST(test_jobs_that_cannot_begin_undo_the_bitmaps),
        TEST(test_no_checkpoint_sees_half_of_it_taken_back),
        TEST(test_others_wait_for_a_transaction),
        TEST(test_no_write_falls_between_bitmap_and_job),
        TEST(test_daemon_that_ends_takes_a_transaction_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
