/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store-set.c - `weir set` and `weir resize`
 *
 * One row per key says whose it is and how a value is taken. A value is
 * checked, put into memory, and weir.conf is replaced; if that fails, memory
 * is as before. What a running daemon does with a new value is the daemon's.
 *
 * A new target is another far side: nothing is known of it, so everything is
 * dirty and the next connect is a first contact. `target-accept` was said
 * about the old one and ends with it: nobody wants the yes to overwriting one
 * machine's disk to hold for the next machine's.
 *
 * Growing goes in the order in which each step can be the last: disk.raw and
 * the intent file are longer (harmless), weir.conf says so (the checkpoint is
 * shorter, so the new part counts as dirty), and the map in memory follows.
 */
#include "store-private.h"
#include "store-target.h"

#include <errno.h>
#include <string.h>

struct Setting {
    const char *key;
    bool is_disks; /* of a disk; else of the store */
    gboolean (*set)(Store *store, Disk *disk, const char *value,
                    GError **error);
};

/* What a setting may change. */
struct Before {
    struct StoreSettings settings;
    struct {
        enum TargetAccept accept;
        bool is_alone;
    } disks[STORE_DISKS_MAX];
};

static struct Before
remember(const Store *store)
{
    struct Before before = {.settings = store->settings};

    for (unsigned i = 0; i < store->n_disks; i++) {
        before.disks[i].accept = store->disks[i]->accept;
        before.disks[i].is_alone = store->disks[i]->is_alone;
    }
    return before;
}

/* As it is now, in weir.conf; or, if that cannot be had, as it was. */
static gboolean
keep(Store *store, const struct Before *before, GError **error)
{
    if (store_save_conf(store, error)) {
        return TRUE;
    }
    store->settings = before->settings;
    for (unsigned i = 0; i < store->n_disks; i++) {
        store->disks[i]->accept = before->disks[i].accept;
        store->disks[i]->is_alone = before->disks[i].is_alone;
    }
    return FALSE;
}

static gboolean
bad_value(GError **error, const char *key, const char *value, const char *want)
{
    g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                "%s=%s is not possible: it has to be %s", key, value, want);
    return FALSE;
}

static gboolean
set_bool(Store *store, bool *member, const char *key, const char *value,
         GError **error)
{
    struct Before before = remember(store);
    bool wanted;

    if (!conf_bool_parse(value, &wanted)) {
        return bad_value(error, key, value, "yes or no");
    }
    *member = wanted;
    return keep(store, &before, error);
}

static gboolean
set_insecure(Store *store, Disk *disk, const char *value, GError **error)
{
    (void)disk;
    return set_bool(store, &store->settings.insecure, "insecure", value, error);
}

static gboolean
set_unflushed(Store *store, Disk *disk, const char *value, GError **error)
{
    (void)disk;
    return set_bool(store, &store->settings.accept_unflushed,
                    "target-unflushed", value, error);
}

static gboolean
number_parse(const char *value, unsigned min, unsigned max, uint64_t *number,
             GError **error)
{
    if (conf_number_parse(value, min, max, number)) {
        return TRUE;
    }
    g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                "'%s' is not possible: it has to be a number from %u to %u",
                value, min, max);
    return FALSE;
}

static gboolean
set_number(Store *store, unsigned *member, unsigned max, const char *value,
           GError **error)
{
    struct Before before = remember(store);
    uint64_t wanted;

    if (!number_parse(value, 1, max, &wanted, error)) {
        return FALSE;
    }
    *member = (unsigned)wanted;
    return keep(store, &before, error);
}

static gboolean
set_connections(Store *store, Disk *disk, const char *value, GError **error)
{
    (void)disk;
    return set_number(store, &store->settings.max_connections,
                      CONF_CONNECTIONS_MAX, value, error);
}

static gboolean
set_deadline(Store *store, Disk *disk, const char *value, GError **error)
{
    (void)disk;
    return set_number(store, &store->settings.request_deadline_s,
                      CONF_REQUEST_DEADLINE_MAX, value, error);
}

