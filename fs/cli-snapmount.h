/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-snapmount.h - weir snapshot mount, weir snapshot umount
 *
 * Purpose: what the table of `weir snapshot` has from cli-snapmount.c.
 * Threads: main.
 */
#pragma once

#include "cli.h"

extern const GOptionEntry cli_snapshot_mount_entries[];
/* STORE NAME DIR; DIR. Their exit codes. */
int cli_snapshot_mount(int argc, char **argv);
int cli_snapshot_umount(int argc, char **argv);
