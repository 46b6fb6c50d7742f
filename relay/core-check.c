/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Is the target ours to write (rule 26)? Asked on each connect, before the
 * first write.
 *
 *   contact | accept    | asked
 *   --------+-----------+-------------------------------------------------
 *   any     | any       | size, read-only, flush, block size
 *   KNOWN   | any       | up to 4 clusters that are clean here are read back; if
 *           |           | there are none, such as are not by their sums
 *   LOST    | any       | the same, by sums only: KNOWN if they say so, and
 *           |           | else NONE
 *   NONE    | empty     | block status of the whole disk; without it reads at
 *           |           | the start (partition table), the end (backup GPT)
 *           |           | and 64 places between: anything but zeroes refuses
 *   NONE    | overwrite | nothing
 *   NONE    | same      | nothing; each op compares before it sends
 *
 * Of a job what is clean says nothing, so that a target which it knows is asked
 * by sums only: of what was written in this life, or else by an earlier one.
 *
 * A single sum that differs may be a damaged one, or that of a last cluster
 * which was shorter before the disk grew: the greater number of clusters counts,
 * and of a disk, which may grow, one says nothing.
 *
 * A cluster that was read back and differs counts only if it is still clean
 * afterwards: else a guest write came between. A target that differs is not
 * written, whatever was accepted when it was new, until the user says so
 * again: then it is a target never seen before. The check is a set of ops of
 * its own, at most CORE_CHECKS at once; any that fails for other reasons
 * drops the link and it all starts over.
 */
#include "core-internal.h"

#define LOOK_BYTES    (UINT64_C(1) << 30)
#define SAMPLE_BYTES  (UINT64_C(64) << 10)
#define READBACK_HOPS 16
#define KNOWN_HOPS    4

/* A job has no setting to be changed: it is ordered anew. */
static const char *
way_out(const RelayCore *core)
{
    return core->config.is_job
               ? "a job with target-accept overwrite makes it equal, same "
                 "compares"
               : "`weir set STORE target-accept=overwrite` makes it equal, "
                 "`=same` compares";
}

/* What it says of itself. False: core_error() has the words. */
bool
check_caps(RelayCore *core)
{
    struct TargetCaps *caps = &core->caps;
    uint64_t size = disk_map_size_bytes(core->config.map);
    uint64_t cluster = UINT64_C(1) << core->cluster_bits;

    caps->min_block = caps->min_block ? caps->min_block : 1;
    if (core->config.is_exact && caps->size_bytes != size) {
        core_error(core, "Source and target have different sizes: %llu, %llu",
                   (unsigned long long)size,
                   (unsigned long long)caps->size_bytes);
        return false;
    }
    if (caps->size_bytes < size) {
        core_error(core,
                   "target has %llu bytes, disk needs %llu: enlarge it or "
                   "choose another%s",
                   (unsigned long long)caps->size_bytes,
                   (unsigned long long)size,
                   core->config.is_job ? " for a new job"
                                       : " with `weir set STORE target=...`");
        return false;
    }
    if (caps->is_read_only) {
        core_error(core, "target is read-only: make it writable at its "
                         "server, or choose another");
        return false;
    }
    if (!caps->can_flush && !caps->can_fua && !core->config.accept_unflushed) {
        core_error(core,
                   "target cannot flush, so nothing there is known to be "
                   "durable: `weir set STORE target-unflushed=yes` if it is "
                   "safe%s",
                   core->config.is_job ? ", then order the job again" : "");
        return false;
    }
    if (size % caps->min_block || cluster % caps->min_block) {
        core_error(core,
                   "target takes blocks of %u bytes only, which do not fit a "
                   "disk of %llu bytes in clusters of %llu",
                   caps->min_block, (unsigned long long)size,
                   (unsigned long long)cluster);
        return false;
    }
    uint32_t payload = caps->max_payload;
    payload = payload ? payload - payload % caps->min_block : 32u << 20;
    caps->max_payload = payload ? payload : caps->min_block;
    return true;
}

static void check_estranged(RelayCore *core, uint64_t at);

/* The check found nothing wrong. */
static void
check_accept(RelayCore *core)
{
    if (core->contact == CONTACT_NONE) {
        if (!log_forget(core)) {
            return;
        }
        core->contact = CONTACT_KNOWN;
        if (!core->config.is_job) {
            disk_map_mark_all(core->config.map, core->now_us);
        }
        core->same_seq = core->config.accept == ACCEPT_SAME
                             ? disk_map_open_seq(core->config.map)
                             : 0;
    }
    core->is_estranged = false;
    core->log.is_forgotten = false;
    link_online(core);
}

void
check_begin(RelayCore *core)
{
    struct Check *check = &core->check;
    bool is_known = core->contact != CONTACT_NONE;

    *check = (struct Check){
        .job = is_known                ? JOB_READBACK
               : core_has_status(core) ? JOB_LOOK
                                       : JOB_SAMPLE,
        .is_asked_all = !is_known && core->config.accept != ACCEPT_EMPTY,
    };
}

