/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test-job-spec.c - which orders make sense, and what the others are told
 *
 * The table of iotest 257 in full: every sync with every bitmap-mode, with no
 * bitmap, one that there is not, and one that there is; 48 of them are refused
 * in QEMU's words. Then the rest of the arguments, one at a time. An order that
 * is refused changes nothing: neither a bitmap nor what the caller gets.
 */
#include "fs/job.h"
#include "fs/store-bitmaps.h"
#include "tests/lib/store-fixture.h"

struct Fixture {
    struct StoreFixture *store_fixture;
    Store *store;
    Disk *disk;
};

static void
add_bitmap(Disk *disk, const char *name)
{
    struct NamedSpec spec = {.name = name, .id = 1, .grain_bits = 16};

    assert_int_equal(named_add(disk->bitmaps, &spec, NULL), NAMED_OK);
}

static int
setup(void **state)
{
    struct Fixture *f = g_new0(struct Fixture, 1);

    fixture_setup((void **)&f->store_fixture);
    f->store = fixture_open(f->store_fixture, 0);
    f->disk = store_disk(f->store, "vda");
    add_bitmap(f->disk, "bitmap0");
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct Fixture *f = *state;

    store_free(f->store);
    fixture_teardown((void **)&f->store_fixture);
    g_free(f);
    return 0;
}

static JsonObject *
order(const char *text)
{
    g_autoptr(JsonNode) node = json_from_string(text, NULL);

    if (node == NULL) {
        fail_msg("no JSON: %s", text);
    }
    return json_node_dup_object(node);
}

/* Members that every order has, and @more. */
static char *
common(const char *sync, const char *more)
{
    return g_strdup_printf("{\"device\":\"vda\",\"target\":\"nbd://localhost/"
                           "b\",\"sync\":\"%s\"%s%s}",
                           sync, more[0] != '\0' ? "," : "", more);
}

/* @words NULL: it is accepted, and the caller's to clear. */
static JobSpec
parse(struct Fixture *f, enum JobKind kind, const char *text, const char *words)
{
    g_autoptr(JsonObject) arguments = order(text);
    g_autoptr(GError) error = NULL;
    JobSpec spec;
    gboolean ok = job_spec_parse(f->store, kind, arguments, &spec, &error);

    if (ok && (!job_spec_check_bitmap(&spec, &error) ||
               !job_spec_check_place(f->store, "/mnt/vm", &spec, &error))) {
        job_spec_clear(&spec);
        ok = FALSE;
    }
    if (words == NULL) {
        if (!ok) {
            fail_msg("%s: %s", text, error->message);
        }
        return spec;
    }
    if (ok || strcmp(error->message, words) != 0) {
        fail_msg("%s: %s, not: %s", text, ok ? "accepted" : error->message,
                 words);
    }
    assert_null(spec.id);
    assert_null(spec.target);
    assert_null(spec.bitmap);
    assert_int_equal(named_count(f->disk->bitmaps), 1);
    return spec;
}

static void
accept(struct Fixture *f, enum JobKind kind, const char *sync, const char *more)
{
    g_autofree char *text = common(sync, more);
    JobSpec spec = parse(f, kind, text, NULL);

    job_spec_clear(&spec);
}

static void
refuse(struct Fixture *f, enum JobKind kind, const char *sync, const char *more,
       const char *words)
{
    g_autofree char *text = common(sync, more);

    (void)parse(f, kind, text, words);
}

/*
 * Bitmaps: the columns are no mode, on-success, always, never
 */
#define NEEDS(SYNC) "must provide a valid bitmap name for '" SYNC "' sync mode"
#define MISSING     "Bitmap 'bitmap404' could not be found"
#define NO_MODE     "Bitmap sync mode must be given when providing a bitmap"
#define NO_BITMAP   "Cannot specify bitmap sync mode without a bitmap"
#define SUCCESS                                                   \
    "Bitmap sync mode must be 'on-success' when using sync mode " \
    "'incremental'"
