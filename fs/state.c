/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * state.c - what weir itself remembers of a store between two runs
 *
 * The state decides whether a bitmap is believed, so it must never be half
 * right. It is replaced as a whole (store_io_swap), ends with a checksum,
 * and whatever is odd about it leads to one answer: not clean. Then every
 * cluster counts as dirty and in doubt, and the live disk opens all the same
 * (rule 23).
 *
 *   clean=no     being served, or the last end was a crash
 *   clean=yes    the bitmaps on disk are exact
 *   epoch        of the serve; the intent files are of the same one
 *   epoch-before what files of the store must at least be of to be believed:
 *                epoch, except of a state that was lost and is made anew
 *   holds, advancing, pinned
 *                numbers of cuts, and -time of the first and last; absent: 0
 *   past         ids of snapshots that are no newer than what is held
 *   last-snapshot
 *                no snapshot was ever given a larger id
 *   last-bitmap  likewise, of named bitmaps
 *   rollback     the disks are on their way to that snapshot; absent: 0
 *   cut          of a disk: what its own target was made equal to
 *   recorded     of a disk: a weir wrote this that knows of named bitmaps, and
 *                it has kept track of what was written; -sequence: files of an
 *                earlier checkpoint were not there to record it
 *
 * Per disk, "dirty" says what is to be read, and "sequence" what is too old to
 * be believed. What earlier versions did not write has a value that leads to
 * the same answer as "cannot be believed".
 *
 * Disks are known by the id that weir.conf gave them. A disk of weir.conf that
 * the state does not list was never served; one that the state lists with
 * another target, size or granularity changed in between; the caller compares.
 *
 * The form is that of sealed-text.h.
 */
#include "state.h"

#include "conf.h"
#include "sealed-text.h"

#include <inttypes.h>
#include <string.h>

static const char *const dirty_names[] = {
    [STATE_DIRTY_FILE] = "file",
    [STATE_DIRTY_ALL] = "all",
    [STATE_DIRTY_NONE] = "none",
};

static const char *const contact_names[] = {
    [CONTACT_NONE] = "no",
    [CONTACT_KNOWN] = "yes",
    [CONTACT_LOST] = "lost",
};

void
state_deinit(struct State *state)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(state->disks); i++) {
        g_clear_pointer(&state->disks[i].target, g_free);
    }
    *state = (struct State){0};
}

const struct StateDisk *
state_disk(const struct State *state, unsigned id)
{
    for (unsigned i = 0; i < state->n_disks; i++) {
        if (state->disks[i].id == id) {
            return &state->disks[i];
        }
    }
    return NULL;
}

/* "seconds.nanoseconds", where seconds may be negative. */
static bool
get_time(GKeyFile *file, const char *group, const char *key,
         struct timespec *time)
{
    g_autofree char *text = g_key_file_get_string(file, group, key, NULL);
    char *dot = text ? strchr(text, '.') : NULL;
    gint64 seconds;
    uint64_t nanoseconds;

    if (!dot) {
        return false;
    }
    *dot = '\0';
    if (!g_ascii_string_to_signed(text, 10, G_MININT64, G_MAXINT64, &seconds,
                                  NULL) ||
        !conf_number_parse(dot + 1, 0, UINT32_MAX, &nanoseconds)) {
        return false;
    }
    *time = (struct timespec){seconds, (long)nanoseconds};
    return true;
}

static void
set_time(GKeyFile *file, const char *group, const char *key,
         const struct timespec *time)
{
    g_autofree char *text = g_strdup_printf(
        "%" PRId64 ".%ld", (int64_t)time->tv_sec, time->tv_nsec);

    g_key_file_set_string(file, group, key, text);
}

static bool
parse_attr(GKeyFile *file, const char *group, struct DiskAttr *attr)
{
    uint64_t mode, uid, gid;

    if (!sealed_text_number(file, group, "mode", 07777, &mode) ||
        !sealed_text_number(file, group, "uid", UINT32_MAX, &uid) ||
        !sealed_text_number(file, group, "gid", UINT32_MAX, &gid)) {
        return false;
    }
    attr->mode = (mode_t)mode;
    attr->uid = (uid_t)uid;
    attr->gid = (gid_t)gid;
    return get_time(file, group, "atime", &attr->atime) &&
           get_time(file, group, "mtime", &attr->mtime);
}

static bool
parse_dirty(GKeyFile *file, const char *group, enum StateDirty *dirty)
{
    g_autofree char *text = g_key_file_get_string(file, group, "dirty", NULL);

    for (unsigned i = 0; text && i < G_N_ELEMENTS(dirty_names); i++) {
        if (!strcmp(text, dirty_names[i])) {
            *dirty = (enum StateDirty)i;
            return true;
        }
    }
    return false;
}

