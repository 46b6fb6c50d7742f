/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * pick PATH - one value of the JSON on standard input, as `jq -r PATH` prints it
 *
 * For tests that ask again and again until something is so: jq 1.6 takes 45 ms of
 * CPU time before it looks at its input, and takes that from those that are waited
 * for. A path has names and numbers only: .disks[0].sent_bytes; "null" is printed
 * for what is not there. Of an object or a list all is printed, in one line.
 * Nothing, or what is no JSON, is an error.
 */
#include <stdio.h>
#include <stdlib.h>

#include <json-glib/json-glib.h>

static void
print_node(JsonNode *node)
{
    char *text;

    if (json_node_get_value_type(node) == G_TYPE_STRING) {
        puts(json_node_get_string(node));
        return;
    }
    text = json_to_string(node, FALSE);
    puts(text);
    g_free(text);
}

static gboolean
pick(JsonParser *parser, const char *path, GError **error)
{
    char *whole = g_strconcat("$", path, NULL);
    JsonNode *found = NULL;

    if (json_parser_load_from_file(parser, "/dev/stdin", error)) {
        JsonNode *root = json_parser_get_root(parser);

        if (root) {
            found = json_path_query(whole, root, error);
        } else {
            g_set_error_literal(error, JSON_PARSER_ERROR,
                                JSON_PARSER_ERROR_INVALID_DATA, "no input");
        }
    }
    if (found) {
        JsonArray *list = json_node_get_array(found);

        if (json_array_get_length(list)) {
            print_node(json_array_get_element(list, 0));
        } else {
            puts("null");
        }
        json_node_unref(found);
    }
    g_free(whole);
    return found != NULL;
}

int
main(int argc, char **argv)
{
    JsonParser *parser = json_parser_new_immutable();
    GError *error = NULL;

    if (argc != 2 || argv[1][0] != '.') {
        fprintf(stderr, "usage: pick .NAME[.NAME|[INDEX]]... < JSON\n");
        return EXIT_FAILURE;
    }
    if (!pick(parser, argv[1], &error)) {
        fprintf(stderr, "pick: %s\n", error->message);
        g_error_free(error);
        return EXIT_FAILURE;
    }
    g_object_unref(parser);
    return EXIT_SUCCESS;
}
