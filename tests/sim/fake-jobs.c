/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs, in every third world: one after the other, each with a map, a core, a
 * target and books of its own, beside the relay of the same disk. A job is a
 * world within the world: what is local in it is its host's.
 *
 *   a backup   brings a snapshot, of a part of the disk or all of it
 *   a mirror   brings what is, and what the guest changes; where there are
 *              snapshots it may be completed: then it brings one in the end
 *
 * Their owner says go on after a halt, or not for a while; pauses them; ends them
 * at any time; and crashes with the daemon, after which they go on.
 *
 * What must hold: what is clean in a job's map, and ever was dirty there, is at
 * its target as the job has it: a backup as the snapshot was, a mirror as the disk
 * is. What never was dirty is there as it was before. A job that is through has
 * brought just that. Nothing is begun while it stands at an error, and no more is
 * in flight than its window holds.
 */
#include "sim.h"

#include "bitmap/point-marks.h"

#include <stdlib.h>
#include <string.h>

#define OWNER_US SIM_SECOND
#define PAUSE_US (4 * SIM_SECOND)

/*
 * Contents
 */
static void
enter_scope(Sim *job, uint64_t first, uint64_t end)
{
    for (uint64_t c = first; c < end; c++) {
        job->job.in_scope[c] = true;
    }
}

static void
mark(Sim *job, uint64_t offset, uint64_t len)
{
    struct ClusterRun run = run_outward(offset, len, job->cluster_bits);

    enter_scope(job, run.first, run.first + run.count);
    disk_map_mark(job->map, offset, len, job->now_us);
}

static void
mark_cluster(Sim *job, unsigned cluster)
{
    uint64_t offset = (uint64_t)cluster << job->cluster_bits;
    uint64_t len = UINT64_C(1) << job->cluster_bits;
    uint64_t room = job->cells * job->cell_bytes - offset;

    mark(job, offset, len < room ? len : room);
}

static unsigned
count_clusters(const Sim *job)
{
    return (job->cells + SIM_CELLS - 1) / SIM_CELLS;
}

uint64_t
jobs_snapshot(const Sim *job)
{
    uint64_t sealed = job->job.snapshot ? disk_map_sealed_seq(job->map) : 0;

    return sealed && sealed <= job->job.seq ? job->job.snapshot : 0;
}

bool
jobs_holds(const Sim *sim, uint64_t snapshot)
{
    return sim->beside && sim->beside->job.snapshot == snapshot;
}

void
jobs_changed(Sim *sim, uint64_t offset, uint64_t len)
{
    if (sim->beside && sim->beside->job.is_mirror) {
        mark(sim->beside, offset, len);
    }
}

/*
 * One begins
 */
static void
draw_target_content(Sim *job)
{
    struct SimTarget *target = &job->target;
    const Sim *host = job->host;
    bool is_zero = sim_chance(job, 400), is_same = sim_chance(job, 300);

    for (unsigned i = 0; i < target->cells; i++) {
        bool is_equal = is_same && i < job->cells && sim_chance(job, 700);

        target->durable[i] = target->tail[i] = is_zero    ? 0
                                               : is_equal ? host->disk[i]
                                                          : ++job->value;
    }
    job->config.accept = (enum TargetAccept)sim_below(job, 3);
    job->config.is_zero = is_zero && sim_chance(job, 500);
    job->is_refusal_due = job->config.accept == ACCEPT_EMPTY;
}

/* What is to be brought in any case. */
static void
draw_map(Sim *job)
{
    unsigned most = sim_chance(job, 500) ? 1000 : 300;

    if (!job->job.is_mirror || sim_chance(job, 700)) {
        for (unsigned c = 0; c < count_clusters(job); c++) {
            if (sim_chance(job, most)) {
                mark_cluster(job, c);
            }
        }
    }
}

/* A live one, of the disk's present size; or 0. */
static uint64_t
some_snapshot(const Sim *host)
{
    for (uint64_t id = host->n_snapshots; host->points && id; id--) {
        if (points_is_live(host->points, id) &&
            host->snapshots[id - 1].cells == host->cells) {
            return id;
        }
    }
    return 0;
}

static void
begin(Sim *host)
{
    Sim *job = calloc(1, sizeof(*job));
    uint64_t snapshot = some_snapshot(host);
    uint64_t cluster = UINT64_C(1) << host->cluster_bits;

    assert(job);
    host->beside = job;
    job->host = host;
    job->seed = job->random = host->seed * 1000 + ++host->n_jobs;
    job->now_us = host->now_us;
    job->cluster_bits = host->cluster_bits;
    job->cell_bytes = host->cell_bytes;
    job->cells = job->cells_last = host->cells;
    job->value = 1u << 30; /* nothing that a guest writes */
    job->map = disk_map_new(job->cells * job->cell_bytes, job->cluster_bits);
    sim_draw(job);
    job->config.is_job = true;
    job->config.halts = sim_chance(job, 800);
    job->config.keeps_zeroes = sim_chance(job, 300);
    job->config.is_exact = job->target.cells == job->cells;
    job->config.window_bytes =
        sim_chance(job, 300) ? cluster << sim_below(job, 5) : 0;
    draw_target_content(job);
    job->job.is_mirror = !snapshot || sim_chance(job, 500);
    job->job.snapshot = job->job.is_mirror ? 0 : snapshot;
    job->config.is_cut = !job->job.is_mirror;
    draw_map(job);
    sim_log(host, "job begins", host->n_jobs, job->job.snapshot,
            job->config.accept);
    books_begin(job);
    sim_daemon_start(job);
    sim_at(job, job->now_us, SIM_OWNER, 0, 0);
    sim_at(job, job->now_us + SIM_SECOND, SIM_TROUBLE, 0, 0);
}

