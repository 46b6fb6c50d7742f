/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cli.c - find the subcommand, parse its options, run it
 *
 *   weir COMMAND [options] [arguments]
 *   weir help [COMMAND], weir COMMAND --help, weir --version
 *   weir STORE MNT -o ...     as mount.fuse3 calls us for fstab's fuse.weir
 *   weir GROUP COMMAND ...              the same for a command of a group
 *   weir --commands, weir GROUP --commands, weir COMMAND --long-options
 *                                       for shell completion
 *
 * A command is an entry of a table (struct CliCommand): its help is made from
 * the same entry that parses its options, so the two cannot differ. Options
 * are GOption's; what it says when it does not like something is put into our
 * form, one line with what to do.
 */
#include "cli.h"

#include "host.h"

#include <stdio.h>
#include <string.h>

static const struct CliCommand *const groups[] = {
    cli_store_commands,  cli_mount_commands,    cli_status_commands,
    cli_drain_commands,  cli_verify_commands,   cli_upgrade_commands,
    cli_snapshot_group,  cli_rollback_commands, cli_bitmap_group,
    cli_backup_commands, cli_job_group,
};

const struct CliCommand *
cli_find(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(groups); i++) {
        for (const struct CliCommand *c = groups[i]; c->name != NULL; c++) {
            if (strcmp(c->name, name) == 0) {
                return c;
            }
        }
    }
    return NULL;
}

const char *
cli_last_word(const struct CliCommand *command)
{
    const char *blank = strrchr(command->name, ' ');

    return blank != NULL ? blank + 1 : command->name;
}

const struct CliCommand *
cli_find_sub(const struct CliCommand *group, const char *word)
{
    for (const struct CliCommand *c = group->subs; c->name != NULL; c++) {
        if (strcmp(cli_last_word(c), word) == 0) {
            return c;
        }
    }
    return NULL;
}

void
cli_list_commands(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(groups); i++) {
        for (const struct CliCommand *c = groups[i]; c->name != NULL; c++) {
            printf("%s\n", c->name);
        }
    }
    printf("help\n");
}

static void
help_group_list(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(groups); i++) {
        for (const struct CliCommand *c = groups[i]; c->name != NULL; c++) {
            printf("  %-8s  %s\n", c->name, c->summary);
        }
    }
}

void
cli_help_all(void)
{
    printf("Usage: weir COMMAND ...\n\n"
           "A VM's disks behind a mount, drained to a slow, far NBD target.\n\n"
           "Commands:\n");
    help_group_list();
    printf("\n`weir help COMMAND` or `weir COMMAND --help` has the options, "
           "exit codes and\nan example of each; `weir --version` the version. "
           "weir(1) is the manual.\n");
}

static int
command_usage(const struct CliCommand *command, const char *what)
{
    return cli_fail(command->usage_code != 0 ? command->usage_code : CLI_USAGE,
                    "%s: %s; see weir %s --help", command->name, what,
                    command->name);
}

/* What a command cannot do without, as its synopsis begins: "STORE JOB ...". */
static int
command_lacks(const struct CliCommand *command)
{
    static const char *const ends[] = {" [", " (", " --", "\n"};
    size_t len = strlen(command->synopsis);
    g_autofree char *what = NULL;

    for (unsigned i = 0; i < G_N_ELEMENTS(ends); i++) {
        const char *end = strstr(command->synopsis, ends[i]);

        len = end != NULL ? MIN(len, (size_t)(end - command->synopsis)) : len;
    }
    what = g_strdup_printf("wants %.*s", (int)len, command->synopsis);
    return command_usage(command, what);
}

/* Flags that every command has. True: they were all that was wanted. */
static bool
command_meta(const struct CliCommand *command, int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            cli_help_command(command);
            return true;
        }
        if (strcmp(argv[i], "--long-options") == 0) {
            cli_list_options(command);
            return true;
        }
    }
    return false;
}

/* @argv[0] is the command's name. */
static int
command_run(const struct CliCommand *command, int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;
    int first = 1;

    if (command_meta(command, argc, argv)) {
        return CLI_OK;
    }
    g_option_context_set_help_enabled(context, FALSE);
    if (command->options != NULL) {
        g_option_context_add_main_entries(context, command->options, NULL);
    }
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        return command_usage(command, error->message);
    }
    if (argc > 1 && strcmp(argv[1], "--") == 0) {
        first = 2;
    }
    if (argc - first < command->min_args) {
        return command_lacks(command);
    }
    if (command->max_args >= 0 && argc - first > command->max_args) {
        g_autofree char *what =
            g_strdup_printf("%s is too much", argv[first + command->max_args]);

        return command_usage(command, what);
    }
    return command->run(argc - first, argv + first);
}

/* @argv[0] is the group's name. */
static int
group_run(const struct CliCommand *group, int argc, char **argv)
{
    const struct CliCommand *command;

    if (argc < 2) {
        return command_usage(group, "wants one of its commands");
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        cli_help_group(group);
        return CLI_OK;
    }
    if (strcmp(argv[1], "--commands") == 0) {
        for (const struct CliCommand *c = group->subs; c->name != NULL; c++) {
            printf("%s\n", cli_last_word(c));
        }
        return CLI_OK;
    }
    command = cli_find_sub(group, argv[1]);
    if (command == NULL) {
        return cli_fail(CLI_USAGE, "%s %s: no such command; see weir %s --help",
                        group->name, argv[1], group->name);
    }
    return command_run(command, argc - 1, argv + 1);
}

static int
run_help(int argc, char **argv)
{
    const struct CliCommand *command;

    if (argc < 3) {
        cli_help_all();
        return CLI_OK;
    }
    command = cli_find(argv[2]);
    if (command == NULL) {
        return cli_fail(CLI_USAGE, "%s: no such command; see weir --help",
                        argv[2]);
    }
    if (command->subs != NULL && argc > 3) {
        command = cli_find_sub(command, argv[3]);
        if (command == NULL) {
            return cli_fail(CLI_USAGE,
                            "%s %s: no such command; see weir %s --help",
                            argv[2], argv[3], argv[2]);
        }
    }
    if (command->subs != NULL) {
        cli_help_group(command);
    } else {
        cli_help_command(command);
    }
    return CLI_OK;
}

/* mount.fuse3 runs `weir SOURCE DIR -o OPTIONS`, with nothing before it. */
static bool
is_fstab_call(int argc, char **argv)
{
    return argc >= 3 && strchr(argv[1], '/') != NULL && argv[1][0] != '-';
}

int
cli_main(int argc, char **argv)
{
    const struct CliCommand *command;

    g_set_prgname("weir");
    host_log_to(HOST_LOG_WARNINGS);
    if (argc < 2) {
        return cli_fail(CLI_USAGE, "no command; see weir --help");
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        printf("weir %s\n", WEIR_VERSION);
        return CLI_OK;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        return run_help(argc, argv);
    }
    if (strcmp(argv[1], "--commands") == 0) {
        cli_list_commands();
        return CLI_OK;
    }
    command = cli_find(argv[1]);
    if (command != NULL && command->subs != NULL) {
        return group_run(command, argc - 1, argv + 1);
    }
    if (command != NULL) {
        return command_run(command, argc - 1, argv + 1);
    }
    if (is_fstab_call(argc, argv)) {
        return command_run(cli_find("mount"), argc, argv);
    }
    return cli_fail(CLI_USAGE, "%s: no such command; see weir --help", argv[1]);
}
