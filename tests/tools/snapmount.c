/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapmount - what `weir snapshot mount` does, of any raw image
 *
 *   snapmount IMAGE DIR [kernel] [overlay] [partition=PART]
 *   snapmount -u DIR
 */
#include "fs/snapmount.h"
#include "fs/mount.h"

#include <stdio.h>
#include <string.h>

int
main(int argc, char **argv)
{
    struct SnapMount ask = {0};
    GError *error = NULL;
    gboolean ok;
    char *dir;

    if (argc < 3) {
        return 2;
    }
    dir = mount_real_path(argv[2]);
    if (strcmp(argv[1], "-u") == 0) {
        ok = snapmount_umount(dir, &error);
    } else {
        ask.image = argv[1];
        ask.dir = dir;
        for (int i = 3; i < argc; i++) {
            ask.is_kernel |= strcmp(argv[i], "kernel") == 0;
            ask.has_overlay |= strcmp(argv[i], "overlay") == 0;
            if (g_str_has_prefix(argv[i], "partition=")) {
                ask.partition = argv[i] + strlen("partition=");
            }
        }
        ok = snapmount_mount(&ask, &error);
    }
    g_free(dir);
    if (!ok) {
        fprintf(stderr, "%s\n", error->message);
        return store_exit_code(error);
    }
    return 0;
}
