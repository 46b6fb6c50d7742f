/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli-help.c - the help of one command, from its entry in the table
 *
 * GOption would print help of its own, but has no place for exit codes and
 * examples, and decorates what it prints by the locale. This is plain text, in
 * the order in which people look for things.
 */
#include "cli.h"

#include <stdio.h>
#include <string.h>

static void
help_option(const GOptionEntry *entry)
{
    g_autofree char *names =
        entry->short_name != 0
            ? g_strdup_printf("-%c, --%s", entry->short_name, entry->long_name)
            : g_strdup_printf("--%s", entry->long_name);
    g_autofree char *whole =
        entry->arg_description != NULL
            ? g_strdup_printf("%s %s", names, entry->arg_description)
            : g_strdup(names);

    if (strlen(whole) > 22) {
        printf("  %s\n  %-22s  %s\n", whole, "", entry->description);
    } else {
        printf("  %-22s  %s\n", whole, entry->description);
    }
}

void
cli_help_command(const struct CliCommand *command)
{
    printf("Usage: weir %s %s\n\n%s\n\nOptions:\n", command->name,
           command->synopsis, command->summary);
    for (const GOptionEntry *e = command->options;
         e != NULL && e->long_name != NULL; e++) {
        if ((e->flags & G_OPTION_FLAG_HIDDEN) == 0) {
            help_option(e);
        }
    }
    printf("  %-22s  %s\n", "-h, --help", "this text");
    printf("\nExit codes:\n%s\nExample:\n%s", command->codes, command->example);
}

void
cli_help_group(const struct CliCommand *group)
{
    printf("Usage: weir %s COMMAND ...\n\n%s\n\nCommands:\n", group->name,
           group->summary);
    for (const struct CliCommand *c = group->subs; c->name != NULL; c++) {
        printf("  %-9s  %s\n", cli_last_word(c), c->summary);
    }
    printf("\n`weir %s COMMAND --help` has the options, exit codes and an "
           "example of each.\n",
           group->name);
}

void
cli_list_options(const struct CliCommand *command)
{
    for (const GOptionEntry *e = command->options;
         e != NULL && e->long_name != NULL; e++) {
        if ((e->flags & G_OPTION_FLAG_HIDDEN) == 0) {
            printf("--%s\n", e->long_name);
        }
    }
    printf("--help\n");
}
