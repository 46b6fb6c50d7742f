/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs-private.h - what the files of the jobs share
 *
 * Purpose: the two objects. jobs.c has the list, the verbs and the look at all
 *          of them; jobs-start.c begins them; jobs-map.c finds what is to be
 *          copied; jobs-copy.c takes the steps while they are in the relay;
 *          jobs-doubt.c holds them back; jobs-error.c halts; jobs-end.c ends them; jobs-files.c keeps their
 *          records; jobs-resume.c finds them again.
 * Threads: main, but for what jobs-map.c says of its own.
 * Units:   bytes, monotonic microseconds.
 */
#pragma once

#include "jobs.h"
#include "store-bitmaps.h"

#include <gio/gio.h>

/* Where a job is, whatever its status says; jobs-copy.c has the table. */
enum JobPhase {
    JOB_BEGINS,  /* created; its instant is waited for */
    JOB_MAPS,    /* a thread looks at what is allocated */
    JOB_STANDS,  /* in the relay, which is to do nothing yet */
    JOB_COPIES,  /* in the relay */
    JOB_ASKS,    /* a mirror completes: its instant was asked for */
    JOB_CUTS,    /* ... the relay is to seal nothing more by itself */
    JOB_SETTLES, /* ... and brings the rest, as it was at the instant */
    JOB_LEAVES,  /* the relay was told to end it */
    JOB_RESTS,   /* the relay does not know it */
};

typedef struct JobScan JobScan; /* of jobs-map.c */

typedef struct Job {
    Jobs *jobs;
    JobRecord record;
    char *relay_name;
    int dir_fd; /* -1: none */
    enum JobPhase phase;

    DiskMap *map; /* what is not copied; NULL: it is over */
    DiskMapRecorder recorder;
    bool is_recording; /* the recorder is attached */
    StoreBits bits;
    bool is_held;        /* by checkpoints */
    NamedBitmap *frozen; /* NULL: none, or thawed */
    bool is_thaw_unsaved;
    bool is_unsaved;  /* the record is not what is in memory */
    bool is_warned;   /* ... and the log was told */
    bool is_unwanted; /* cancelled before it began */
    bool is_recalled; /* of an earlier life ... */
    char *doom;       /* ... and why it cannot go on; NULL: it can */
    JobScan *scan;

    uint64_t goal;        /* over, or a step further, when this is settled */
    bool is_sealed;       /* a backup's: so it is, and the goal is set */
    bool is_second_pass;  /* a mirror's: the bulk is over */
    bool is_asking;       /* for its instant: asked_cb() is to come */
    bool is_mark_unsaved; /* marked for the instant, and in no checkpoint */
    int64_t again_us;     /* the next seal, or asking; not before */
    unsigned halts;       /* that were seen */
    bool is_ignoring;     /* an error: it proceeds at retry_us */
    int64_t retry_us, ignored_us; /* ... and did so last */
    bool is_halted;               /* ... it is stopped by one */
    const char *io_status;
    bool is_held_back; /* until safe_us: see jobs-doubt.c */
    int64_t safe_us;
    uint64_t base_bytes;    /* done in earlier lives */
    uint64_t offset_bytes;  /* shown, so that it does not go back */
    char words[RELAY_TEXT]; /* what is in the way, of our own making */
} Job;

struct Jobs {
    struct JobsConfig config;
    const struct JobsOps *ops;
    GPtrArray *list; /* Job, oldest first; owned */
    bool has_begun, is_stopping;
    bool is_looking; /* none of the list is freed meanwhile */
    guint poll;
    uint64_t last_number[STORE_DISKS_MAX]; /* by Disk.index */
    GArray *doubts;                        /* of jobs-doubt.c */
    int64_t deadline_us;                   /* of the relay's requests */
};

static inline Disk *
job_disk(const Job *job)
{
    return job->record.spec.disk;
}

/* It ends, or has ended, as one that was not to go on; in a group others may be
 * why. */
static inline bool
job_was_cancelled(const Job *job)
{
    return (job->record.status == JOB_ABORTING ||
            job->record.status == JOB_CONCLUDED) &&
           !job->record.is_committed && !job->record.has_failed;
}

