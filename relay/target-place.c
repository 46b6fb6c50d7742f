/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * target-place.c - where a target leads, however it is written
 *
 * Two relays that write one place destroy it, so whoever is given a target asks
 * whether it is somebody's already. One place has many spellings:
 *
 *   files     links, "..", hard links, a device's other names; /PATH,
 *             [ nbdkit file PATH ], [ nbdkit file file=PATH ]
 *   sockets   likewise, with one export
 *   hosts     case, a last dot, forms of an address, localhost; the port that is
 *             meant when none is given; with TLS or without, by whatever key
 *   servers   their words
 *
 * What cannot be told from here counts as two: names that resolve to one
 * address, servers that serve one file, exports that a server has two names for.
 * That a target is another one than it was the relay finds at each connect.
 *
 * A path is followed here, not by the kernel, where it may lead into a directory
 * that must not be looked at: the daemon's own mount would have to answer.
 */
#include "target-uri.h"

#include "relay.h"
#include "server.h"

#include <arpa/inet.h>
#include <limits.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINKS_MAX       40 /* as the kernel has it */
#define SERVER_DEATH_US 1000000

/*
 * Paths
 */

/* @path is absolute, and so is @dir, with no "/" behind it. */
static bool
begins_with(const char *path, const char *dir)
{
    size_t len = strlen(dir);

    return strncmp(path, dir, len) == 0 &&
           (path[len] == '/' || path[len] == '\0');
}

/* The words of @path come before those of @rest, whose last is the next one. */
static void
push_words(GPtrArray *rest, const char *path)
{
    g_auto(GStrv) words = g_strsplit(path, "/", -1);

    for (guint i = g_strv_length(words); i > 0; i--) {
        g_ptr_array_add(rest, g_steal_pointer(&words[i - 1]));
    }
}

static void
step_up(GString *at)
{
    const char *slash = strrchr(at->str, '/');

    g_string_truncate(at, slash != NULL ? (gsize)(slash - at->str) : 0);
}

/*
 * follow() - @path without links, dots and doubled slashes
 * @dir: nothing in there is looked at; NULL: look anywhere
 *
 * What does not exist, or has too many links, is taken as it is written.
 * Return: absolute, without a last slash: "" is the root.
 */
static char *
follow(const char *path, const char *dir)
{
    g_autoptr(GPtrArray) rest = g_ptr_array_new_with_free_func(g_free);
    GString *at = g_string_new(NULL);
    char link[PATH_MAX];
    unsigned links = 0;

    push_words(rest, path);
    while (rest->len > 0) {
        g_autofree char *word = g_ptr_array_steal_index(rest, rest->len - 1);
        ssize_t len = -1;

        if (word[0] == '\0' || strcmp(word, ".") == 0) {
            continue;
        }
        if (strcmp(word, "..") == 0) {
            step_up(at);
            continue;
        }
        g_string_append_printf(at, "/%s", word);
        if ((dir == NULL || !begins_with(at->str, dir)) && links < LINKS_MAX) {
            len = readlink(at->str, link, sizeof(link) - 1);
        }
        if (len > 0) {
            links++;
            link[len] = '\0';
            step_up(at);
            if (link[0] == '/') {
                g_string_truncate(at, 0);
            }
            push_words(rest, link);
        }
    }
    return g_string_free(at, FALSE);
}

bool
target_path_is_within(const char *path, const char *dir)
{
    g_autofree char *plain = follow(dir, dir); /* no last slash */
    g_autofree char *real = follow(path, plain);

    return begins_with(real, plain);
}

