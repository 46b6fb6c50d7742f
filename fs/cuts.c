/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cuts.c - the coordinator of cuts
 *
 * A cut is one instant of all disks of the group (store-cuts.c). Its number is
 * one more than any that was ever begun; one that was given up is skipped.
 * Between two instants the targets are made equal to the older one, while old
 * content that it still owes is kept aside from the guest (face.h).
 *
 *   state     when                          what                      then
 *   REST      a cut is due that may be
 *             given up (cuts-before.c)      before-degrade is run     BEFORE
 *             a snapshot is pending, or it
 *             is due; nothing in the way    "advancing to N" durable,
 *                                           cut, may be sent          SENDING
 *             held but not pinned, a hook   (after a restart, or the
 *                                           hook is new)              HOOK
 *   BEFORE    the command has ended, or
 *             it took too long              (whatever became of it)   REST
 *   SENDING   all of it is at the targets,
 *             all that the face says heard                            WHOLE
 *             old content could not be kept                           BROKEN
 *   BROKEN    all of it is at the targets   given up; the next one is
 *                                           due at once               REST
 *   WHOLE                                   "holds N" durable         HOOK
 *             ... cannot be had             (no room) N is free again REST
 *             ... and there is no hook                                REST
 *   HOOK      it is time                    the command is run
 *             it failed                     later again: 1 s .. 60 s  HOOK
 *             it succeeded                                            PINNED
 *   PINNED                                  "pinned N" durable        REST
 *
 * A state that cannot be made durable keeps its step from being taken: there is
 * no cut, the one that was sent is none, no hook has succeeded; and again. What
 * is dirty drains all the same on a host whose disk is full. So no byte of N is sent before "advancing" is
 * durable, "holds" follows the flush of all disks (a generation is retired
 * after it), and as the next cut begins in REST only, nothing is sent between
 * "holds" and the success of the hook (rule 15).
 *
 * A cut is of the present, or of a snapshot (cuts-snapshot.c).
 *
 * A cut that is not to be had now (discards are under way) is tried again
 * shortly, under the same number.
 *
 * In the way of a cut: a target of the group that is not online (rule 17), a
 * pause, a disk that is still comparing what a crash left dirty, a generation
 * that is sealed already. The last one is left from policy none or of a disk
 * that was out of the group; it is sent without being anything, and its disk
 * lacks the cut until the next one.
 *
 * Whether a cut is whole is decided here alone. The face says that it cannot
 * keep old content before the write that needs it kept is submitted, so before
 * the relay can read the newer content and settle it: once all is seen settled,
 * what was said is in the inbox, and heard before the verdict (rule 16).
 *
 * After a restart "advancing" stays in the state, and what was owed is dirty
 * again: the next cut begins with a new number. Disks that enter or leave the
 * group while a cut is under way: who leaves is no part of it any more; who
 * got another target breaks it.
 */
#include "cuts-private.h"

#include <errno.h>

#define AGAIN_US    (200 * 1000) /* after a cut that was not to be had, or kept */
#define DISCARDS_US (50 * 1000) /* while discards are under way */

static const struct CutsOps real_ops = {
    .cut = face_cut,
    .cut_end = face_cut_end,
    .figures = relay_figures,
    .set_cut = relay_set_cut,
    .allow = relay_allow,
    .uploaded = store_snapshot_uploaded,
    .now_us = g_get_monotonic_time,
};

/*
 * REST
 */

/* A generation that was sealed outside of a cut. */
static bool
drain_leftover(Cuts *cuts, Disk *disk)
{
    if (disk_map_sealed_seq(disk->map) == 0) {
        return false;
    }
    if (cuts_part(cuts, disk)) {
        cuts->config.ops->allow(cuts->config.relay, disk->name,
                                disk_map_open_seq(disk->map) - 1, 0);
    }
    return true;
}

/* The relay has met a target for the first time, and that is not heard yet: it
 * holds no cut (cuts_recontacted()). */
static bool
is_new_contact(const Disk *disk, const struct RelayFigures *figures)
{
    return figures->core.contact == CONTACT_KNOWN &&
           disk->contact != CONTACT_KNOWN;
}