static struct ClusterRun
check_run_at(const RelayCore *core, uint64_t offset, uint64_t len)
{
    uint64_t room = core->size_bytes - offset;

    return run_outward(offset, len < room ? len : room, core->cluster_bits);
}

static Op *
check_op(RelayCore *core, struct ClusterRun run)
{
    Op *op = op_new(core, core->check.job, run);

    core->n_checks++;
    return op;
}

static void
look_next(RelayCore *core)
{
    struct Check *check = &core->check;
    Op *op = check_op(core, check_run_at(core, check->next, LOOK_BYTES));

    check->next += op->len;
    check->is_asked_all = check->next >= core->size_bytes;
    op_bind(core, op, link_pick(core));
    op_move(core, op, OP_ASKING);
    op_ask(core, op);
}

static void
sample_next(RelayCore *core)
{
    struct Check *check = &core->check;
    uint64_t clusters = clusters_for(core->size_bytes, core->cluster_bits);
    uint64_t last = clusters - 1;
    unsigned i = (unsigned)check->next++;
    uint64_t slice = clusters / (CORE_SAMPLES - 2);
    uint64_t at = i == 0   ? 0
                  : i == 1 ? last
                           : (i - 2) * slice +
                                 (slice ? core_random(core) % slice : i - 2);

    check->is_asked_all = check->next == CORE_SAMPLES;
    at = at < last ? at : last;
    Op *op = check_op(core, (struct ClusterRun){at, 1});
    if (op->len > SAMPLE_BYTES) {
        /* the end of the disk counts, not that of its last cluster */
        op->offset += i == 1 ? op->len - SAMPLE_BYTES : 0;
        op->len = SAMPLE_BYTES;
    }
    op_bind(core, op, link_pick(core));
    op_move(core, op, OP_COMPARING);
    op_compare(core, op, op->len, true);
}

/* A run in which some sum may be known. */
static void
look_for_sums(RelayCore *core, struct ClusterRun run, unsigned hops)
{
    Op *op = check_op(core, run);

    op->is_by_sum = true;
    op->hops = hops;
    op_load(core, op);
}

/* The first place is the start of the disk: hardly ever a hole. */
static void
readback_next(RelayCore *core)
{
    struct Check *check = &core->check;
    uint64_t clusters = clusters_for(core->size_bytes, core->cluster_bits);
    uint64_t slice = clusters / CORE_READBACKS;
    uint64_t from = check->next && slice
                        ? check->next * slice + core_random(core) % slice
                        : 0;
    struct ClusterRun run;
    uint64_t at;

    check->is_asked_all = ++check->next == CORE_READBACKS;
    if (core->config.is_job) {
        if (job_next_known(core, from, &run)) {
            look_for_sums(core, run, 0);
        }
        return;
    }
    at = disk_map_next_clean(core->config.map, from);
    if (at < clusters) { /* the disk may just have grown */
        op_map(core, check_op(core, (struct ClusterRun){at, 1}));
        return;
    }
    at = bitmap_next_clean(core->log.logged, from);
    if (at < clusters) {
        look_for_sums(core, (struct ClusterRun){at, 1}, 0);
    }
}

/*
 * A blank target agrees with every hole: pass over some of them for a
 * cluster with data.
 */
void
check_mapped(RelayCore *core, Op *op, const struct RelayEvent *event)
{
    uint64_t clusters = clusters_for(core->size_bytes, core->cluster_bits);
    uint64_t behind = (op->offset + event->len) >> core->cluster_bits;
    uint64_t at = UINT64_MAX;

    if (op->has_failed || core->link != RELAY_CHECKING) {
        op_free(core, op);
        return;
    }
    if (event->kind == RELAY_MAPPED && event->is_hole &&
        op->hops < READBACK_HOPS && behind < clusters) {
        uint64_t next = behind > op->run.first ? behind : op->run.first + 1;
        at = disk_map_next_clean(core->config.map, next);
    }
    if (at >= clusters) {
        op_load(core, op);
        return;
    }
    unsigned hops = op->hops + 1;
    op_free(core, op);
    op = check_op(core, (struct ClusterRun){at, 1});
    op->hops = hops;
    op_map(core, op);
}

/* The cluster at byte @at was read back: what it says counts once, however many
 * places led to it. */
static void
check_vote(RelayCore *core, uint64_t at, bool is_equal)
{
    struct Check *check = &core->check;
    unsigned n = check->n_same + check->n_other;

    for (unsigned i = 0; i < n; i++) {
        if (check->voted[i] == at >> core->cluster_bits) {
            return;
        }
    }
    assert(n < CORE_READBACKS);
    check->voted[n] = at >> core->cluster_bits;
    check->n_same += is_equal;
    check->n_other += !is_equal;
    if (!is_equal) {
        check->other_at = at;
    }
}

static bool
check_is_other(const RelayCore *core)
{
    unsigned least = core->config.is_job ? 1 : 2;

    return core->check.n_other > core->check.n_same &&
           core->check.n_other >= least;
}