/* In the middle or through; nothing of it is in flight here. */
static void
drop(Sim *host)
{
    Sim *job = host->beside;

    sim_log(host, "job is gone", host->n_jobs, job->job.is_through, 0);
    host->beside = NULL;
    host->next_job_us = host->now_us + (int64_t)sim_below(job, PAUSE_US);
    relay_core_free(job->core);
    disk_map_free(job->map);
    books_end(job);
    free(job->actions.list);
    free(job->events);
    free(job);
}

/*
 * Its owner
 */
static void
end_job(Sim *job, bool is_through)
{
    job->job.is_through = is_through;
    job->job.is_ending = true;
    relay_core_stop(job->core);
}

static void
check_through(Sim *job)
{
    const struct SimTarget *target = &job->target;
    const struct SimSnapshot *snapshot =
        &job->host->snapshots[job->job.snapshot - 1];

    for (unsigned cell = 0; cell < job->cells; cell++) {
        if (job->job.in_then[cell / SIM_CELLS] &&
            target->durable[cell] != snapshot->then[cell]) {
            sim_fail(job, "cell %u of the job: %u then, %u at the target", cell,
                     snapshot->then[cell], target->durable[cell]);
        }
    }
    end_job(job, true);
}

static void
allow(Sim *job)
{
    memcpy(job->job.in_then, job->job.in_scope, sizeof(job->job.in_then));
    job->job.seq = disk_map_seal(job->map);
    relay_core_allow(job->core, job->job.seq);
    sim_log(job, "job is allowed", job->job.seq, job->job.snapshot, 0);
}

static void
look_at_backup(Sim *job)
{
    struct DiskMapFigures figures;

    disk_map_figures(job->map, &figures);
    if (!figures.dirty_clusters && !figures.sealed) {
        check_through(job);
    } else if (!figures.sealed) {
        allow(job);
    }
}

/* relay_set_cut(), and what its owner does then. */
static void
look_at_mirror(Sim *job)
{
    struct RelayCoreFigures figures;
    Sim *host = job->host;

    relay_core_figures(job->core, &figures);
    if (!job->job.is_completing) {
        if (!host->points || host->is_quiet || !sim_chance(job, 100) ||
            !guest_is_idle(host) || host->n_snapshots == SIM_SNAPSHOTS) {
            return;
        }
        job->job.is_completing = true;
        job->job.snapshot = snapshots_take(host);
        job->job.seq = 0;
        job->config.is_cut = true;
        relay_core_set_cut(job->core, true);
    } else if (!job->job.seq && figures.is_cut &&
               !disk_map_sealed_seq(job->map)) {
        (void)point_marks_before(host->points, job->job.snapshot, job->map,
                                 job->now_us);
        allow(job);
        point_marks_after(host->points, job->job.snapshot, job->map,
                          job->now_us);
        if (!job->job.seq) { /* nothing was left */
            check_through(job);
        }
    } else if (job->job.seq && disk_map_settled_seq(job->map) >= job->job.seq) {
        check_through(job);
    }
}

static void
turn_a_knob(Sim *job)
{
    if (sim_chance(job, 20)) {
        end_job(job, false);
    } else if (sim_chance(job, 150)) {
        relay_core_pause(job->core, sim_chance(job, 500));
    } else if (sim_chance(job, 100)) {
        relay_core_hurry(job->core);
    } else if (sim_chance(job, 100)) {
        relay_core_yield(job->core, 2 * (unsigned)sim_below(job, 8));
    } else if (sim_chance(job, 50)) {
        uint64_t bps = sim_chance(job, 500) ? 0 : 1 << (18 + sim_below(job, 8));
        rate_bucket_set(&job->bucket, bps, job->now_us);
    }
}

void
jobs_event(Sim *job)
{
    struct RelayCoreFigures figures;

    sim_at(job, job->now_us + sim_delay(job, OWNER_US), SIM_OWNER, 0, 0);
    relay_core_figures(job->core, &figures);
    if (figures.halt.is_halted && (job->is_quiet || sim_chance(job, 500))) {
        sim_log(job, "job proceeds", figures.halt.count, 0, 0);
        relay_core_proceed(job->core);
    }
    if (!job->is_quiet) {
        turn_a_knob(job);
    }
    if (!job->job.is_ending) {
        job->job.is_mirror ? look_at_mirror(job) : look_at_backup(job);
    }
    sim_step(job, NULL);
}

/* The maps of jobs are in checkpoints, too; what may have been lost with the
 * power counts for a mirror. */