/* Is the target of each disk of the group there to be advanced? */
static bool
is_group_ready(Cuts *cuts)
{
    const struct CutsConfig *config = &cuts->config;
    bool is_of_present = !cuts_has_pending(cuts);
    bool is_ready = true;

    for (unsigned i = 0; i < config->store->n_disks; i++) {
        Disk *disk = config->store->disks[i];
        struct RelayFigures figures = {0};

        if (!cuts_is_member(cuts, disk)) {
            continue;
        }
        if (!config->ops->figures(config->relay, disk->name, &figures) ||
            !figures.is_current || figures.core.link != RELAY_ONLINE) {
            cuts->waits_for = cuts->waits_for ? cuts->waits_for : disk;
            is_ready = false;
        } else if (figures.core.is_paused || figures.core.is_recovering ||
                   is_new_contact(disk, &figures) ||
                   drain_leftover(cuts, disk) || !figures.core.is_cut) {
            is_ready = false;
        } else if (is_of_present && atomic_load(&disk->unpunched_bytes)) {
            /* Discards come first; soon again. */
            cuts->again_us = cuts->config.ops->now_us() + DISCARDS_US;
            is_ready = false;
        }
    }
    return is_ready;
}

static int64_t
due_us(const Cuts *cuts)
{
    int64_t interval_us =
        cuts->config.store->settings.cut_interval_s * G_USEC_PER_SEC;

    if (!cuts->has_begun || cuts->is_degraded || cuts->wanted > cuts->settled ||
        cuts_has_pending(cuts)) {
        return 0;
    }
    return cuts->begun_us + interval_us;
}

static void
gather_group(const Cuts *cuts, struct FaceCut *cut)
{
    Store *store = cuts->config.store;

    cut->n_disks = 0;
    for (unsigned i = 0; i < store->n_disks; i++) {
        if (cuts_is_member(cuts, store->disks[i])) {
            cut->disks[cut->n_disks++] = store->disks[i];
        }
    }
}

/* One instant of all its disks; without a face nobody writes meanwhile. */
static bool
cut_now(Cuts *cuts)
{
    struct FaceCut *cut = &cuts->cut;

    if (cuts->config.face) {
        return cuts->config.ops->cut(cuts->config.face, cut);
    }
    for (unsigned i = 0; i < cut->n_disks; i++) {
        cut->seq[i] = disk_map_seal(cut->disks[i]->map);
    }
    cut->wall_us = cut->snapshot ? cut->wall_us : g_get_real_time();
    return true;
}

/* What was kept so far is of no use any more. */
static void
give_up(Cuts *cuts, const Disk *disk, int error)
{
    JsonObject *data = cuts_number_object(cuts->number);

    cuts->state = CUTS_BROKEN;
    cuts->is_degraded = true;
    cuts->degraded++;
    json_object_set_string_member(data, "disk", disk->name);
    json_object_set_string_member(data, "error", g_strerror(-error));
    cuts_tell(cuts, "WEIR_CUT_DEGRADED", data);
    cuts_end_all_aside(cuts);
}

/* While the guest goes on like this so does the next cut, and the next: the log
 * is told once. */
static void
degrade(Cuts *cuts, const Disk *disk, int error)
{
    if (!cuts->is_degraded) {
        g_warning("%s: old content could not be kept (%s): cut "
                  "%" G_GUINT64_FORMAT " cannot be whole; others are tried "
                  "until one is",
                  disk->name, g_strerror(-error), cuts->number);
    }
    give_up(cuts, disk, error);
}

/* A number of which the state says that the targets may be on the way to it. */
static bool
reserve(Cuts *cuts)
{
    struct StoreCuts next = cuts->config.store->cuts;

    if (cuts->reserved == 0) {
        next.advancing = MAX(next.holds, next.advancing) + 1;
        if (!cuts_keep(cuts, &next)) {
            return false;
        }
        cuts->reserved = next.advancing;
    }
    return true;
}

