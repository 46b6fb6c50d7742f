/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What may be written as a target, and what of it may be connected to. The
 * refused forms are a table: each with the words that the user has to see.
 */
#include "relay/target-uri.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "relay/relay.h"
#include "tests/lib/test.h"

static void
test_uris_allowed_are_taken_apart(void **state)
{
    static const struct {
        const char *text;
        enum TargetKind kind;
        bool is_tls;
        const char *host, *port, *socket, *export_name, *user;
    } cases[] = {
        {"nbd://h", TARGET_TCP, false, "h", "10809", NULL, "", NULL},
        {"nbd://h/", TARGET_TCP, false, "h", "10809", NULL, "", NULL},
        {" nbd://h:77/a%20b ", TARGET_TCP, false, "h", "77", NULL, "a b", NULL},
        {"nbd://[::1]:5//x", TARGET_TCP, false, "::1", "5", NULL, "/x", NULL},
        {"NBD://127.0.0.1/e", TARGET_TCP, false, "127.0.0.1", "10809", NULL,
         "e", NULL},
        {"nbd+unix:///e?socket=/run/s%3f", TARGET_UNIX, false, "", NULL,
         "/run/s?", "e", NULL},
        {"nbds://al@h/e?tls-psk-file=/k", TARGET_TCP, true, "h", "10809", NULL,
         "e", "al"},
        {"nbds://h/e?tls-certificates=/d", TARGET_TCP, true, "h", "10809", NULL,
         "e", NULL},
        {"nbds+unix://al@/?socket=/s&tls-psk-file=/k", TARGET_UNIX, true, "",
         NULL, "/s", "", "al"},
    };

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(TargetUri) uri = target_uri_parse(cases[i].text, &error);

        print_message("%s\n", cases[i].text);
        assert_null(error);
        assert_non_null(uri);
        assert_int_equal(uri->kind, cases[i].kind);
        assert_int_equal(uri->is_tls, cases[i].is_tls);
        assert_string_equal(uri->host, cases[i].host);
        if (cases[i].port) {
            assert_string_equal(uri->port, cases[i].port);
        }
        assert_string_equal(uri->export_name, cases[i].export_name);
        assert_true(!g_strcmp0(uri->socket, cases[i].socket));
        assert_true(!g_strcmp0(uri->user, cases[i].user));
    }
}

static void
test_servers_are_split_like_a_shell_does(void **state)
{
    g_autoptr(TargetUri) cmd =
        target_uri_parse("[ nbdkit memory 'a b' \"c\" ]", NULL);
    g_autoptr(TargetUri) path = target_uri_parse("/x/y=z", NULL);
    g_autoptr(TargetUri) relative = target_uri_parse("./t", NULL);
    g_autofree char *cwd = g_get_current_dir();
    g_autofree char *want = g_strconcat("file=", cwd, "/t", NULL);

    (void)state;
    assert_int_equal(cmd->kind, TARGET_SERVER);
    assert_int_equal(g_strv_length(cmd->argv), 4);
    assert_string_equal(cmd->argv[2], "a b");
    assert_string_equal(cmd->argv[3], "c");
    assert_string_equal(cmd->export_name, "");
    assert_string_equal(path->argv[0], "nbdkit");
    assert_string_equal(path->argv[2], "file=/x/y=z");
    assert_string_equal(relative->argv[2], want);
}

static void
test_malformed_are_refused_in_words(void **state)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"", "empty"},
        {"[ ]", "[ command"},
        {"[  ]", "empty"},
        {"[ a 'b ]", "open quote"},
        {"[nbdkit memory]", "[ command"},
        {"http://h/", "scheme \"http\""},
        {"nbd+vsock://2/", "scheme"},
        {"nbd+ssh://h/", "scheme"},
        {"host:10809", "scheme \"host\""},
        {"nbd:", "//"},
        {"nbd:///e", "no host"},
        {"nbd://h:0/", "port"},
        {"nbd://h:99999/", "malformed"},
        {"nbd://h/%zz", "malformed"},
        {"nbd://al@h/", "user name"},
        {"nbd://al:sesame@h/", "passwords"},
        {"nbd://h/#x", "#"},
        {"nbd://h/?socket=/s", "\"socket\""},
        {"nbd://h/?tls-psk-file=/k", "\"tls-psk-file\""},
        {"nbd+unix:///e", "socket=PATH"},
        {"nbd+unix://h/e?socket=/s", "no host"},
        {"nbd+unix:///?socket=s", "absolute"},
        {"nbd+unix:///?socket=/s&socket=/t", "twice"},
        {"nbd+unix:///?socket=/s&x=1", "\"x\""},
        {"nbds://h/", "needs tls-psk-file"},
        {"nbds://h/?tls-psk-file=/k&tls-certificates=/d", "not both"},
        {"nbds+unix:///?socket=/s", "needs tls-psk-file"},
        {"nbds+unix:///?socket=/s&tls-certificates=/d", "tls-psk-file"},
        {"nbd://h/\nx", "one line"},
    };

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;

        print_message("%s\n", cases[i].text);
        assert_null(target_uri_parse(cases[i].text, &error));
        assert_non_null(error);
        assert_true(g_error_matches(error, RELAY_ERROR, RELAY_ERROR_TARGET));
        if (!strstr(error->message, cases[i].words)) {
            fail_msg("says: %s", error->message);
        }
        assert_null(strstr(error->message, "sesame"));
        assert_null(strchr(error->message, '\n'));
    }
}

