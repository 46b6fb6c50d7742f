/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * pinger FILE OFFSET - one block of a disk, written and read back for ever
 *
 * Stands for a guest that notices everything: a block of 4 KiB with a running
 * number is written with O_DIRECT and read back, without a pause. Each request
 * that takes 5 ms or more is printed, as "END DURATION" in microseconds of
 * the wall clock (as bash's EPOCHREALTIME has it). An error, or a block that is
 * not what was written, ends it with code 1; SIGTERM ends it with 0.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BLOCK  4096
#define SAY_US 5000

static volatile sig_atomic_t is_over;

static void
end_handler(int number)
{
    (void)number;
    is_over = 1;
}

static int64_t
wall_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int
fail(const char *what, ssize_t n)
{
    printf("%lld %s: %s\n", (long long)wall_us(), what,
           n < 0 ? strerror(errno) : "short, or not what was written");
    return EXIT_FAILURE;
}

static void
say_late(int64_t begun_us)
{
    int64_t now_us = wall_us();

    if (now_us - begun_us >= SAY_US) {
        printf("%lld %lld\n", (long long)now_us,
               (long long)(now_us - begun_us));
    }
}

static int
run(int fd, off_t offset)
{
    uint64_t *out = aligned_alloc(BLOCK, BLOCK);
    uint64_t *in = aligned_alloc(BLOCK, BLOCK);

    for (uint64_t n = 1; !is_over; n++) {
        int64_t begun_us = wall_us();
        ssize_t done;

        for (size_t i = 0; i < BLOCK / sizeof(*out); i++) {
            out[i] = n * 0x9e3779b97f4a7c15U + i;
        }
        done = pwrite(fd, out, BLOCK, offset);
        if (done != BLOCK) {
            return fail("write", done);
        }
        say_late(begun_us);
        begun_us = wall_us();
        done = pread(fd, in, BLOCK, offset);
        if (done != BLOCK || memcmp(in, out, BLOCK) != 0) {
            return fail("read", done);
        }
        say_late(begun_us);
    }
    return EXIT_SUCCESS;
}

int
main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = end_handler,
                               .sa_flags = SA_RESTART};
    int fd;

    if (argc != 3) {
        fprintf(stderr, "pinger FILE OFFSET\n");
        return 2;
    }
    sigaction(SIGTERM, &action, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    fd = open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);
    return fd < 0 ? fail("open", -1) : run(fd, strtoll(argv[2], NULL, 10));
}
