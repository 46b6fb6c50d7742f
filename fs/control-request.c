/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-request.c - what is said over the control socket
 *
 *   message -> of the right shape? -> negotiated? -> in the table? -> arguments
 *   as its rules want them? -> run
 *
 * Whatever is wrong is answered, and nothing of it was done. A command that runs
 * has a ControlCall, which it answers at once or keeps. What the same peer says
 * next waits for the answer, as in QEMU: whoever sends "start" and "pause" in
 * one go means that order. But for commands that by their nature take as long as
 * the far side does (draining, verifying): those may be overtaken, and the id
 * tells which answer it is.
 *
 * The id goes back as the text that came; it is nobody's business what it is.
 */
#include "control-private.h"

#include "control-wire.h"
#include "host.h"

#include <string.h>

/*
 * Answers
 */
void
control_call_free(ControlCall *call)
{
    g_free(call->id);
    g_free(call);
}

static void
call_answer(ControlCall *call, const char *member, JsonNode *value)
{
    ControlPeer *peer = call->peer;

    if (peer != NULL) {
        JsonObject *root = json_object_new();

        json_object_set_member(root, member, value);
        g_ptr_array_remove_fast(peer->calls, call);
        peer->ordered -= !call->is_overtaken;
        peer_send(peer, root, call->id);
        peer_resume(peer);
    } else {
        json_node_unref(value);
    }
    control_call_free(call);
}

void
control_call_return(ControlCall *call, JsonNode *value)
{
    call_answer(call, "return", value);
}

static JsonNode *
object_node(JsonObject *object)
{
    JsonNode *node = json_node_new(JSON_NODE_OBJECT);

    json_node_take_object(node, object);
    return node;
}

void
control_call_return_object(ControlCall *call, JsonObject *object)
{
    control_call_return(call, object_node(object));
}