static inline bool
job_is_paused(const Job *job)
{
    return job->record.status == JOB_PAUSED ||
           job->record.status == JOB_STANDBY;
}

/* ... and the relay may do something for it. */
static inline bool
job_is_in_relay(const Job *job)
{
    return job->phase >= JOB_STANDS && job->phase <= JOB_SETTLES;
}

/* It records what the guest writes, in its own map. */
static inline bool
job_records(const JobSpec *spec)
{
    return spec->kind == JOB_MIRROR || spec->sync == JOB_NONE;
}

/* jobs.c */
Job *job_new(Jobs *jobs, JobSpec *spec); /* takes what @spec holds */
void job_free(Job *job);
void job_move(Job *job, enum JobStatus to);
/* An event; takes @data. */
void job_tell(Job *job, const char *name, JsonObject *data);
/* {type, device, len, offset, speed} */
JsonObject *job_event_object(Job *job);
/* A job that stands goes on, in name. */
void job_stand_up(Job *job);
void job_progress(Job *job, uint64_t *offset, uint64_t *len);
bool job_figures(const Job *job, struct RelayFigures *figures);
/* What may be done now; and that of all those of its group. */
void job_step(Job *job);
Job *jobs_find(const Jobs *jobs, const char *id);
/* Those that are decided about together, itself included; borrowed. */
GPtrArray *job_group(Job *job);
/* Free those that are dismissed. */
void jobs_sweep(Jobs *jobs);

/* jobs-files.c: the directory and the record */
gboolean job_files_make(Job *job, GError **error);
bool job_files_open(Job *job);
/* Durably what it is now. False: it is not, which is said once, and tried again
 * by whoever looks. */
bool job_save(Job *job);
void job_files_delete(Job *job);
void job_files_delete_number(Jobs *jobs, Disk *disk, uint64_t number);

/* jobs-map.c */
gboolean job_map_make(Job *job, GError **error);
void job_map_drop(Job *job);
/* The recorder is attached, if it has one. */
void job_map_record(Job *job);
void job_map_detach(Job *job);
void job_map_hold(Job *job); /* checkpoints have it */
/* What is to be copied is in the map; false: a thread looks for it, and
 * job_step() follows. */
bool job_map_fill(Job *job);
bool job_map_is_found(Job *job); /* by the thread; now it is in the map */
void job_map_stop(Job *job);

/* jobs-start.c */
/* It is one of the relay's, standing. */
gboolean job_add(Job *job, GError **error);

/* jobs-copy.c */
/* It is in the relay, and goes. */
void job_copy(Job *job);
/* The relay is to do something for it, unless it has to stand. */
void job_go(const Job *job);
void job_step_copy(Job *job);
/* What was begun to complete it is given up, it goes on as it is. */
void job_uncut(Job *job);

/* jobs-doubt.c */
GArray *jobs_doubts_new(void);
/* What it had in flight may still execute. */
void job_leave_doubt(Job *job);
bool job_is_doubted(const Job *job); /* ... and its record has to say so */
/* ... and it was dismissed in an earlier life. */
void jobs_doubt_record(Jobs *jobs, Disk *disk, const JobRecord *record);
void jobs_end_doubts(Jobs *jobs); /* those whose time is over */
/* ... and what others had, at its target: it is held back. */
void job_heed_doubt(Job *job);
bool job_look_doubt(Job *job); /* Is it still? */

/* jobs-error.c */
/* True: it does not go on now. */
bool job_look_errors(Job *job, const struct RelayFigures *figures);
void job_pause(Job *job);   /* it stands until it is resumed */
void job_forgive(Job *job); /* the user resumes it */

/* jobs-end.c */
void job_succeed(Job *job); /* all is at the target */
/* @error in words; NULL: it was cancelled. The others of its group as well. */
void job_abort(Job *job, const char *error);
void job_ended(Job *job); /* the relay says so */
void job_step_end(Job *job);
void job_commit(Job *job); /* and its group */
void job_dismiss(Job *job);
/* Nobody refers to it any more? Then it goes. */
void jobs_drop_snapshot(Jobs *jobs, uint64_t id);

/* jobs-resume.c */
void jobs_recall(Jobs *jobs);       /* at jobs_new() */
void jobs_recall_begin(Jobs *jobs); /* at jobs_begin() */
