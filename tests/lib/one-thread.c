/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * one-thread.c - no second thread, whoever wants one
 *
 * Linked into the tests that say of themselves that they have one thread, which is
 * why TSan does not see them (tests/unit/meson.build): takes the place of the C
 * library's pthread_create(), for what is linked into the program and for GLib. So a
 * test that gets a thread fails, until it is taken from that list.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

int
pthread_create(pthread_t *thread, const pthread_attr_t *attr,
               void *(*start)(void *), void *argument)
{
    (void)thread;
    (void)attr;
    (void)start;
    (void)argument;
    fputs("a thread in a test that has one: take it from in_one_thread\n",
          stderr);
    abort();
}