/* Is it the target that the sums are about? If they do not say so it is one
 * that was never seen. */
static void
check_found(RelayCore *core)
{
    const struct Check *check = &core->check;

    if (check->n_same > check->n_other) {
        core->contact = CONTACT_KNOWN;
        check_accept(core);
    } else {
        core->contact = CONTACT_NONE;
        check_begin(core);
        check_run(core);
    }
}

void
check_run(RelayCore *core)
{
    struct Check *check = &core->check;

    if (core->link != RELAY_CHECKING) {
        return;
    }
    while (!check->is_asked_all && core->n_checks < CORE_CHECKS) {
        if (check->job == JOB_LOOK) {
            look_next(core);
        } else if (check->job == JOB_SAMPLE) {
            sample_next(core);
        } else {
            readback_next(core);
        }
    }
    if (!check->is_asked_all || core->n_checks) {
        return;
    }
    if (core->contact == CONTACT_LOST) {
        check_found(core);
        return;
    }
    if (check_is_other(core)) {
        check_estranged(core, check->other_at);
    } else {
        check_accept(core);
    }
}

/* One cluster is enough of a run that may have more of them. */
static void
check_sums(RelayCore *core, Op *op, const uint64_t *known)
{
    uint64_t cluster = UINT64_C(1) << core->cluster_bits;
    uint64_t i = 0, left;

    while (i < op->run.count && !op_has_bit(known, i)) {
        i++;
    }
    if (i == op->run.count) {
        struct ClusterRun run = op->run;
        unsigned hops = op->hops + 1;

        op_free(core, op);
        if (core->config.is_job && hops < KNOWN_HOPS &&
            job_next_known(core, run.first + run.count, &run)) {
            look_for_sums(core, run, hops);
        }
        return;
    }
    op->cursor = i << core->cluster_bits;
    left = op->len - op->cursor;
    left = left < cluster ? left : cluster;
    if (left > core->caps.max_payload) {
        op_free(core, op);
        return;
    }
    op_bind(core, op, link_pick(core));
    op_move(core, op, OP_COMPARING);
    op_compare(core, op, left, false);
}

void
check_loaded(RelayCore *core, Op *op, const struct RelayEvent *event)
{
    if (core->link != RELAY_CHECKING) {
        op_free(core, op);
    } else if (op->is_by_sum) {
        check_sums(core, op, event->known);
    } else {
        op_bind(core, op, link_pick(core));
        op_move(core, op, OP_COMPARING);
        op_compare(core, op, op->len, false);
    }
}

/* It is not what was written there. */
static void
check_estranged(RelayCore *core, uint64_t at)
{
    core_error(core,
               "target is not what was written there (differs at %llu): "
               "is it another one? %s",
               (unsigned long long)at, way_out(core));
    core->is_estranged = true;
    link_refuse(core);
}

static void
check_differs(RelayCore *core, const Op *op)
{
    unsigned long long at = op->offset + op->cursor;

    if (op->job == JOB_READBACK) {
        check_estranged(core, at);
        return;
    }
    core_error(core, "target holds data already (at byte %llu): %s", at,
               way_out(core));
    link_refuse(core);
}

/* Block status failed: what is under way is forgotten, reads are tried. */
static void
check_fall_back(RelayCore *core, Op *op)
{
    op_free(core, op);
    if (core->check.job == JOB_LOOK) {
        core->check = (struct Check){.job = JOB_SAMPLE};
    }
}

void
check_event(RelayCore *core, Op *op, const struct RelayEvent *event)
{
    uint64_t len = event->len < op->asked ? event->len : op->asked;
    bool is_status = event->kind == RELAY_STATUS && len;

    if (op->has_failed) {
        op_fail(core, op);
    } else if (op->is_by_sum && event->kind == RELAY_COMPARED) {
        check_vote(core, op->offset + op->cursor, event->is_equal);
        op_free(core, op);
    } else if (is_status && event->is_zero) {
        op->cursor += len;
        if (op->cursor < op->len) {
            op_ask(core, op);
        } else {
            op_free(core, op);
        }
    } else if (event->kind == RELAY_COMPARED && event->is_equal) {
        op->cursor += op->asked;
        if (op->cursor < op->len) {
            op_compare(core, op, op->len - op->cursor, op->job == JOB_SAMPLE);
        } else {
            if (op->job == JOB_READBACK) {
                check_vote(core, op->offset, true);
            }
            op_free(core, op);
        }
    } else if (event->kind == RELAY_COMPARED && op->job == JOB_READBACK &&
               !disk_map_is_clean(core->config.map, op->offset, op->len)) {
        op_free(core, op); /* written since */
    } else if (is_status || event->kind == RELAY_COMPARED) {
        check_differs(core, op);
    } else if (op->job == JOB_LOOK) {
        core->has_no_status = true; /* look by reading, then */
        check_fall_back(core, op);
    } else {
        core->figures.errors++;
        core_error(core, "target cannot be looked at: %s", event->text);
        link_drop(core);
    }
}
