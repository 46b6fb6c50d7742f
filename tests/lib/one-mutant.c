/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One deliberate bug in all that a program runs, compiled for each with
 * ONE_MUTANT=MUTANT_X.
 */
#include "chosen-mutant.h"

#include "bitmap/mutant.h"

int chosen_mutant = ONE_MUTANT;