#define NEVER(SYNC)                                                         \
    "Bitmap sync mode 'never' has no meaningful effect when combined with " \
    "sync mode '" SYNC "'"
#define NO_OUTPUT "sync mode 'none' does not produce meaningful bitmap outputs"

#define ALL(WORDS)                 \
    {                              \
        WORDS, WORDS, WORDS, WORDS \
    }

struct BitmapRow {
    const char *sync;
    const char *words[3][4]; /* none, bitmap404, bitmap0 */
};

static const struct BitmapRow backup_rows[] = {
    {"incremental",
     {ALL(NEEDS("incremental")),
      {MISSING, MISSING, SUCCESS, SUCCESS},
      {NULL, NULL, SUCCESS, SUCCESS}}},
    {"bitmap",
     {ALL(NEEDS("bitmap")), ALL(MISSING), {NO_MODE, NULL, NULL, NULL}}},
    {"full",
     {{NULL, NO_BITMAP, NO_BITMAP, NO_BITMAP},
      ALL(MISSING),
      {NO_MODE, NULL, NULL, NEVER("full")}}},
    {"top",
     {{NULL, NO_BITMAP, NO_BITMAP, NO_BITMAP},
      ALL(MISSING),
      {NO_MODE, NULL, NULL, NEVER("top")}}},
    {"none",
     {{NULL, NO_BITMAP, NO_BITMAP, NO_BITMAP},
      ALL(MISSING),
      {NO_MODE, NO_OUTPUT, NO_OUTPUT, NO_OUTPUT}}},
};

#define OF_NO_USE(SYNC)                                                   \
    "a bitmap has no meaningful effect on a mirror with sync mode '" SYNC \
    "': 'incremental' and 'differential' use one"
#define ONLY_NEVER \
    "Bitmap sync mode must be 'never' when using sync mode 'differential'"

static const struct BitmapRow mirror_rows[] = {
    {"incremental",
     {ALL(NEEDS("incremental")),
      {MISSING, MISSING, SUCCESS, SUCCESS},
      {NULL, NULL, SUCCESS, SUCCESS}}},
    {"differential",
     {ALL(NEEDS("differential")),
      {MISSING, ONLY_NEVER, ONLY_NEVER, MISSING},
      {NULL, ONLY_NEVER, ONLY_NEVER, NULL}}},
    {"full",
     {{NULL, NO_BITMAP, NO_BITMAP, NO_BITMAP},
      ALL(MISSING),
      ALL(OF_NO_USE("full"))}},
    {"top",
     {{NULL, NO_BITMAP, NO_BITMAP, NO_BITMAP},
      ALL(MISSING),
      ALL(OF_NO_USE("top"))}},
    {"none",
     {{NULL, NO_BITMAP, NO_BITMAP, NO_BITMAP},
      ALL(MISSING),
      ALL(OF_NO_USE("none"))}},
};

/* Returns how many were refused. */
static unsigned
run_rows(struct Fixture *f, enum JobKind kind, const struct BitmapRow *rows,
         unsigned count)
{
    static const char *const bitmaps[] = {"", "\"bitmap\":\"bitmap404\"",
                                          "\"bitmap\":\"bitmap0\""};
    static const char *const modes[] = {"", "\"bitmap-mode\":\"on-success\"",
                                        "\"bitmap-mode\":\"always\"",
                                        "\"bitmap-mode\":\"never\""};
    unsigned refused = 0;

    for (unsigned i = 0; i < count * 12; i++) {
        const struct BitmapRow *row = &rows[i / 12];
        const char *bitmap = bitmaps[i / 4 % 3];
        const char *mode = modes[i % 4];
        const char *words = row->words[i / 4 % 3][i % 4];
        g_autofree char *more =
            g_strconcat(bitmap, bitmap[0] && mode[0] ? "," : "", mode, NULL);

        if (words != NULL) {
            refuse(f, kind, row->sync, more, words);
            refused++;
        } else {
            accept(f, kind, row->sync, more);
        }
    }
    return refused;
}