/* @member becomes a copy of @text, or NULL. */
static gboolean
set_text(Store *store, char **member, const char *text, GError **error)
{
    struct Before before = remember(store);
    char *old = *member;
    char *new = g_strdup(text);
    gboolean is_kept;

    *member = new;
    is_kept = keep(store, &before, error);
    g_free(is_kept ? old : new);
    return is_kept;
}

static gboolean
set_bwlimit(Store *store, Disk *disk, const char *value, GError **error)
{
    struct RateTable table;
    char why[128] = "";

    (void)disk;
    if (!rate_table_parse(value, &table, why, sizeof(why))) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "bwlimit=%s is not possible: %s", value, why);
        return FALSE;
    }
    return set_text(store, &store->settings.bwlimit,
                    strcmp(value, "off") ? value : NULL, error);
}

static gboolean
set_policy(Store *store, Disk *disk, const char *value, GError **error)
{
    struct Before before = remember(store);

    (void)disk;
    if (!conf_policy_parse(value, &store->settings.policy)) {
        return bad_value(error, "policy", value, "cut or none");
    }
    return keep(store, &before, error);
}

static gboolean
set_interval(Store *store, Disk *disk, const char *value, GError **error)
{
    (void)disk;
    return set_number(store, &store->settings.cut_interval_s,
                      CONF_CUT_INTERVAL_MAX, value, error);
}

static gboolean
set_buffer(Store *store, Disk *disk, const char *value, GError **error)
{
    struct Before before = remember(store);
    uint64_t bytes;

    (void)disk;
    if (!store_parse_size(value, &bytes)) {
        return bad_value(error, "buffer-size", value,
                         "a size such as 20G, or 0 for no limit");
    }
    store->settings.buffer_bytes = bytes;
    return keep(store, &before, error);
}

/* "none", or nothing at all, takes a command away. */
static gboolean
set_command(Store *store, char **member, const char *value, GError **error)
{
    return set_text(store, member,
                    *value && strcmp(value, "none") ? value : NULL, error);
}

static gboolean
set_on_cut(Store *store, Disk *disk, const char *value, GError **error)
{
    (void)disk;
    return set_command(store, &store->settings.on_cut, value, error);
}

static gboolean
set_on_freeze(Store *store, Disk *disk, const char *value, GError **error)
{
    (void)disk;
    return set_command(store, &store->settings.on_freeze, value, error);
}

static gboolean
set_on_thaw(Store *store, Disk *disk, const char *value, GError **error)
{
    (void)disk;
    return set_command(store, &store->settings.on_thaw, value, error);
}

static gboolean
set_before_degrade(Store *store, Disk *disk, const char *value, GError **error)
{
    (void)disk;
    return set_command(store, &store->settings.before_degrade, value, error);
}

static gboolean
set_every(Store *store, Disk *disk, const char *value, GError **error)
{
    struct Before before = remember(store);

    (void)disk;
    if (!conf_every_parse(value, &store->settings.snapshot_every_s)) {
        return bad_value(error, "snapshot-every", value,
                         "a time such as 30m, 1h or 1d, or 0 for none");
    }
    return keep(store, &before, error);
}

static gboolean
set_keep(Store *store, Disk *disk, const char *value, GError **error)
{
    struct Before before = remember(store);
    uint64_t count;

    (void)disk;
    if (!number_parse(value, 0, CONF_SNAPSHOT_KEEP_MAX, &count, error)) {
        return FALSE;
    }
    store->settings.snapshot_keep = (unsigned)count;
    return keep(store, &before, error);
}

static gboolean
set_full_wait(Store *store, Disk *disk, const char *value, GError **error)
{
    struct Before before = remember(store);
    uint64_t seconds;

    (void)disk;
    if (!number_parse(value, 0, CONF_FULL_WAIT_MAX, &seconds, error)) {
        return FALSE;
    }
    store->settings.full_wait_s = (unsigned)seconds;
    return keep(store, &before, error);
}

