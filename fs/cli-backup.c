/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-backup.c - backup, mirror
 *
 * Both are one call of the daemon, blockdev-backup or blockdev-mirror, and with
 * --wait what follows it (cli-job-wait.c). What may be combined is said there,
 * in QEMU's words; here is what concerns the command line: sizes as people write
 * them, a name for the job, and a target that is a file which is not there yet,
 * which is made, and known to be zeroes.
 *
 * With --keep a job that is over stays in the list until it is dismissed. The next
 * one of its name takes its place, so that a nightly backup leaves one line.
 */
#include "cli-job.h"
#include "store-target.h"

#include <stdio.h>
#include <string.h>

#define NAMES_TRIED 100

static struct {
    char *to, *sync, *bitmap, *bitmap_mode, *job_id;
    char *speed, *granularity, *buf_size;
    char *on_source, *on_target, *accept;
    gboolean wait, complete, keep, larger, is_zero, no_unmap;
} options;

/* clang-format off */
#define TEXT(name, place, what, word)                                          \
    {name, 0, 0, G_OPTION_ARG_STRING, &options.place, what, word}
#define FLAG(name, place, what)                                                \
    {name, 0, 0, G_OPTION_ARG_NONE, &options.place, what, NULL}
#define COMMON                                                                 \
    TEXT("job-id", job_id, "its name (backup-vda, mirror-vda)", "JOB"),        \
    TEXT("speed", speed, "bytes a second at most: 10M", "SPEED"),              \
    TEXT("granularity", granularity, "unit that is copied, 4K to 2M", "SIZE"), \
    TEXT("buf-size", buf_size, "bytes in flight at most", "SIZE"),             \
    TEXT("on-source-error", on_source, "report, ignore, enospc or stop",       \
         "ACTION"),                                                            \
    TEXT("on-target-error", on_target, "report, ignore, enospc or stop",       \
         "ACTION"),                                                            \
    TEXT("target-accept", accept,                                              \
         "a target that holds data: overwrite it, or same", "WORD"),           \
    FLAG("target-is-zero", is_zero, "it reads as zeroes: none need be sent"),  \
    FLAG("no-unmap", no_unmap, "zeroes are written, not deallocated"),         \
    FLAG("larger-target", larger, "the target may be larger than the disk"),   \
    FLAG("keep", keep, "it stays in the list when it is over"),                \
    {NULL, 0, 0, 0, NULL, NULL, NULL}
/* clang-format on */

static const GOptionEntry backup_entries[] = {
    TEXT("to", to, "NBD URI, '[ nbdkit ... ]', or a path", "URI"),
    TEXT("sync", sync, "full, top, none, incremental or bitmap", "SYNC"),
    TEXT("bitmap", bitmap, "what is dirty in it is copied", "NAME"),
    TEXT("bitmap-mode", bitmap_mode, "on-success, never or always", "MODE"),
    FLAG("wait", wait, "until it is over"),
    COMMON};

static const GOptionEntry mirror_entries[] = {
    TEXT("to", to, "NBD URI, '[ nbdkit ... ]', or a path", "URI"),
    TEXT("sync", sync, "full, top, none, incremental or differential", "SYNC"),
    TEXT("bitmap", bitmap, "what is dirty in it is copied", "NAME"),
    FLAG("wait", wait, "until the target follows the disk"),
    FLAG("complete", complete, "then end it, and wait for that"),
    COMMON};

/*
 * What is asked for
 */
static void
add_text(JsonObject *arguments, const char *name, const char *text)
{
    if (text != NULL) {
        json_object_set_string_member(arguments, name, text);
    }
}

static bool
add_size(const char *kind, JsonObject *arguments, const char *name,
         const char *text)
{
    guint64 bytes;

    if (text == NULL) {
        return true;
    }
    if (!store_parse_size(text, &bytes) || bytes > G_MAXINT64) {
        cli_fail(CLI_USAGE, "%s: %s %s: wants bytes, as in 64K, 10M", kind,
                 name, text);
        return false;
    }
    json_object_set_int_member(arguments, name, (gint64)bytes);
    return true;
}

