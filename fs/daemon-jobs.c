/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * daemon-jobs.c - the jobs of a daemon's store
 *
 * Built in two steps. Before the store is served those of an earlier life are
 * found, so that the first checkpoint holds their maps, and added to the relay,
 * where they stand. When snapshots can be made they go on. A daemon that only
 * verifies leaves them standing; one that drains a store at rest takes them
 * along, as far as it comes.
 *
 * The end is the other way round. They are stopped with the relay, and what is
 * unanswered at their targets then is kept in their records; the maps are there
 * for the last checkpoint.
 */
#include "daemon-private.h"

void
daemon_jobs_build(Daemon *daemon)
{
    struct JobsConfig config = {
        .store = daemon->store,
        .relay = daemon->relay,
        .event = daemon_event,
        .user = daemon,
    };

    daemon->jobs = jobs_new(&config);
}

void
daemon_jobs_begin(Daemon *daemon)
{
    if (daemon->config->verified == NULL) {
        jobs_begin(daemon->jobs, daemon->snapshots);
    }
}

/* With the relay paused: no more is sent. */
void
daemon_jobs_stop(Daemon *daemon)
{
    if (daemon->jobs != NULL) {
        jobs_stop(daemon->jobs);
    }
}

bool
daemon_jobs_are_quiet(Daemon *daemon)
{
    return daemon->jobs == NULL || jobs_is_quiet(daemon->jobs);
}

/* False: the letter is about a disk. */
bool
daemon_jobs_take(Daemon *daemon, const char *name, enum RelayNews news)
{
    struct RelayFigures figures;

    if (!jobs_is_job(name)) {
        return false;
    }
    if (news == RELAY_NEWS_LINK &&
        relay_figures(daemon->relay, name, &figures)) {
        g_message("%s: target %s%s%s", name, relay_link_name(figures.core.link),
                  figures.core.error[0] != '\0' ? ": " : "",
                  figures.core.error);
    }
    if (daemon->jobs != NULL) {
        jobs_news(daemon->jobs, name, news);
    }
    return true;
}