static void
recover_map(Sim *job)
{
    const Sim *host = job->host;
    uint64_t bytes = job->cells * job->cell_bytes;
    DiskMap *map = disk_map_new(bytes, job->cluster_bits);
    Bitmap *was = bitmap_new(bytes, job->cluster_bits);

    disk_map_union(job->map, was);
    disk_map_load(map, was, job->now_us);
    bitmap_free(was);
    disk_map_free(job->map);
    job->map = job->config.map = map;
    for (unsigned cell = 0; cell < job->cells; cell++) {
        unsigned c = cell / SIM_CELLS;
        bool is_lost = host->synced[cell] != host->disk[cell];

        if ((job->job.is_mirror && is_lost) ||
            (job->job.in_scope[c] && sim_chance(job, 100))) {
            mark_cluster(job, c);
        }
    }
}

/* Before the power takes what it takes of the disk. */
void
jobs_crashed(Sim *sim, bool is_power_cut)
{
    Sim *job = sim->beside;

    if (!job) {
        return;
    }
    job->life++;
    job->now_us = sim->now_us;
    target_crashed(job);
    recover_map(job);
    books_crashed(job, is_power_cut);
    relay_core_free(job->core);
    job->core = NULL;
    job->actions.count = 0;
    if (job->job.is_ending) {
        drop(sim);
        return;
    }
    job->config.contact = job->is_contact_kept ? CONTACT_KNOWN : CONTACT_NONE;
    job->config.accept = ACCEPT_OVERWRITE; /* it was, or is what it is by now */
    job->is_keeping = job->is_refusal_due = false;
    job->config.logged = job->logged;
    job->config.is_in_doubt = job->config.recovers = true;
    job->job.seq = 0;
    if (job->job.is_completing && sim_chance(job, 500)) {
        job->job.is_completing = job->config.is_cut = false;
        job->job.snapshot = 0;
    }
    job->bucket = (RateBucket){0};
    sim_daemon_start(job);
    sim_at(job, job->now_us, SIM_OWNER, 0, 0);
}

/*
 * What must hold
 */
static void
check_cluster(Sim *job, unsigned cluster)
{
    const Sim *host = job->host;
    const uint32_t *want = job->job.is_mirror
                               ? host->disk
                               : host->snapshots[job->job.snapshot - 1].then;
    unsigned end = (cluster + 1) * SIM_CELLS;

    end = end < job->cells ? end : job->cells;
    for (unsigned cell = cluster * SIM_CELLS; cell < end; cell++) {
        sim_check_cell(job, cell,
                       job->job.in_scope[cluster] ? want[cell]
                                                  : job->target.tail[cell]);
    }
}

void
jobs_check(Sim *sim)
{
    Sim *job = sim->beside;

    for (unsigned c = 0; job && c < count_clusters(job); c++) {
        uint64_t offset = (uint64_t)c << job->cluster_bits;
        bool is_written = job->job.is_mirror && cuts_has_writer(sim, c);

        if (!is_written && disk_map_is_clean(job->map, offset, 1)) {
            check_cluster(job, c);
        }
    }
    for (unsigned i = job ? job->cells : 0; job && i < job->target.cells; i++) {
        sim_check_cell(job, i, job->target.tail[i]);
    }
    if (job) {
        sim_check_bounds(job);
    }
}

/* Of an action, when it already stood before this step. */
void
jobs_check_action(Sim *job, const struct RelayAction *action)
{
    struct RelayCoreFigures figures;

    relay_core_figures(job->core, &figures);
    if (job->job.is_halted && figures.halt.is_halted &&
        (action->kind == RELAY_SEND_DATA || action->kind == RELAY_MAP)) {
        sim_fail(job, "action %d after a halt", action->kind);
    }
    if (job->config.keeps_zeroes &&
        (action->kind == RELAY_SEND_TRIM ||
         (action->kind == RELAY_SEND_ZERO && !action->keeps_room))) {
        sim_fail(job, "zeroes do not keep their room");
    }
}

/*
 * The world
 */
void
jobs_look(Sim *sim)
{
    Sim *job = sim->beside;

    if (job && job->job.is_ending && relay_core_is_idle(job->core)) {
        drop(sim);
    } else if (!job && !sim->is_quiet && sim->seed % 3 == 0 &&
               sim->now_us >= sim->next_job_us) {
        begin(sim);
    }
}

void
jobs_calm(Sim *sim)
{
    Sim *job = sim->beside;

    if (job) {
        job->is_quiet = true;
        target_calm(job);
        rate_bucket_set(&job->bucket, 0, sim->now_us);
        relay_core_pause(job->core, false);
    }
}

bool
jobs_are_done(const Sim *sim)
{
    const Sim *job = sim->beside;
    struct DiskMapFigures figures;

    if (!job) {
        return true;
    }
    disk_map_figures(job->map, &figures);
    return job->job.is_mirror && !job->job.is_completing &&
           !job->job.is_ending && !figures.dirty_clusters;
}

void
jobs_end(Sim *sim)
{
    if (sim->beside) {
        drop(sim);
    }
}