static void
begin(Cuts *cuts, int64_t now_us)
{
    const struct CutsConfig *config = &cuts->config;
    struct FaceCut *cut = &cuts->cut;
    bool is_dirty[STORE_DISKS_MAX];

    if (!reserve(cuts)) {
        return;
    }
    cuts_choose(cuts);
    if (!cuts_mark_before(cuts)) {
        cuts->again_us = now_us + AGAIN_US;
        return;
    }
    for (unsigned i = 0; i < cut->n_disks; i++) {
        struct DiskMapFigures figures;

        disk_map_figures(cut->disks[i]->map, &figures);
        is_dirty[i] = figures.dirty_clusters > 0;
    }
    if (!cut_now(cuts)) {
        cuts->again_us = now_us + AGAIN_US; /* discards are under way */
        return;
    }
    cuts_mark_after(cuts);
    cuts->number = cuts->reserved;
    cuts->reserved = 0;
    cuts->again_us = 0;
    cuts->has_begun = true;
    cuts->begun_us = now_us;
    cuts->state = CUTS_SENDING;
    cuts_tell(cuts, "WEIR_CUT_BEGUN", cuts_object(cuts));
    for (unsigned i = 0; i < cut->n_disks; i++) {
        if (cut->seq[i] > 0) {
            config->ops->allow(config->relay, cut->disks[i]->name, cut->seq[i],
                               cut->snapshot);
        } else if (is_dirty[i] && cuts->state == CUTS_SENDING) {
            degrade(cuts, cut->disks[i], -ENOMEM); /* it was not sealed */
        }
    }
}

static void
step_rest(Cuts *cuts, int64_t now_us)
{
    const Store *store = cuts->config.store;
    const struct StoreCuts *held = &store->cuts;

    if (store->settings.on_cut && held->pinned < held->holds &&
        store_is_in_place(store)) {
        /* What is behind the address may be another one by now. */
        if (!is_group_ready(cuts)) {
            return;
        }
        gather_group(cuts, &cuts->cut);
        cuts->number = held->holds;
        cuts->cut.wall_us = held->holds_us;
        cuts->state = CUTS_HOOK;
        return;
    }
    cuts->settled = held->holds;
    cuts->waits_for = NULL;
    cuts->is_waiting = !cuts_is_owing(cuts) || now_us < due_us(cuts);
    if (cuts_has_members(cuts) && is_group_ready(cuts) && !cuts->is_waiting &&
        now_us >= cuts->again_us) {
        gather_group(cuts, &cuts->cut);
        if (!cuts_ask_before(cuts, now_us)) {
            begin(cuts, now_us);
        }
    }
}

/*
 * SENDING, BROKEN, WHOLE
 */
static bool
is_retired(const Cuts *cuts)
{
    for (unsigned i = 0; i < cuts->cut.n_disks; i++) {
        uint64_t sealed = disk_map_sealed_seq(cuts->cut.disks[i]->map);

        if (sealed > 0 && sealed <= cuts->cut.seq[i]) {
            return false;
        }
    }
    return true;
}

/* A disk of which something was taken back, or NULL. */
static const Disk *
find_unsettled(const Cuts *cuts)
{
    for (unsigned i = 0; i < cuts->cut.n_disks; i++) {
        Disk *disk = cuts->cut.disks[i];

        if (disk_map_settled_seq(disk->map) < cuts->cut.seq[i]) {
            return disk;
        }
    }
    return NULL;
}

static void
step_sending(Cuts *cuts, int64_t now_us)
{
    /* In this order: it is said before what was sent instead is settled. */
    bool is_sent = is_retired(cuts);
    const Disk *lost = cuts_find_lost(cuts), *unsettled;

    (void)now_us;
    if (lost) {
        cuts_lose_snapshot(cuts, lost);
        give_up(cuts, lost, -EIO);
    }
    if (!is_sent || lost) {
        return;
    }
    cuts->config.hear(cuts->config.user);
    unsettled = find_unsettled(cuts);
    if (cuts->state == CUTS_SENDING && unsettled) {
        degrade(cuts, unsettled, -ECANCELED);
    } else if (cuts->state == CUTS_SENDING) {
        cuts_weigh(cuts);
        /* Before the state is saved: on a full disk theirs is the room. */
        cuts_end_all_aside(cuts);
        cuts->state = CUTS_WHOLE;
    }
}

static void
step_broken(Cuts *cuts, int64_t now_us)
{
    (void)now_us;
    if (is_retired(cuts)) {
        cuts_end_all_aside(cuts); /* once more: its room is given back now */
        cuts->state = CUTS_REST;
    }
}

