/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * target.h - one NBD connection, driven by whoever polls its socket
 *
 * Purpose: a connected libnbd handle and the commands in flight on it.
 *          Commands go in as actions of the core and come out as its events.
 * Threads: the relay thread's.
 * Units:   bytes, absolute monotonic microseconds for deadlines.
 * Shapes:  the buffers of a command stay the caller's and must live until it
 *          came out of target_take(), or until target_free().
 * Errors:  an answer with an error is an event. A dead connection is said by
 *          target_is_lost(); nothing more comes out then, and all that is in
 *          flight belongs to that loss.
 * Source:  rule 27, libnbd(3).
 */
#pragma once

#include <libnbd.h>

#include "core.h"
#include "sums.h"

typedef struct Target Target;

/* Takes @nbd, which is ready for commands. @sums: for SEND_COMPARE with is_sum;
 * borrowed, may be NULL where there is none. */
Target *target_new(struct nbd_handle *nbd, const Sums *sums);
/* Drops the connection; forgets what is in flight. Does not wait. */
void target_free(Target *target);

/* @buf: what SEND_DATA sends, and SEND_COMPARE compares with: content, or with
 * is_sum the cluster's entry. */
void target_send(Target *target, const struct RelayAction *action,
                 const void *buf);

int target_fd(const Target *target);
/* POLLIN, POLLOUT: what the handle waits for now. */
unsigned target_poll_mask(const Target *target);
void target_ready(Target *target, unsigned revents);

/* Next answer; conn and epoch are left to the caller. */
bool target_take(Target *target, struct RelayEvent *event);
/* Is there an answer to take, or a loss to see, without waiting? */
bool target_has_news(const Target *target);
/* The words are put into @text (RELAY_TEXT). */
bool target_is_lost(Target *target, char *text);

/* Earliest deadline in flight, INT64_MAX for none. */
int64_t target_deadline_us(const Target *target);

/* What the server said of itself; of a handle that is ready. */
void target_caps(struct nbd_handle *nbd, struct TargetCaps *caps);
unsigned target_handle_mask(struct nbd_handle *nbd);
/* libnbd's last error on this thread, without the function's name. */
void target_error_text(char *text);
