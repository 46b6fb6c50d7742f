/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-snapshot.h - the commands of the group `weir snapshot`
 *
 * Purpose: what cli-snapshot.c's table has from other files.
 * Threads: main.
 */
#pragma once

#include "cli.h"

/* cli-snapdiff.c */
extern const GOptionEntry cli_snapshot_diff_entries[];
int cli_snapshot_diff(int argc, char **argv);
