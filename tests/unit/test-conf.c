/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-conf.c - weir.conf: what round trips, and what is refused by name
 */
#include "fs/conf.h"
#include "tests/lib/seed.h"
#include "tests/lib/test.h"

#include <string.h>

#define HEAD                                                         \
    "[weir]\nversion=1\nuuid=00112233-4455-6677-8899-aabbccddeeff\n" \
    "next-disk-id=3\n"
#define DISK "[disk vda]\nid=1\nsize=1048576\ncluster-size=65536\n"

static uint64_t seed_number;

static void
test_conf_round_trips(void **state)
{
    static const char *const targets[] = {
        "nbd://far:10809/vda",
        "nbds://user@[::1]:10809/a%20b?tls-psk-file=/etc/x;y",
        "[ nbdkit file \"/back up/v;d#a.raw\" rate=1M ]",
        " leads and ends with blanks \t ",
        "back\\slash \\s \\n = ; # [x]",
        "nbd+unix:///\xc3\xa4\xc3\xb6?socket=/run/\xe2\x82\xac.sock",
    };
    struct Conf conf, back;

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(targets); i++) {
        GError *error = NULL;
        char *text;

        conf_init(&conf);
        conf.next_id = 8;
        conf.n_disks = 2;
        conf.settings.bwlimit = g_strdup("08:00,1M 20:00,off");
        conf.settings.insecure = true;
        conf.settings.request_deadline_s = 77;
        conf.settings.policy = STORE_POLICY_NONE;
        conf.settings.cut_interval_s = 3600;
        conf.settings.buffer_bytes = UINT64_C(7) << 30;
        conf.settings.on_cut = g_strdup("a \"b\" \\ c; d\n # e ");
        conf.settings.on_freeze = g_strdup("freeze \\ 'it'");
        conf.settings.on_thaw = g_strdup(" thaw\n");
        conf.settings.before_degrade = g_strdup("call;me");
        conf.settings.snapshot_every_s = 90 * 60;
        conf.settings.snapshot_keep = 0;
        conf.settings.full_wait_s = 3600;
        strcpy(conf.disks[0].name, "vda");
        conf.disks[0].id = 7;
        conf.disks[0].size_bytes = 3 * 512;
        conf.disks[0].cluster_bits = 12;
        conf.disks[0].target = g_strdup(targets[i]);
        conf.disks[0].accept = ACCEPT_SAME;
        conf.disks[0].is_alone = true;
        strcpy(conf.disks[1].name, "a.b_C-9");
        conf.disks[1].id = 2;
        conf.disks[1].size_bytes = UINT64_C(64) << 40;
        conf.disks[1].cluster_bits = 21;

        text = conf_format(&conf);
        assert_true(conf_parse(text, strlen(text), &back, &error));
        assert_null(error);
        assert_memory_equal(back.uuid, conf.uuid, 16);
        assert_int_equal(back.next_id, 8);
        assert_string_equal(back.settings.bwlimit, conf.settings.bwlimit);
        assert_true(back.settings.insecure);
        assert_false(back.settings.accept_unflushed);
        assert_int_equal(back.settings.request_deadline_s, 77);
        assert_int_equal(back.settings.max_connections, CONF_CONNECTIONS);
        assert_int_equal(back.settings.policy, STORE_POLICY_NONE);
        assert_int_equal(back.settings.cut_interval_s, 3600);
        assert_int_equal(back.settings.buffer_bytes, UINT64_C(7) << 30);
        assert_string_equal(back.settings.on_cut, conf.settings.on_cut);
        assert_string_equal(back.settings.on_freeze, conf.settings.on_freeze);
        assert_string_equal(back.settings.on_thaw, conf.settings.on_thaw);
        assert_string_equal(back.settings.before_degrade,
                            conf.settings.before_degrade);
        assert_int_equal(back.settings.snapshot_every_s, 90 * 60);
        assert_int_equal(back.settings.snapshot_keep, 0);
        assert_int_equal(back.settings.full_wait_s, 3600);
        assert_true(back.disks[0].is_alone);
        assert_false(back.disks[1].is_alone);
        assert_int_equal(back.n_disks, 2);
        assert_string_equal(back.disks[0].target, targets[i]);
        assert_int_equal(back.disks[0].accept, ACCEPT_SAME);
        assert_int_equal(back.disks[0].id, 7);
        assert_int_equal(back.disks[0].size_bytes, 1536);
        assert_string_equal(back.disks[1].name, "a.b_C-9");
        assert_null(back.disks[1].target);
        assert_int_equal(back.disks[1].size_bytes, UINT64_C(64) << 40);
        assert_int_equal(back.disks[1].cluster_bits, 21);
        g_free(text);
        conf_deinit(&conf);
        conf_deinit(&back);
    }
}

