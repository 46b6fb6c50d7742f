/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mutants.h - which deliberate bug, if any, is at work
 *
 * Purpose: honest.c answers "none", mutants.c takes the name from argv.
 */
#pragma once

#include <stdbool.h>

/* Takes the mutant's name out of the arguments; true if a failure is wanted. */
bool mutant_choose(int *argc, char ***argv);
bool mutant_is_chosen(void);
/* The file whose syncs are left out, or NULL. */
const char *mutant_forgets(void);
