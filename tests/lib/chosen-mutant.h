/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * chosen-mutant.h - the mutant is chosen when the program starts
 *
 * Purpose: included ahead of every source of such a program, which is compiled
 *          with WEIR_MUTANT=chosen_mutant: one build for all deliberate bugs.
 */
#pragma once

extern int chosen_mutant;
