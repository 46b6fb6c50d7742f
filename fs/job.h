/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * job.h - what a job is: its order, its states, its record
 *
 * Purpose: a job copies a disk to a target: `backup` as it was at one instant,
 *          `mirror` as it is, until it is completed. QEMU's names, states and
 *          verbs.
 * Threads: main.
 * Units:   bytes.
 * Shapes:  STORE/NAME/jobs/ID/job      record: sealed-text.h; ID: 1, 2, ...
 *          STORE/NAME/jobs/ID/left     what is not copied: bitmap-file.h
 *          STORE/NAME/jobs/ID/remote-sums, sent-log      the relay's
 *          The directory is there from before the job begins until it is
 *          dismissed; one without a record is left over, and deleted.
 * Errors:  gboolean + GError of STORE_ERROR; words are QEMU's where it has them.
 * Source:  QEMU's job.c tables, block-core.json.
 */
#pragma once

#include "arguments.h"
#include "bitmap/named.h"
#include "job-gap.h"
#include "store.h"

#include <json-glib/json-glib.h>

#define JOB_ID_MAX 64
#define JOB_RECORD "job" /* its file */

enum JobKind { JOB_BACKUP, JOB_MIRROR };
enum JobSync {
    JOB_FULL,
    JOB_TOP,
    JOB_NONE,
    JOB_INCREMENTAL,  /* backup: bitmap with on-success; mirror: the bitmap is
                         cleared at the synchronised end */
    JOB_BITMAP,       /* backup only */
    JOB_DIFFERENTIAL, /* mirror only: the bitmap stays as it is */
};
enum JobBitmapMode { JOB_ON_SUCCESS, JOB_NEVER, JOB_ALWAYS };
enum JobOnError { JOB_REPORT, JOB_IGNORE, JOB_ENOSPC, JOB_STOP };

/* In the order of the table in job.c. */
enum JobStatus {
    JOB_UNDEFINED,
    JOB_CREATED,
    JOB_RUNNING,
    JOB_PAUSED,
    JOB_READY,
    JOB_STANDBY,
    JOB_WAITING,
    JOB_PENDING,
    JOB_ABORTING,
    JOB_CONCLUDED,
    JOB_NULL,
    JOB_STATUSES
};
enum JobVerb {
    JOB_VERB_CANCEL,
    JOB_VERB_PAUSE,
    JOB_VERB_RESUME,
    JOB_VERB_SET_SPEED,
    JOB_VERB_COMPLETE,
    JOB_VERB_FINALIZE,
    JOB_VERB_DISMISS,
    JOB_VERB_CHANGE,
    JOB_VERBS
};

/* What somebody wants; strings are owned. */
typedef struct JobSpec {
    enum JobKind kind;
    char *id; /* begins with a letter, then [A-Za-z0-9-._] */
    Disk *disk;
    char *target; /* a URI, "[ command ]", or an absolute path */
    enum JobSync sync;
    bool has_mode;
    enum JobBitmapMode mode;
    char *bitmap;                               /* NULL: none */
    uint64_t speed_bps, granularity, buf_bytes; /* 0: none given */
    enum JobOnError on_source, on_target;
    bool waits_to_finalize, waits_to_dismiss; /* auto-...=false */
    bool is_target_zero;
    bool keeps_zeroes;        /* unmap=false */
    bool is_exact;            /* the target must have the disk's size */
    enum TargetAccept accept; /* what a target that holds data is to us; default
                                 for full and top: refused, for the others it is
                                 meant to: OVERWRITE */
    JobGap *gap;              /* of a transaction, with a bitmap; NULL: none */
} JobSpec;
void job_spec_clear(JobSpec *spec);

/* job-spec.c: from the arguments of blockdev-backup, blockdev-mirror; with
 * the two checks the order is sound, but for what only trying says.
 * Nothing was changed. */
gboolean job_spec_parse(Store *store, enum JobKind kind, JsonObject *arguments,
                        JobSpec *spec, GError **error);
/* Its target is no part of what it copies from. @mountpoint: a real path, which
 * is not looked into; NULL: none. */
gboolean job_spec_check_place(const Store *store, const char *mountpoint,
                              const JobSpec *spec, GError **error);
/* Its bitmap, as it is now: of no file, and nothing is waited for. */
gboolean job_spec_check_bitmap(const JobSpec *spec, GError **error);
extern const struct ArgumentRule job_backup_rules[], job_mirror_rules[];

/* job.c: the tables */
const char *job_status_name(enum JobStatus status);
const char *job_verb_name(enum JobVerb verb);
const char *job_kind_name(enum JobKind kind); /* "backup", "mirror" */
const char *job_sync_name(enum JobSync sync);
const char *job_mode_name(enum JobBitmapMode mode);
const char *job_on_error_name(enum JobOnError action);
bool job_status_parse(const char *text, enum JobStatus *status);
bool job_kind_parse(const char *text, enum JobKind *kind);
bool job_sync_parse(const char *text, enum JobSync *sync);
bool job_mode_parse(const char *text, enum JobBitmapMode *mode);
bool job_on_error_parse(const char *text, enum JobOnError *action);
bool job_may_become(enum JobStatus from, enum JobStatus to);
bool job_takes(enum JobStatus status, enum JobVerb verb);
bool job_id_is_valid(const char *id);
/* What becomes of the bitmap in the end. */
enum NamedEnd job_bitmap_end(const JobSpec *spec, bool is_success);

/* job-record.c: what is remembered of one */
typedef struct JobRecord {
    JobSpec spec;    /* disk: by its id */
    uint64_t number; /* of its directory */
    enum JobStatus status;
    bool is_paused_by_user;
    bool has_failed;
    char error[200];   /* in words, UTF-8; empty: none */
    uint64_t snapshot; /* id of the one that is copied, 0: none */
    bool is_mapped;    /* what is to be copied is known */
    bool is_completing;
    bool is_committed; /* pending, and it was decided that it is a success */
    bool is_met;       /* the target was accepted: it is ours */
    bool is_in_doubt;  /* uploads of an earlier life may still execute there */
    uint64_t group;    /* jobs of one transaction, grouped; 0: none */
    uint64_t members;  /* ... so many; 0: an earlier weir did not say */
    uint64_t total_bytes, done_bytes; /* for the progress; as of the save */
    int64_t begun_us;                 /* wall clock */
} JobRecord;
char *job_record_format(const JobRecord *record, const uint8_t uuid[16],
                        size_t *len);
/* NULL, or what is wrong. @disk_id: that its spec is about. */
const char *job_record_parse(const char *text, size_t len,
                             const uint8_t uuid[16], JobRecord *record,
                             unsigned *disk_id);
void job_record_clear(JobRecord *record);
/* As much of it as there is room for, whatever bytes it has. */
void job_record_set_error(JobRecord *record, const char *error);

/* job-rest.c: of STORE/NAME/jobs (@all_fd). 0, -ENOENT: there is none; -EBADMSG:
 * @why says what is wrong; or another -errno. */
int job_record_load(const Store *store, Disk *disk, int all_fd, uint64_t number,
                    JobRecord *record, const char **why);
/* The id of one that is not over, of a store that nobody serves; NULL: none. */
char *job_at_rest(const Store *store, Disk *disk);
/* ... of any disk, that writes the target, however it is written. */
char *job_of_target_at_rest(const Store *store, const char *target);
/* A disk is not given the target of job @id. */
gboolean job_refuse_target(const char *target, const char *id, GError **error);
