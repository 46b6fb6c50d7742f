/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two slots, written one after the other with the same record, which counts
 * when the second one is there. So of a record that anybody relies on there
 * are two, and one that rots is not missed.
 *
 *   slots                      what is found
 *   both good                  the one with the larger sequence
 *   one good, one torn         the good one: what it was torn by, did not count
 *   one never written          nothing was ever relied on
 *   both written, both bad     lost: nobody knows what was on the list
 *   none good, one in part     lost, too: weir writes whole ones
 *
 * A record of before the last clean end is good, and says nothing any more.
 */
#include "zero-file.h"

#include <errno.h>
#include <string.h>

static bool
is_blank(const unsigned char *page)
{
    return page[0] == 0 && !memcmp(page, page + 1, ZERO_RECORD_BYTES - 1);
}

bool
zero_file_load(StoreIo *io, int fd, uint64_t size_bytes, uint64_t epoch_before,
               ZeroList *list, uint64_t *sequence)
{
    unsigned char page[ZERO_RECORD_BYTES];
    bool is_lost = true, is_cut = false, has_good = false;
    uint64_t found;
    ZeroList other;

    *list = (ZeroList){0};
    *sequence = 0;
    for (unsigned slot = 0; slot < 2; slot++) {
        ssize_t n =
            io->ops->pread(io, fd, page, sizeof(page), slot * sizeof(page));
        bool is_whole = n == (ssize_t)sizeof(page);

        if (is_whole && zero_record_decode(page, size_bytes, epoch_before,
                                           &other, &found)) {
            is_lost = false;
            has_good = true;
            if (found > *sequence) {
                *sequence = found;
                *list = other;
            }
        } else if (is_whole) {
            is_lost &= !is_blank(page) &&
                       !zero_record_decode(page, size_bytes, 0, &other, &found);
        } else {
            is_lost &= n != 0;
            is_cut |= n != 0;
        }
    }
    return has_good || (!is_lost && !is_cut);
}

int
zero_file_save(StoreIo *io, int fd, const ZeroList *list, uint64_t sequence,
               uint64_t epoch)
{
    unsigned char page[ZERO_RECORD_BYTES];
    int res = 0;

    zero_record_encode(list, sequence, epoch, page);
    for (unsigned i = 0; res == 0 && i < 2; i++) {
        ssize_t n = io->ops->pwrite(io, fd, page, sizeof(page),
                                    ((sequence + i) & 1) * sizeof(page));

        res = n == (ssize_t)sizeof(page) ? io->ops->fdatasync(io, fd)
              : n < 0                    ? (int)n
                                         : -EIO;
    }
    return res;
}