static void
test_clear_text_stays_on_this_machine(void **state)
{
    static const struct {
        const char *text;
        gboolean is_open;
    } cases[] = {
        {"nbd://127.0.0.1/", FALSE},       {"nbd://127.9.9.9/", FALSE},
        {"nbd://[::1]/", FALSE},           {"nbd://LocalHost/", FALSE},
        {"nbd://localhost.x/", TRUE},      {"nbd://10.0.0.1/", TRUE},
        {"nbd://[fe80::1]/", TRUE},        {"nbd://[::ffff:127.0.0.1]/", FALSE},
        {"nbd://[::ffff:1.2.3.4]/", TRUE}, {"nbd+unix:///?socket=/s", FALSE},
        {"[ nbdkit memory ]", FALSE},
    };

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        print_message("%s\n", cases[i].text);
        assert_int_equal(relay_target_check(cases[i].text, FALSE, NULL),
                         !cases[i].is_open);
        assert_true(relay_target_check(cases[i].text, TRUE, NULL));
    }
}

/*
 * What TLS stands on
 */

static char dir[] = "/tmp/weir-uri-XXXXXX";

static void
put(const char *name, const char *text, int mode)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);

    assert_true(g_file_set_contents(path, text, -1, NULL));
    assert_int_equal(chmod(path, (mode_t)mode), 0);
}

/* @uri stands before the directory, @rest behind it. */
static bool
check(const char *uri_head, const char *rest, const char *words)
{
    g_autofree char *uri = g_strconcat(uri_head, dir, rest, NULL);
    g_autoptr(GError) error = NULL;
    gboolean ok = relay_target_check(uri, FALSE, &error);

    if (!ok && (!words || !strstr(error->message, words))) {
        fail_msg("says: %s", error->message);
    }
    return ok;
}

static void
test_psk_file_must_hold_the_key(void **state)
{
    static const char uri[] = "nbds://al@h/?tls-psk-file=";

    (void)state;
    assert_false(check(uri, "/psk", "No such file"));
    put("psk", "", 0600);
    assert_false(check(uri, "/psk", "not a file with keys"));
    put("psk", "bob:1234\n", 0600);
    assert_false(check(uri, "/psk", "has no key"));
    put("psk", "bob:1234\nal:5678\n", 0644);
    assert_false(check(uri, "/psk", "open to everybody"));
    put("psk", "bob:1234\nal:5678\n", 0600);
    assert_true(check(uri, "/psk", NULL));
    assert_false(check(uri, "", "not a file"));
}

static void
test_certificates_must_hold_a_ca(void **state)
{
    static const char uri[] = "nbds://h/?tls-certificates=";
    /* The shape of DER: SEQUENCE, two bytes of length, that many bytes. */
    guchar der[304] = {0x30, 0x82, 0x01, 0x2c};
    g_autofree char *body = g_base64_encode(der, sizeof(der));
    g_autofree char *pem = g_strconcat("-----BEGIN CERTIFICATE-----\n", body,
                                       "\n-----END CERTIFICATE-----\n", NULL);

    (void)state;
    assert_false(check(uri, "/none", "No such file"));
    assert_false(check(uri, "", "No such file"));
    put("ca-cert.pem", "", 0644);
    assert_false(check(uri, "", "not a file with keys"));
    put("ca-cert.pem", "hello\n", 0644);
    assert_false(check(uri, "", "no certificate"));
    put("ca-cert.pem",
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", 0644);
    assert_false(check(uri, "", "no certificate"));
    put("ca-cert.pem", pem, 0644);
    assert_true(check(uri, "", NULL));
}

static int
make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int
remove_dir(void **state)
{
    g_autofree char *psk = g_build_filename(dir, "psk", NULL);
    g_autofree char *ca = g_build_filename(dir, "ca-cert.pem", NULL);

    (void)state;
    g_unlink(psk);
    g_unlink(ca);
    return rmdir(dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uris_allowed_are_taken_apart),
        cmocka_unit_test(test_servers_are_split_like_a_shell_does),
        cmocka_unit_test(test_malformed_are_refused_in_words),
        cmocka_unit_test(test_clear_text_stays_on_this_machine),
        cmocka_unit_test(test_psk_file_must_hold_the_key),
        cmocka_unit_test(test_certificates_must_hold_a_ca),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
