/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Cuts as the daemon takes them, as fast as they settle:
 *
 *   guest at work -> face_cut -> relay_allow -> all sealed are retired
 *     -> face_cut_end -> the images are looked at, sooner or later
 *
 * While a cut is on its way to the targets one of them may take its time or
 * lose its connections, or weir dies; the guest goes on, so that what is owed
 * gets overwritten.
 *
 * With policy none the cores seal by themselves. What they call settled is
 * looked at in the same way, with all targets held for the moment.
 */
#include "rig.h"

#include <stdio.h>

#define PATIENCE_US  60000000
#define LOOK_US      20000
#define REFUSED_US   500
#define LEAD_OPS     40  /* most, before the cut */
#define CUT_OPS      160 /* about what the guest does between two cuts */
#define DROP_ONE_IN  40
#define HOLD_ONE_IN  12
#define HOOK_ONE_IN  10
#define BURST_ONE_IN 12

static void
say(Rig *rig, const char *what)
{
    struct RelayFigures figures;
    size_t len = (size_t)snprintf(rig->why, sizeof(rig->why), "%s;", what);

    for (unsigned i = 0; i < rig->config.n_disks; i++) {
        Disk *disk = rig->served.store->disks[i];
        struct DiskMapFigures map;

        disk_map_figures(disk->map, &map);
        if (relay_figures(rig->served.relay, disk->name, &figures)) {
            len += (size_t)snprintf(
                rig->why + len, sizeof(rig->why) - len,
                " %s: %s, %llu clusters sealed, %llu in doubt, %u holds, %u "
                "parked%s%s;",
                disk->name, relay_link_name(figures.core.link),
                (unsigned long long)map.sealed_clusters,
                (unsigned long long)figures.core.doubt_clusters, map.holds,
                map.parked, figures.core.error[0] ? ", " : "",
                figures.core.error);
        }
    }
}

static bool
has_sealed(Rig *rig)
{
    for (unsigned i = 0; i < rig->config.n_disks; i++) {
        if (disk_map_sealed_seq(rig->served.store->disks[i]->map)) {
            return true;
        }
    }
    return false;
}

static bool
is_recovering(Rig *rig)
{
    for (unsigned i = 0; i < rig->config.n_disks; i++) {
        struct RelayFigures figures;

        if (relay_figures(rig->served.relay, rig->served.store->disks[i]->name,
                          &figures) &&
            figures.core.is_recovering) {
            return true;
        }
    }
    return false;
}

static bool
wait_until_not(Rig *rig, bool (*is_so)(Rig *rig), const char *what)
{
    int64_t end_us = g_get_monotonic_time() + PATIENCE_US;

    while (is_so(rig)) {
        if (g_get_monotonic_time() > end_us) {
            say(rig, what);
            return false;
        }
        served_wait(&rig->served, LOOK_US);
    }
    return true;
}

static bool
can_be_cut(Rig *rig)
{
    return wait_until_not(rig, is_recovering, "recovers for ever") &&
           wait_until_not(rig, has_sealed, "what was sealed is never retired");
}

static void
hold_all(Rig *rig, bool hold)
{
    for (unsigned i = 0; i < rig->config.n_disks; i++) {
        record_target_hold(rig->targets[i], hold);
    }
}

static void
copy_all(Rig *rig)
{
    for (unsigned i = 0; i < rig->config.n_disks; i++) {
        record_target_copy(rig->targets[i], rig->images[i]);
    }
}

/* As soon as it can be: not while a discard is being punched. */
static bool
seal(Rig *rig, struct FaceCut *cut, uint64_t *begin, uint64_t *end)
{
    int64_t end_us = g_get_monotonic_time() + PATIENCE_US;
    bool is_sealed = false;

    while (!is_sealed && g_get_monotonic_time() < end_us) {
        *begin = history_now(&rig->history);
        is_sealed = face_cut(rig->served.session.face, cut);
        *end = history_now(&rig->history);
        if (!is_sealed) {
            rig->refusals++;
            served_wait(&rig->served, REFUSED_US);
        }
    }
    return is_sealed;
}

static bool
cut(Rig *rig, uint64_t *begin, uint64_t *end)
{
    struct FaceCut cut = {.n_disks = rig->config.n_disks};

    for (unsigned i = 0; i < cut.n_disks; i++) {
        cut.disks[i] = rig->served.store->disks[i];
    }
    if (!seal(rig, &cut, begin, end)) {
        say(rig, "no cut can be made");
        return false;
    }
    for (unsigned i = 0; i < cut.n_disks; i++) {
        if (cut.seq[i]) {
            relay_allow(rig->served.relay, cut.disks[i]->name, cut.seq[i], 0);
        }
    }
    relay_hurry(rig->served.relay);
    return true;
}

