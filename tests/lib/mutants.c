/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Deliberate bugs, by name. Those of the sources are switches of
 * bitmap/mutant.h. Those of the seam leave out the syncs of one kind of file:
 * the recording has none of them, as if the program had not asked.
 *
 * The sync of `state` is not among these: what it protects says by itself that
 * it is incomplete, and then everything is dirty. Leaving it out costs work
 * after a crash and nothing else.
 */
#include "mutants.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitmap/mutant.h"

int chosen_mutant;

static const struct Mutant {
    const char *name;
    enum WeirMutant mutant;
    const char *forget;
} mutants[] = {
    {"no-second-marking", MUTANT_NO_SECOND_MARKING, NULL},
    {"no-first-marking", MUTANT_NO_FIRST_MARKING, NULL},
    {"clear-by-generation", MUTANT_CLEAR_BY_GENERATION, NULL},
    {"clear-before-flush", MUTANT_CLEAR_BEFORE_FLUSH, NULL},
    {"flush-one", MUTANT_FLUSH_ONE, NULL},
    {"flush-early", MUTANT_FLUSH_EARLY, NULL},
    {"no-quarantine", MUTANT_NO_QUARANTINE, NULL},
    {"no-epoch", MUTANT_NO_EPOCH, NULL},
    {"no-log", MUTANT_NO_LOG, NULL},
    {"trust-logged", MUTANT_TRUST_LOGGED, NULL},
    {"sum-early", MUTANT_SUM_EARLY, NULL},
    {"drop-unsynced", MUTANT_DROP_UNSYNCED, NULL},
    {"no-log-doubt", MUTANT_NO_LOG_DOUBT, NULL},
    {"no-intent", MUTANT_NO_INTENT, NULL},
    {"cool-touched", MUTANT_COOL_TOUCHED, NULL},
    {"cool-without-sync", MUTANT_COOL_WITHOUT_SYNC, NULL},
    {"no-aside", MUTANT_NO_ASIDE, NULL},
    {"read-live", MUTANT_READ_LIVE, NULL},
    {"no-pin", MUTANT_NO_PIN, NULL},
    {"cut-one-by-one", MUTANT_CUT_ONE_BY_ONE, NULL},
    {"cut-zeroes", MUTANT_CUT_ZEROES, NULL},
    {"two-in-flight", MUTANT_TWO_IN_FLIGHT, NULL},
    {"ahead-twice", MUTANT_AHEAD_TWICE, NULL},
    {"trust-holes", MUTANT_TRUST_HOLES, NULL},
    {"retry-sync", MUTANT_RETRY_SYNC, NULL},
    {"send-unallowed", MUTANT_SEND_UNALLOWED, NULL},
    {"forget-unsealed", MUTANT_FORGET_UNSEALED, NULL},
    {"snap-no-copy", MUTANT_SNAP_NO_COPY, NULL},
    {"snap-unsynced", MUTANT_SNAP_UNSYNCED, NULL},
    {"snap-no-zeroes", MUTANT_SNAP_NO_ZEROES, NULL},
    {"snap-no-drain", MUTANT_SNAP_NO_DRAIN, NULL},
    {"snap-no-pin", MUTANT_SNAP_NO_PIN, NULL},
    {"snapshot-no-second-mark", MUTANT_SNAPSHOT_NO_SECOND_MARK, NULL},
    {"no-data-sync", MUTANT_NONE, "disk.raw"},
    {"no-bitmap-sync", MUTANT_NONE, "dirty"},
    {"no-intent-sync", MUTANT_NONE, "intent"},
    {"no-log-sync", MUTANT_NONE, "sent-log"},
    {"no-sums-sync", MUTANT_NONE, "remote-sums"},
    {"no-zeroes-sync", MUTANT_NONE, "zeroes"},
    {"no-directory-sync", MUTANT_NONE, "."},
};

static const struct Mutant *chosen;

bool
mutant_choose(int *argc, char ***argv)
{
    for (size_t i = 0; *argc > 1 && i < sizeof(mutants) / sizeof(*mutants);
         i++) {
        if (!strcmp((*argv)[1], mutants[i].name)) {
            chosen = &mutants[i];
            chosen_mutant = (int)chosen->mutant;
            (*argc)--;
            (*argv)++;
            return true;
        }
    }
    fprintf(stderr, "usage: %s MUTANT [ARGUMENT]...\n", (*argv)[0]);
    exit(2);
}

bool
mutant_is_chosen(void)
{
    return chosen != NULL;
}

const char *
mutant_forgets(void)
{
    return chosen ? chosen->forget : NULL;
}