static void
test_bitmaps_of_backups(void **state)
{
    assert_int_equal(
        run_rows(*state, JOB_BACKUP, backup_rows, G_N_ELEMENTS(backup_rows)),
        48);
}

static void
test_bitmaps_of_mirrors(void **state)
{
    (void)run_rows(*state, JOB_MIRROR, mirror_rows, G_N_ELEMENTS(mirror_rows));
}

static void
test_busy_bitmap_is_refused(void **state)
{
    struct Fixture *f = *state;
    NamedBitmap *frozen;

    assert_int_equal(named_freeze(f->disk->bitmaps, "bitmap0", &frozen),
                     NAMED_OK);
    refuse(f, JOB_BACKUP, "incremental", "\"bitmap\":\"bitmap0\"",
           "Bitmap 'bitmap0' is currently in use by another operation and "
           "cannot be used");
    refuse(f, JOB_MIRROR, "differential", "\"bitmap\":\"bitmap0\"",
           "Bitmap 'bitmap0' is currently in use by another operation and "
           "cannot be used");
    named_thaw(frozen, NAMED_OLD, NULL);
    accept(f, JOB_BACKUP, "incremental", "\"bitmap\":\"bitmap0\"");
}

static void
test_modes_mean_what_they_say(void **state)
{
    static const struct {
        enum JobKind kind;
        const char *sync, *more;
        enum JobSync wanted;
        enum JobBitmapMode mode;
        enum NamedEnd success, failure;
    } cases[] = {
        {JOB_BACKUP, "incremental", "", JOB_INCREMENTAL, JOB_ON_SUCCESS,
         NAMED_NEW, NAMED_OLD},
        {JOB_BACKUP, "bitmap", ",\"bitmap-mode\":\"on-success\"", JOB_BITMAP,
         JOB_ON_SUCCESS, NAMED_NEW, NAMED_OLD},
        {JOB_BACKUP, "bitmap", ",\"bitmap-mode\":\"never\"", JOB_BITMAP,
         JOB_NEVER, NAMED_OLD, NAMED_OLD},
        {JOB_BACKUP, "bitmap", ",\"bitmap-mode\":\"always\"", JOB_BITMAP,
         JOB_ALWAYS, NAMED_NEW, NAMED_REST},
        {JOB_BACKUP, "full", ",\"bitmap-mode\":\"always\"", JOB_FULL,
         JOB_ALWAYS, NAMED_NEW, NAMED_REST},
        {JOB_BACKUP, "top", ",\"bitmap-mode\":\"on-success\"", JOB_TOP,
         JOB_ON_SUCCESS, NAMED_NEW, NAMED_OLD},
        {JOB_MIRROR, "incremental", "", JOB_INCREMENTAL, JOB_ON_SUCCESS,
         NAMED_NEW, NAMED_OLD},
        {JOB_MIRROR, "differential", "", JOB_DIFFERENTIAL, JOB_NEVER, NAMED_OLD,
         NAMED_OLD},
    };
    struct Fixture *f = *state;

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *more =
            g_strconcat("\"bitmap\":\"bitmap0\"", cases[i].more, NULL);
        g_autofree char *text = common(cases[i].sync, more);
        JobSpec spec = parse(f, cases[i].kind, text, NULL);

        assert_int_equal(spec.sync, cases[i].wanted);
        assert_int_equal(spec.mode, cases[i].mode);
        assert_int_equal(job_bitmap_end(&spec, true), cases[i].success);
        assert_int_equal(job_bitmap_end(&spec, false), cases[i].failure);
        job_spec_clear(&spec);
    }
}

/*
 * The other arguments
 */
