/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Targets as the user writes them. libnbd would parse URIs too, but with more
 * schemes than we want (vsock, ssh, commands per handle), and its 1.14 lets
 * TLS through that proves nothing: with no CA file every certificate is good.
 * So the allowed forms are listed here, everything else is refused by name,
 * and what TLS stands on is looked at before any connect:
 *
 *   nbd         clear text; beyond loopback only with the user's word
 *   nbds        TLS or nothing; a pre-shared key, or certificates
 *   PSK         the file is there, has keys, is not open to the world; a
 *               wrong key fails the handshake on any transport
 *   x509        DIR/ca-cert.pem really holds a certificate; TCP only, since
 *               the server's name is compared only where there is one
 *
 * Key files are checked again at each connect: they may go at any time.
 *
 * A target that cannot be parsed is the user's to mend: the words name the
 * part that is wrong, but never repeat the URI, which may hold a name or a
 * password typed into it by mistake.
 */
#include "target-uri.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/stat.h>

#include "relay.h"

#define NBD_PORT     10809
#define KEY_FILE_MAX (1u << 20)
#define SUN_PATH_MAX 107

static gboolean G_GNUC_PRINTF(2, 3)
    refuse(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    if (error) {
        *error =
            g_error_new_valist(RELAY_ERROR, RELAY_ERROR_TARGET, format, args);
    }
    va_end(args);
    return FALSE;
}

TargetUri *
target_uri_ref(TargetUri *uri)
{
    atomic_fetch_add(&uri->refs, 1);
    return uri;
}

void
target_uri_unref(TargetUri *uri)
{
    if (!uri || atomic_fetch_sub(&uri->refs, 1) > 1) {
        return;
    }
    g_free(uri->host);
    g_free(uri->port);
    g_free(uri->socket);
    g_free(uri->export_name);
    g_free(uri->user);
    g_free(uri->psk_file);
    g_free(uri->cert_dir);
    g_strfreev(uri->argv);
    g_free(uri);
}

/*
 * Servers that weir starts
 */

static gboolean
parse_bracket(TargetUri *uri, const char *text, GError **error)
{
    g_autofree char *inner = NULL;
    size_t len = strlen(text);

    if (len < 4 || !g_ascii_isspace(text[1]) || text[len - 1] != ']' ||
        !g_ascii_isspace(text[len - 2])) {
        return refuse(error, "a command is written as \"[ command words ]\"");
    }
    inner = g_strndup(text + 1, len - 2);
    if (!g_shell_parse_argv(inner, NULL, &uri->argv, NULL)) {
        return refuse(error, "the command in brackets is empty or has an "
                             "open quote");
    }
    return TRUE;
}

static gboolean
parse_path(TargetUri *uri, const char *text)
{
    g_autofree char *path = g_canonicalize_filename(text, NULL);
    const char *argv[] = {"nbdkit", "file", NULL, NULL};
    g_autofree char *word = g_strconcat("file=", path, NULL);

    argv[2] = word;
    uri->argv = g_strdupv((char **)argv);
    return TRUE;
}

/*
 * URIs
 */

/* Every parameter is known, wanted by the scheme, and there once. */
static gboolean
parse_params(TargetUri *uri, const char *query, GError **error)
{
    GUriParamsIter iter;
    GError *why = NULL;
    char *name, *value;

    g_uri_params_iter_init(&iter, query ? query : "", -1, "&",
                           G_URI_PARAMS_NONE);
    while (g_uri_params_iter_next(&iter, &name, &value, &why)) {
        g_autofree char *name_owned = name;
        char **place = NULL;

        if (!strcmp(name_owned, "socket") && uri->kind == TARGET_UNIX) {
            place = &uri->socket;
        } else if (!strcmp(name_owned, "tls-psk-file") && uri->is_tls) {
            place = &uri->psk_file;
        } else if (!strcmp(name_owned, "tls-certificates") && uri->is_tls) {
            place = &uri->cert_dir;
        }
        if (!place || *place || value[0] != '/') {
            g_free(value);
            return !place
                       ? refuse(error, "the parameter \"%s\" is not known here",
                                name)
                   : *place
                       ? refuse(error, "\"%s\" is given twice", name)
                       : refuse(error, "\"%s\" needs an absolute path", name);
        }
        *place = value;
    }
    if (why) {
        g_error_free(why);
        return refuse(error, "the parameters behind \"?\" are malformed");
    }
    return TRUE;
}