static void
test_conf_reads_minimal(void **state)
{
    static const char text[] = HEAD "\n# a comment\n" DISK;
    struct Conf conf;

    (void)state;
    assert_true(conf_parse(text, strlen(text), &conf, NULL));
    assert_int_equal(conf.settings.max_connections, CONF_CONNECTIONS);
    assert_int_equal(conf.settings.request_deadline_s, CONF_REQUEST_DEADLINE);
    assert_int_equal(conf.settings.policy, STORE_POLICY_CUT);
    assert_int_equal(conf.settings.cut_interval_s, CONF_CUT_INTERVAL);
    assert_int_equal(conf.settings.buffer_bytes, 0);
    assert_null(conf.settings.on_cut);
    assert_null(conf.settings.on_freeze);
    assert_null(conf.settings.on_thaw);
    assert_null(conf.settings.before_degrade);
    assert_int_equal(conf.settings.snapshot_every_s, 0);
    assert_int_equal(conf.settings.snapshot_keep, CONF_SNAPSHOT_KEEP);
    assert_int_equal(conf.settings.full_wait_s, CONF_FULL_WAIT);
    assert_false(conf.disks[0].is_alone);
    assert_int_equal(conf.n_disks, 1);
    assert_int_equal(conf.disks[0].cluster_bits, 16);
    assert_int_equal(conf.disks[0].accept, ACCEPT_EMPTY);
    conf_deinit(&conf);
}

static void
test_durations_round_trip(void **state)
{
    static const struct {
        const char *text, *back;
        unsigned seconds;
    } cases[] = {
        {"0", "0", 0},
        {"off", "0", 0},
        {"45s", "45s", 45},
        {"120s", "2m", 120},
        {"30m", "30m", 1800},
        {"90m", "90m", 5400},
        {"24h", "1d", 86400},
        {"36h", "36h", 129600},
        {"7d", "7d", 604800},
        {"007d", "7d", 604800},
        {"366d", "366d", 366 * 86400},
    };

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *back = NULL;
        unsigned seconds = 1;

        assert_true(conf_every_parse(cases[i].text, &seconds));
        assert_int_equal(seconds, cases[i].seconds);
        back = conf_every_name(seconds);
        assert_string_equal(back, cases[i].back);
    }
}