static bool
parse_contact(GKeyFile *file, const char *group, enum TargetContact *contact)
{
    g_autofree char *text = g_key_file_get_string(file, group, "known", NULL);

    for (unsigned i = 0; text && i < G_N_ELEMENTS(contact_names); i++) {
        if (!strcmp(text, contact_names[i])) {
            *contact = (enum TargetContact)i;
            return true;
        }
    }
    return false;
}

static bool
later_bool(GKeyFile *file, const char *group, const char *key, bool *value)
{
    return !g_key_file_has_key(file, group, key, NULL) ||
           sealed_text_bool(file, group, key, value);
}

static bool
parse_disk(GKeyFile *file, const char *group, struct StateDisk *disk)
{
    uint64_t id, bits;

    if (!conf_number_parse(group + strlen("disk "), 1, UINT_MAX, &id) ||
        !sealed_text_number(file, group, "size", INT64_MAX,
                            &disk->size_bytes) ||
        !sealed_text_number(file, group, "cluster-bits", CONF_CLUSTER_BITS_MAX,
                            &bits) ||
        !parse_contact(file, group, &disk->contact) ||
        !sealed_text_bool(file, group, "in-doubt", &disk->is_in_doubt) ||
        !later_bool(file, group, "recorded", &disk->is_recorded)) {
        return false;
    }
    disk->id = (unsigned)id;
    disk->cluster_bits = (unsigned)bits;
    disk->target = g_key_file_get_string(file, group, "target", NULL);
    if (!sealed_text_later_number(file, group, "sequence", UINT64_MAX,
                                  &disk->sequence)) {
        return false;
    }
    disk->recorded = disk->sequence;
    return parse_dirty(file, group, &disk->dirty) &&
           sealed_text_later_number(file, group, "recorded-sequence",
                                    UINT64_MAX, &disk->recorded) &&
           sealed_text_later_number(file, group, "cut", INT64_MAX,
                                    &disk->cut) &&
           parse_attr(file, group, &disk->attr) &&
           sealed_text_number(file, group, "raw-inode", UINT64_MAX,
                              &disk->raw.inode) &&
           sealed_text_number(file, group, "raw-size", INT64_MAX,
                              &disk->raw.size_bytes) &&
           get_time(file, group, "raw-mtime", &disk->raw.mtime);
}

static bool
get_instant(GKeyFile *file, const char *key, int64_t *wall_us)
{
    uint64_t value = 0;
    bool is_good =
        sealed_text_later_number(file, "state", key, INT64_MAX, &value);

    *wall_us = (int64_t)value;
    return is_good;
}

static bool
parse_cuts(GKeyFile *file, struct StoreCuts *cuts)
{
    return sealed_text_later_number(file, "state", "holds", INT64_MAX,
                                    &cuts->holds) &&
           sealed_text_later_number(file, "state", "advancing", INT64_MAX,
                                    &cuts->advancing) &&
           sealed_text_later_number(file, "state", "pinned", INT64_MAX,
                                    &cuts->pinned) &&
           sealed_text_later_number(file, "state", "past", INT64_MAX,
                                    &cuts->past) &&
           get_instant(file, "holds-time", &cuts->holds_us) &&
           get_instant(file, "pinned-time", &cuts->pinned_us);
}

static void
format_cuts(GKeyFile *file, const struct StoreCuts *cuts)
{
    if (cuts->holds) {
        g_key_file_set_uint64(file, "state", "holds", cuts->holds);
        g_key_file_set_int64(file, "state", "holds-time", cuts->holds_us);
    }
    if (cuts->advancing) {
        g_key_file_set_uint64(file, "state", "advancing", cuts->advancing);
    }
    if (cuts->past) {
        g_key_file_set_uint64(file, "state", "past", cuts->past);
    }
    if (cuts->pinned) {
        g_key_file_set_uint64(file, "state", "pinned", cuts->pinned);
        g_key_file_set_int64(file, "state", "pinned-time", cuts->pinned_us);
    }
}

