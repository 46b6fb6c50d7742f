/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The product as it is: there is no mutant to choose.
 */
#include "mutants.h"

#include <stddef.h>

bool
mutant_choose(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return false;
}

bool
mutant_is_chosen(void)
{
    return false;
}

const char *
mutant_forgets(void)
{
    return NULL;
}
