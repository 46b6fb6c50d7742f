/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * conf.h - weir.conf as a struct, and back
 *
 * Purpose: what the user decided about a store and its disks. Strict: what is
 *          not understood is refused by name, never ignored.
 * Threads: any; pure functions.
 * Units:   bytes.
 * Shapes:  [weir]  version, uuid, next-disk-id, features (incompatible ones)
 *          [store] bwlimit, max-connections, insecure, target-unflushed,
 *                  request-deadline, policy, cut-interval, buffer-size, on-cut,
 *                  on-freeze, on-thaw, snapshot-every, snapshot-keep,
 *                  full-wait, before-degrade
 *          [disk NAME] id, size, cluster-size, target, target-accept, group
 * Errors:  STORE_ERROR_DAMAGED for what cannot be read, STORE_ERROR_FAILED for
 *          a format newer than this program.
 */
#pragma once

#include "store.h"

#define CONF_VERSION              1
#define CONF_CLUSTER_BITS_MIN     12
#define CONF_CLUSTER_BITS_MAX     21
#define CONF_DISK_CLUSTERS_MAX    (UINT64_C(1) << 34)
#define CONF_CONNECTIONS          4
#define CONF_CONNECTIONS_MAX      16
#define CONF_REQUEST_DEADLINE     15
#define CONF_REQUEST_DEADLINE_MAX 3600
#define CONF_CUT_INTERVAL         10
#define CONF_CUT_INTERVAL_MAX     86400
#define CONF_SNAPSHOT_EVERY_MAX   (366 * 86400)
#define CONF_SNAPSHOT_KEEP        24
#define CONF_SNAPSHOT_KEEP_MAX    1000000
#define CONF_FULL_WAIT            10
#define CONF_FULL_WAIT_MAX        3600

struct ConfDisk {
    char name[STORE_NAME_MAX + 1];
    unsigned id;
    uint64_t size_bytes;
    unsigned cluster_bits;
    char *target;  /* NULL: none */
    bool is_alone; /* group=no */
    enum TargetAccept accept;
};

struct Conf {
    uint8_t uuid[16];
    unsigned next_id; /* of the next disk to be made */
    struct StoreSettings settings;
    unsigned n_disks;
    struct ConfDisk disks[STORE_DISKS_MAX];
};

/* A new store's: no disks, a new uuid, default settings. */
void conf_init(struct Conf *conf);
void conf_deinit(struct Conf *conf);

gboolean conf_parse(const char *text, size_t len, struct Conf *conf,
                    GError **error);
char *conf_format(const struct Conf *conf);

/* The settings are @settings' from now on, and those of @conf the defaults. */
void conf_move_settings(struct Conf *conf, struct StoreSettings *settings);
void conf_clear_settings(struct StoreSettings *settings); /* what they own */

/* "overwrite", "same", "empty". */
bool conf_accept_parse(const char *text, enum TargetAccept *accept);
const char *conf_accept_name(enum TargetAccept accept);
/* "cut", "none". */
bool conf_policy_parse(const char *text, enum StorePolicy *policy);
/* "0", "30m", "1h", "1d"; and the shortest form of it. */
bool conf_every_parse(const char *text, unsigned *seconds);
char *conf_every_name(unsigned seconds);
/* "yes" or "no". */
bool conf_bool_parse(const char *text, bool *value);
/* A decimal number from @min to @max. */
bool conf_number_parse(const char *text, uint64_t min, uint64_t max,
                       uint64_t *value);
