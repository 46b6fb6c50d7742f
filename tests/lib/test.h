/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test.h - cmocka with what it wants to be included before it
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
