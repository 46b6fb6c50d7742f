/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-store.c - create, set, resize, remove, check
 *
 * The commands about what a store is. create, remove and check work on the
 * store itself and need it at rest (its lock and its mount say so: exit 3). set and resize
 * ask the daemon if there is one, and do it themselves if there is none.
 */
#include "cli.h"

#include "job.h"
#include "store-target.h"

#include <stdio.h>
#include <string.h>

/*
 * create
 */
static struct {
    char *size, *from, *target, *cluster_size;
    gboolean insecure;
} create_options;

static const GOptionEntry create_entries[] = {
    {"size", 0, 0, G_OPTION_ARG_STRING, &create_options.size,
     "size of the new disk: 20G, 512M, 4T", "SIZE"},
    {"from", 0, 0, G_OPTION_ARG_FILENAME, &create_options.from,
     "seed it from a raw image (reflink or sparse copy)", "IMAGE"},
    {"target", 0, 0, G_OPTION_ARG_STRING, &create_options.target,
     "NBD URI, '[ nbdkit ... ]', or a path", "URI"},
    {"cluster-size", 0, 0, G_OPTION_ARG_STRING, &create_options.cluster_size,
     "unit of the dirty bitmap, 4K to 2M (64K)", "SIZE"},
    {"insecure", 0, 0, G_OPTION_ARG_NONE, &create_options.insecure,
     "plain TCP to a target beyond this host is fine", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

static int
parse_cluster_size(const char *text, unsigned *bits)
{
    uint64_t bytes;

    if (!store_parse_size(text, &bytes) || bytes < 4096 || bytes > 2u << 20 ||
        (bytes & (bytes - 1)) != 0) {
        return cli_fail(CLI_USAGE,
                        "create: cluster size %s: wants a power of two from "
                        "4K to 2M",
                        text);
    }
    *bits = (unsigned)__builtin_ctzll(bytes);
    return CLI_OK;
}

/* A job would go on to write it as well. */
static gboolean
check_target_at_rest(const Store *store, const char *target, GError **error)
{
    g_autofree char *job = strcmp(target, "none") != 0
                               ? job_of_target_at_rest(store, target)
                               : NULL;

    return job == NULL || job_refuse_target(target, job, error);
}

/* What else is wrong with the store, if there is one, is store_create_disk()'s to
 * say. */
static gboolean
check_new_target(const char *address, const char *target, GError **error)
{
    g_autofree char *path = NULL, *name = NULL;
    gboolean ok = TRUE;
    Store *store;

    if (target == NULL || !store_split_address(address, &path, &name, NULL)) {
        return TRUE;
    }
    store = store_open(store_io_kernel(), path, STORE_OPEN_READ, NULL);
    if (store != NULL) {
        ok = check_target_at_rest(store, target, error) &&
             store_target_is_free(store, NULL, target, error);
        store_free(store);
    }
    return ok;
}

static int
run_create(int argc, char **argv)
{
    struct StoreCreate create = {
        .address = argv[0],
        .from = create_options.from,
        .target = create_options.target,
        .cluster_bits = STORE_CLUSTER_BITS,
        .insecure = create_options.insecure,
    };
    GError *error = NULL;

    (void)argc;
    if ((create_options.size == NULL) == (create_options.from == NULL)) {
        return cli_fail(CLI_USAGE, "create: wants either --size or --from");
    }
    if (create_options.size != NULL &&
        (!store_parse_size(create_options.size, &create.size_bytes) ||
         create.size_bytes == 0)) {
        return cli_fail(CLI_USAGE,
                        "create: size %s: wants a number and K, M, G, T or P",
                        create_options.size);
    }
    if (create_options.cluster_size != NULL &&
        parse_cluster_size(create_options.cluster_size, &create.cluster_bits) !=
            CLI_OK) {
        return CLI_USAGE;
    }
    if (!check_new_target(create.address, create.target, &error) ||
        !store_create_disk(store_io_kernel(), &create, &error)) {
        return cli_fail_error("create", error);
    }
    return CLI_OK;
}

/*
 * set
 */
static void
copy_setting_cb(JsonObject *from, const char *key, JsonNode *value,
                gpointer data)
{
    (void)from;
    json_object_set_member(data, key, json_node_copy(value));
}

/* What must be there before a target is judged, the target, and what a new
 * target would take back: in this order, however they were given. */
static void
add_setting(JsonObject *early, JsonObject *late, const char *key,
            const char *value)
{
    if (strcmp(key, "target") == 0 && strcmp(value, "none") != 0) {
        /* The daemon's working directory is not ours. */
        g_autofree char *absolute = store_target_absolute(value);

        json_object_set_string_member(late, key, absolute);
    } else if (g_str_has_prefix(key, "target")) {
        json_object_set_string_member(late, key, value);
    } else {
        json_object_set_string_member(early, key, value);
    }
}

static JsonObject *
split_settings(int argc, char **argv, const char **flaw)
{
    JsonObject *early = json_object_new();
    g_autoptr(JsonObject) late = json_object_new();
    const char *target = NULL;

    for (int i = 0; i < argc; i++) {
        char *value = strchr(argv[i], '=');

        if (value == NULL || value == argv[i]) {
            *flaw = argv[i];
            json_object_unref(early);
            return NULL;
        }
        *value = '\0';
        add_setting(early, late, argv[i], value + 1);
    }
    target = json_object_get_string_member_with_default(late, "target", NULL);
    if (target != NULL) {
        json_object_set_string_member(early, "target", target);
    }
    json_object_foreach_member(late, copy_setting_cb, early);
    return early;
}

static gboolean
set_one_at_rest(Store *store, Disk *disk, const char *key, const char *value,
                GError **error)
{
    return (strcmp(key, "target") != 0 ||
            check_target_at_rest(store, value, error)) &&
           store_set(store, disk, key, value, error);
}

static gboolean
set_at_rest(const char *path, const char *name, JsonObject *settings,
            GError **error)
{
    g_autoptr(GList) keys = json_object_get_members(settings);
    Store *store = store_open(store_io_kernel(), path, 0, error);
    Disk *disk = NULL;
    gboolean ok = store != NULL;

    if (ok && name != NULL) {
        disk = store_disk(store, name);
        if (disk == NULL) {
            g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                        "%s has no disk %s", path, name);
            ok = FALSE;
        }
    }
    for (GList *l = keys; ok && l != NULL; l = l->next) {
        ok = set_one_at_rest(store, disk, l->data,
                             json_object_get_string_member(settings, l->data),
                             error);
    }
    ok = ok && store_close_clean(store, error);
    g_clear_pointer(&store, store_free);
    return ok;
}

static int
run_set(int argc, char **argv)
{
    g_autofree char *disk = NULL;
    g_autofree char *store = cli_split_address(argv[0], &disk);
    g_autoptr(ControlClient) client = NULL;
    g_autoptr(JsonObject) settings = NULL;
    const char *flaw = NULL;
    GError *error = NULL;

    settings = split_settings(argc - 1, argv + 1, &flaw);
    if (settings == NULL) {
        return cli_fail(CLI_USAGE,
                        "set: %s: wants KEY=VALUE, such as bwlimit=8M", flaw);
    }
    client = cli_connect(store);
    if (client != NULL) {
        JsonObject *arguments = json_object_new();
        g_autoptr(JsonNode) reply = NULL;

        if (disk != NULL) {
            json_object_set_string_member(arguments, "disk", disk);
        }
        json_object_set_object_member(arguments, "settings",
                                      g_steal_pointer(&settings));
        reply = control_client_call(client, "weir-set", arguments, &error);
    } else {
        set_at_rest(store, disk, settings, &error);
    }
    return error != NULL ? cli_fail_error("set", error) : CLI_OK;
}

/*
 * resize
 */
/* It will go on, and its target has the size that the disk has now. */
static gboolean
check_no_job(const Store *store, Disk *disk, GError **error)
{
    g_autofree char *job = job_at_rest(store, disk);

    if (job != NULL) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_BUSY,
                    "%s: job %s is at work on it: mount the store, and cancel "
                    "that, or wait for its end",
                    disk->name, job);
    }
    return job == NULL;
}