static gboolean
judge_uri(const TargetUri *uri, GError **error)
{
    if (uri->kind == TARGET_TCP && !uri->host[0]) {
        return refuse(error, "the URI names no host");
    }
    if (uri->kind == TARGET_UNIX && uri->host[0]) {
        return refuse(error, "a +unix URI has no host: write "
                             "nbd+unix:///EXPORT?socket=PATH");
    }
    if (uri->kind == TARGET_UNIX && !uri->socket) {
        return refuse(error, "a +unix URI needs \"?socket=PATH\"");
    }
    if (uri->socket && strlen(uri->socket) > SUN_PATH_MAX) {
        return refuse(error, "the socket's path is longer than %d bytes",
                      SUN_PATH_MAX);
    }
    if (uri->user && !uri->is_tls) {
        return refuse(error, "a user name needs nbds and a key");
    }
    if (uri->is_tls && uri->psk_file && uri->cert_dir) {
        return refuse(error, "give tls-psk-file or tls-certificates, not both");
    }
    if (uri->is_tls && !uri->psk_file && !uri->cert_dir) {
        return refuse(error, "nbds needs tls-psk-file=FILE or "
                             "tls-certificates=DIR");
    }
    if (uri->cert_dir && uri->kind == TARGET_UNIX) {
        return refuse(error, "certificates prove a host's name: a socket has "
                             "none, use tls-psk-file");
    }
    return TRUE;
}

static gboolean
parse_scheme(TargetUri *uri, const char *scheme, GError **error)
{
    static const struct {
        const char *name;
        enum TargetKind kind;
        bool is_tls;
    } allowed[] = {
        {"nbd", TARGET_TCP, false},
        {"nbds", TARGET_TCP, true},
        {"nbd+unix", TARGET_UNIX, false},
        {"nbds+unix", TARGET_UNIX, true},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(allowed); i++) {
        if (!strcmp(scheme, allowed[i].name)) {
            uri->kind = allowed[i].kind;
            uri->is_tls = allowed[i].is_tls;
            return TRUE;
        }
    }
    return refuse(error,
                  "the scheme \"%s\" is none of nbd, nbds, nbd+unix, "
                  "nbds+unix",
                  scheme);
}

static gboolean
parse_uri(TargetUri *uri, const char *text, GError **error)
{
    g_autoptr(GUri) parsed = NULL;
    const char *path;
    int port;

    parsed = g_uri_parse(
        text, G_URI_FLAGS_HAS_PASSWORD | G_URI_FLAGS_ENCODED_QUERY, NULL);
    if (!parsed) {
        return refuse(error, "the URI is malformed");
    }
    if (!parse_scheme(uri, g_uri_get_scheme(parsed), error)) {
        return FALSE;
    }
    if (!g_uri_get_host(parsed)) {
        return refuse(error, "the URI needs \"//\" behind the scheme");
    }
    if (g_uri_get_password(parsed)) {
        return refuse(error, "NBD has no passwords: use tls-psk-file");
    }
    if (g_uri_get_fragment(parsed)) {
        return refuse(error, "a URI of a target has no \"#\"");
    }
    port = g_uri_get_port(parsed);
    if (port != -1 && uri->kind == TARGET_UNIX) {
        return refuse(error, "a +unix URI has no port");
    }
    if (port == 0) {
        return refuse(error, "0 is no port");
    }
    path = g_uri_get_path(parsed);
    uri->host = g_strdup(g_uri_get_host(parsed));
    uri->port = g_strdup_printf("%d", port == -1 ? NBD_PORT : port);
    uri->user = g_strdup(g_uri_get_user(parsed));
    uri->export_name = g_strdup(path[0] == '/' ? path + 1 : path);
    if (uri->user && !uri->user[0]) {
        g_clear_pointer(&uri->user, g_free);
    }
    return parse_params(uri, g_uri_get_query(parsed), error) &&
           judge_uri(uri, error);
}

/*
 * target_uri_parse() - one target from the user's text
 * Relative paths are made absolute here, against the current directory.
 * Return: a reference for the caller, or NULL.
 */
TargetUri *
target_uri_parse(const char *text, GError **error)
{
    g_autoptr(TargetUri) uri = g_new0(TargetUri, 1);
    g_autofree char *trimmed = g_strstrip(g_strdup(text));
    g_autofree char *scheme = g_uri_parse_scheme(trimmed);
    gboolean ok;

    atomic_init(&uri->refs, 1);
    if (!trimmed[0]) {
        refuse(error, "the target is empty");
        return NULL;
    }
    if (!g_utf8_validate(trimmed, -1, NULL) || strpbrk(trimmed, "\r\n")) {
        refuse(error, "the target is not one line of UTF-8");
        return NULL;
    }
    if (trimmed[0] == '[') {
        uri->kind = TARGET_SERVER;
        ok = parse_bracket(uri, trimmed, error);
    } else if (scheme) {
        ok = parse_uri(uri, trimmed, error);
    } else {
        uri->kind = TARGET_SERVER;
        ok = parse_path(uri, trimmed);
    }
    if (!ok) {
        return NULL;
    }
    if (!uri->export_name) {
        uri->export_name = g_strdup("");
    }
    return g_steal_pointer(&uri);
}