static void
test_conf_refuses_by_name(void **state)
{
    static const struct {
        const char *text, *named;
        enum StoreError code;
    } cases[] = {
        {"", "version", STORE_ERROR_DAMAGED},
        {"junk", "junk", STORE_ERROR_DAMAGED},
        {"[weir]\nversion=2\n[new]\n", "newer", STORE_ERROR_FAILED},
        {"[weir]\nversion=1\nfeatures=sparkle\n", "sparkle",
         STORE_ERROR_FAILED},
        {"[weir]\nversion=1\nuuid=12\nnext-disk-id=1\n", "uuid",
         STORE_ERROR_DAMAGED},
        {HEAD "colour=red\n", "colour", STORE_ERROR_DAMAGED},
        {HEAD "[disc vda]\n", "disc vda", STORE_ERROR_DAMAGED},
        {HEAD "[store]\nbwlimt=1M\n", "bwlimt", STORE_ERROR_DAMAGED},
        {HEAD "[store]\nbwlimit=fast\n", "fast", STORE_ERROR_DAMAGED},
        {HEAD "[store]\ninsecure=maybe\n", "insecure", STORE_ERROR_DAMAGED},
        {HEAD "[store]\nmax-connections=0\n", "max-connections",
         STORE_ERROR_DAMAGED},
        {HEAD "[store]\nmax-connections=4x\n", "4x", STORE_ERROR_DAMAGED},
        {HEAD "[store]\nmax-connections=17\n", "17", STORE_ERROR_DAMAGED},
        {HEAD "[store]\npolicy=journal\n", "policy", STORE_ERROR_DAMAGED},
        {HEAD "[store]\ncut-interval=0\n", "86400", STORE_ERROR_DAMAGED},
        {HEAD "[store]\nbuffer-size=big\n", "buffer-size", STORE_ERROR_DAMAGED},
        {HEAD "[store]\nsnapshot-every=often\n", "snapshot-every",
         STORE_ERROR_DAMAGED},
        {HEAD "[store]\nsnapshot-keep=-1\n", "snapshot-keep",
         STORE_ERROR_DAMAGED},
        {HEAD "[store]\nfull-wait=3601\n", "full-wait", STORE_ERROR_DAMAGED},
        {HEAD DISK "group=maybe\n", "group", STORE_ERROR_DAMAGED},
        {HEAD DISK "[store]\n" DISK, "twice", STORE_ERROR_DAMAGED},
        {HEAD DISK "size=512\n", "size", STORE_ERROR_DAMAGED},
        {HEAD DISK " size = 512\n", "size", STORE_ERROR_DAMAGED},
        {HEAD DISK "target-accept=all\n", "target-accept", STORE_ERROR_DAMAGED},
        {HEAD DISK "target=a\\zb\n", "disk vda", STORE_ERROR_DAMAGED},
        {HEAD DISK "target=\xff\xfe\n", "disk vda", STORE_ERROR_DAMAGED},
        {HEAD DISK "[disk vdb]\nid=1\nsize=512\ncluster-size=4096\n",
         "disk vdb", STORE_ERROR_DAMAGED},
        {HEAD "[disk ../x]\nid=1\nsize=512\ncluster-size=4096\n", "../x",
         STORE_ERROR_DAMAGED},
        {HEAD "[disk a]\nid=3\nsize=512\ncluster-size=4096\n", "id",
         STORE_ERROR_DAMAGED},
        {HEAD "[disk a]\nid=1\nsize=513\ncluster-size=4096\n", "512",
         STORE_ERROR_DAMAGED},
        {HEAD "[disk a]\nid=1\nsize=-512\ncluster-size=4096\n", "-512",
         STORE_ERROR_DAMAGED},
        {HEAD "[disk a]\nid=1\nsize=512\ncluster-size=5000\n", "power of 2",
         STORE_ERROR_DAMAGED},
        {HEAD "[disk a]\nid=1\nsize=99999999999999999999\n", "9999",
         STORE_ERROR_DAMAGED},
    };

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        GError *error = NULL;
        struct Conf conf;

        if (conf_parse(cases[i].text, strlen(cases[i].text), &conf, &error)) {
            fail_msg("case %u was taken", i);
        }
        if (!strstr(error->message, cases[i].named) ||
            !g_error_matches(error, STORE_ERROR, (int)cases[i].code)) {
            fail_msg("case %u: %s", i, error->message);
        }
        assert_null(strchr(error->message, '\n'));
        g_error_free(error);
        conf_deinit(&conf);
    }
}

static void
test_conf_refuses_nul(void **state)
{
    static const char text[] = HEAD DISK "\0[store]\n";
    struct Conf conf;

    (void)state;
    assert_false(conf_parse(text, sizeof(text) - 1, &conf, NULL));
    conf_deinit(&conf);
}

/* A sound file with bytes changed, cut out and doubled: refused or read, and
 * what was read can be written and read again. */
static void
test_conf_survives_junk(void **state)
{
    static const char text[] =
        HEAD "[store]\nbwlimit=8M\ninsecure=yes\n" DISK "target=nbd://x/y\n";
    Seed seed = {seed_number};

    (void)state;
    for (unsigned round = 0; round < 20000; round++) {
        size_t len = sizeof(text) - 1;
        char *copy = g_strdup(text);
        struct Conf conf, again;

        for (uint64_t i = seed_below(&seed, 4); i < 4; i++) {
            size_t at = seed_below(&seed, len);

            if (seed_below(&seed, 2)) {
                copy[at] = (char)seed_next(&seed);
            } else {
                size_t n = seed_below(&seed, len - at);

                memmove(copy + at, copy + at + n, len - at - n);
                len -= n;
            }
        }
        if (conf_parse(copy, len, &conf, NULL)) {
            char *formatted = conf_format(&conf);

            assert_true(conf_parse(formatted, strlen(formatted), &again, NULL));
            assert_int_equal(conf.n_disks, again.n_disks);
            conf_deinit(&again);
            g_free(formatted);
        }
        conf_deinit(&conf);
        g_free(copy);
    }
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conf_round_trips),
        cmocka_unit_test(test_conf_reads_minimal),
        cmocka_unit_test(test_durations_round_trip),
        cmocka_unit_test(test_conf_refuses_by_name),
        cmocka_unit_test(test_conf_refuses_nul),
        cmocka_unit_test(test_conf_survives_junk),
    };

    seed_number = seed_from_args(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