/* A target's trouble lasts until the guest has done some more. */
static void
trouble(Rig *rig)
{
    RecordTarget *target =
        rig->targets[seed_below(&rig->seed, rig->config.n_disks)];

    if (seed_below(&rig->seed, DROP_ONE_IN) == 0) {
        guest_await(&rig->guest, seed_below(&rig->seed, CUT_OPS / 2));
        record_target_drop(target);
    } else if (seed_below(&rig->seed, HOLD_ONE_IN) == 0) {
        record_target_hold(target, true);
        guest_await(&rig->guest, seed_below(&rig->seed, CUT_OPS));
        record_target_hold(target, false);
    }
}

static void
end_cut(Rig *rig)
{
    for (unsigned i = 0; i < rig->config.n_disks; i++) {
        face_cut_end(rig->served.session.face, rig->served.store->disks[i]);
    }
}

/* Rule 15: nothing is sent between one cut and the next, whatever the guest
 * does, and after a crash neither. */
static bool
is_silent(Rig *rig)
{
    if (rig->is_silent && rig_sends(rig) != rig->sends) {
        say(rig, "something was sent that was not allowed");
        return false;
    }
    return true;
}

/* Now and then what is to be done with a whole cut takes its time. */
static void
hook(Rig *rig)
{
    if (seed_below(&rig->seed, HOOK_ONE_IN) == 0) {
        guest_allow(&rig->guest, CUT_OPS);
        guest_await(&rig->guest, CUT_OPS);
    }
}

static enum Take
take_whole(Rig *rig, bool is_deadly, uint64_t *begin, uint64_t *end)
{
    unsigned degraded = rig->served.session.degraded;

    guest_allow(&rig->guest, CUT_OPS);
    guest_await(&rig->guest, seed_below(&rig->seed, LEAD_OPS));
    if (seed_below(&rig->seed, BURST_ONE_IN) == 0) {
        guest_discards(&rig->guest);
    }
    if (!is_silent(rig)) {
        return TAKE_FAILED;
    }
    rig->is_silent = false;
    if (!cut(rig, begin, end)) {
        return TAKE_FAILED;
    }
    if (is_deadly) {
        guest_await(&rig->guest, seed_below(&rig->seed, CUT_OPS));
        return TAKE_DEAD;
    }
    trouble(rig);
    if (!wait_until_not(rig, has_sealed, "a cut does not get whole")) {
        return TAKE_FAILED;
    }
    rig->is_silent = true;
    rig->sends = rig_sends(rig);
    end_cut(rig);
    hook(rig);
    copy_all(rig);
    return !is_silent(rig)                            ? TAKE_FAILED
           : rig->served.session.degraded == degraded ? TAKE_WHOLE
                                                      : TAKE_DEGRADED;
}

/* Settled is what was open when the guest had done some of its work. */
static enum Take
take_settled(Rig *rig, uint64_t *begin, uint64_t *end)
{
    int64_t end_us = g_get_monotonic_time() + PATIENCE_US;
    uint64_t seq[HISTORY_DISKS];

    guest_allow(&rig->guest, UINT32_MAX);
    guest_await(&rig->guest, CUT_OPS);
    *begin = history_now(&rig->history);
    for (unsigned i = 0; i < rig->config.n_disks; i++) {
        seq[i] = disk_map_open_seq(rig->served.store->disks[i]->map);
    }
    relay_hurry(rig->served.relay);
    for (unsigned i = 0; i < rig->config.n_disks; i++) {
        DiskMap *map = rig->served.store->disks[i]->map;

        while (disk_map_settled_seq(map) < seq[i]) {
            if (g_get_monotonic_time() > end_us) {
                say(rig, "what is dirty is never settled");
                return TAKE_FAILED;
            }
            served_wait(&rig->served, LOOK_US);
        }
    }
    hold_all(rig, true);
    copy_all(rig);
    hold_all(rig, false);
    *end = history_now(&rig->history);
    return TAKE_WHOLE;
}

enum Take
take_cut(Rig *rig, bool is_deadly, uint64_t *begin, uint64_t *end)
{
    if (!rig->config.is_cut) {
        return take_settled(rig, begin, end);
    }
    return can_be_cut(rig) ? take_whole(rig, is_deadly, begin, end)
                           : TAKE_FAILED;
}
