/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The store is in memory, and so are the targets: what a cut is made of is
 * decided by who comes first, not by how fast a disk is. The disks are small,
 * so that a cut is over soon and all of it can be judged; their cluster sizes
 * differ, and one ends in the middle of a cluster.
 */
#include "rig.h"
#include "slow-io.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/lib/scratch.h"

#define DEADLINE_US 250000 /* of a request; the quarantine is four times that */
#define ZOMBIE_US   600000
#define DELAY_US    1200
#define KEEPER_US   300000
#define KIB         UINT64_C(1024)

static const struct Shape {
    uint64_t size_bytes;
    unsigned cluster_bits;
} shapes[HISTORY_DISKS] = {
    {4096 * KIB, 16},
    {3072 * KIB + 1536, 12},
    {8192 * KIB, 14},
};

/* Other disks get the other shapes. */
static const struct Shape *
shape(const Rig *rig, unsigned disk)
{
    return &shapes[(disk + rig->config.seed) % HISTORY_DISKS];
}

static void
create_disk(Rig *rig, unsigned index)
{
    char name[] = {'v', 'd', (char)('a' + index), '\0'};
    char *socket = g_strdup_printf("%s/%s.sock", rig->dir, name);
    char *uri = g_strdup_printf("nbd+unix:///?socket=%s", socket);
    char *address = g_build_filename(rig->path, name, NULL);
    uint64_t size = shape(rig, index)->size_bytes;
    struct StoreCreate ask = {.address = address,
                              .size_bytes = size,
                              .target = uri,
                              .cluster_bits = shape(rig, index)->cluster_bits};
    GError *error = NULL;

    rig->targets[index] = record_target_start(&(struct RecordTargetConfig){
        .log = &rig->log,
        .socket = socket,
        .size_bytes = size,
        .seed = seed_next(&rig->seed),
        .can_multi_conn = seed_below(&rig->seed, 2),
        .can_zero = true,
        .delay_us = DELAY_US,
        .zombie_us = ZOMBIE_US,
        .zombie_per_mille = 700,
    });
    if (!store_create_disk(store_io_kernel(), &ask, &error)) {
        fprintf(stderr, "create: %s\n", error->message);
        abort();
    }
    rig->images[index] = calloc(1, size);
    assert(rig->images[index]);
    history_add_disk(&rig->history, index + 1, size);
    guest_add_disk(&rig->guest, index + 1, size,
                   UINT64_C(1) << shape(rig, index)->cluster_bits);
    g_free(address);
    g_free(uri);
    g_free(socket);
}

static void
prepare(Served *served)
{
    Rig *rig = served->user;

    for (unsigned i = 0; i < served->store->n_disks; i++) {
        relay_set_cut(served->relay, served->store->disks[i]->name,
                      rig->config.is_cut);
    }
}

void
rig_init(Rig *rig, const struct RigConfig *config)
{
    *rig = (Rig){.config = *config, .seed = {config->seed}, .is_silent = true};
    rig->dir = strdup("/dev/shm/weir-cuts-XXXXXX");
    assert(mkdtemp(rig->dir));
    rig->path = g_build_filename(rig->dir, "vm", NULL);
    record_log_init(&rig->log);
    history_init(&rig->history);
    guest_init(&rig->guest, &rig->history, seed_next(&rig->seed));
    for (unsigned i = 0; i < config->n_disks; i++) {
        create_disk(rig, i);
    }
    rig->served = (Served){.io = slow_io(),
                           .path = rig->path,
                           .deadline_us = DEADLINE_US,
                           .keeper_us = KEEPER_US,
                           .prepare = prepare,
                           .user = rig};
    served_init(&rig->served);
}

void
rig_deinit(Rig *rig)
{
    for (unsigned i = 0; i < rig->config.n_disks; i++) {
        record_target_free(rig->targets[i]);
        free(rig->images[i]);
    }
    served_deinit(&rig->served);
    guest_deinit(&rig->guest);
    history_deinit(&rig->history);
    record_log_deinit(&rig->log);
    scratch_free(rig->dir);
    g_free(rig->path);
}

void
rig_abandon(Rig *rig)
{
    scratch_free(rig->dir);
}

bool
rig_begin(Rig *rig)
{
    rig->lives++;
    if (!served_begin(&rig->served)) {
        snprintf(rig->why, sizeof(rig->why), "a life does not begin: %s",
                 rig->served.why);
        return false;
    }
    guest_start(&rig->guest, &rig->served.session);
    return true;
}

void
rig_end(Rig *rig, bool is_clean)
{
    guest_stop(&rig->guest);
    rig->aside_clusters = rig_aside_clusters(rig);
    served_stop(&rig->served, is_clean);
    served_close(&rig->served, is_clean);
}

unsigned
rig_losses(Rig *rig)
{
    unsigned losses = 0;

    for (unsigned i = 0; i < rig->config.n_disks; i++) {
        losses += record_target_figures(rig->targets[i]).drops;
    }
    return losses;
}

uint64_t
rig_sends(Rig *rig)
{
    uint64_t sends = 0;

    for (unsigned i = 0; i < rig->config.n_disks; i++) {
        sends += record_target_figures(rig->targets[i]).sends;
    }
    return sends;
}

uint64_t
rig_aside_clusters(Rig *rig)
{
    struct FaceFigures figures = {0};

    if (rig->served.session.face) {
        face_figures(rig->served.session.face, &figures);
    }
    return rig->aside_clusters + figures.aside_clusters;
}