void
control_call_error_class(ControlCall *call, enum ControlClass class, int code,
                         const char *desc)
{
    static const char *const names[] = {
        [CONTROL_GENERIC] = "GenericError",
        [CONTROL_COMMAND_NOT_FOUND] = "CommandNotFound",
        [CONTROL_DEVICE_NOT_FOUND] = "DeviceNotFound",
        [CONTROL_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
    };
    JsonObject *error = json_object_new();

    json_object_set_string_member(error, "class", names[class]);
    json_object_set_string_member(error, "desc", desc);
    json_object_set_int_member(error, "exit-code", code);
    call_answer(call, "error", object_node(error));
}

void
control_call_error(ControlCall *call, int code, const char *desc)
{
    control_call_error_class(call, CONTROL_GENERIC, code, desc);
}

void
control_call_on_gone(ControlCall *call, void (*gone)(gpointer user),
                     gpointer user)
{
    call->gone = gone;
    call->user = user;
}

/*
 * Commands that are about the conversation itself
 */
static const char *const own_names[] = {"qmp_capabilities", "query-version",
                                        "query-commands"};

static void
add_name(JsonArray *list, const char *name)
{
    JsonObject *entry = json_object_new();

    json_object_set_string_member(entry, "name", name);
    json_array_add_object_element(list, entry);
}

static JsonNode *
command_names(const ControlServer *server)
{
    JsonNode *node = json_node_new(JSON_NODE_ARRAY);
    JsonArray *list = json_array_new();

    for (guint i = 0; i < G_N_ELEMENTS(own_names); i++) {
        add_name(list, own_names[i]);
    }
    for (guint i = 0; server->tables[i] != NULL; i++) {
        for (const struct ControlCommand *c = server->tables[i]; c->name; c++) {
            add_name(list, c->name);
        }
    }
    json_node_take_array(node, list);
    return node;
}

/* There is no capability to be had. */
static void
run_capabilities(ControlCall *call, JsonObject *arguments)
{
    static const struct ArgumentRule rules[] = {
        {"enable", ARGUMENT_STRINGS, false},
        {NULL, 0, false},
    };
    g_autoptr(GError) error = NULL;
    g_autofree char *words = NULL;
    JsonArray *enable = NULL;

    if (!arguments_check(arguments, rules, &error)) {
        control_call_error(call, 1, error->message);
        return;
    }
    if (json_object_has_member(arguments, "enable")) {
        enable = json_object_get_array_member(arguments, "enable");
    }
    if (enable != NULL && json_array_get_length(enable) > 0) {
        words = g_strdup_printf("Capability %s not available",
                                json_array_get_string_element(enable, 0));
        control_call_error(call, 1, words);
        return;
    }
    call->peer->is_negotiated = true;
    control_call_return_object(call, json_object_new());
}

static const struct ControlCommand *
find_command(const ControlServer *server, const char *name)
{
    for (guint i = 0; server->tables[i] != NULL; i++) {
        for (const struct ControlCommand *c = server->tables[i]; c->name; c++) {
            if (strcmp(name, c->name) == 0) {
                return c;
            }
        }
    }
    return NULL;
}

static void
run_command(ControlCall *call, const char *name, JsonObject *arguments)
{
    const struct ControlCommand *command =
        find_command(call->peer->server, name);
    g_autoptr(GError) error = NULL;
    g_autofree char *words = NULL;

    if (command == NULL) {
        words = g_strdup_printf("The command %s has not been found", name);
        control_call_error_class(call, CONTROL_COMMAND_NOT_FOUND, 1, words);
        return;
    }
    if (command->rules != NULL &&
        !arguments_check(arguments, command->rules, &error)) {
        control_call_error(call, host_exit_code(error), error->message);
        return;
    }
    call->is_overtaken = command->is_overtaken;
    call->peer->ordered -= call->is_overtaken;
    command->run(call, arguments, call->peer->server->user);
}

static void
run(ControlCall *call, const char *name, JsonObject *arguments)
{
    bool is_negotiated = call->peer->is_negotiated;

    if (strcmp(name, "qmp_capabilities") == 0 && !is_negotiated) {
        run_capabilities(call, arguments);
    } else if (!is_negotiated) {
        control_call_error_class(call, CONTROL_COMMAND_NOT_FOUND, 1,
                                 "Expecting capabilities negotiation with "
                                 "'qmp_capabilities'");
    } else if (strcmp(name, "qmp_capabilities") == 0) {
        control_call_error_class(call, CONTROL_COMMAND_NOT_FOUND, 1,
                                 "Capabilities negotiation is already "
                                 "complete, command ignored");
    } else if (strcmp(name, "query-version") == 0) {
        control_call_return_object(call, control_wire_version());
    } else if (strcmp(name, "query-commands") == 0) {
        control_call_return(call, command_names(call->peer->server));
    } else {
        run_command(call, name, arguments);
    }
}

/*
 * Requests
 */

/* Members of all objects in @node. json-glib drops those that come twice. */
static guint
count_members(JsonNode *node)
{
    guint count = 0;

    if (JSON_NODE_HOLDS_OBJECT(node)) {
        JsonObjectIter iter;
        JsonNode *member;

        json_object_iter_init(&iter, json_node_get_object(node));
        while (json_object_iter_next(&iter, NULL, &member)) {
            count += 1 + count_members(member);
        }
    } else if (JSON_NODE_HOLDS_ARRAY(node)) {
        JsonArray *array = json_node_get_array(node);

        for (guint i = 0; i < json_array_get_length(array); i++) {
            count += count_members(json_array_get_element(array, i));
        }
    }
    return count;
}

static char *
member_flaw(const char *name)
{
    if (strcmp(name, "execute") == 0 || strcmp(name, "arguments") == 0 ||
        strcmp(name, "id") == 0) {
        return NULL;
    }
    return strcmp(name, "exec-oob") == 0
               ? g_strdup("QMP input member 'exec-oob' is unexpected: commands "
                          "out of band are not offered, use 'execute'")
               : g_strdup_printf("QMP input member '%s' is unexpected", name);
}

/* What is wrong with the shape of @root, in words, or NULL. */
static char *
request_flaw(JsonNode *root)
{
    g_autoptr(GList) members = NULL;
    JsonObject *request;
    JsonNode *execute, *arguments;
    char *flaw = NULL;

    if (!JSON_NODE_HOLDS_OBJECT(root)) {
        return g_strdup("QMP input must be a JSON object");
    }
    request = json_node_get_object(root);
    members = json_object_get_members(request);
    for (GList *l = members; l != NULL && flaw == NULL; l = l->next) {
        flaw = member_flaw(l->data);
    }
    execute = json_object_get_member(request, "execute");
    arguments = json_object_get_member(request, "arguments");
    if (flaw != NULL) {
        return flaw;
    }
    if (execute == NULL) {
        return g_strdup("QMP input lacks member 'execute'");
    }
    if (json_node_get_value_type(execute) != G_TYPE_STRING) {
        return g_strdup("QMP input member 'execute' must be a string");
    }
    if (arguments != NULL && !JSON_NODE_HOLDS_OBJECT(arguments)) {
        return g_strdup("QMP input member 'arguments' must be an object");
    }
    return NULL;
}

static ControlCall *
call_new(ControlPeer *peer)
{
    ControlCall *call = g_new0(ControlCall, 1);

    call->peer = peer;
    peer->ordered++; /* until it is known to be one that may be overtaken */
    g_ptr_array_add(peer->calls, call);
    return call;
}

static char *
scanned_flaw(ControlPeer *peer, JsonNode *root, const GError *error)
{
    if (root == NULL) {
        return g_strdup_printf("JSON parse error, %s", error->message);
    }
    if (count_members(root) != control_scan_members(peer->scan)) {
        return g_strdup("JSON parse error, duplicate key");
    }
    if (peer->calls->len > CONTROL_CALLS_MAX) {
        return g_strdup("too many unanswered commands on this connection");
    }
    return request_flaw(root);
}

void
control_request_take(ControlPeer *peer)
{
    g_autoptr(JsonObject) none = json_object_new();
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) root = NULL;
    g_autofree char *flaw = NULL;
    ControlCall *call = call_new(peer);
    JsonObject *request;
    const char *text, *id;
    gsize len, id_len;

    text = control_scan_text(peer->scan, &len);
    root = control_wire_parse(text, len, &error);
    id = control_scan_id(peer->scan, &id_len);
    call->id = id != NULL ? g_strndup(id, id_len) : NULL;
    flaw = scanned_flaw(peer, root, error);
    if (flaw != NULL) {
        control_call_error(call, 1, flaw);
        return;
    }
    request = json_node_get_object(root);
    run(call, json_object_get_string_member(request, "execute"),
        json_object_has_member(request, "arguments")
            ? json_object_get_object_member(request, "arguments")
            : none);
}

void
control_request_refuse(ControlPeer *peer, const char *flaw)
{
    g_autofree char *words = g_strdup_printf("JSON parse error, %s", flaw);

    control_call_error(call_new(peer), 1, words);
}