static void
test_what_is_not_said_has_its_default(void **state)
{
    struct Fixture *f = *state;
    g_autofree char *text = common("full", "");
    JobSpec spec = parse(f, JOB_BACKUP, text, NULL);

    assert_string_equal(spec.id, "vda");
    assert_ptr_equal(spec.disk, f->disk);
    assert_string_equal(spec.target, "nbd://localhost/b");
    assert_null(spec.bitmap);
    assert_int_equal(spec.speed_bps, 0);
    assert_int_equal(spec.granularity, 0);
    assert_int_equal(spec.buf_bytes, 0);
    assert_int_equal(spec.on_source, JOB_REPORT);
    assert_int_equal(spec.on_target, JOB_REPORT);
    assert_false(spec.waits_to_finalize || spec.waits_to_dismiss);
    assert_false(spec.is_target_zero || spec.keeps_zeroes);
    assert_true(spec.is_exact);
    assert_int_equal(spec.accept, ACCEPT_EMPTY);
    job_spec_clear(&spec);
}

static void
test_what_is_said_arrives(void **state)
{
    static const enum JobKind kinds[] = {JOB_BACKUP, JOB_MIRROR};
    struct Fixture *f = *state;
    g_autofree char *text = common(
        "none", "\"job-id\":\"j-1._\",\"speed\":1000,\"granularity\":4096,"
                "\"buf-size\":65536,\"on-source-error\":\"ignore\","
                "\"on-target-error\":\"auto\",\"auto-finalize\":false,"
                "\"auto-dismiss\":false,\"target-is-zero\":true,"
                "\"unmap\":false,\"exact-size\":false,"
                "\"target-accept\":\"same\"");

    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        JobSpec spec = parse(f, kinds[i], text, NULL);

        assert_int_equal(spec.kind, kinds[i]);
        assert_string_equal(spec.id, "j-1._");
        assert_int_equal(spec.sync, JOB_NONE);
        assert_int_equal(spec.speed_bps, 1000);
        assert_int_equal(spec.granularity, 4096);
        assert_int_equal(spec.buf_bytes, 65536);
        assert_int_equal(spec.on_source, JOB_IGNORE);
        assert_int_equal(spec.on_target, JOB_ENOSPC);
        assert_true(spec.waits_to_finalize && spec.waits_to_dismiss);
        assert_true(spec.is_target_zero && spec.keeps_zeroes);
        assert_false(spec.is_exact);
        assert_int_equal(spec.accept, ACCEPT_SAME);
        job_spec_clear(&spec);
    }
}

static void
test_targets_of_part_of_a_disk_have_data(void **state)
{
    static const struct {
        const char *sync, *more;
        enum TargetAccept accept;
    } cases[] = {
        {"full", "", ACCEPT_EMPTY},
        {"top", "", ACCEPT_EMPTY},
        {"none", "", ACCEPT_OVERWRITE},
        {"incremental", "\"bitmap\":\"bitmap0\"", ACCEPT_OVERWRITE},
        {"full", "\"target-accept\":\"overwrite\"", ACCEPT_OVERWRITE},
        {"none", "\"target-accept\":\"empty\"", ACCEPT_EMPTY},
    };
    struct Fixture *f = *state;

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = common(cases[i].sync, cases[i].more);
        JobSpec spec = parse(f, JOB_MIRROR, text, NULL);

        assert_int_equal(spec.accept, cases[i].accept);
        job_spec_clear(&spec);
    }
}

#define RANGE "Parameter 'granularity' expects a value in range [512B, 64MB]"
#define POWER "Parameter 'granularity' expects a power of 2"