static const char *
parse_file(GKeyFile *file, struct State *state)
{
    g_auto(GStrv) groups = g_key_file_get_groups(file, NULL);
    uint64_t version;

    if (!sealed_text_number(file, "state", "version", UINT_MAX, &version) ||
        version != STATE_VERSION) {
        return "another version wrote it";
    }
    if (!sealed_text_uuid(file, "state", state->uuid) ||
        !sealed_text_bool(file, "state", "clean", &state->is_clean) ||
        !sealed_text_number(file, "state", "sequence", UINT64_MAX,
                            &state->sequence) ||
        !sealed_text_later_number(file, "state", "epoch", INT64_MAX,
                                  &state->epoch) ||
        !sealed_text_later_number(file, "state", "last-snapshot", INT64_MAX,
                                  &state->last_snapshot) ||
        !sealed_text_later_number(file, "state", "last-bitmap", NAMED_ID_MAX,
                                  &state->last_bitmap) ||
        !sealed_text_later_number(file, "state", "rollback", INT64_MAX,
                                  &state->rollback) ||
        !parse_cuts(file, &state->cuts)) {
        return "a value of [state] is missing or malformed";
    }
    state->epoch_before = state->epoch;
    if (!sealed_text_later_number(file, "state", "epoch-before", state->epoch,
                                  &state->epoch_before)) {
        return "a value of [state] is missing or malformed";
    }
    for (char **group = groups; *group; group++) {
        if (!g_str_has_prefix(*group, "disk ")) {
            continue;
        }
        if (state->n_disks < STORE_DISKS_MAX) {
            state->disks[state->n_disks].sequence = state->sequence;
        }
        if (state->n_disks == STORE_DISKS_MAX ||
            !parse_disk(file, *group, &state->disks[state->n_disks])) {
            return "a value of a disk is missing or malformed";
        }
        state->n_disks++;
    }
    return NULL;
}

const char *
state_parse(const char *text, size_t len, struct State *state)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    const char *why = sealed_text_parse(text, len, file);

    *state = (struct State){0};
    if (!why) {
        why = parse_file(file, state);
    }
    if (why) {
        state_deinit(state);
    }
    return why;
}

static void
format_disk(GKeyFile *file, const struct StateDisk *disk)
{
    g_autofree char *group = g_strdup_printf("disk %u", disk->id);

    assert(disk->dirty < G_N_ELEMENTS(dirty_names));
    g_key_file_set_uint64(file, group, "size", disk->size_bytes);
    g_key_file_set_uint64(file, group, "cluster-bits", disk->cluster_bits);
    if (disk->target) {
        g_key_file_set_string(file, group, "target", disk->target);
    }
    g_key_file_set_string(file, group, "known", contact_names[disk->contact]);
    g_key_file_set_string(file, group, "dirty", dirty_names[disk->dirty]);
    g_key_file_set_uint64(file, group, "sequence", disk->sequence);
    sealed_text_set_bool(file, group, "in-doubt", disk->is_in_doubt);
    sealed_text_set_bool(file, group, "recorded", disk->is_recorded);
    g_key_file_set_uint64(file, group, "recorded-sequence", disk->recorded);
    if (disk->cut) {
        g_key_file_set_uint64(file, group, "cut", disk->cut);
    }
    g_key_file_set_uint64(file, group, "mode", disk->attr.mode);
    g_key_file_set_uint64(file, group, "uid", disk->attr.uid);
    g_key_file_set_uint64(file, group, "gid", disk->attr.gid);
    set_time(file, group, "atime", &disk->attr.atime);
    set_time(file, group, "mtime", &disk->attr.mtime);
    g_key_file_set_uint64(file, group, "raw-inode", disk->raw.inode);
    g_key_file_set_uint64(file, group, "raw-size", disk->raw.size_bytes);
    set_time(file, group, "raw-mtime", &disk->raw.mtime);
}

char *
state_format(const struct State *state, size_t *len)
{
    g_autoptr(GKeyFile) file = g_key_file_new();

    g_key_file_set_uint64(file, "state", "version", STATE_VERSION);
    sealed_text_set_uuid(file, "state", state->uuid);
    sealed_text_set_bool(file, "state", "clean", state->is_clean);
    g_key_file_set_uint64(file, "state", "sequence", state->sequence);
    g_key_file_set_uint64(file, "state", "epoch", state->epoch);
    g_key_file_set_uint64(file, "state", "epoch-before", state->epoch_before);
    if (state->last_snapshot) {
        g_key_file_set_uint64(file, "state", "last-snapshot",
                              state->last_snapshot);
    }
    if (state->last_bitmap) {
        g_key_file_set_uint64(file, "state", "last-bitmap", state->last_bitmap);
    }
    format_cuts(file, &state->cuts);
    if (state->rollback) {
        g_key_file_set_uint64(file, "state", "rollback", state->rollback);
    }
    for (unsigned i = 0; i < state->n_disks; i++) {
        format_disk(file, &state->disks[i]);
    }
    return sealed_text_format(file, len);
}