static bool
is_same_node(const struct stat *a, const struct stat *b)
{
    if (S_ISBLK(a->st_mode) && S_ISBLK(b->st_mode)) {
        return a->st_rdev == b->st_rdev;
    }
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static bool
is_same_path(const char *a, const char *b)
{
    g_autofree char *one = follow(a, NULL);
    g_autofree char *other = follow(b, NULL);
    struct stat st, other_st;

    return strcmp(one, other) == 0 ||
           (stat(one, &st) == 0 && stat(other, &other_st) == 0 &&
            is_same_node(&st, &other_st));
}

/*
 * Hosts
 */
static char *
plain_address(int family, const void *address)
{
    char text[INET6_ADDRSTRLEN];

    return g_strdup(inet_ntop(family, address, text, sizeof(text)));
}

static char *
plain_host(const char *host)
{
    struct in6_addr v6;
    struct in_addr v4;
    char *name;

    if (inet_pton(AF_INET, host, &v4) == 1) {
        return plain_address(AF_INET, &v4);
    }
    if (inet_pton(AF_INET6, host, &v6) == 1) {
        return IN6_IS_ADDR_V4MAPPED(&v6)
                   ? plain_address(AF_INET, &v6.s6_addr[12])
               : IN6_IS_ADDR_LOOPBACK(&v6) ? g_strdup("127.0.0.1")
                                           : plain_address(AF_INET6, &v6);
    }
    name = g_ascii_strdown(host, -1);
    if (g_str_has_suffix(name, ".")) {
        name[strlen(name) - 1] = '\0';
    }
    if (strcmp(name, "localhost") == 0) {
        g_free(name);
        name = g_strdup("127.0.0.1");
    }
    return name;
}

static bool
is_same_host(const char *a, const char *b)
{
    g_autofree char *one = plain_host(a);
    g_autofree char *other = plain_host(b);

    return strcmp(one, other) == 0;
}

/*
 * Servers
 */

/* As it is written: to make ".." short is to lose what a link does to it. */
static char *
absolute(const char *path)
{
    g_autofree char *dir = g_get_current_dir();

    return path[0] == '/' ? g_strdup(path) : g_build_filename(dir, path, NULL);
}

/* Of nbdkit's file plugin, if nothing is put before it that changes what it
 * serves. */
char *
target_uri_file(const TargetUri *uri)
{
    g_autofree char *program = NULL;
    char **word;

    if (uri->kind != TARGET_SERVER) {
        return NULL;
    }
    program = g_path_get_basename(uri->argv[0]);
    if (strcmp(program, "nbdkit") != 0) {
        return NULL;
    }
    for (word = uri->argv + 1; *word != NULL && strcmp(*word, "file") != 0;
         word++) {
        if (g_str_has_prefix(*word, "--filter")) {
            return NULL;
        }
    }
    for (word += *word != NULL; *word != NULL; word++) {
        if (g_str_has_prefix(*word, "file=")) {
            return absolute(*word + strlen("file="));
        }
        if (strchr(*word, '=') == NULL) {
            return absolute(*word);
        }
    }
    return NULL;
}

static bool
is_same_server(const TargetUri *a, const TargetUri *b)
{
    g_autofree char *one = target_uri_file(a);
    g_autofree char *other = target_uri_file(b);

    return one != NULL && other != NULL
               ? is_same_path(one, other)
               : g_strv_equal((const char *const *)a->argv,
                              (const char *const *)b->argv);
}

bool
target_uri_is_same(const TargetUri *a, const TargetUri *b)
{
    if (a->kind != b->kind) {
        return false;
    }
    switch (a->kind) {
    case TARGET_TCP:
        return strcmp(a->export_name, b->export_name) == 0 &&
               strcmp(a->port, b->port) == 0 && is_same_host(a->host, b->host);
    case TARGET_UNIX:
        return strcmp(a->export_name, b->export_name) == 0 &&
               is_same_path(a->socket, b->socket);
    case TARGET_SERVER:
        return is_same_server(a, b);
    }
    return false;
}

/*
 * relay.h's face of it
 */
bool
relay_target_is_same(const char *a, const char *b)
{
    g_autoptr(TargetUri) one = target_uri_parse(a, NULL);
    g_autoptr(TargetUri) other = target_uri_parse(b, NULL);

    return one != NULL && other != NULL ? target_uri_is_same(one, other)
                                        : strcmp(a, b) == 0;
}

/* A server of ours is asked to end, and killed if it does not. */
int64_t
relay_target_doubt_us(const char *target, int64_t deadline_us)
{
    g_autoptr(TargetUri) uri = target_uri_parse(target, NULL);

    return uri != NULL && uri->kind == TARGET_SERVER
               ? SERVER_GRACE_US + SERVER_DEATH_US
               : 4 * deadline_us;
}

bool
relay_target_is_within(const char *target, const char *dir)
{
    g_autoptr(TargetUri) uri = target_uri_parse(target, NULL);
    g_autofree char *file = uri != NULL ? target_uri_file(uri) : NULL;

    return file != NULL && target_path_is_within(file, dir);
}

bool
relay_target_is_file(const char *target, int fd)
{
    g_autoptr(TargetUri) uri = target_uri_parse(target, NULL);
    g_autofree char *file = uri != NULL ? target_uri_file(uri) : NULL;
    struct stat st, its_st;

    return file != NULL && stat(file, &st) == 0 && fstat(fd, &its_st) == 0 &&
           is_same_node(&st, &its_st);
}