/*
 * Policy
 */

bool
target_address_is_local(const struct sockaddr *address)
{
    struct sockaddr_in6 v6;
    struct sockaddr_in v4;

    switch (address->sa_family) {
    case AF_UNIX:
        return true;
    case AF_INET:
        memcpy(&v4, address, sizeof(v4));
        return ntohl(v4.sin_addr.s_addr) >> 24 == 127;
    case AF_INET6:
        memcpy(&v6, address, sizeof(v6));
        return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr) ||
               (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr) &&
                v6.sin6_addr.s6_addr[12] == 127);
    default:
        return false;
    }
}

/* By its looks only: what a name resolves to is judged at the connect. */
static bool
host_looks_local(const char *host)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};

    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        return target_address_is_local((struct sockaddr *)&v4);
    }
    if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1) {
        return target_address_is_local((struct sockaddr *)&v6);
    }
    return !g_ascii_strcasecmp(host, "localhost");
}

/* A small regular file, read whole. */
static char *
load_key_file(const char *path, struct stat *st, GError **error)
{
    g_autoptr(GError) why = NULL;
    char *data;
    size_t len;

    if (stat(path, st)) {
        refuse(error, "%s: %s", path, g_strerror(errno));
        return NULL;
    }
    if (!S_ISREG(st->st_mode) || st->st_size <= 0 ||
        st->st_size > KEY_FILE_MAX) {
        refuse(error, "%s: not a file with keys in it", path);
        return NULL;
    }
    if (!g_file_get_contents(path, &data, &len, &why)) {
        refuse(error, "%s", why->message);
        return NULL;
    }
    return data;
}

static gboolean
check_psk_file(const TargetUri *uri, GError **error)
{
    struct stat st;
    g_autofree char *data = load_key_file(uri->psk_file, &st, error);
    g_auto(GStrv) lines = NULL;

    if (!data) {
        return FALSE;
    }
    if (st.st_mode & S_IRWXO) {
        return refuse(error, "%s: open to everybody: chmod o= it",
                      uri->psk_file);
    }
    lines = g_strsplit(data, "\n", -1);
    for (char **line = lines; *line; line++) {
        const char *colon = strchr(*line, ':');
        const char *user = uri->user ? uri->user : g_get_user_name();

        if (colon && colon[1] && (size_t)(colon - *line) == strlen(user) &&
            !strncmp(*line, user, strlen(user))) {
            return TRUE;
        }
    }
    return refuse(error, "%s: has no key for the user of the URI",
                  uri->psk_file);
}

/* Does @pem hold one certificate at least: the frame, and DER inside it? */
static bool
pem_has_certificate(const char *pem)
{
    static const char begin[] = "-----BEGIN CERTIFICATE-----";
    static const char end[] = "-----END CERTIFICATE-----";
    const char *from = strstr(pem, begin);
    const char *to = from ? strstr(from, end) : NULL;
    g_autofree char *body = NULL;
    g_autofree unsigned char *der = NULL;
    size_t len;

    if (!to) {
        return false;
    }
    from += strlen(begin);
    body = g_strndup(from, (size_t)(to - from));
    der = g_base64_decode(body, &len);
    /* SEQUENCE with a two-byte length: any certificate is this long. */
    return len > 128 && der[0] == 0x30 && der[1] == 0x82 &&
           (size_t)(der[2] << 8 | der[3]) + 4 == len;
}

static gboolean
check_cert_dir(const TargetUri *uri, GError **error)
{
    g_autofree char *path =
        g_build_filename(uri->cert_dir, "ca-cert.pem", NULL);
    struct stat st;
    g_autofree char *pem = load_key_file(path, &st, error);

    if (!pem) {
        return FALSE;
    }
    return pem_has_certificate(pem)
               ? TRUE
               : refuse(error, "%s: holds no certificate", path);
}

gboolean
target_uri_check(const TargetUri *uri, gboolean insecure, GError **error)
{
    if (uri->psk_file) {
        return check_psk_file(uri, error);
    }
    if (uri->cert_dir) {
        return check_cert_dir(uri, error);
    }
    if (uri->kind == TARGET_TCP && !insecure && !host_looks_local(uri->host)) {
        return refuse(error, "clear text beyond this machine: use nbds, or "
                             "say insecure=yes");
    }
    return TRUE;
}

/*
 * relay.h's face of it
 */

G_DEFINE_QUARK(weir - relay - error - quark, relay_error)

gboolean
relay_target_check(const char *target, gboolean insecure, GError **error)
{
    g_autoptr(TargetUri) uri = target_uri_parse(target, error);

    return uri && target_uri_check(uri, insecure, error);
}