static void
test_values_out_of_range_are_refused(void **state)
{
    static const char *const rows[][2] = {
        {"\"granularity\":256", RANGE},
        {"\"granularity\":134217728", RANGE},
        {"\"granularity\":3000", POWER},
        {"\"granularity\":-4096",
         "Invalid parameter type for 'granularity', expected: uint64"},
        {"\"speed\":-1", "Parameter 'speed' expects a non-negative value"},
        {"\"speed\":1.5",
         "Invalid parameter type for 'speed', expected: integer"},
        {"\"speed\":\"1\"",
         "Invalid parameter type for 'speed', expected: integer"},
        {"\"buf-size\":-1",
         "Parameter 'buf-size' expects a non-negative value"},
        {"\"job-id\":\"9lives\"", "Invalid job ID '9lives'"},
        {"\"job-id\":\"a b\"", "Invalid job ID 'a b'"},
        {"\"job-id\":\"\"", "Invalid job ID ''"},
        {"\"job-id\":null",
         "Invalid parameter type for 'job-id', expected: string"},
        {"\"on-target-error\":\"panic\"",
         "Parameter 'on-target-error' does not accept value 'panic'"},
        {"\"on-source-error\":\"\"",
         "Parameter 'on-source-error' does not accept value ''"},
        {"\"bitmap-mode\":\"often\"",
         "Parameter 'bitmap-mode' does not accept value 'often'"},
        {"\"target-accept\":\"any\"",
         "Parameter 'target-accept' does not accept value 'any'"},
        {"\"auto-dismiss\":\"no\"",
         "Invalid parameter type for 'auto-dismiss', expected: boolean"},
        {"\"surprise\":1", "Parameter 'surprise' is unexpected"},
    };
    struct Fixture *f = *state;

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        refuse(f, JOB_BACKUP, "full", rows[i][0], rows[i][1]);
        refuse(f, JOB_MIRROR, "full", rows[i][0], rows[i][1]);
    }
    refuse(f, JOB_BACKUP, "some", "",
           "Parameter 'sync' does not accept value 'some'");
    refuse(f, JOB_BACKUP, "differential", "",
           "Sync mode 'differential' not supported: a backup has 'bitmap' with "
           "bitmap-mode 'never'");
    refuse(f, JOB_MIRROR, "bitmap", "",
           "Sync mode 'bitmap' not supported: a mirror has 'incremental' and "
           "'differential'");
    refuse(f, JOB_BACKUP, "incremental",
           "\"bitmap\":\"bitmap0\",\"granularity\":65536",
           "Granularity and bitmap cannot both be set: the job has the "
           "bitmap's");
    accept(f, JOB_MIRROR, "full", "\"granularity\":512");
    accept(f, JOB_MIRROR, "full", "\"granularity\":67108864,\"speed\":0");
}

static void
test_what_is_missing_or_foreign_is_named(void **state)
{
    static const char *const rows[][2] = {
        {"{}", "Parameter 'device' is missing"},
        {"{\"device\":\"vda\",\"sync\":\"full\"}",
         "Parameter 'target' is missing"},
        {"{\"device\":\"vda\",\"target\":\"/x\"}",
         "Parameter 'sync' is missing"},
        {"{\"device\":\"vdz\",\"target\":\"/x\",\"sync\":\"full\"}",
         "Cannot find device='vdz' nor node-name='vdz'"},
        {"{\"device\":\"vda\",\"target\":\"x\",\"sync\":\"full\"}",
         "target 'x': wants a URI, '[ command ]', or an absolute path"},
        {"{\"device\":\"vda\",\"target\":\"\",\"sync\":\"full\"}",
         "target '': wants a URI, '[ command ]', or an absolute path"},
    };
    struct Fixture *f = *state;

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        (void)parse(f, JOB_BACKUP, rows[i][0], rows[i][1]);
        (void)parse(f, JOB_MIRROR, rows[i][0], rows[i][1]);
    }
}

static void
refuse_place(struct Fixture *f, const char *target, const char *why)
{
    g_autofree char *text = g_strdup_printf(
        "{\"device\":\"vda\",\"sync\":\"full\",\"target\":\"%s\"}", target);
    g_autofree char *words = g_strdup_printf(
        "Source and target cannot be the same: %s is %s", target, why);

    (void)parse(f, JOB_MIRROR, text, words);
}

