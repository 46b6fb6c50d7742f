/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control-schema.c - query-qmp-schema: what there is, for programs
 *
 * The tables say which commands there are and what each takes; from that comes a
 * schema of QEMU's form that answers what clients ask one for: is there such a
 * command, does it know such an argument, is there such an event. What commands
 * return is "any": contrib/docs/qmp.md says it in words. Names of types are as
 * short as QEMU's, and mean as little.
 */
#include "control-commands.h"

/* Every event that anything here ever sends. */
const char *const control_events[] = {
    "BLOCK_JOB_CANCELLED",
    "BLOCK_JOB_COMPLETED",
    "BLOCK_JOB_ERROR",
    "BLOCK_JOB_PENDING",
    "BLOCK_JOB_READY",
    "JOB_STATUS_CHANGE",
    "WEIR_CUT_BEGUN",
    "WEIR_CUT_DEGRADED",
    "WEIR_CUT_WHOLE",
    "WEIR_DRAINED",
    "WEIR_HOOK_FAILED",
    "WEIR_ROOM_BACK",
    "WEIR_ROOM_FULL",
    "WEIR_ROOM_LOW",
    "WEIR_SNAPSHOT_CREATED",
    "WEIR_SNAPSHOT_DELETED",
    "WEIR_SNAPSHOT_FAILED",
    "WEIR_STATE_CHANGE",
    NULL,
};

static const struct {
    const char *name, *json;
} builtins[] = {
    {"any", "value"},    {"str", "string"},    {"int", "int"},
    {"bool", "boolean"}, {"object", "object"},
};

static const char *const kind_types[] = {
    [ARGUMENT_STRING] = "str",    [ARGUMENT_INT] = "int",
    [ARGUMENT_SIZE] = "int",      [ARGUMENT_BOOL] = "bool",
    [ARGUMENT_OBJECT] = "object", [ARGUMENT_ARRAY] = "[any]",
    [ARGUMENT_STRINGS] = "[str]",
};

static JsonObject *
add(JsonArray *schema, const char *name, const char *meta)
{
    JsonObject *info = json_object_new();

    json_object_set_string_member(info, "name", name);
    json_object_set_string_member(info, "meta-type", meta);
    json_array_add_object_element(schema, info);
    return info;
}

static void
add_builtins(JsonArray *schema)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(builtins); i++) {
        JsonObject *info = add(schema, builtins[i].name, "builtin");

        json_object_set_string_member(info, "json-type", builtins[i].json);
    }
    json_object_set_string_member(add(schema, "[any]", "array"), "element-type",
                                  "any");
    json_object_set_string_member(add(schema, "[str]", "array"), "element-type",
                                  "str");
}

static void
add_arguments(JsonArray *schema, const char *type,
              const struct ArgumentRule *rules)
{
    JsonObject *info = add(schema, type, "object");
    JsonArray *members = json_array_new();

    for (; rules != NULL && rules->name != NULL; rules++) {
        JsonObject *member = json_object_new();

        json_object_set_string_member(member, "name", rules->name);
        json_object_set_string_member(member, "type", kind_types[rules->kind]);
        if (!rules->is_needed) {
            json_object_set_null_member(member, "default");
        }
        json_array_add_object_element(members, member);
    }
    json_object_set_array_member(info, "members", members);
}

static void
add_command(JsonArray *schema, const char *name,
            const struct ArgumentRule *rules)
{
    g_autofree char *type =
        g_strdup_printf("%u", json_array_get_length(schema));
    JsonObject *info = add(schema, name, "command");

    json_object_set_string_member(info, "arg-type", type);
    json_object_set_string_member(info, "ret-type", "any");
    add_arguments(schema, type, rules);
}

static void
run(ControlCall *call, JsonObject *arguments, gpointer user)
{
    static const struct ArgumentRule enable_rules[] = {
        {"enable", ARGUMENT_STRINGS, false},
        {NULL, 0, false},
    };
    JsonNode *answer = json_node_new(JSON_NODE_ARRAY);
    JsonArray *schema = json_array_new();

    (void)arguments;
    (void)user;
    add_builtins(schema);
    add_command(schema, "qmp_capabilities", enable_rules);
    add_command(schema, "query-version", NULL);
    add_command(schema, "query-commands", NULL);
    for (guint i = 0; daemon_commands[i] != NULL; i++) {
        for (const struct ControlCommand *c = daemon_commands[i]; c->name;
             c++) {
            add_command(schema, c->name, c->rules);
        }
    }
    for (guint i = 0; control_events[i] != NULL; i++) {
        json_object_set_string_member(add(schema, control_events[i], "event"),
                                      "arg-type", "object");
    }
    json_node_take_array(answer, schema);
    control_call_return(call, answer);
}

static const struct ArgumentRule no_rules[] = {{NULL, 0, false}};

const struct ControlCommand control_schema_commands[] = {
    {"query-qmp-schema", run, no_rules, false},
    {NULL, NULL, NULL, false},
};
