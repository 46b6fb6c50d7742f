/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * main.c - weir: everything is a subcommand, see cli.c
 */
#include "cli.h"

#include <locale.h>

int
main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    setlocale(LC_NUMERIC, "C");
    return cli_main(argc, argv);
}