/* The disks of the cut hold it, and the store says so, or neither. */
static bool
keep_whole(Cuts *cuts)
{
    const struct FaceCut *cut = &cuts->cut;
    struct StoreCuts next = cuts->config.store->cuts;
    uint64_t before[STORE_DISKS_MAX];

    next.holds = cuts->number;
    next.holds_us = cut->wall_us;
    next.advancing = 0;
    next.past = MAX(next.past, cuts->past);
    for (unsigned i = 0; i < cut->n_disks; i++) {
        before[i] = cut->disks[i]->cut;
        cut->disks[i]->cut = cuts->number;
    }
    if (cuts_keep(cuts, &next)) {
        return true;
    }
    for (unsigned i = 0; i < cut->n_disks; i++) {
        cut->disks[i]->cut = before[i];
    }
    return false;
}

static void
step_whole(Cuts *cuts, int64_t now_us)
{
    g_autofree char *when = cut_time_text(cuts->cut.wall_us);
    JsonObject *data;

    if (!keep_whole(cuts)) {
        /* Nobody was told of it: the next one takes its number, and brings what
         * was written since. */
        cuts->reserved = cuts->number;
        cuts->is_unkept = true;
        cuts->again_us = now_us + AGAIN_US;
        cuts->state = CUTS_REST;
        return;
    }
    cuts->is_degraded = false;
    cuts->whole++;
    cuts_was_brought(cuts);
    data = cuts_object(cuts);
    json_object_set_string_member(data, "time", when);
    cuts_tell(cuts, "WEIR_CUT_WHOLE", data);
    cuts->state = cuts->config.store->settings.on_cut ? CUTS_HOOK : CUTS_REST;
}

/*
 * Looking
 */
static void (*const steps[CUTS_STATES])(Cuts *cuts, int64_t now_us) = {
    [CUTS_REST] = step_rest,          [CUTS_BEFORE] = cuts_step_before,
    [CUTS_SENDING] = step_sending,    [CUTS_BROKEN] = step_broken,
    [CUTS_WHOLE] = step_whole,        [CUTS_HOOK] = cuts_step_hook,
    [CUTS_PINNED] = cuts_step_pinned,
};

static gboolean
timer_cb(gpointer data)
{
    Cuts *cuts = data;

    cuts->timer = 0;
    cuts_look(cuts);
    return G_SOURCE_REMOVE;
}

/* What only time brings about; all else is news, or the daemon's own tick. */
static void
arm(Cuts *cuts, int64_t now_us)
{
    int64_t next_us = cuts->state == CUTS_HOOK && cuts->retry_us > now_us
                          ? cuts->retry_us
                      : cuts->state == CUTS_BEFORE ? cuts->patience_us
                      : cuts->state == CUTS_REST && cuts_is_owing(cuts)
                          ? MAX(due_us(cuts), cuts->again_us)
                          : 0;

    g_clear_handle_id(&cuts->timer, g_source_remove);
    if (next_us > now_us) {
        cuts->timer = g_timeout_add((guint)((next_us - now_us) / 1000 + 1),
                                    timer_cb, cuts);
    }
}

void
cuts_look(Cuts *cuts)
{
    int64_t now_us = cuts->config.ops->now_us();
    enum CutsState before;

    if (cuts->is_looking) {
        return;
    }
    cuts->is_looking = true;
    cuts_regroup(cuts);
    do {
        before = cuts->state;
        steps[before](cuts, now_us);
    } while (cuts->state != before);
    arm(cuts, now_us);
    cuts->is_looking = false;
}

void
cuts_degraded(Cuts *cuts, Disk *disk, uint64_t seq, int error)
{
    int found = cuts_find(cuts, disk);

    if (cuts->state == CUTS_SENDING && found >= 0 &&
        cuts->cut.seq[found] == seq) {
        degrade(cuts, disk, error);
    }
}

Cuts *
cuts_new(const struct CutsConfig *config)
{
    Cuts *cuts = g_new0(Cuts, 1);
    Store *store = config->store;

    cuts->config = *config;
    cuts->config.ops = config->ops ? config->ops : &real_ops;
    cuts->hook = cut_hook_new(cuts_hook_cb, cuts);
    cuts_recall(cuts);
    for (unsigned i = 0; i < store->n_disks; i++) {
        cuts->is_told[i] = cuts_is_member(cuts, store->disks[i]);
    }
    return cuts;
}

void
cuts_free(Cuts *cuts)
{
    g_clear_handle_id(&cuts->timer, g_source_remove);
    cut_hook_free(cuts->hook);
    g_free(cuts);
}
