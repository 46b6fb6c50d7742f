/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sim-mutants runs the product with one rule broken, by name.
 */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int sim_mutant;

static const struct {
    const char *name;
    enum WeirMutant mutant;
} mutants[] = {
    {"no-second-marking", MUTANT_NO_SECOND_MARKING},
    {"no-first-marking", MUTANT_NO_FIRST_MARKING},
    {"clear-by-generation", MUTANT_CLEAR_BY_GENERATION},
    {"clear-before-flush", MUTANT_CLEAR_BEFORE_FLUSH},
    {"flush-one", MUTANT_FLUSH_ONE},
    {"flush-early", MUTANT_FLUSH_EARLY},
    {"no-quarantine", MUTANT_NO_QUARANTINE},
    {"no-epoch", MUTANT_NO_EPOCH},
    {"two-in-flight", MUTANT_TWO_IN_FLIGHT},
    {"trust-holes", MUTANT_TRUST_HOLES},
    {"no-log", MUTANT_NO_LOG},
    {"trust-logged", MUTANT_TRUST_LOGGED},
    {"sum-early", MUTANT_SUM_EARLY},
    {"drop-unsynced", MUTANT_DROP_UNSYNCED},
    {"retry-sync", MUTANT_RETRY_SYNC},
    {"no-log-doubt", MUTANT_NO_LOG_DOUBT},
    {"send-unallowed", MUTANT_SEND_UNALLOWED},
    {"forget-unsealed", MUTANT_FORGET_UNSEALED},
    {"snapshot-no-second-mark", MUTANT_SNAPSHOT_NO_SECOND_MARK},
};

bool
sim_choose_mutant(int *argc, char ***argv)
{
    for (size_t i = 0; *argc > 1 && i < sizeof(mutants) / sizeof(*mutants);
         i++) {
        if (!strcmp((*argv)[1], mutants[i].name)) {
            sim_mutant = mutants[i].mutant;
            (*argc)--;
            (*argv)++;
            return true;
        }
    }
    fprintf(stderr, "usage: sim-mutants MUTANT [SEED [COUNT]]\n");
    exit(2);
}