static gboolean
resize_at_rest(const char *path, const char *name, uint64_t size_bytes,
               GError **error)
{
    Store *store = store_open(store_io_kernel(), path, 0, error);
    gboolean ok = FALSE;
    Disk *disk;

    if (store == NULL) {
        return FALSE;
    }
    disk = store_disk(store, name);
    if (disk == NULL) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED, "%s has no disk %s",
                    path, name);
    } else {
        ok = check_no_job(store, disk, error) &&
             store_resize_disk(store, disk, size_bytes, error) &&
             store_close_clean(store, error);
    }
    store_free(store);
    return ok;
}

static int
run_resize(int argc, char **argv)
{
    g_autofree char *store = NULL;
    g_autofree char *disk = NULL;
    g_autoptr(ControlClient) client = NULL;
    GError *error = NULL;
    uint64_t size_bytes;

    (void)argc;
    if (!store_parse_size(argv[1], &size_bytes) || size_bytes == 0 ||
        size_bytes > INT64_MAX) {
        return cli_fail(CLI_USAGE,
                        "resize: size %s: wants a number and K, M, G, T or P",
                        argv[1]);
    }
    if (!store_split_address(argv[0], &store, &disk, &error)) {
        return cli_fail_error("resize", error);
    }
    client = cli_connect(store);
    if (client != NULL) {
        JsonObject *arguments = json_object_new();
        g_autoptr(JsonNode) reply = NULL;

        json_object_set_string_member(arguments, "disk", disk);
        json_object_set_int_member(arguments, "size-bytes", (gint64)size_bytes);
        reply = control_client_call(client, "weir-resize", arguments, &error);
    } else {
        resize_at_rest(store, disk, size_bytes, &error);
    }
    return error != NULL ? cli_fail_error("resize", error) : CLI_OK;
}

