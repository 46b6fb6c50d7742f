/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * relay-rig.h - a relay, two disks with files behind them, maybe an nbdkit
 *
 * Purpose: what every test of the relay starts from; and the daemon's part,
 *          answering its news.
 * Threads: the test's main thread; news comes on the relay's.
 * Errors:  asserted; a condition that never comes fails the test.
 */
#pragma once

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

#include "relay/relay.h"

#define RIG_NAME     32
#define CLUSTER_BITS 16
#define CLUSTER      (1u << CLUSTER_BITS)
#define CLUSTERS     256u
#define DISK_BYTES   ((uint64_t)CLUSTERS * CLUSTER - 3 * 512)
#define FILE_BYTES   ((uint64_t)CLUSTERS * CLUSTER)
#define DISKS        2
#define PATIENCE_US  60000000
#define DEADLINE_US  1000000

struct Disk {
    char name[8];
    char *raw, *target, *dir;
    int fd, map_fd, dir_fd;
    DiskMap *map;
    /* Before it is added: policy `cut`, and snapshots, which may be NULL. */
    bool is_cut;
    Points *points;
};

struct Rig {
    char dir[32];
    char *socket, *uri;
    struct Disk disks[DISKS];
    Relay *relay;
    pid_t server;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool has_contact[DISKS]; /* guarded by lock, as is what follows */
    char met[8][RIG_NAME];   /* jobs whose target was met ... */
    unsigned n_met;
    unsigned news; /* guarded by lock */
    /* Of whatever is called job/...; guarded by lock. */
    unsigned job_news[RELAY_NEWS_ENDED + 1];
    bool recovers; /* disks that are added from now on, of known targets */
    StoreIo *io;   /* of the next relay; NULL: the kernel's */
};

extern struct Rig rig;
extern unsigned rig_seed;

int64_t rig_now_us(void);
int rig_setup(void **state);
int rig_teardown(void **state);
void rig_new_relay(unsigned max_conns);
void rig_add_disk(unsigned index, const char *target);
void rig_start(unsigned max_conns, const char *target);
struct RelayFigures rig_figures(unsigned index);
bool rig_is_clean(unsigned index);
unsigned rig_job_news(enum RelayNews news); /* so far */
bool rig_is_drained(void);
void rig_await(bool (*condition)(void), const char *what);
void rig_assert_equal(unsigned index);
void rig_drain(void);
/* One letter to the pause filter of nbdkit at @path, and its answer. */
void rig_control_pause(const char *path, char letter);
const char *rig_file_word(void);

#define await(condition) rig_await(condition, #condition)