/* For the disk, or for all of them. */
static gboolean
set_group(Store *store, Disk *disk, const char *value, GError **error)
{
    struct Before before = remember(store);
    bool is_grouped;

    if (!conf_bool_parse(value, &is_grouped)) {
        return bad_value(error, "group", value, "yes or no");
    }
    for (unsigned i = 0; i < store->n_disks; i++) {
        if (!disk || disk == store->disks[i]) {
            store->disks[i]->is_alone = !is_grouped;
        }
    }
    return keep(store, &before, error);
}

/* For the disk, or for all of them. */
static gboolean
set_accept(Store *store, Disk *disk, const char *value, GError **error)
{
    struct Before before = remember(store);
    enum TargetAccept wanted;

    if (!conf_accept_parse(value, &wanted)) {
        return bad_value(error, "target-accept", value,
                         "overwrite, same or empty");
    }
    for (unsigned i = 0; i < store->n_disks; i++) {
        if (!disk || disk == store->disks[i]) {
            store->disks[i]->accept = wanted;
        }
    }
    return keep(store, &before, error);
}

/* Before a target is changed while the store is served: were it changed back
 * before the next state is saved, a crash would find the contact of before,
 * and trust what it says of a target that anybody may have written since. */
static gboolean
forget_contact(Store *store, Disk *disk, GError **error)
{
    enum TargetContact before = disk->contact;
    uint64_t cut_before = disk->cut;

    disk->contact = CONTACT_NONE;
    disk->cut = 0;
    if (store->is_served && before == CONTACT_KNOWN &&
        !store_save_state(store, error)) {
        disk->contact = before;
        disk->cut = cut_before;
        return FALSE;
    }
    return TRUE;
}

/* @text, or NULL, is the disk's target from now on. */
static gboolean
change_target(Store *store, Disk *disk, const char *text, GError **error)
{
    char *old = disk->target;
    enum TargetAccept old_accept = disk->accept;
    enum TargetContact old_contact = disk->contact;

    if (!forget_contact(store, disk, error)) {
        return FALSE;
    }
    disk->target = g_strdup(text);
    disk->accept = ACCEPT_EMPTY;
    if (!store_save_conf(store, error)) {
        g_free(disk->target);
        disk->target = old;
        disk->accept = old_accept;
        disk->contact = old_contact;
        return FALSE;
    }
    g_free(old);
    disk_map_mark_all(disk->map, g_get_monotonic_time());
    return TRUE;
}

static gboolean
set_target(Store *store, Disk *disk, const char *value, GError **error)
{
    struct StoreTarget target = {0};
    gboolean ok;

    if (!disk && store->n_disks == 1) {
        disk = store->disks[0];
    }
    if (!disk) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "the store has %u disks: say whose target, as in weir set "
                    "%s/NAME target=...",
                    store->n_disks, store->path);
        return FALSE;
    }
    if (!strcmp(value, "none")) {
        return !disk->target || change_target(store, disk, NULL, error);
    }
    ok = store_target_prepare(&target, value, store->path,
                              atomic_load(&disk->size_bytes),
                              store->settings.insecure, error) &&
         store_target_is_free(store, disk, target.text, error);
    if (ok && g_strcmp0(target.text, disk->target) != 0) {
        ok = store_target_make(&target, error) &&
             change_target(store, disk, target.text, error);
        if (!ok) {
            store_target_unmake(&target);
        }
    }
    store_target_deinit(&target);
    return ok;
}

static const struct Setting settings[] = {
    {"target", true, set_target},
    {"target-accept", true, set_accept},
    {"bwlimit", false, set_bwlimit},
    {"insecure", false, set_insecure},
    {"max-connections", false, set_connections},
    {"target-unflushed", false, set_unflushed},
    {"request-deadline", false, set_deadline},
    {"policy", false, set_policy},
    {"cut-interval", false, set_interval},
    {"buffer-size", false, set_buffer},
    {"on-cut", false, set_on_cut},
    {"on-freeze", false, set_on_freeze},
    {"on-thaw", false, set_on_thaw},
    {"snapshot-every", false, set_every},
    {"snapshot-keep", false, set_keep},
    {"full-wait", false, set_full_wait},
    {"before-degrade", false, set_before_degrade},
    {"group", true, set_group},
};