/* NULL: wrong usage, which was said. */
static JsonObject *
build_arguments(const char *kind, const char *disk)
{
    g_autoptr(JsonObject) arguments = json_object_new();

    add_text(arguments, "device", disk);
    add_text(arguments, "sync", options.sync);
    add_text(arguments, "bitmap", options.bitmap);
    add_text(arguments, "bitmap-mode", options.bitmap_mode);
    add_text(arguments, "on-source-error", options.on_source);
    add_text(arguments, "on-target-error", options.on_target);
    add_text(arguments, "target-accept", options.accept);
    if (!add_size(kind, arguments, "speed", options.speed) ||
        !add_size(kind, arguments, "granularity", options.granularity) ||
        !add_size(kind, arguments, "buf-size", options.buf_size)) {
        return NULL;
    }
    if (options.is_zero) {
        json_object_set_boolean_member(arguments, "target-is-zero", TRUE);
    }
    if (options.larger) {
        json_object_set_boolean_member(arguments, "exact-size", FALSE);
    }
    if (options.no_unmap) {
        json_object_set_boolean_member(arguments, "unmap", FALSE);
    }
    if (options.wait || options.complete || options.keep) {
        json_object_set_boolean_member(arguments, "auto-dismiss", FALSE);
    }
    return g_steal_pointer(&arguments);
}

/*
 * Its name: the one that was asked for, or the first that is free. One that is
 * over makes room.
 */
static gboolean
make_room(ControlClient *client, const char *id, bool *is_taken, GError **error)
{
    g_autoptr(JsonObject) job = cli_job_get(client, id, error);

    *is_taken = job != NULL;
    if (job != NULL && cli_job_is(job, "concluded")) {
        *is_taken = !cli_job_verb(client, "job-dismiss", id, NULL);
    }
    return error == NULL || *error == NULL;
}

static char *
choose_id(ControlClient *client, const char *kind, const char *disk,
          GError **error)
{
    bool is_taken;

    if (options.job_id != NULL) {
        return make_room(client, options.job_id, &is_taken, error)
                   ? g_strdup(options.job_id)
                   : NULL;
    }
    for (unsigned i = 1; i <= NAMES_TRIED; i++) {
        g_autofree char *id = i == 1
                                  ? g_strdup_printf("%s-%s", kind, disk)
                                  : g_strdup_printf("%s-%s-%u", kind, disk, i);

        if (!make_room(client, id, &is_taken, error)) {
            return NULL;
        }
        if (!is_taken) {
            return g_steal_pointer(&id);
        }
    }
    g_set_error(error, STORE_ERROR, STORE_ERROR_FAILED,
                "%u jobs of %s are at work: give it a name with --job-id",
                NAMES_TRIED, disk);
    return NULL;
}

/*
 * The target
 */

/* Its size, of the disk that is to be copied; 0: there is none. */
static gboolean
look_at_store(ControlClient *client, const char *disk, uint64_t *size_bytes,
              GError **error)
{
    g_autoptr(JsonNode) reply =
        control_client_call(client, "weir-status", NULL, error);
    JsonArray *disks;

    *size_bytes = 0;
    if (reply == NULL) {
        return FALSE;
    }
    disks = json_object_get_array_member(json_node_get_object(reply), "disks");
    for (guint i = 0; i < json_array_get_length(disks); i++) {
        JsonObject *one = json_array_get_object_element(disks, i);

        if (strcmp(json_object_get_string_member(one, "name"), disk) == 0) {
            *size_bytes =
                (uint64_t)json_object_get_int_member(one, "size_bytes");
        }
    }
    return TRUE;
}

/* A plain path becomes an absolute one, and a file if there is none. */
static gboolean
prepare_target(struct StoreTarget *target, ControlClient *client,
               const char *store, const char *disk, GError **error)
{
    uint64_t size_bytes;

    if (!store_target_is_path(options.to)) {
        target->text = g_strdup(options.to);
        return TRUE;
    }
    return look_at_store(client, disk, &size_bytes, error) &&
           store_target_prepare(target, options.to, store, size_bytes, TRUE,
                                error) &&
           (size_bytes == 0 || store_target_make(target, error));
}

/*
 * Beginning
 */
struct Order {
    const char *kind, *store, *disk;
    ControlClient *client;
    JsonObject *arguments; /* NULL: given */
    char *id;
    struct StoreTarget target;
};

/* Who ends before the answer does not know it: the daemon may be at work on the
 * target by now. */
static int
say_unknown(const struct Order *order, int code, const char *why)
{
    return cli_fail(code,
                    "%s: %s; job %s may begin all the same: weir job list %s "
                    "shows it",
                    order->kind, why, order->id, order->store);
}

/* Only what the daemon has refused is undone. */
static int
give(struct Order *order)
{
    g_autofree char *command = g_strconcat("blockdev-", order->kind, NULL);
    g_autoptr(JsonNode) reply = NULL;
    g_autoptr(GError) error = NULL;

    switch (cli_call_patiently(order->client, command,
                               g_steal_pointer(&order->arguments), &reply,
                               &error)) {
    case CONTROL_GOT_REPLY:
        return CLI_OK;
    case CONTROL_GOT_NOTHING:
        return say_unknown(order, CLI_INTERRUPTED, "interrupted");
    case CONTROL_GOT_ERROR:
        break;
    }
    if (error->domain != CONTROL_ERROR) {
        return say_unknown(order, CLI_FAILED, error->message);
    }
    store_target_unmake(&order->target);
    return cli_fail_error(order->kind, g_steal_pointer(&error));
}

