/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sim-relay runs the product as it is: there is no mutant to choose.
 */
#include "sim.h"

bool
sim_choose_mutant(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return false;
}