/*
 * remove
 */
static struct {
    gboolean discard;
} remove_options;

static const GOptionEntry remove_entries[] = {
    {"discard", 0, 0, G_OPTION_ARG_NONE, &remove_options.discard,
     "also what its target does not hold yet: that is lost", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

static int
run_remove(int argc, char **argv)
{
    GError *error = NULL;

    (void)argc;
    if (!store_remove(store_io_kernel(), argv[0], remove_options.discard,
                      &error)) {
        return cli_fail_error("remove", error);
    }
    return CLI_OK;
}

/*
 * check
 */
static struct {
    gboolean json, repair;
} check_options;

static const GOptionEntry check_entries[] = {
    {"json", 0, 0, G_OPTION_ARG_NONE, &check_options.json,
     "for programs: {sound, findings[]}", NULL},
    {"repair", 0, 0, G_OPTION_ARG_NONE, &check_options.repair,
     "mend what can be mended without loss", NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

static void
print_findings(const char *report, gboolean is_sound)
{
    g_autoptr(JsonObject) object = json_object_new();
    g_auto(GStrv) lines = g_strsplit(report, "\n", -1);
    JsonArray *findings = json_array_new();

    for (char **line = lines; *line != NULL; line++) {
        if (**line != '\0') {
            json_array_add_string_element(findings, *line);
        }
    }
    json_object_set_boolean_member(object, "sound", is_sound);
    json_object_set_array_member(object, "findings", findings);
    cli_print_json(object);
}

static int
run_check(int argc, char **argv)
{
    g_autofree char *store = cli_store_path(argv[0]);
    g_autoptr(GString) report = g_string_new(NULL);
    enum StoreVerdict verdict;
    GError *error = NULL;

    (void)argc;
    if (!store_check(store_io_kernel(), store, check_options.repair, report,
                     &verdict, &error)) {
        return cli_fail_error("check", error);
    }
    if (check_options.json) {
        print_findings(report->str, verdict == STORE_SOUND);
    } else {
        printf("%s", report->str);
        if (verdict == STORE_SOUND) {
            printf("%s is sound\n", store);
        }
    }
    return verdict == STORE_SOUND
               ? CLI_OK
               : cli_fail(CLI_DAMAGED, "check: %s is damaged", store);
}

const struct CliCommand cli_store_commands[] = {
    {.name = "create",
     .synopsis = "STORE/DISK (--size SIZE | --from IMAGE) [--target URI]\n"
                 "            [--cluster-size SIZE] [--insecure]",
     .summary = "Make a new disk, and the store if it is new.",
     .options = create_entries,
     .codes = "  0 made   1 failed   2 usage   3 store in use\n"
              "  4 store damaged   5 the target cannot be one\n",
     .example = "  weir create /srv/weir/vm1/vda --size 20G "
                "\\\n    --target "
                "'nbds://weir@backup/vm1?tls-psk-file=/etc/weir/psk'\n",
     .min_args = 1,
     .max_args = 1,
     .run = run_create},
    {.name = "set",
     .synopsis = "STORE[/DISK] KEY=VALUE ...",
     .summary = "Change settings, live; they are kept in weir.conf.",
     .codes = "  0 changed   1 failed   2 usage   3 store in use\n"
              "  4 store damaged   5 the target cannot be one\n",
     .example = "  weir set /srv/weir/vm1 bwlimit='08:00,1M 20:00,off'\n"
                "  weir set /srv/weir/vm1/vda target-accept=overwrite\n",
     .min_args = 2,
     .max_args = -1,
     .run = run_set},
    {.name = "resize",
     .synopsis = "STORE/DISK SIZE",
     .summary = "Grow a disk; its target must be large enough.",
     .codes = "  0 grown   1 failed   2 usage   3 store in use\n"
              "  4 store damaged\n"
              "  5 the target is too small, or its size not known\n",
     .example = "  weir resize /srv/weir/vm1/vda 40G\n",
     .min_args = 2,
     .max_args = 2,
     .run = run_resize},
    {.name = "remove",
     .synopsis = "STORE[/DISK] [--discard]",
     .summary = "Remove a disk, or the store; refused while something is "
                "dirty.",
     .options = remove_entries,
     .codes = "  0 removed   1 failed, or dirty   2 usage   3 store in use\n"
              "  4 store damaged\n",
     .example = "  weir drain /srv/weir/vm1 --wait && weir remove "
                "/srv/weir/vm1\n",
     .min_args = 1,
     .max_args = 1,
     .run = run_remove},
    {.name = "check",
     .synopsis = "STORE [--repair] [--json]",
     .summary = "Look at every structure of a store at rest.",
     .options = check_entries,
     .codes = "  0 sound   1 cannot be checked   2 usage   3 store in use\n"
              "  4 damaged, and with --repair: not all could be mended\n",
     .example = "  weir check /srv/weir/vm1\n",
     .min_args = 1,
     .max_args = 1,
     .run = run_check},
    {0},
};
