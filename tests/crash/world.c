/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the daemon does around a face and a relay, without a mount and a
 * control socket, and with all storage calls recorded:
 *
 *   begin    open -> relay built -> state "unclean" -> relay, face started
 *   end      news -> relay paused until quiet -> relay, face gone -> either
 *            state "clean" or, as after a crash, nothing more
 *
 * The directory is in memory: what a real disk would still hold back is the
 * replay's to imagine.
 */
#include "world.h"

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
#define GRACE_US    300000
#define DRAIN_US    5000000
#define LOOK_MS     2
#define KEEPER_US   300000
#define BUSY_LOOKS  2500

static int64_t
now_us(void)
{
    return g_get_monotonic_time();
}

/*
 * The relay's news
 */
static void
relay_news(void *user, const char *disk, enum RelayNews news)
{
    World *world = user;

    (void)disk;
    if (news == RELAY_NEWS_CONTACT) {
        atomic_store(&world->has_contact, true);
    }
}

static void
dirtied(void *user)
{
    relay_wake(((World *)user)->relay);
}

void
world_news(World *world)
{
    struct RelayFigures figures;

    if (!atomic_exchange(&world->has_contact, false) ||
        !relay_figures(world->relay, world->disk->name, &figures)) {
        return;
    }
    world->disk->contact = figures.core.contact;
    if (store_save_state(world->store, NULL)) {
        relay_contact_kept(world->relay, world->disk->name);
    }
}

bool
world_drain(World *world, int64_t patience_us)
{
    int64_t end_us = now_us() + patience_us;
    struct DiskMapFigures figures;

    relay_hurry(world->relay);
    while (now_us() < end_us) {
        world_news(world);
        disk_map_figures(world->disk->map, &figures);
        if (!figures.dirty_clusters) {
            return true;
        }
        poll(NULL, 0, LOOK_MS);
    }
    return false;
}

/*
 * A life
 */
static bool
begin_relay(World *world, GError **error)
{
    struct RelayConfig config = {
        .io = world->store->io,
        .run_dir = world->store->path,
        .lock_fd = world->store->lock_fd,
        .max_conns = world->store->settings.max_connections,
        .deadline_us = DEADLINE_US,
        .notify = relay_news,
        .user = world,
    };

    world->relay = relay_new(&config, error);
    return world->relay &&
           store_relay_disk(world->store, world->disk, world->relay, error);
}

/* The rings of the life before, which hold the lock, may still be on their
 * way out; and their process lives: it is this one. */
static Store *
open_when_free(World *world, GError **error)
{
    Store *store = NULL;

    for (unsigned i = 0; !store && i < BUSY_LOOKS; i++) {
        g_clear_error(error);
        store = store_open(world->seam, world->path, 0, error);
        if (store || !g_error_matches(*error, STORE_ERROR, STORE_ERROR_BUSY)) {
            break;
        }
        poll(NULL, 0, LOOK_MS);
    }
    return store;
}

bool
world_begin(World *world)
{
    GError *error = NULL;

    record_log_mark(&world->log, "begin");
    atomic_store(&world->has_contact, false);
    world->store = open_when_free(world, &error);
    world->disk = world->store ? world->store->disks[0] : NULL;
    if (!world->store || !begin_relay(world, &error) ||
        !store_serve(world->store, &error) ||
        !relay_start(world->relay, &error)) {
        snprintf(world->why, sizeof(world->why), "%s", error->message);
        g_clear_error(&error);
        g_clear_pointer(&world->relay, relay_free);
        g_clear_pointer(&world->store, store_free);
        return false;
    }
    if (!fake_session_begin(&world->session, world->store, dirtied, world)) {
        snprintf(world->why, sizeof(world->why), "the face does not start");
        g_clear_pointer(&world->relay, relay_free);
        g_clear_pointer(&world->store, store_free);
        return false;
    }
    world->keeper = keeper_new(world->store, world->session.face, KEEPER_US);
    return true;
}

/* As the daemon does, so that the next life knows what may still come. */
static bool
is_quiet(World *world)
{
    struct RelayFigures figures;

    if (!relay_figures(world->relay, world->disk->name, &figures)) {
        return true;
    }
    world->disk->all_in_doubt =
        !figures.is_current || !figures.core.is_paused ||
        figures.core.unanswered > 0 || figures.core.doubt_clusters > 0;
    return !world->disk->all_in_doubt;
}

void
world_end(World *world, bool is_clean)
{
    int64_t end_us = now_us() + GRACE_US;

    if (is_clean) {
        world_news(world);
        relay_pause(world->relay, TRUE);
        while (!is_quiet(world) && now_us() < end_us) {
            poll(NULL, 0, LOOK_MS);
        }
    }
    g_clear_pointer(&world->keeper, keeper_free);
    relay_stop(world->relay, is_clean ? store_end_epoch(world->store) : 0);
    g_clear_pointer(&world->relay, relay_free);
    fake_session_end(&world->session);
    record_log_mark(&world->log, is_clean ? "end, clean" : "end, as a crash");
    if (is_clean) {
        (void)store_close_clean(world->store, NULL);
    }
    g_clear_pointer(&world->store, store_free);
}

void
world_run(World *world)
{
    for (unsigned life = 0; life < world->config.lives; life++) {
        bool is_last = life + 1 == world->config.lives;
        bool is_good = world_begin(world);

        if (!is_good) {
            fprintf(stderr, "a life does not begin: %s\n", world->why);
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
    choose_hot(world);
    record_log_attach(&world->log, root);
    record_io_init(&world->io, store_io_kernel(), &world->log);
    world->seam = &world->io.io;
    g_free(root);
    g_free(socket);
}

void
world_deinit(World *world)
{
    record_target_free(world->target);
    record_log_deinit(&world->log);
    scratch_free(world->dir);
    g_free(world->path);
    g_free(world->uri);
}