static void
test_disk_is_no_target_of_itself(void **state)
{
    static const char *const forms[] = {
        "%s/vda/disk.raw",      "%s",        "%s/", "%s/vda/../vda/./disk.raw",
        "[ nbdkit file %s/x ]", "%s-link/x",
    };
    struct Fixture *f = *state;
    g_autofree char *link_path = g_strconcat(f->store->path, "-link", NULL);
    g_autofree char *hard = g_strconcat(f->store->path, "-hard", NULL);
    g_autofree char *image = g_strconcat(f->store->path, "/vda/disk.raw", NULL);
    g_autofree char *beside = g_strdup_printf(
        "{\"device\":\"vda\",\"sync\":\"full\",\"target\":\"%s.raw\"}",
        f->store->path);
    JobSpec spec = parse(f, JOB_BACKUP, beside, NULL);

    job_spec_clear(&spec);
    assert_int_equal(symlink(f->store->path, link_path), 0);
    assert_int_equal(link(image, hard), 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(forms); i++) {
        g_auto(GStrv) parts = g_strsplit(forms[i], "%s", 2);
        g_autofree char *target = g_strjoinv(f->store->path, parts);

        refuse_place(f, target, "a part of the store");
    }
    refuse_place(f, hard, "the image of disk vda");
    refuse_place(f, "/mnt/vm/vda.raw", "in the mount");
    refuse_place(f, "/mnt/./vm", "in the mount");
    assert_int_equal(unlink(link_path), 0);
    assert_int_equal(unlink(hard), 0);
}

static void
test_what_is_not_supported_says_why(void **state)
{
    static const struct {
        enum JobKind kind;
        const char *more, *words;
    } rows[] = {
        {JOB_BACKUP, "\"on-cbw-error\":\"break-snapshot\"",
         "Parameter 'on-cbw-error'='break-snapshot' is not supported: no write "
         "of the guest waits for a job's target, so there is nothing to break"},
        {JOB_BACKUP, "\"cbw-timeout\":45",
         "Parameter 'cbw-timeout' is not supported: no write of the guest "
         "waits "
         "for a job's target, so there is nothing to time out"},
        {JOB_MIRROR, "\"copy-mode\":\"write-blocking\"",
         "Parameter 'copy-mode'='write-blocking' is not supported: no write of "
         "the guest waits for a job's target; job-complete brings the mirror "
         "to "
         "one instant of the disk all the same"},
        {JOB_BACKUP, "\"compress\":true",
         "Parameter 'compress' is not supported: let the target's server "
         "compress what it stores"},
        {JOB_BACKUP, "\"discard-source\":true",
         "Parameter 'discard-source' is not supported: the source is the disk "
         "itself; what is kept aside for a job goes when it is over"},
        {JOB_MIRROR, "\"filter-node-name\":\"f\"",
         "Parameter 'filter-node-name'='f' is not supported: a job puts no "
         "node "
         "above the disk"},
        {JOB_MIRROR, "\"replaces\":\"vda\"",
         "Parameter 'replaces'='vda' is not supported: the disk stays with its "
         "store when a mirror completes"},
        {JOB_BACKUP, "\"copy-mode\":\"background\"",
         "Parameter 'copy-mode' is unexpected"},
        {JOB_MIRROR, "\"on-cbw-error\":\"break-snapshot\"",
         "Parameter 'on-cbw-error' is unexpected"},
    };
    struct Fixture *f = *state;

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        refuse(f, rows[i].kind, "full", rows[i].more, rows[i].words);
    }
    accept(f, JOB_MIRROR, "full", "\"copy-mode\":\"background\"");
    accept(f, JOB_BACKUP, "full",
           "\"compress\":false,\"discard-source\":false,"
           "\"x-perf\":{\"max-workers\":4}");
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, setup, teardown)

int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_bitmaps_of_backups),
        TEST(test_bitmaps_of_mirrors),
        TEST(test_busy_bitmap_is_refused),
        TEST(test_modes_mean_what_they_say),
        TEST(test_what_is_not_said_has_its_default),
        TEST(test_what_is_said_arrives),
        TEST(test_targets_of_part_of_a_disk_have_data),
        TEST(test_values_out_of_range_are_refused),
        TEST(test_what_is_missing_or_foreign_is_named),
        TEST(test_disk_is_no_target_of_itself),
        TEST(test_what_is_not_supported_says_why),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
