/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * arguments.c - what a command of QMP takes: a table, and who holds to it
 *
 * QEMU's own input is checked by code that is generated from its schema. Here
 * each command has a table of the members it knows; that is its schema, and what
 * query-qmp-schema and the test of contrib/docs/qmp.md look at as well.
 */
#include "arguments.h"

#include <string.h>

GQuark
device_error_quark(void)
{
    return g_quark_from_static_string("weir-device-error");
}

/* As QEMU names them in its errors. */
static const char *const kind_names[] = {
    [ARGUMENT_STRING] = "string", [ARGUMENT_INT] = "integer",
    [ARGUMENT_SIZE] = "uint64",   [ARGUMENT_BOOL] = "boolean",
    [ARGUMENT_OBJECT] = "object", [ARGUMENT_ARRAY] = "array",
    [ARGUMENT_STRINGS] = "array",
};

static bool
is_value(JsonNode *node, GType type)
{
    return JSON_NODE_HOLDS_VALUE(node) &&
           json_node_get_value_type(node) == type;
}

static bool
are_strings(JsonNode *node)
{
    JsonArray *array;

    if (!JSON_NODE_HOLDS_ARRAY(node)) {
        return false;
    }
    array = json_node_get_array(node);
    for (guint i = 0; i < json_array_get_length(array); i++) {
        if (!is_value(json_array_get_element(array, i), G_TYPE_STRING)) {
            return false;
        }
    }
    return true;
}

static bool
is_of_kind(JsonNode *node, enum ArgumentKind kind)
{
    switch (kind) {
    case ARGUMENT_STRING:
        return is_value(node, G_TYPE_STRING);
    case ARGUMENT_INT:
        return is_value(node, G_TYPE_INT64);
    case ARGUMENT_SIZE:
        return is_value(node, G_TYPE_INT64) && json_node_get_int(node) >= 0;
    case ARGUMENT_BOOL:
        return is_value(node, G_TYPE_BOOLEAN);
    case ARGUMENT_OBJECT:
        return JSON_NODE_HOLDS_OBJECT(node);
    case ARGUMENT_ARRAY:
        return JSON_NODE_HOLDS_ARRAY(node);
    case ARGUMENT_STRINGS:
        return are_strings(node);
    }
    return false;
}

static const struct ArgumentRule *
find_rule(const struct ArgumentRule *rules, const char *name)
{
    for (; rules->name != NULL; rules++) {
        if (strcmp(rules->name, name) == 0) {
            return rules;
        }
    }
    return NULL;
}

gboolean
arguments_check(JsonObject *arguments, const struct ArgumentRule *rules,
                GError **error)
{
    g_autoptr(GList) members = json_object_get_members(arguments);

    for (const struct ArgumentRule *rule = rules; rule->name != NULL; rule++) {
        JsonNode *node = json_object_get_member(arguments, rule->name);

        if (node == NULL && rule->is_needed) {
            g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                        "Parameter '%s' is missing", rule->name);
            return FALSE;
        }
        if (node != NULL && !is_of_kind(node, rule->kind)) {
            g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                        "Invalid parameter type for '%s', expected: %s",
                        rule->name, kind_names[rule->kind]);
            return FALSE;
        }
    }
    for (GList *l = members; l != NULL; l = l->next) {
        if (find_rule(rules, l->data) == NULL) {
            g_set_error(error, STORE_ERROR, STORE_ERROR_USAGE,
                        "Parameter '%s' is unexpected", (const char *)l->data);
            return FALSE;
        }
    }
    return TRUE;
}

const char *
argument_string(JsonObject *arguments, const char *name)
{
    return json_object_get_string_member_with_default(arguments, name, NULL);
}

guint64
argument_size(JsonObject *arguments, const char *name)
{
    return (guint64)json_object_get_int_member_with_default(arguments, name, 0);
}

bool
argument_bool(JsonObject *arguments, const char *name, bool otherwise)
{
    return json_object_get_boolean_member_with_default(arguments, name,
                                                       otherwise);
}

Disk *
argument_disk(JsonObject *arguments, const char *name, Store *store,
              GError **error)
{
    const char *text = argument_string(arguments, name);
    Disk *disk = text != NULL ? store_disk(store, text) : NULL;

    if (disk == NULL) {
        g_set_error(error, DEVICE_ERROR, DEVICE_ERROR_NOT_FOUND,
                    "Cannot find device='%s' nor node-name='%s'",
                    text != NULL ? text : "", text != NULL ? text : "");
    }
    return disk;
}