static int
start(struct Order *order)
{
    GError *error = NULL;

    order->id = choose_id(order->client, order->kind, order->disk, &error);
    if (order->id == NULL ||
        !prepare_target(&order->target, order->client, order->store,
                        order->disk, &error)) {
        return cli_fail_error(order->kind, error);
    }
    json_object_set_string_member(order->arguments, "job-id", order->id);
    json_object_set_string_member(order->arguments, "target",
                                  order->target.text);
    if (order->target.is_made) {
        json_object_set_boolean_member(order->arguments, "target-is-zero",
                                       TRUE);
    }
    return give(order);
}

static int
begin(const char *kind, const char *store, const char *disk,
      JsonObject *arguments)
{
    enum CliJobUntil until = options.complete              ? CLI_JOB_COMPLETE
                             : strcmp(kind, "mirror") == 0 ? CLI_JOB_READY
                                                           : CLI_JOB_OVER;
    struct Order order = {
        .kind = kind, .store = store, .disk = disk, .arguments = arguments};
    int code = CLI_FAILED;

    cli_catch_signals();
    order.client = cli_job_connect(kind, store);
    if (order.client != NULL) {
        code = start(&order);
    }
    if (code == CLI_OK && (options.wait || options.complete)) {
        code = cli_job_wait(kind, store, &order.id, 1, until);
    } else if (code == CLI_OK) {
        printf("%s\n", order.id);
    }
    control_client_free(order.client);
    g_clear_pointer(&order.arguments, json_object_unref);
    store_target_deinit(&order.target);
    g_free(order.id);
    return code;
}

static int
run(const char *kind, const char *address)
{
    g_autofree char *disk = NULL;
    g_autofree char *store = NULL;
    JsonObject *arguments;
    GError *error = NULL;

    if (options.to == NULL || options.sync == NULL) {
        return cli_fail(
            CLI_USAGE, "%s: wants --to URI and --sync SYNC; see weir %s --help",
            kind, kind);
    }
    store = cli_split_disk(address, &disk, &error);
    if (store == NULL) {
        return cli_fail_error(kind, error);
    }
    arguments = build_arguments(kind, disk);
    return arguments != NULL ? begin(kind, store, disk, arguments) : CLI_USAGE;
}

static int
run_backup(int argc, char **argv)
{
    (void)argc;
    return run("backup", argv[0]);
}

static int
run_mirror(int argc, char **argv)
{
    (void)argc;
    return run("mirror", argv[0]);
}

#define CODES                                                                 \
    "  0 begun, or with --wait: done   1 failed, cancelled, or not mounted\n" \
    "  2 usage   5 target refused   130 interrupted: the job goes on\n"
#define COMMON_SYNOPSIS                                                 \
    "            [--job-id JOB] [--speed SPEED] [--granularity SIZE]\n" \
    "            [--buf-size SIZE] [--on-source-error ACTION]\n"        \
    "            [--on-target-error ACTION] [--target-accept WORD]\n"   \
    "            [--target-is-zero] [--larger-target] [--no-unmap] [--keep]"

const struct CliCommand cli_backup_commands[] = {
    {.name = "backup",
     .synopsis = "STORE/DISK --to URI --sync SYNC [--bitmap NAME]\n"
                 "            [--bitmap-mode MODE] [--wait]\n" COMMON_SYNOPSIS,
     .summary = "Copy a disk as it is now to another target.",
     .options = backup_entries,
     .codes = CODES,
     .example = "  weir backup /srv/weir/vm1/vda --to nbds://backup/monday "
                "\\\n    --sync incremental --bitmap daily --wait\n",
     .min_args = 1,
     .max_args = 1,
     .run = run_backup},
    {.name = "mirror",
     .synopsis = "STORE/DISK --to URI --sync SYNC [--bitmap NAME]\n"
                 "            [--wait] [--complete]\n" COMMON_SYNOPSIS,
     .summary = "Have another target follow a disk, until it is completed.",
     .options = mirror_entries,
     .codes = CODES,
     .example = "  weir mirror /srv/weir/vm1/vda --to nbds://new-host/vda "
                "\\\n    --sync full --wait\n",
     .min_args = 1,
     .max_args = 1,
     .run = run_mirror},
    {0},
};