static void
refuse_key(const char *key, GError **error)
{
    g_autoptr(GString) known = g_string_new(NULL);

    for (unsigned i = 0; i < G_N_ELEMENTS(settings); i++) {
        g_string_append_printf(known, "%s%s", i ? ", " : "", settings[i].key);
    }
    g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                "there is no setting '%s': there are %s", key, known->str);
}

/*
 * store_set() - one setting, checked, in memory and in weir.conf
 * @disk: the disk that was named, or NULL
 *
 * The caller of a store that is not served ends it with store_close_clean():
 * a new target made bits dirty.
 */
gboolean
store_set(Store *store, Disk *disk, const char *key, const char *value,
          GError **error)
{
    assert(!store->is_read_only);
    for (unsigned i = 0; i < G_N_ELEMENTS(settings); i++) {
        const struct Setting *setting = &settings[i];

        if (strcmp(setting->key, key) != 0) {
            continue;
        }
        if (disk && !setting->is_disks) {
            g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                        "%s is a setting of the whole store: weir set %s "
                        "%s=...",
                        key, store->path, key);
            return FALSE;
        }
        return setting->set(store, disk, value, error);
    }
    refuse_key(key, error);
    return FALSE;
}

/* What can be said against @size_bytes before anything is touched. */
static gboolean
check_growth(Store *store, Disk *disk, uint64_t size_bytes, GError **error)
{
    uint64_t now = atomic_load(&disk->size_bytes);
    struct StoreTarget target = {0};
    gboolean ok = TRUE;

    if (!store_check_size(size_bytes, disk->cluster_bits, error)) {
        return FALSE;
    }
    if (size_bytes < now) {
        g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                    "disk %s has %" G_GUINT64_FORMAT
                    " bytes and cannot be made smaller: weir resize only grows",
                    disk->name, now);
        return FALSE;
    }
    if (disk->target && store_target_is_path(disk->target)) {
        ok = store_target_prepare(&target, disk->target, store->path,
                                  size_bytes, store->settings.insecure, error);
        store_target_deinit(&target);
    }
    return ok;
}

static gboolean
save_size(Store *store, Disk *disk, uint64_t size_bytes, GError **error)
{
    struct Conf conf;

    store_to_conf(store, &conf);
    conf.disks[disk->index].size_bytes = size_bytes;
    return store_save_conf_in(store->io, store->dir_fd, store->path, &conf,
                              error);
}

/*
 * store_resize_disk() - grow a disk
 *
 * The caller of a store that is not served ends it with store_close_clean().
 * After a failure the disk has its old size, and disk.raw may be longer.
 */
gboolean
store_resize_disk(Store *store, Disk *disk, uint64_t size_bytes, GError **error)
{
    StoreIo *io = store->io;
    int err;

    assert(!store->is_read_only);
    if (!check_growth(store, disk, size_bytes, error)) {
        return FALSE;
    }
    if (size_bytes == atomic_load(&disk->size_bytes)) {
        return TRUE;
    }
    if (store_raw_bytes(size_bytes) !=
            store_raw_bytes(atomic_load(&disk->size_bytes)) &&
        !store_raw_resize(io, disk->map_fd, size_bytes, error)) {
        return FALSE;
    }
    err = io->ops->fsync(io, disk->map_fd);
    err = err ? err : store_track_grow(store, disk, size_bytes);
    err = err || !disk->aside ? err : aside_grow(disk->aside, size_bytes);
    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "disk %s: its new size cannot be synced", disk->name);
        return FALSE;
    }
    if (!save_size(store, disk, size_bytes, error)) {
        return FALSE;
    }
    err = disk_map_grow(disk->map, size_bytes, g_get_monotonic_time());
    if (err) {
        store_set_errno(error, STORE_ERROR_FAILED, err,
                        "disk %s: its bitmap cannot grow", disk->name);
        (void)store_save_conf(store, NULL);
        return FALSE;
    }
    atomic_store(&disk->size_bytes, size_bytes);
    return TRUE;
}
