/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-store-name.c - names, sizes and addresses as the user types them
 */
#include "tests/lib/store-fixture.h"

#include <errno.h>
#include <unistd.h>

static void
test_names_and_sizes(void **state)
{
    static const struct {
        const char *text;
        bool ok;
        uint64_t bytes;
    } sizes[] = {
        {"512", true, 512},
        {"20G", true, UINT64_C(20) << 30},
        {"1k", true, 1024},
        {"64T", true, UINT64_C(64) << 40},
        {"8191P", true, UINT64_C(8191) << 50},
        {"16383P", true, UINT64_C(16383) << 50},
        {"16384P", false, 0},
        {"18446744073709551616", false, 0},
        {"", false, 0},
        {"G", false, 0},
        {"-1", false, 0},
        {"+1", false, 0},
        {" 1", false, 0},
        {"1.5G", false, 0},
        {"1GB", false, 0},
        {"0x10", false, 0},
    };
    uint64_t bytes;

    (void)state;
    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        assert_int_equal(store_parse_size(sizes[i].text, &bytes), sizes[i].ok);
        if (sizes[i].ok) {
            assert_int_equal(bytes, sizes[i].bytes);
        }
    }
    assert_true(store_name_is_valid("vda"));
    assert_true(store_name_is_valid("A-z_0.9"));
    assert_false(store_name_is_valid(""));
    assert_false(store_name_is_valid("."));
    assert_false(store_name_is_valid(".vda"));
    assert_false(store_name_is_valid("a/b"));
    assert_false(store_name_is_valid("a b"));
    assert_false(store_name_is_valid("\xc3\xa4"));
    assert_false(store_name_is_valid(
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
}

static void
test_errors_say_what_to_do(void **state)
{
    g_autoptr(GError) full = NULL, many = NULL, other = NULL;

    (void)state;
    store_set_errno(&full, STORE_ERROR_FAILED, -ENOSPC, "x");
    assert_int_equal(full->code, STORE_ERROR_FULL);
    store_set_errno(&many, STORE_ERROR_FAILED, -EMFILE, "disk %d", 1);
    assert_string_equal(many->message,
                        "disk 1: Too many open files; raise the limit "
                        "(ulimit -n, LimitNOFILE=)");
    store_set_errno(&other, STORE_ERROR_BUSY, EIO, "y");
    assert_string_equal(other->message, "y: Input/output error");
    assert_int_equal(other->code, STORE_ERROR_BUSY);
}

static void
test_address_is_split_and_resolved(void **state)
{
    struct StoreFixture *fixture = *state;
    char *link = g_build_filename(fixture->dir, "link", NULL);
    char *address = g_strdup_printf("%s/vdx//", link);
    char *real = realpath(fixture->path, NULL);
    char *store, *disk;
    GError *error = NULL;

    assert_int_equal(symlink(fixture->path, link), 0);
    assert_true(store_split_address(address, &store, &disk, NULL));
    assert_string_equal(store, real);
    assert_string_equal(disk, "vdx");
    g_free(store);
    g_free(disk);
    assert_false(store_split_address("vm/.hidden", &store, &disk, &error));
    assert_int_equal(store_exit_code(error), 2);
    g_clear_error(&error);
    assert_false(store_split_address("/", &store, &disk, NULL));
    assert_false(store_split_address("", &store, &disk, NULL));
    assert_false(
        store_split_address("/nonexistent/x/vda", &store, &disk, &error));
    g_clear_error(&error);
    g_free(link);
    g_free(address);
    free(real);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_and_sizes),
        cmocka_unit_test(test_errors_say_what_to_do),
        cmocka_unit_test(test_errors_say_what_to_do),
        cmocka_unit_test_setup_teardown(test_address_is_split_and_resolved,
                                        fixture_setup, fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
