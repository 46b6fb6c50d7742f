/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lives of a store with one disk, with all storage calls recorded. The
 * directory is in memory: what a real disk would still hold back is the
 * replay's to imagine.
 */
#include "world.h"
#include "bitmaps.h"

#include <assert.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/lib/scratch.h"

#define DEADLINE_US 300000 /* of a request; the quarantine is four times that */
#define ZOMBIE_US   900000
#define DELAY_US    1500
#define DRAIN_US    5000000
#define LOOK_MS     2
#define KEEPER_US   300000

bool
world_drain(World *world, int64_t patience_us)
{
    int64_t end_us = g_get_monotonic_time() + patience_us;
    struct DiskMapFigures figures;

    relay_hurry(world->served.relay);
    while (g_get_monotonic_time() < end_us) {
        served_news(&world->served);
        disk_map_figures(world->disk->map, &figures);
        if (!figures.dirty_clusters) {
            return true;
        }
        poll(NULL, 0, LOOK_MS);
    }
    return false;
}

bool
world_begin(World *world)
{
    record_log_mark(&world->log, "begin");
    if (!served_begin(&world->served)) {
        return false;
    }
    world->disk = world->served.store->disks[0];
    world->job_tick = 0;
    return true;
}

/* As the last step of a life that ended well did not say. */
static bool
is_closed_clean(World *world)
{
    Store *store =
        store_open(store_io_kernel(), world->path, STORE_OPEN_READ, NULL);
    bool is_clean = store && store->was_clean;

    if (store) {
        store_free(store);
    }
    return is_clean;
}

void
world_end(World *world, bool is_clean)
{
    uint64_t sums[BITMAPS];
    bool has_some;

    served_stop(&world->served, is_clean);
    record_log_mark(&world->log, is_clean ? "end, clean" : "end, as a crash");
    has_some = world->config.has_bitmaps && bitmaps_sums(world->disk, sums);
    served_close(&world->served, is_clean);
    /* None: this life had none, since their list could not be read. */
    if (is_clean && has_some && is_closed_clean(world)) {
        bool are_kept = bitmaps_are_kept(store_io_kernel(), world->path, sums,
                                         world->config.has_faults);

        assert(are_kept);
    }
}

void
world_run(World *world)
{
    for (unsigned life = 0; life < world->config.lives; life++) {
        bool is_last = life + 1 == world->config.lives;
        bool is_good = world_begin(world);

        if (!is_good) {
            fprintf(stderr, "a life does not begin: %s\n", world->served.why);
        }
        assert(is_good);
        if (life == 0) {
            is_good = world_drain(world, DRAIN_US);
            assert(is_good);
        }
        guest_life(world, world->config.ops);
        if (seed_below(&world->seed, 2)) {
            (void)world_drain(world, DRAIN_US);
        }
        world_end(world, !is_last && seed_below(&world->seed, 3) > 0);
        record_target_settle(world->target);
    }
}

/*
 * The whole
 */
static void
choose_hot(World *world)
{
    const struct WorldConfig *config = &world->config;
    uint64_t cluster = UINT64_C(1) << config->cluster_bits;
    uint64_t clusters = config->size_bytes / cluster;

    assert(config->hot <= WORLD_HOT);
    for (unsigned i = 0; i < config->hot; i++) {
        /* Spread over the extents, in small groups. */
        uint64_t at = clusters * (i / 3) / (config->hot / 3 + 1) + i % 3;

        world->hot[i] = at * cluster;
    }
}

static void
create(World *world)
{
    char *address = g_build_filename(world->path, "vda", NULL);
    struct StoreCreate ask = {.address = address,
                              .size_bytes = world->config.size_bytes,
                              .target = world->uri,
                              .cluster_bits = world->config.cluster_bits};
    GError *error = NULL;
    gboolean ok = store_create_disk(store_io_kernel(), &ask, &error);

    if (!ok) {
        fprintf(stderr, "create: %s\n", error->message);
    }
    assert(ok);
    g_free(address);
}

/* Nobody makes cuts here: what is dirty is streamed. */
static void
stream(Served *served)
{
    for (unsigned i = 0; i < served->store->n_disks; i++) {
        relay_set_cut(served->relay, served->store->disks[i]->name, false);
    }
}

void
world_init(World *world, const struct WorldConfig *config)
{
    char *root, *socket;

    *world = (World){.config = *config, .seed = {config->seed}};
    world->dir = strdup("/dev/shm/weir-crash-XXXXXX");
    assert(mkdtemp(world->dir));
    root = g_build_filename(world->dir, "root", NULL);
    socket = g_build_filename(world->dir, "sock", NULL);
    assert(mkdir(root, 0700) == 0);
    world->path = g_build_filename(root, "vm", NULL);
    world->uri = g_strdup_printf("nbd+unix:///?socket=%s", socket);
    record_log_init(&world->log);
    world->target = record_target_start(&(struct RecordTargetConfig){
        .log = &world->log,
        .socket = socket,
        .size_bytes = config->size_bytes,
        .seed = seed_next(&world->seed),
        .can_multi_conn = config->can_multi_conn,
        .can_zero = true,
        .delay_us = DELAY_US,
        .zombie_us = ZOMBIE_US,
        .zombie_per_mille = 700,
    });
    create(world);
    if (config->has_bitmaps) {
        bitmaps_create(world->path);
    }
    choose_hot(world);
    record_log_attach(&world->log, root);
    record_io_init(&world->io, store_io_kernel(), &world->log);
    world->served = (Served){.io = &world->io.io,
                             .path = world->path,
                             .deadline_us = DEADLINE_US,
                             .keeper_us = KEEPER_US,
                             .prepare = stream};
    served_init(&world->served);
    g_free(root);
    g_free(socket);
}

void
world_deinit(World *world)
{
    record_target_free(world->target);
    served_deinit(&world->served);
    record_log_deinit(&world->log);
    scratch_free(world->dir);
    g_free(world->path);
    g_free(world->uri);
}
